"""The choice by files, and their records."""

import dataclasses
import json

import pytest

from tuning import DeployedRecord
from tuning.deployed.choice import choose_by_file
from tuning.trials.records import Records

OUT = "gates are lost at se_1"
SIZES = {"a": 10, "b": 30, "c": 20, "d": 40}


def record(label, metric=0.5, reason=""):
    return DeployedRecord(
        candidate=label, label=label, seed=0, format="int8", passed=not reason, reason=reason,
        verdict="gates are lost" if reason else "the gates survive", metric=metric,
    )  # fmt: skip


def choose(*records, tied=(), direction="max"):
    found = {one.label: one for one in records}
    return choose_by_file(found, SIZES, tied, "val_accuracy", direction)


def test_the_choice_of_the_rule_stays_if_its_file_passes():
    label, sentence = choose(record("a", 0.1), record("b", 0.9), tied=("a", "b"))
    assert (label, sentence) == ("a", "Its int8 file passes: the gates survive.")


def test_the_smallest_tied_candidate_that_passes_is_next():
    files = record("a", reason=OUT), record("b", 0.9), record("c", 0.1), record("d", 0.95)
    label, sentence = choose(*files, tied=("a", "b", "c"))
    assert label == "c"
    assert sentence == (
        f"The rule chose a, which is out as an int8 file: {OUT}. Of the tied candidates whose "
        "files pass, c is the smallest."
    )


@pytest.mark.parametrize(("direction", "chosen"), [("max", "d"), ("min", "c")])
def test_the_best_metric_as_a_file_is_last(direction, chosen):
    files = record("a", reason=OUT), record("b", None), record("c", 0.1), record("d", 0.95)
    label, sentence = choose(*files, tied=("a",), direction=direction)
    assert label == chosen
    value = {"c": "0.1", "d": "0.95"}[chosen]
    assert sentence.endswith(
        f"Of the files that pass, that of {label} has the best val_accuracy, {value}."
    )
    only = choose(files[0], record("b", None))
    assert only[0] == "b"
    assert only[1].endswith("that of b has the best val_accuracy.")


def test_none_passes():
    label, sentence = choose(record("a", reason=OUT), record("b", reason="another"), tied=("b",))
    assert label == "a"
    assert sentence == (
        f"No int8 file passes, of 2 that were judged: a stays, whose file is out: {OUT}."
    )


def test_round_trip():
    whole = dataclasses.replace(record("a"), latency=0.5, bytes=3, work_kept=None, sha256="ff")
    assert DeployedRecord.from_dict(json.loads(json.dumps(whole.to_dict()))) == whole
    assert whole.key == "a-s0-int8"


def test_what_could_not_be_judged_is_tried_again(tmp_path):
    records = Records(tmp_path, DeployedRecord)
    out = dataclasses.replace(record("b", reason="no room"), verdict="")
    for one in (record("a"), record("c", reason=OUT), out):
        records.put(one)
    records.set_failed_aside()
    assert [one.label for one in Records(tmp_path, DeployedRecord)] == ["a", "c"]
    assert records.get("b", 0, "int8") is None
    assert records.get("a", 0, "int8") == record("a")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"passed": 1}, "passed is not true or false"),
        ({"seed": True}, "seed is not a whole number"),
        ({"bytes": 1.5}, "bytes is not a whole number"),
        ({"latency": "1"}, "latency is not a number"),
        ({"more": 1}, "other fields"),
        ({"reason": "x"}, "a file that was judged and has no reason against it passes"),
        ({"passed": False}, "a file that was judged and has no reason against it passes"),
        ({"verdict": ""}, "a file that was judged and has no reason against it passes"),
    ],
)
def test_damaged_content(changes, why):
    with pytest.raises(ValueError, match=why):
        DeployedRecord.from_dict(record("a").to_dict() | changes)
