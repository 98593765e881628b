"""Scores with and without SE from the same seeds: their difference, with its interval."""

from collections.abc import Sequence

import numpy as np
from scipy import stats


def difference(
    scores: Sequence[float], others: Sequence[float], overlap: float = 0.0
) -> tuple[float, float, float]:
    """Returns the mean of the paired differences, and its 95 % interval.

    Args:
        scores: A score for each seed, or for each seed and fold.
        others: The scores that they are compared with, in the same order.
        overlap: 0 for independent pairs. Folds of a cross-validation share training samples: then
            the samples of a test fold over those that are trained on, which widens the interval
            (Nadeau and Bengio, "Inference for the generalization error", Machine Learning 52,
            2003).
    """
    differences = np.asarray(scores) - np.asarray(others)
    number, mean = len(differences), float(differences.mean())
    if number < 2:
        return mean, -np.inf, np.inf
    error = np.sqrt(differences.var(ddof=1) * (1 / number + overlap))
    half = float(stats.t.ppf(0.975, number - 1) * error)
    return mean, mean - half, mean + half


def sentence(
    what: str, scores: Sequence[float], others: Sequence[float], overlap: float = 0.0
) -> str:
    """Returns both means, the difference with its interval, and what that shows of `what`."""
    mean, low, high = difference(scores, others, overlap)
    shown = "helps" if low > 0 else "harms" if high < 0 else "is not shown to help"
    return (
        f"{np.mean(scores):.4f} with, {np.mean(others):.4f} without: {mean:+.4f} "
        f"(95 % interval {low:+.4f} to {high:+.4f}, {len(scores)} pairs). {what} {shown}."
    )
