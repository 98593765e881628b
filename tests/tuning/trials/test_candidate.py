import hashlib
import json
import subprocess
import sys

import pytest

from tuning.trials.candidate import make_candidate

VALUES = {"se_placement": "standard", "se_ratio": 4, "se_gate": "sigmoid", "rate": 0.1}


def test_the_identity_is_a_hash_of_the_values():
    text = '{"a": 1, "b": "x"}'
    expected = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert make_candidate({"b": "x", "a": 1}).id == expected


def test_the_identity_does_not_depend_on_order_or_label():
    backwards = dict(reversed(VALUES.items()))
    assert make_candidate(VALUES).id == make_candidate(backwards, ["se_ratio"]).id


@pytest.mark.parametrize(
    "change", [{"se_ratio": 2}, {"se_ratio": "4"}, {"rate": 0.10000000000000002}, {"more": 1},
               {"se_gate": None}, {"rate": True}],
)  # fmt: skip
def test_each_value_counts(change):
    assert make_candidate(VALUES | change).id != make_candidate(VALUES).id


def test_a_name_counts():
    assert make_candidate({"a": 1, "b": 2}).id != make_candidate({"a": 2, "b": 1}).id


@pytest.mark.parametrize("whole", [2, 0, -3, 10**17])
def test_whole_floats_are_integers(whole):
    """A space (2, 4) that is extended by 2.5 declares 2.0; keras-tuner's Int by log has floats."""
    one, other = make_candidate({"se_ratio": whole}), make_candidate({"se_ratio": float(whole)})
    assert (one.id, one.label) == (other.id, other.label)
    assert type(other.values["se_ratio"]) is float


def test_json_keeps_the_identity():
    values = {"a": 2.0, "b": 0.1, "c": True, "d": "ü", "e": 10**30}
    assert make_candidate(json.loads(json.dumps(values))).id == make_candidate(values).id


def test_the_identity_is_that_of_every_process():
    code = (
        f"from tuning.trials.candidate import make_candidate; print(make_candidate({VALUES!r}).id)"
    )
    for seed in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        assert run.stdout.strip() == make_candidate(VALUES).id


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value):
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        make_candidate({"rate": value})


def test_the_values_are_a_copy():
    values = dict(VALUES)
    candidate = make_candidate(values)
    values["se_ratio"] = 99
    assert candidate.values == VALUES


@pytest.mark.parametrize(
    ("values", "varying", "label"),
    [
        (VALUES, (), "placement=standard ratio=4 gate=sigmoid rate=0.1"),
        (VALUES, ["se_ratio"], "ratio=4"),
        (VALUES, iter(["rate", "se_ratio"]), "rate=0.1 ratio=4"),
        (VALUES, ["se_ratio", "not_active"], "ratio=4"),
        (VALUES, ["not_active"], "placement=standard ratio=4 gate=sigmoid rate=0.1"),
        ({"se_placement": "none"}, (), "no SE"),
        ({"se_placement": "none"}, ["se_ratio"], "no SE"),
        ({"se_placement": "none", "rate": 0.1}, (), "no SE rate=0.1"),
        ({"se_placement": "none", "rate": 0.1}, ["se_placement", "rate"], "no SE rate=0.1"),
        ({"se_placement": "none", "rate": 0.1}, ["se_ratio"], "no SE"),
        ({"stage_1_ratio": 2, "se_1_gate": "tanh"}, (), "stage_1_ratio=2 1_gate=tanh"),
        ({"se_ratio": 2, "ratio": 4}, (), "se_ratio=2 ratio=4"),
        ({"norm": "none"}, (), "norm=none"),
        ({}, (), ""),
    ],
)  # fmt: skip
def test_labels(values, varying, label):
    assert make_candidate(values, varying).label == label


def test_labels_of_a_space_differ():
    """A table of scores needs them to; the two ratios had one name before."""
    pairs = [
        {"se_ratio": 2},
        {"ratio": 2},
        {"se_ratio": 2, "ratio": 4},
        {"se_ratio": 4, "ratio": 2},
    ]
    labels = [make_candidate(values).label for values in pairs[2:]]
    assert len(set(labels)) == 2
