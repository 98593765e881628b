"""The time left, told at times that are given."""

from types import SimpleNamespace

import pytest

from keras_se.display import pace as module
from keras_se.display.pace import Pace, clock


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


def test_between_two_counts_the_time_left_goes_down(monkeypatch):
    times = iter([100.0, 103.0, 104.0, 106.0, 140.0])
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(times)))
    pace = Pace()
    assert pace.seconds_left(0, 4) is None
    # One of four took 4 s; 2 s later 10 s are left of 12, and long after none.
    assert [pace.seconds_left(1, 4) for _ in range(3)] == [12.0, 10.0, 0.0]
