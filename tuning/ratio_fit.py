"""Where the textbook would put the reduction ratio, from measured losses: a diagnostic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tuning.contrast import LEVEL
from tuning.refusals import input_error


@dataclass(frozen=True)
class RatioFit:
    """The fit L(r) = L0 + κ·r²/2 and the ratio r* = (λS/κ)^(1/3) that it calls optimal.

    It chooses nothing: measured losses need not be a parabola (powers from 0.5 to 4 were seen), and
    `residual` beside `noise` tells whether these are.

    Attributes:
        curvature: κ, the mean over seeds of the least-squares fits.
        curvature_interval: 95 % interval of κ, Student's t over seeds.
        residual: Root mean square distance of the mean losses from the fit, with two degrees of
            freedom for L0 and κ; `None` with two ratios, which any such curve goes through.
        noise: Standard deviation that this distance has by noise alone, if the curve is right.
        ratio: r*, unrounded; infinite where κ is not above 0: no ratio is then too large.
        ratio_interval: 95 % interval of r*, that of κ carried over.
    """

    curvature: float
    curvature_interval: tuple[float, float]
    residual: float | None
    noise: float
    ratio: float
    ratio_interval: tuple[float, float]


def fit_ratio(
    ratios: Sequence[float], losses: np.ndarray, squares: float, weight: float
) -> RatioFit:
    """Fits the curvature of the loss in r, seed by seed, and derives r* from it.

    Args:
        ratios: r of each of K candidates that differ in nothing else, at least two different.
        losses: Shape (K, n), finite, low is good; column j is seed j, n at least 2.
        squares: S = ΣC² over the SE blocks, above 0.
        weight: λ of `StructuralRisk`, above 0.

    Returns:
        A `RatioFit`.

    Raises:
        InputError: If an argument breaks its rule.

    Source: expansion of the loss to second order in r; the derivative κ·r - λS/r² vanishes at r*.

    Example:
        >>> losses = np.array([[0.32, 0.42], [0.38, 0.48], [0.62, 0.72]])
        >>> fit = fit_ratio((2, 4, 8), losses, squares=4096, weight=1e-3)
        >>> round(fit.curvature, 6), round(fit.ratio, 3)
        (0.01, 7.427)
    """
    x, y = np.asarray(ratios, "float64") ** 2 / 2, np.asarray(losses, "float64")
    if y.ndim != 2 or x.shape != y.shape[:1] or y.shape[1] < 2 or np.unique(x).size < 2:
        raise input_error(
            "fit_ratio needs a row of at least two losses for each ratio, of which two differ. "
            f"Received: ratios={ratios!r} and losses of shape {y.shape}"
        )
    if not np.isfinite(y).all():
        raise input_error(
            "The losses of fit_ratio must be finite. "
            f"Received: {np.size(y) - np.isfinite(y).sum()} that are not"
        )
    if not (squares > 0 and weight > 0):
        raise input_error(
            "fit_ratio needs squares and a weight above 0. "
            f"Received: squares={squares!r}, weight={weight!r}"
        )
    centred, seeds = x - x.mean(), y.shape[1]
    slopes = centred @ y / (centred @ centred)
    curvature = float(slopes.mean())
    half = float(stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * slopes.std(ddof=1) / math.sqrt(seeds))
    interval = (curvature - half, curvature + half)
    misfit = y - y.mean(axis=0) - np.outer(centred, slopes)
    free = len(x) - 2
    mean_misfit = misfit.mean(axis=1)
    around = misfit - mean_misfit[:, None]
    noise = float((around**2).sum()) / (max(free, 1) * (seeds - 1)) / seeds

    def ratio(kappa: float) -> float:
        return float(np.cbrt(weight * squares / kappa)) if kappa > 0 else math.inf

    return RatioFit(
        curvature=curvature,
        curvature_interval=interval,
        residual=math.sqrt(float((mean_misfit**2).sum()) / free) if free else None,
        noise=math.sqrt(noise),
        ratio=ratio(curvature),
        ratio_interval=(ratio(interval[1]), ratio(interval[0])),
    )
