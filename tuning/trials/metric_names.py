"""Names of metrics. Keras numbers those that it makes itself, through a whole process: auc_1."""

import difflib
import functools
import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError


def plain_logs(logs: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Returns the scalar logs as floats, under names that all models of a process share."""
    scalars = {name: float(value) for name, value in logs.items() if np.ndim(value) == 0}
    names = plain_names(scalars, metric)
    return {names[name]: value for name, value in scalars.items()}


def unknown_metric(metric: str, logged: Iterable[str]) -> InputError:
    """Returns the error of a metric that is not among the logs."""
    names = sorted(logged)
    lower = {name.lower(): name for name in names}
    near = [lower[name] for name in difflib.get_close_matches(metric.lower(), lower, 1, 0.8)]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return InputError(
        "The metric of a search must be one that Model.fit logs. "
        f"Received: {metric!r}, with logs {names}{hint}"
    )


def plain_names(logged: Iterable[str], metric: str) -> dict[str, str]:
    """Returns the plain name of each log: `val_auc_4` is `val_auc` in whichever model it is.

    Two metrics of a name in one model stay apart: `auc_2` and `auc_3` are `auc` and `auc_1`.
    `metric` is the name that a search asks for; with it metrics of the user's own are known, too.
    """
    names = {name: name for name in logged}
    numbered: dict[str, list[tuple[int, str]]] = {}
    for name in names:
        base, number = _split(name)
        if base.removeprefix("val_") == metric.removeprefix("val_") or _is_of_keras(base):
            numbered.setdefault(base, []).append((number, name))
    if metric in names:  # as it is: the user may have given it a number
        numbered.pop(_split(metric)[0], None)
    for base, found in numbered.items():
        for place, (_, name) in enumerate(sorted(found)):
            names[name] = f"{base}_{place}" if place else base
    return names


def _split(name: str) -> tuple[str, int]:
    base, _, number = name.rpartition("_")
    return (base, int(number)) if base and number.isdecimal() else (name, 0)


def _is_of_keras(name: str) -> bool:
    """Whether a name is that of a metric of Keras, perhaps behind the name of an output."""
    words = name.removeprefix("val_").split("_")
    return any("_".join(words[n:]) in _of_keras() for n in range(len(words)))


@functools.cache
def _of_keras() -> frozenset[str]:
    classes = [c for c in vars(keras.metrics).values() if inspect.isclass(c)]
    return frozenset(map(_snake_case, (c.__name__ for c in classes))) - {"mean", "sum", "metric"}


def _snake_case(name: str) -> str:
    # As Keras does it: BinaryIoU is binary_io_u, AUC is auc.
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()
