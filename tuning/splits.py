"""Data of a search from a file or a function, in parts that share no example."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_se.data import finite_float32
from keras_se.errors import InputError, import_extra

Pair = tuple[np.ndarray, np.ndarray]
_RULE = (
    "arrays x_train and y_train, with x_val and y_val, x_test and y_test where there are any, or x "
    "and y, to be split"
)


def split_in_two(x: np.ndarray, y: np.ndarray, *, share: float, seed: int) -> tuple[Pair, Pair]:
    """Splits off a share at random, class by class where every class has enough examples.

    Args:
        x: Inputs, shape (samples, ...).
        y: Targets, shape (samples, ...); integers of rank 1 are labels of classes.
        share: The share of the second part, between 0 and 1.
        seed: Seed of the split.

    Returns:
        The two parts, each `(x, y)`.

    Raises:
        MissingExtraError: If scikit-learn is not installed.

    Example:
        >>> one, other = split_in_two(np.arange(8), np.arange(8) % 2, share=0.25, seed=0)
        >>> one[1].mean(), other[1].mean()
        (np.float64(0.5), np.float64(0.5))
    """
    selection: Any = import_extra("sklearn.model_selection", "tuning")
    x_1, x_2, y_1, y_2 = selection.train_test_split(
        x, y, test_size=share, random_state=seed, stratify=_classes(y, share)
    )
    return (x_1, y_1), (x_2, y_2)


def _classes(y: np.ndarray, share: float) -> np.ndarray | None:
    if y.ndim != 1 or y.dtype.kind not in "ui":
        return None
    counts = np.unique(y, return_counts=True)[1]
    return y if counts.min() >= 2 and share * len(y) >= len(counts) else None


def split_arrays(source: str, arrays: Mapping[str, Any]) -> tuple[Pair, Pair, Pair | None]:
    """Training, validation and test part of named arrays.

    Args:
        source: Where they came from, for messages.
        arrays: `x_train, y_train` and, where there are any, `x_val, y_val` and `x_test, y_test`;
            without `x_val` a quarter of the training part is split off. Or `x, y`: without
            `x_test` 20 % become the test part first. Splits are always the same.

    Returns:
        The parts, each `(x, y)`; the third is `None` where there is no test part.

    Raises:
        InputError: If arrays are missing, are not finite or differ in length; or if a part has
            inputs without targets, or targets without inputs.

    Example:
        >>> x = np.zeros((20, 4), "float32")
        >>> parts = split_arrays("data.npz", {"x": x, "y": np.arange(20) % 2})
        >>> [len(part[0]) for part in parts]
        [12, 4, 4]
    """
    train, test = _pair(source, arrays, "_train"), _pair(source, arrays, "_test")
    if train is None:
        train = _pair(source, arrays, "")
        if train is not None and test is None:
            train, test = split_in_two(*train, share=0.2, seed=0)
    if train is None:
        raise InputError(
            f"Data of a search must hold {_RULE}. "
            f"Received: {sorted(map(str, arrays))} from {source!r}"
        )
    validation = _pair(source, arrays, "_val")
    if validation is None:
        train, validation = split_in_two(*train, share=0.25, seed=0)
    return train, validation, test


def _pair(source: str, arrays: Mapping[str, Any], part: str) -> Pair | None:
    names = (f"x{part}", f"y{part}")
    there = [name for name in names if name in arrays]
    if not there:
        return None
    if len(there) == 1:
        raise InputError(
            f"{names[0]} and {names[1]} belong together. Received: {there[0]} alone, from "
            f"{source!r}"
        )
    x = finite_float32(names[0], arrays[names[0]])
    y = _targets(names[1], arrays[names[1]])
    if x.shape[:1] != y.shape[:1] or not x.ndim or len(x) < 5:
        raise InputError(
            f"{names[0]} and {names[1]} must be arrays of one length of at least 5. "
            f"Received: inputs of shape {x.shape} and targets of shape {y.shape}, from {source!r}"
        )
    return x, y


def _targets(name: str, y: Any) -> np.ndarray:
    """Numbers, finite ones; integers stay integers."""
    finite_float32(name, y)
    return np.asarray(y)
