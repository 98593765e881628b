"""The reduction ratio that a second-order expansion of the loss calls optimal, a diagnostic."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tuning.choice.comparison import LEVEL
from tuning.choice.errors import input_error


@dataclass(frozen=True)
class RatioFit:
    """The fit L(r) = L0 + κ·r²/2, and the ratio r* = (λS/κ)^(1/3) that it calls optimal.

    It is a diagnostic and chooses nothing: measured losses need not follow a parabola (exponents
    from 0.5 to 4 occur). Compare `residual` with `noise` to see whether they do.

    Attributes:
        curvature: κ, the mean over seeds of the least-squares fits.
        curvature_interval: 95 % interval of κ, from Student's t over seeds.
        residual: Root mean square distance of the mean losses from the fit, with two degrees of
            freedom for L0 and κ; `None` with two ratios, where the curve passes through both means.
        noise: Standard deviation of this distance from noise alone, if the curve is right.
        ratio: r*, unrounded; infinite if κ is not above 0, because then no ratio is too large.
        ratio_interval: 95 % interval of r*, computed from that of κ.
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
    """Fits the curvature of the loss in r, seed by seed, and derives r* from it."""
    from keras_se import theory  # late: keras_se loads Keras, and the rules work without

    # L is linear in x = r²/2, with slope κ. Rows of `losses` are ratios, columns are seeds.
    x, y = np.asarray(ratios, "float64") ** 2 / 2, np.asarray(losses, "float64")
    _check(x, y, squares, weight)
    seeds = y.shape[1]
    # One fit per seed: the spread of κ over seeds gives its interval.
    offsets, slopes = np.array([theory.fit_loss(np.asarray(ratios), column) for column in y.T]).T
    curvature = float(slopes.mean())
    half = float(stats.t.ppf((1 + LEVEL) / 2, seeds - 1) * slopes.std(ddof=1) / math.sqrt(seeds))
    interval = (curvature - half, curvature + half)
    misfit = y - offsets - np.outer(x, slopes)
    mean_misfit = misfit.mean(axis=1)
    free = len(x) - 2  # L0 and κ take two degrees of freedom
    around = float(((misfit - mean_misfit[:, None]) ** 2).sum())

    def ratio(kappa: float) -> float:
        return theory.optimal_ratio(math.sqrt(squares), weight, kappa) if kappa > 0 else math.inf

    return RatioFit(
        curvature=curvature,
        curvature_interval=interval,
        residual=math.sqrt(float((mean_misfit**2).sum()) / free) if free else None,
        noise=math.sqrt(around / (max(free, 1) * (seeds - 1)) / seeds),
        ratio=ratio(curvature),
        # r* falls as κ grows, so the bounds change places.
        ratio_interval=(ratio(interval[1]), ratio(interval[0])),
    )


def _check(x: np.ndarray, y: np.ndarray, squares: float, weight: float) -> None:
    if y.ndim != 2 or x.shape != y.shape[:1] or y.shape[1] < 2 or np.unique(x).size < 2:
        raise input_error(
            "fit_ratio needs two or more different ratios, and losses of each on two or more "
            f"seeds. Received: {x.size} ratios and losses of shape {y.shape}"
        )
    if not np.isfinite(y).all():
        number = np.sum(~np.isfinite(y))
        raise input_error(f"fit_ratio needs finite losses. Received: {number} that are not finite")
    if not (squares > 0 and weight > 0):
        raise input_error(
            "fit_ratio needs squares and a weight above 0. "
            f"Received: squares={squares!r}, weight={weight!r}"
        )
