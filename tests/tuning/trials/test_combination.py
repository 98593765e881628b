import hashlib
import json

import pytest

from tuning.trials.combination import make_combination

VALUES = {"se_placement": "standard", "se_ratio": 4, "se_gate": "sigmoid", "rate": 0.1}


def test_the_identity_is_a_hash_of_the_values():
    text = '{"a": 1, "b": "x"}'
    expected = hashlib.sha256(text.encode()).hexdigest()[:12]
    assert make_combination({"b": "x", "a": 1}).id == expected


def test_the_identity_does_not_depend_on_order_or_label():
    backwards = dict(reversed(VALUES.items()))
    assert make_combination(VALUES).id == make_combination(backwards, ["se_ratio"]).id


@pytest.mark.parametrize(
    "change",
    [
        {"se_ratio": 2},
        {"se_ratio": "4"},
        {"rate": 0.10000000000000002},
        {"more": 1},
        {"se_gate": None},
        {"rate": True},
    ],
)
def test_each_value_counts(change):
    assert make_combination(VALUES | change).id != make_combination(VALUES).id


def test_a_name_counts():
    assert make_combination({"a": 1, "b": 2}).id != make_combination({"a": 2, "b": 1}).id


@pytest.mark.parametrize("whole", [2, 0, -3, 10**17])
def test_whole_floats_are_integers(whole):
    """A space (2, 4) that is extended by 2.5 declares 2.0; keras-tuner's Int by log has floats."""
    one, other = make_combination({"se_ratio": whole}), make_combination({"se_ratio": float(whole)})
    assert (one.id, one.label) == (other.id, other.label)
    assert type(other.values["se_ratio"]) is float


def test_json_keeps_the_identity():
    values = {"a": 2.0, "b": 0.1, "c": True, "d": "ü", "e": 10**30}
    assert make_combination(json.loads(json.dumps(values))).id == make_combination(values).id


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(value):
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        make_combination({"rate": value})


def test_the_values_are_a_copy():
    values = dict(VALUES)
    candidate = make_combination(values)
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
)
def test_labels(values, varying, label):
    assert make_combination(values, varying).label == label


def test_labels_of_a_space_differ():
    """A table of scores needs them to; the two ratios had one name before."""
    pairs = [
        {"se_ratio": 2},
        {"ratio": 2},
        {"se_ratio": 2, "ratio": 4},
        {"se_ratio": 4, "ratio": 2},
    ]
    labels = [make_combination(values).label for values in pairs[2:]]
    assert len(set(labels)) == 2
