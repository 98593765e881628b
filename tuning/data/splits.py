"""Splits of the data from a file or a function into parts that share no example."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_se.data import Pair, input_target_pair
from keras_se.errors import InputError, import_extra

_SMALLEST = 5  # examples, for three parts of 60, 20 and 20 %


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
    # scikit-learn refuses classes of one example, and parts of fewer examples than classes.
    counts = np.unique(y, return_counts=True)[1]
    return y if counts.min() >= 2 and share * len(y) >= len(counts) else None


def split_arrays(source: str, arrays: Mapping[str, Any]) -> tuple[Pair, Pair, Pair | None]:
    """Returns the training, validation and test pairs of named arrays; test may be `None`."""
    train, validation, test = (
        input_target_pair(source, arrays, part, _SMALLEST) for part in ("_train", "_val", "_test")
    )
    if train is None:
        train = input_target_pair(source, arrays, "", _SMALLEST)
        if train is not None and test is None:
            # A fixed seed: all trials, and a resumed search, must use the same parts.
            train, test = split_in_two(*train, share=0.2, seed=0)
    if train is None:
        raise InputError(
            "Data of a search must hold x_train and y_train, with x_val, y_val, x_test and y_test "
            "where there are any, or x and y, to be split. "
            f"Received: {sorted(map(str, arrays))} from {source!r}"
        )
    if validation is None:
        # A quarter of the remaining 80 %: 60 / 20 / 20 in all.
        train, validation = split_in_two(*train, share=0.25, seed=0)
    return train, validation, test
