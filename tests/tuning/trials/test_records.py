import dataclasses
import json
import math
import warnings

import pytest

from tuning.trials.records import (
    COMPLETED,
    FAILED,
    Records,
    SearchWarning,
    TrialRecord,
    run_key,
)

# Python 3.12 warns of a fork beside TensorFlow's threads; this child computes nothing.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")

NAN = math.nan


def record(seed=0, **changes):
    arguments = {
        "candidate": "0a1b",
        "label": "ratio=2 é",
        "values": {"se_ratio": 2, "se_gate": "sigmoid", "rate": 0.1, "wide": True},
        "seed": seed,
        "status": COMPLETED,
        "score": 0.25,
        "epoch": 3,
        "metrics": {"val_loss": 0.25, "loss": 1},
        "parameters": 1000,
        "complexity": 32.0,
        "seconds": 1.5,
        "curve": "curves/0a1b-s0.jsonl",
        "fingerprint": "ff",
        "test": {"accuracy": 0.5},
        "flops": 2_000_000_000_000,
    }
    return TrialRecord(**(arguments | changes))


def failed(seed=0):
    return TrialRecord("0a1b", "ratio=2", {"se_ratio": 2}, seed, FAILED, cause="ValueError: no")


def opened(folder):
    """The records of a folder, and the sentences about those that were damaged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        records = Records(folder, TrialRecord)
    assert all(warning.category is SearchWarning for warning in caught)
    return records, [str(warning.message) for warning in caught]


@pytest.mark.parametrize("original", [record(), failed(), record(score=-1, seed=2**32 - 1)])
def test_round_trip(tmp_path, original):
    assert TrialRecord.from_dict(json.loads(json.dumps(original.to_dict()))) == original
    Records(tmp_path / "a", TrialRecord).put(original)
    records, said = opened(tmp_path / "a")
    assert (list(records), said) == ([original], [])
    assert records.get("0a1b", original.seed) == original


def test_records_from_before_there_were_flops():
    content = record().to_dict()
    del content["flops"]
    assert TrialRecord.from_dict(content) == record(flops=None)


def test_metrics_that_are_not_finite(tmp_path):
    metrics = {"nan": NAN, "up": math.inf, "down": -math.inf, "one": 1.0}
    Records(tmp_path, TrialRecord).put(record(metrics=metrics, test=metrics))
    text = (tmp_path / "0a1b-s0.json").read_text()
    written = json.loads(text, parse_constant=pytest.fail)["metrics"]
    assert written == {"nan": None, "up": None, "down": None, "one": 1.0}
    (found,) = Records(tmp_path, TrialRecord)
    for read in (found.metrics, found.test):
        assert all(math.isnan(read[name]) for name in ("nan", "up", "down"))
        assert read["one"] == 1.0


def test_completed_or_failed():
    assert record().completed
    assert not failed().completed
    assert failed().score is None


def test_to_dict_copies():
    original = record()
    original.to_dict()["values"]["se_ratio"] = 99
    assert original.values["se_ratio"] == 2


@pytest.mark.parametrize("score", [NAN, math.inf])
def test_a_score_that_is_not_finite_is_never_written(tmp_path, score):
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        Records(tmp_path, TrialRecord).put(record(score=score))
    assert list(tmp_path.iterdir()) == []


def test_keys(tmp_path):
    assert run_key("0a1b", 3) == "0a1b-s3"
    Records(tmp_path, TrialRecord).put(record(7))
    assert [path.name for path in tmp_path.iterdir()] == ["0a1b-s7.json"]
    assert len({run_key(name, seed) for name in ("a", "b") for seed in (1, 11, 111)}) == 6


def test_a_record_may_be_put_while_the_others_are_gone_through(tmp_path):
    records = Records(tmp_path, TrialRecord)
    records.put(record(0))
    for found in records:
        records.put(dataclasses.replace(found, seed=1))
    assert [found.seed for found in records] == [0, 1]


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / ".0a1b-s0.json.12.tmp").write_text("{")
    (tmp_path / "0a1b-s0.damaged.1").write_text("{")
    records, said = opened(tmp_path)
    assert (list(records), said) == ([], [])
    assert len(list(tmp_path.iterdir())) == 2


def changed(**changes):
    return json.dumps(record().to_dict() | changes).encode()


WHOLE = json.dumps(record().to_dict()).encode()
DAMAGED = {
    "empty": (b"", "Expecting value"),
    "truncated": (WHOLE[:100], "Unterminated string|Expecting"),
    "zeros": (bytes(len(WHOLE)), "Expecting value"),
    "not UTF-8": (WHOLE.replace(b"ratio=2", b"ratio\xff\xfe"), "can't decode byte 0xff"),
    "a list": (b"[]", "it has other fields than a record"),
    "null": (b"null", "it has other fields than a record"),
    "foreign": (b'{"a": 1}', "it has other fields than a record"),
    "one field more": (changed(more=1), "it has other fields than a record"),
    "deep": (b"[" * 100_000, "nested too deep"),
    "another's name": (changed(seed=1), "its name is that of another record"),
    "another candidate": (changed(candidate="ffff"), "its name is that of another record"),
    "seed as text": (changed(seed="0"), "seed is not a whole number"),
    "seed as truth": (changed(seed=False), "seed is not a whole number"),
    "no values": (changed(values=None), "values is not an object"),
    "metrics in a list": (changed(metrics=[1]), "metrics is not an object"),
    "test as text": (changed(test="x"), "test is not an object"),
    "a metric as text": (changed(metrics={"val_loss": "1"}), "val_loss is not a number"),
    "a metric as truth": (changed(metrics={"val_loss": True}), "val_loss is not a number"),
    "no time": (changed(seconds=None), "flops is below 0 or not finite"),
    "a path": (changed(candidate="../0a1b"), "its candidate is no name of a file"),
    "fewer than no operations": (changed(flops=-1), "seconds or flops is below 0"),
    "less than nothing": (changed(parameters=-1), "seconds or flops is below 0"),
    "a list as value": (changed(values={"se_ratio": [2]}), "a hyperparameter is neither a number"),
    "another folder": (changed(curve="../../x"), "its curve is outside of the folder"),
    "an absolute path": (changed(curve="/etc/passwd"), "its curve is outside of the folder"),
    "status": (changed(status="done", score=None), "its status is neither 'completed' nor"),
    "no score": (changed(score=None), "a completed trial, and no other, has a score"),
    "failed with score": (changed(status=FAILED), "a completed trial, and no other, has a score"),
    "score as text": (changed(score="0.25"), "score is not a number"),
    "NaN": (changed(score=NAN), "a completed trial, and no other, has a score"),
}


@pytest.mark.parametrize(("content", "why"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_records_are_set_aside_alone(tmp_path, content, why):
    for seed in (1, 2):
        Records(tmp_path, TrialRecord).put(record(seed))
    damaged = tmp_path / "0a1b-s0.json"
    damaged.write_bytes(content)
    message = (
        f"must be a whole JSON file. Received: {damaged}: .*{why}.*; it is now "
        r"0a1b-s0.damaged.1, and is made again"
    )
    with pytest.warns(SearchWarning, match=message) as caught:
        records = Records(tmp_path, TrialRecord)
    assert len(caught) == 1
    assert [found.seed for found in records] == [1, 2]
    assert records.get("0a1b", 0) is None
    assert (tmp_path / "0a1b-s0.damaged.1").read_bytes() == content
    records.put(record())
    assert opened(tmp_path)[1] == []


def test_several_are_set_aside_each_by_name(tmp_path):
    for n in range(2):
        for name in ("a-s0", "b-s0"):
            (tmp_path / f"{name}.json").write_text("{")
        said = opened(tmp_path)[1]
        assert [f"{name}.damaged.{n + 1}" in line for name, line in zip("ab", said, strict=True)]
    assert len(list(tmp_path.glob("*.damaged.*"))) == 4


def test_a_folder_in_the_place_of_a_record(tmp_path):
    (tmp_path / "0a1b-s0.json").mkdir()
    with pytest.warns(SearchWarning, match=r"Is a directory.*now 0a1b-s0.damaged.1"):
        assert list(Records(tmp_path, TrialRecord)) == []


def test_failed_records_are_set_aside(tmp_path):
    records = Records(tmp_path, TrialRecord)
    failed = dataclasses.replace(record(1), status="failed", score=None)
    for one in (record(0), failed):
        records.put(one)
    for number in (1, 2):
        records.set_failed_aside()
        assert list(records) == list(Records(tmp_path, TrialRecord)) == [record(0)]
        assert (tmp_path / f"0a1b-s1.failed.{number}").exists()
        records.put(failed)


@pytest.mark.parametrize("content", [None, [], {}, {"a": 1}, "text", 3])
def test_no_description_of_a_record(content):
    with pytest.raises(ValueError, match="it has other fields than a record"):
        TrialRecord.from_dict(content)
