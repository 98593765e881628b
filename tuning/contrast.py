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

    Attributes:
        means: Shape (K,).
        best: Index of c*, the lowest mean.
        differences: d_c, mean paired difference to c*, shape (K,), at least 0.
        noise: σ, `None` where it could not be estimated, from a single candidate.
        degrees: Degrees of freedom of σ.
        margin: q·σ·√(2/n); 0 where there is no σ.
        rounding: What counts as equal.
    """

    means: np.ndarray
    best: int
    differences: np.ndarray
    noise: float | None
    degrees: int
    margin: float
    rounding: float

    @property
    def upper(self) -> np.ndarray:
        """How much each candidate loses at most against the best of the others, shape (K,).

        For all but c* it is d_c + q·SE. For c* it is q·SE less its lead, and at least 0: a lead
        that exceeds the margin shows that c* loses nothing.
        """
        upper = self.differences + self.margin
        lead = np.delete(self.differences, self.best).min(initial=np.inf)
        upper[self.best] = max(0.0, self.margin - lead)
        return upper

    @property
    def tied(self) -> np.ndarray:
        """Which candidates cannot be told from c*, c* among them: boolean, shape (K,)."""
        return self.differences <= self.margin + self.rounding


def contrast(losses: np.ndarray, costs: np.ndarray, first_losses: np.ndarray) -> Contrast:
    """Compares candidates with the best of them.

    The noise is that of the first seeds alone, and q has their candidates and degrees of freedom.
    How many seeds are added depends on it; given it, the means over all seeds are as good as if
    their number had been fixed beforehand, and the bounds hold. Estimated anew after each addition
    it would stop where it happens to be small, and more bounds would be wrong.

    Args:
        losses: Shape (K, n), finite, low is good; column j is seed j.
        costs: Shape (K,). Of equally low means the cheapest is c*, of equally cheap ones the first.
        first_losses: What the noise is estimated from, shape (K1, n1) with K1 >= K; `losses`
            themselves if no seeds were added.

    Returns:
        A `Contrast`.

    Source: Hsu, "Constrained simultaneous confidence intervals for multiple comparisons with the
    best", Annals of Statistics 12 (1984), for randomized blocks: the seeds are the blocks. Stein,
    "A two-sample test for a linear hypothesis whose power is independent of the variance", Annals
    of Mathematical Statistics 16 (1945), for the added seeds.

    Example:
        >>> losses = np.array([[0.1, 0.2, 0.3], [0.3, 0.3, 0.6]])
        >>> c = contrast(losses, np.array([2, 1]), losses)
        >>> c.best, c.differences.round(6), round(c.noise, 6), c.degrees
        (0, array([0. , 0.2]), 0.070711, 2)
    """
    means = losses.mean(axis=1)
    rounding = _ROUNDING * float(np.abs(losses).max())
    lowest = np.flatnonzero(means <= means.min() + rounding)
    best = int(lowest[np.argmin(costs[lowest])])
    differences = np.maximum(0.0, (losses - losses[best]).mean(axis=1))
    candidates, seeds = first_losses.shape
    degrees = (candidates - 1) * (seeds - 1)
    if not degrees:
        return Contrast(means, best, differences, None, 0, 0.0, rounding)
    noise = math.sqrt(float((_residual(first_losses) ** 2).sum()) / degrees)
    quantile = dunnett_quantile(candidates - 1, degrees, LEVEL)
    margin = quantile * noise * math.sqrt(2 / losses.shape[1])
    return Contrast(means, best, differences, noise, degrees, margin, rounding)


def _residual(losses: np.ndarray) -> np.ndarray:
    """What candidate and seed, added, do not explain."""
    candidate, seed = losses.mean(axis=1, keepdims=True), losses.mean(axis=0, keepdims=True)
    return losses - candidate - seed + losses.mean()
