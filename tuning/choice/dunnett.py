"""The quantile of comparisons with a control, and with the best of several.

T_i = (Z_i - Z_0) / (√2·S) are k studentized differences to one mean, S² = χ²_ν / ν. Given Z_0 and S
they are independent, so that P(max T_i <= q) = E[Φ(Z_0 + √2·q·S)^k].
"""

import functools
import math

import numpy as np
from scipy import optimize, special, stats

from tuning.choice.refusals import input_error

# The expectation has two dimensions for any k. Quadrature gives the same q in every run, where
# `scipy.stats.multivariate_t` and `scipy.stats.dunnett` draw random points.
_NODES = 128
_TAIL = 1e-13  # probability cut off on each side of each integral


def dunnett_quantile(comparisons: int, degrees: int, level: float = 0.95) -> float:
    """Returns the q that k studentized differences to one control stay below, all at once."""
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
