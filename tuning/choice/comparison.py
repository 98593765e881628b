"""Comparison of candidates with the best one: paired differences, noise and bounds."""

import math
from dataclasses import dataclass

import numpy as np

from tuning.choice.dunnett import dunnett_quantile

LEVEL = 0.95
# Relative to the largest loss: the summation order changes the last bits of equal means.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Contrast:
    """K candidates on n seeds, each compared with the one of the lowest mean.

    Attributes:
        means: Mean losses, shape (K,).
        best: Index of c*, the candidate with the lowest mean.
        differences: d_c, mean paired difference to c*, shape (K,), at least 0.
        noise: σ, or `None` for a single candidate or a single seed.
        degrees: Degrees of freedom of σ.
        margin: q·σ·√(2/n), or 0 without σ.
        rounding: Differences up to this value count as equal.
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
        """Upper bounds on the loss of each candidate against the best of the others."""
        # For all but c* the bound is d_c + margin. For c* it is the margin less its lead, at
        # least 0: a lead above the margin shows that c* is the best.
        upper = self.differences + self.margin
        lead = np.delete(self.differences, self.best).min(initial=np.inf)
        upper[self.best] = max(0.0, self.margin - lead)
        return upper

    @property
    def tied(self) -> np.ndarray:
        """Boolean mask of c* and of the candidates that do not differ significantly from it."""
        return self.differences <= self.margin + self.rounding


def contrast(losses: np.ndarray, costs: np.ndarray, first_losses: np.ndarray) -> Contrast:
    """Compares candidates with the best one; `losses` has one row each, one column per seed."""
    # Hsu, "Constrained simultaneous confidence intervals for multiple comparisons with the best",
    # Annals of Statistics 12 (1984), for randomized blocks: the seeds are the blocks.
    means = losses.mean(axis=1)
    rounding = _ROUNDING * float(np.abs(losses).max())
    lowest = np.flatnonzero(means <= means.min() + rounding)
    # Among equal means the cheapest candidate is c*, then the first.
    best = int(lowest[np.argmin(costs[lowest])])
    differences = np.maximum(0.0, (losses - losses[best]).mean(axis=1))
    # σ comes from the first seeds only, because it decides how many seeds are added. Estimated
    # anew after each addition, sampling would stop where σ happens to be small, and the bounds
    # would fail too often. Stein, "A two-sample test for a linear hypothesis whose power is
    # independent of the variance", Annals of Mathematical Statistics 16 (1945).
    candidates, seeds = first_losses.shape
    degrees = (candidates - 1) * (seeds - 1)
    if not degrees:
        return Contrast(means, best, differences, None, 0, 0.0, rounding)
    noise = math.sqrt(float((_residual(first_losses) ** 2).sum()) / degrees)
    quantile = dunnett_quantile(candidates - 1, degrees, LEVEL)
    margin = quantile * noise * math.sqrt(2 / losses.shape[1])
    return Contrast(means, best, differences, noise, degrees, margin, rounding)


def _residual(losses: np.ndarray) -> np.ndarray:
    """Returns the residuals of the additive model of candidate and seed."""
    candidate, seed = losses.mean(axis=1, keepdims=True), losses.mean(axis=0, keepdims=True)
    return losses - candidate - seed + losses.mean()
