"""Runs that have diverged to a large, yet finite loss: far from all the others."""

import math

import numpy as np

# A loss is far off above 30 times, a gain below 10,000 times the scale of the others. Networks that
# learn differ by less; and of scores within [0, 1], one that is right among a thousand that are
# not is no outlier.
_FAR = {1: 30.0, -1: 1e4}


def far_off(losses: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """Returns a mask of the losses that lie far from all the others, shape (K, n).

    Sorted, they lie beyond a gap that is many times the scale of those before it: their range,
    their median or the tolerance, whichever is largest. Those before it must hold all runs of at
    least one candidate. NaN is never far off.
    """
    mask = np.zeros(losses.shape, bool)
    for sign, factor in _FAR.items():
        limit = _limit(sign * losses, factor, tolerance)
        mask |= sign * losses > limit
    return mask


def _limit(losses: np.ndarray, factor: float, tolerance: float) -> float:
    """Returns the largest loss before the gap, or infinity if there is none."""
    values = np.sort(losses[np.isfinite(losses)])
    # The smallest body: all runs of the candidate whose worst run is the least bad.
    worst = np.where(np.isfinite(losses), losses, -np.inf).max(axis=1)
    start = int(np.searchsorted(values, worst[np.isfinite(worst)].min(initial=np.inf), "right"))
    for size in range(max(start, 1), len(values)):
        body = values[:size]
        scale = max(body[-1] - body[0], abs(float(np.median(body))), tolerance)
        if values[size] - body[-1] > factor * scale > 0:
            return float(body[-1])
    return math.inf
