"""Wall times of variants that are measured in turn, and the ratios between them.

What slows a machine for a while slows all variants of a round, so ratios are taken within rounds.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

ROUNDS, QUICK_ROUNDS = 15, 3
_SAMPLE = 0.02  # seconds that a sample lasts at least, in calls
_FEW = 5  # rounds, below which there are no quartiles


@dataclass(frozen=True)
class Work:
    """What is timed.

    Attributes:
        run: The work; it is given what `prepare` returns, if there is one.
        prepare: Makes what a single call uses up, off the clock.
    """

    run: Callable[..., object]
    prepare: Callable[[], object] | None = None

    def seconds(self, calls: int) -> float:
        """Returns the wall time of a call, as the mean of several."""
        arguments = () if self.prepare is None else (self.prepare(),)
        started = time.perf_counter()
        for _ in range(calls):
            self.run(*arguments)
        return (time.perf_counter() - started) / calls


@dataclass(frozen=True)
class Summary:
    """Values of several rounds.

    Attributes:
        median: Their median.
        low: The lower quartile; of fewer than five rounds the lowest.
        high: The upper quartile, or the highest.
        least: Lower end of an interval that holds the true median with 95 % or more; `None` with
            fewer than six rounds.
        most: Upper end of the interval.
        rounds: Their number.
    """

    median: float
    low: float
    high: float
    least: float | None
    most: float | None
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Summary":
        """Sums up some values, in any order."""
        ordered = sorted(map(float, values))
        ends = (25, 75) if len(ordered) >= _FEW else (0, 100)
        low, median, high = np.percentile(ordered, (ends[0], 50, ends[1])).tolist()
        rank = _rank(len(ordered))
        least, most = (ordered[rank], ordered[-1 - rank]) if rank is not None else (None, None)
        return cls(median, low, high, least, most, len(ordered))

    def against(self, value: float) -> int:
        """Returns -1 or 1 where the median is surely below or above a value, else 0."""
        if self.least is None or self.most is None:
            return 0
        return (self.least > value) - (self.most < value)


def _rank(count: int) -> int | None:
    """Returns the number of ordered values outside of the interval at each end; `None` if none.

    The true median lies outside of it with probability 2 · P(Binomial(count, 1/2) <= rank),
    whatever the distribution of the values.
    """
    tail, found = 0.0, None
    for rank in range(count // 2):
        tail += math.comb(count, rank) / 2**count
        if 2.0 * tail > 0.05:
            break
        found = rank
    return found


def measure(works: Mapping[str, Work], rounds: int) -> dict[str, tuple[float, ...]]:
    """Returns the seconds of a call of each variant, one number for each round.

    Each is called before, which traces and compiles. Rounds go through the variants forwards
    and backwards by turns, each time from another one. A sample of a short work is the mean of as
    many calls as take 20 ms.
    """
    names = list(works)
    calls = {name: _calls(work) for name, work in works.items()}
    found: dict[str, list[float]] = {name: [] for name in names}
    for n in range(rounds):
        first = n % len(names)
        order = [*names[first:], *names[:first]]
        with _no_collection():
            for name in order if n % 2 == 0 else reversed(order):
                found[name].append(works[name].seconds(calls[name]))
    return {name: tuple(values) for name, values in found.items()}


def _calls(work: Work) -> int:
    work.seconds(1)
    if work.prepare is not None:
        return 1
    return max(1, math.ceil(_SAMPLE / max(work.seconds(1), 1e-7)))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Collects garbage between rounds, and not in them."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def slopes(sizes: Sequence[float], seconds: Sequence[Sequence[float]]) -> Summary:
    """Returns the slopes of log time over log size: by how many powers of the size it grows.

    Args:
        sizes: The sizes.
        seconds: For each size the seconds, one number for each round.
    """
    x = np.log(np.asarray(sizes, float))
    y = np.log(np.asarray(seconds, float))
    return Summary.of(np.polyfit(x, y, 1)[0].tolist())


def plain_number(value: Any) -> Any:
    """Returns a float with five digits, which is more than a time has, and others as they are."""
    return float(f"{value:.5g}") if isinstance(value, float) else value
