"""Candidates against the best of them: paired differences, their noise and their bounds."""

import math
from dataclasses import dataclass

import numpy as np

from tuning.dunnett import dunnett_quantile

LEVEL = 0.95
_ROUNDING = 1e-12  # of the largest value: equal means may differ in their last bits


@dataclass(frozen=True)
class Contrast:
    """K candidates on n seeds, each compared with the one of the lowest mean.

    A loss is candidate + seed + noise, the noise of one variance. Differences within a seed cancel
    the seed; the noise is pooled over all candidates.

    Attributes:
        means: Shape (K,).
        best: Index of c*, the lowest mean.
        differences: d_c, mean paired difference to c*, shape (K,), at least 0.
        noise: σ, `None` where K is 1.
        degrees: (K-1)(n-1).
        quantile: q, one-sided for K-1 comparisons at 95 %; 0 where K is 1.
        margin: q·σ·√(2/n).
        rounding: What counts as equal.
    """

    means: np.ndarray
    best: int
    differences: np.ndarray
    noise: float | None
    degrees: int
    quantile: float
    margin: float
    rounding: float

    @property
    def upper(self) -> np.ndarray:
        """How much each candidate loses at most against the best of the others, shape (K,).

        For all but c* it is d_c + q·SE. For c* it is q·SE less its lead, and at least 0: a lead
        that exceeds the margin shows that c* loses nothing.
        """
        upper = self.differences + self.margin
        if len(upper) > 1:
            upper[self.best] = max(0.0, self.margin - np.delete(self.differences, self.best).min())
        return upper

    @property
    def tied(self) -> np.ndarray:
        """Which candidates cannot be told from c*, c* among them: boolean, shape (K,)."""
        return self.differences <= self.margin + self.rounding


def contrast(losses: np.ndarray, costs: np.ndarray) -> Contrast:
    """Compares candidates with the best of them.

    Args:
        losses: Shape (K, n), finite, low is good; column j is seed j.
        costs: Shape (K,). Of equally low means the cheapest is c*, of equally cheap ones the first.

    Returns:
        A `Contrast`.

    Source: Hsu, "Constrained simultaneous confidence intervals for multiple comparisons with the
    best", Annals of Statistics 12 (1984), theorem 1, for randomized blocks: seeds are the blocks,
    σ² is the residual mean square of the additive two-way layout.

    Example:
        >>> losses = np.array([[0.1, 0.2, 0.3], [0.3, 0.3, 0.6]])
        >>> c = contrast(losses, np.array([2, 1]))
        >>> c.best, c.differences.round(6), round(c.noise, 6), c.degrees
        (0, array([0. , 0.2]), 0.070711, 2)
    """
    candidates, seeds = losses.shape
    means = losses.mean(axis=1)
    rounding = _ROUNDING * float(np.abs(losses).max())
    lowest = np.flatnonzero(means <= means.min() + rounding)
    best = int(lowest[np.argmin(costs[lowest])])
    differences = np.maximum(0.0, (losses - losses[best]).mean(axis=1))
    degrees = (candidates - 1) * (seeds - 1)
    if not degrees:
        return Contrast(means, best, differences, None, 0, 0.0, 0.0, rounding)
    residual = losses - means[:, None] - losses.mean(axis=0) + losses.mean()
    noise = math.sqrt(float((residual**2).sum()) / degrees)
    quantile = dunnett_quantile(candidates - 1, degrees, LEVEL)
    margin = quantile * noise * math.sqrt(2 / seeds)
    return Contrast(means, best, differences, noise, degrees, quantile, margin, rounding)
