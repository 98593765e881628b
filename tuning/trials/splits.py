"""Splits of the data from a file or a function into parts that share no example."""

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
    """Splits off a random share of the examples, stratified by class where possible."""
    selection: Any = import_extra("sklearn.model_selection", "tuning")
    x_1, x_2, y_1, y_2 = selection.train_test_split(
        x, y, test_size=share, random_state=seed, stratify=_classes(y, share)
    )
    return (x_1, y_1), (x_2, y_2)


def _classes(y: np.ndarray, share: float) -> np.ndarray | None:
    if y.ndim != 1 or y.dtype.kind not in "ui":
        return None
    # scikit-learn refuses to stratify a class with one example, or a part smaller than the number
    # of classes.
    counts = np.unique(y, return_counts=True)[1]
    return y if counts.min() >= 2 and share * len(y) >= len(counts) else None


def split_arrays(source: str, arrays: Mapping[str, Any]) -> tuple[Pair, Pair, Pair | None]:
    """Returns the training, validation and test pairs of named arrays; test may be `None`."""
    train, test = _pair(source, arrays, "_train"), _pair(source, arrays, "_test")
    if train is None:
        train = _pair(source, arrays, "")
        if train is not None and test is None:
            # A fixed seed: all trials, and a resumed search, must use the same parts.
            train, test = split_in_two(*train, share=0.2, seed=0)
    if train is None:
        raise InputError(
            f"Data of a search must hold {_RULE}. "
            f"Received: {sorted(map(str, arrays))} from {source!r}"
        )
    validation = _pair(source, arrays, "_val")
    if validation is None:
        # A quarter of the remaining 80 %: 60 / 20 / 20 in all.
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
    # Only a check: class labels must stay integers.
    finite_float32(name, y)
    return np.asarray(y)
