"""Multiple comparisons with the best: paired differences, noise, bounds and their quantile."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from tuning.choice.errors import input_error

LEVEL = 0.95
# Relative to the largest loss: the summation order changes the last bits of equal means.
_ROUNDING = 1e-12
_EQUAL = 1e-5  # relative to the largest loss: the last bits of float32 are no step of a grid
# The integral has two dimensions for any number of candidates. Quadrature gives the same quantile
# in every run, where `scipy.stats.multivariate_t` and `scipy.stats.dunnett` draw random points.
_NODES = 128
_TAIL = 1e-13  # probability cut off on each side of each integral


@dataclass(frozen=True)
class Comparison:
    """K candidates on n seeds, each compared with the one of the lowest mean.

    Attributes:
        means: Mean losses, shape (K,).
        best: Index of c*, the candidate with the lowest mean.
        differences: d_c, mean paired difference to c*, shape (K,), at least 0.
        noise: σ, or `None` for a single candidate or a single seed.
        degrees: Degrees of freedom of σ.
        margin: q·σ·√(2/n), or 0 without σ.
        again: The margin of a second look, after added seeds: q is that of twice the comparisons.
        rounding: Differences up to this value count as equal.
    """

    means: np.ndarray
    best: int
    differences: np.ndarray
    noise: float | None
    degrees: int
    margin: float
    again: float
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


def compare_with_best(
    losses: np.ndarray, costs: np.ndarray, first_losses: np.ndarray
) -> Comparison:
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
    if candidates < 2 or seeds < 2:
        return Comparison(means, best, differences, None, 0, 0.0, 0.0, rounding)
    noise, degrees = _noise(first_losses)
    # Further seeds are a second look at each candidate, and either one may show it by chance.
    margin, again = (
        dunnett_quantile(looks * (candidates - 1), degrees) * noise * math.sqrt(2 / losses.shape[1])
        for looks in (1, 2)
    )
    if losses.shape[1] > seeds:
        margin = again
    return Comparison(means, best, differences, noise, degrees, margin, again, rounding)


def _noise(losses: np.ndarray) -> tuple[float, int]:
    """Returns σ of one score beside candidate and seed, and its degrees of freedom."""
    # Equal rows, as of two networks that learn nothing, would hide the noise of the others.
    rows = np.unique(losses, axis=0)
    residual = rows - rows.mean(axis=1, keepdims=True)
    residual = residual - residual.mean(axis=0)
    degrees = max(1, len(rows) - 1) * (losses.shape[1] - 1)
    # An accuracy on N samples has steps of 1/N: scores that are equal on a few seeds may still
    # differ in the mean by almost a step. Twice the variance of a rounding error: with it once, 6 %
    # of simulated searches are wrong where the scores of few samples differ.
    variance = float((residual**2).sum()) / degrees + _step(losses) ** 2 / 6
    return math.sqrt(variance), degrees


def _step(losses: np.ndarray) -> float:
    """Returns the step of the grid that the losses lie on; 0 if they lie on none."""
    step, least = 0.0, _EQUAL * float(np.abs(losses).max())
    for rest in np.diff(np.unique(losses)).tolist():
        # Euclid's algorithm, with remainders to the nearest multiple: those of floats may fall
        # just below a whole step.
        while rest > least:
            step, rest = rest, abs(math.remainder(step, rest))
        if 0 < step < 10 * least:  # on no grid, and no need to go through thousands of losses
            return 0.0
    return step


def dunnett_quantile(comparisons: int, degrees: int, level: float = LEVEL) -> float:
    """Returns the q that k studentized differences to one control stay below, all at once."""
    # T_i = (Z_i - Z_0) / (√2·S) are k studentized differences to one mean, S² = χ²_ν / ν. Given Z_0
    # and S they are independent, so that P(max T_i <= q) = E[Φ(Z_0 + √2·q·S)^k].
    # Dunnett, "A multiple comparison procedure for comparing several treatments with a control",
    # JASA 50 (1955), equation 7. Hsu, Annals of Statistics 12 (1984), shows that the same q serves
    # if the control is the best candidate seen.
    if comparisons < 1 or degrees < 1 or not 0.5 <= level < 1:
        raise input_error(
            "dunnett_quantile needs at least one comparison and one degree of freedom, and a level "
            f"from 0.5 to below 1. Received: comparisons={comparisons!r}, degrees={degrees!r}, "
            f"level={level!r}"
        )
    return _quantile(int(comparisons), int(degrees), float(level))


@functools.lru_cache(maxsize=4096)
def _quantile(comparisons: int, degrees: int, level: float) -> float:
    # The root lies between the quantile of one comparison and that of Bonferroni, which is
    # never too small.
    one = float(stats.t.ppf(level, degrees))
    if comparisons == 1:
        return one
    bonferroni = float(stats.t.isf((1 - level) / comparisons, degrees))
    z, z_weights = _grid(-special.ndtri(1 - _TAIL), special.ndtri(1 - _TAIL))
    z_weights = z_weights * stats.norm.pdf(z)
    chi = stats.chi(degrees, scale=1 / math.sqrt(degrees))
    s, s_weights = _grid(chi.ppf(_TAIL), chi.isf(_TAIL))
    s_weights = s_weights * chi.pdf(s)

    def excess(q: float) -> float:
        below = special.ndtr(z[:, None] + math.sqrt(2) * q * s) ** comparisons
        return float(z_weights @ below @ s_weights) - level

    return float(optimize.brentq(excess, one, bonferroni, xtol=1e-10))


def _grid(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of an integral from `low` to `high`."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    half = (high - low) / 2
    return low + half * (nodes + 1), half * weights
