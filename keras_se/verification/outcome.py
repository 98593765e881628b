"""What a file makes of samples beside its reference: accuracy, or agreement of the outputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_se.data import checked_labels
from keras_se.errors import InputError
from keras_se.litert.matching import in_order
from keras_se.sites.statistics import spread

Interval = tuple[float, float]
_FAR = 1e6  # between outputs of different shapes
_NORMAL = 1.96  # standard deviations of 95 %


@dataclass(frozen=True)
class Outcome:
    """The first output of reference and file on the same samples.

    Attributes:
        metric: `"accuracy"`; without labels `"agreement"`, the share of samples that get the class
            of the reference; `""` for outputs that are no classes.
        reference: The metric of the reference.
        file: That of the file; `None` if it was not run on these samples.
        difference: That of the file minus that of the reference; `None` without labels.
        interval: The 95 % interval of this difference, paired by sample.
        constant: The metric of the reference with constant gates; `None` if not measured.
        constant_interval: The 95 % interval of what constant gates change, paired by sample.
        error: The root mean square difference of the outputs over their spread; `None` if unknown.
        commonest: Share of the samples that are of the commonest class; `None` without labels.
    """

    metric: str
    reference: float | None
    file: float | None
    difference: float | None
    interval: Interval | None
    constant: float | None
    constant_interval: Interval | None
    error: float | None
    commonest: float | None = None

    @property
    def is_worse(self) -> bool:
        """Whether the file is less accurate, or without labels gives something else."""
        if self.interval is not None:
            return self.interval[1] < 0.0
        return self.error is not None and self.error > 1.0


def outcome(
    outputs: Sequence[np.ndarray],
    file: Sequence[np.ndarray],
    constant: np.ndarray | None,
    labels: np.ndarray | None,
) -> Outcome:
    """Compares the first output of a reference with that of a file, and with constant gates."""
    reference, found = outputs[0], _first(outputs, file)
    error = None if found is None else _relative(reference, found)
    if error is not None and not (np.isfinite(error) and _varies(reference)):
        error = None
    if not are_classes(reference.shape):
        return Outcome("", None, None, None, None, None, None, error)
    threshold = _threshold([reference] if constant is None else [reference, constant])
    wanted = _classes(reference, threshold) if labels is None else labels
    own, shipped, steady = (
        None if values is None else _classes(values, threshold) == wanted
        for values in (reference, found, constant)
    )
    change = None if own is None or shipped is None else _change(own, shipped)
    lost = None if own is None or steady is None else _change(own, steady)
    return Outcome(
        metric="agreement" if labels is None else "accuracy",
        reference=_share(own),
        file=_share(shipped),
        difference=None if change is None or labels is None else change[0],
        interval=None if change is None or labels is None else change[1],
        constant=_share(steady),
        constant_interval=None if lost is None else lost[1],
        error=error,
        commonest=None if labels is None else float(np.bincount(labels).max() / len(labels)),
    )


def are_classes(shape: Sequence[int | None]) -> bool:
    """Whether an output has one value per class, or one in all."""
    return len(shape) == 2


def takes_labels(shape: Sequence[int | None], labels: np.ndarray) -> bool:
    """Whether an output of some shape is classes, and these labels are among them."""
    # A single unit distinguishes two classes.
    known = shape[1] if are_classes(shape) else None
    return known is not None and int(labels.max()) < max(2, known)


def class_labels(purpose: str, shape: Sequence[int | None], y: Any, samples: int) -> np.ndarray:
    """Returns labels as int64; raises unless they are one class each of an output of a shape."""
    labels = checked_labels(purpose, "y", y, samples)
    if not takes_labels(shape, labels):
        raise InputError(
            "y must hold classes of the first output of the reference, which has one value for "
            f"each, or one in all. Received: the label {labels.max()} for an output of shape "
            f"{tuple(shape)}"
        )
    return labels


def _first(reference: Sequence[np.ndarray], file: Sequence[np.ndarray]) -> np.ndarray | None:
    """The output of a file that is the reference's first one: a converter may reorder them."""
    if not file:
        return None
    far = np.array([[_far(wanted, found) for found in file] for wanted in reference])
    column = in_order(far).get(0)
    found = None if column is None else file[column]
    return found if found is not None and found.shape == reference[0].shape else None


def _far(wanted: np.ndarray, found: np.ndarray) -> float:
    distance = _relative(wanted, found) if wanted.shape == found.shape else np.inf
    return distance if np.isfinite(distance) else _FAR


def _share(hits: np.ndarray | None) -> float | None:
    return None if hits is None else float(hits.mean())


def _change(before: np.ndarray, after: np.ndarray) -> tuple[float, Interval]:
    """The difference of two paired proportions, and its 95 % interval.

    Source: A. Agresti and Y. Min, "Simple improved confidence intervals for comparing matched
    proportions", Statistics in Medicine 24 (2005): Wald's interval with half a pair added to each
    of the four kinds.
    """
    count = len(before)
    won, lost = float((after & ~before).sum()), float((before & ~after).sum())
    n, b, c = count + 2.0, won + 0.5, lost + 0.5
    middle = (b - c) / n
    half = _NORMAL * np.sqrt(b + c - (b - c) ** 2 / n) / n
    return (won - lost) / count, (float(middle - half), float(middle + half))


def fewest_samples(tolerance: float) -> int:
    """How many samples show that accuracy fell by no more than a tolerance, where none changes.

    That is where the interval of `_change` is as wide, with no sample won or lost; 0 for a
    tolerance of 0, which no number of samples shows.
    """
    return max(1, math.ceil(_NORMAL / tolerance - 2.0)) if tolerance else 0


def _threshold(outputs: Sequence[np.ndarray]) -> float:
    """Where a single unit decides, by what a network gives with different gates."""
    # A probability is decided at ½, a logit by its sign.
    return 0.5 if all(v.min() >= 0.0 and v.max() <= 1.0 for v in outputs) else 0.0


def _classes(outputs: np.ndarray, threshold: float) -> np.ndarray:
    if outputs.shape[1] > 1:
        return np.asarray(outputs.argmax(axis=1))
    return np.asarray(outputs[:, 0] > threshold).astype(int)


def _varies(outputs: np.ndarray) -> bool:
    """Whether outputs differ between samples by more than float32 rounds."""
    return bool(spread(outputs) > 1e-6 * np.abs(outputs).max())


def _relative(reference: np.ndarray, values: np.ndarray) -> float:
    difference = float(np.sqrt(((values.astype("float64") - reference) ** 2).mean()))
    # The outputs may be constant, or not finite.
    error = difference / max(spread(reference), 1e-12)
    return error if np.isfinite(error) else np.inf
