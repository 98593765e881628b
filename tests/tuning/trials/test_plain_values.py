"""Dataclasses from JSON, whatever the JSON holds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tuning.trials.plain_values import from_plain


@dataclass(frozen=True)
class Inner:
    number: float


@dataclass(frozen=True)
class Outer:
    name: str
    which: Literal["min", "max"]
    is_done: bool
    pair: tuple[int, float]
    inner: tuple[Inner, ...]
    metrics: Mapping[str, float]
    anything: Any
    maybe: Inner | None = None


GOOD = {
    "name": "a",
    "which": "min",
    "is_done": True,
    "pair": [1, 2],
    "inner": [{"number": 1.5}, {"number": None}],
    "metrics": {"loss": 2},
    "anything": [None],
    "maybe": {"number": 3},
}


def test_whole_values():
    found = from_plain(Outer, GOOD)
    assert found.inner[0] == Inner(1.5)
    assert math.isnan(found.inner[1].number)
    assert (found.pair, found.maybe, found.metrics) == ((1, 2), Inner(3), {"loss": 2})
    assert from_plain(Outer, {k: v for k, v in GOOD.items() if k != "maybe"}).maybe is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 1}, "name is not text: '1'"),
        ({"which": "up"}, r"which is not one of \('min', 'max'\): 'up'"),
        ({"which": []}, "which is not one of"),
        ({"is_done": 1}, "is_done is not true or false"),
        ({"pair": [1]}, r"pair is not a list of 2: '\[1\]'"),
        ({"pair": [True, 1]}, r"pair\[0\] is not a whole number: 'True'"),
        ({"pair": "ab"}, "pair is not a list: 'ab'"),
        ({"inner": [3]}, r"inner\[0\] is not an object: '3'"),
        ({"inner": [{}]}, r"inner\[0\] has other fields than Inner"),
        ({"metrics": {"loss": "2"}}, "metrics.loss is not a number"),
        ({"more": 1}, "it has other fields than Outer"),
    ],
)
def test_wrong_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        from_plain(Outer, GOOD | change)
