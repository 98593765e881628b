"""Every combination of the hyperparameters of a space, conditional ones included."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from keras_se.errors import InputError, import_extra

keras_tuner: Any = import_extra("keras_tuner", "tuning")


def combinations(space: Any) -> Iterator[dict[str, Any]]:
    """The active values of every combination, in the order in which the space declares them.

    Args:
        space: `keras_tuner.HyperParameters`.

    Yields:
        Values by name, without those of hyperparameters that are not active.

    Raises:
        InputError: As `check_space`.

    Example:
        >>> hp = keras_tuner.HyperParameters()
        >>> _ = hp.Choice("se", ["yes", "no"])
        >>> with hp.conditional_scope("se", ["yes"]):
        ...     _ = hp.Choice("ratio", [2, 4])
        >>> list(combinations(hp))
        [{'se': 'yes', 'ratio': 2}, {'se': 'yes', 'ratio': 4}, {'se': 'no'}]
    """
    check_space(space)
    yield from _extended(space.copy(), list(space.space), {})


def _extended(scratch: Any, rest: list[Any], values: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if not rest:
        yield dict(values)
        return
    parameter, *others = rest
    scratch.values = dict(values)
    if not scratch.is_active(parameter):
        yield from _extended(scratch, others, values)
        return
    for choice in listed_values(parameter):
        yield from _extended(scratch, others, {**values, parameter.name: choice})


def check_space(space: Any) -> None:
    """Refuses a space whose hyperparameters cannot be gone through one by one.

    Args:
        space: `keras_tuner.HyperParameters`.

    Raises:
        InputError: If a hyperparameter is a number of any size between two bounds, or is declared
            under two conditions: where one of them does not hold keras-tuner drops its value.
    """
    names = [parameter.name for parameter in space.space]
    for parameter in space.space:
        kind = type(parameter).__name__
        if kind in ("Int", "Float") and parameter.get_config()["step"] is None:
            raise InputError(
                "This search needs hyperparameters with a list of values: a Choice, a Boolean, an "
                "Int, or a Float with a step; or give oracle= one of keras_tuner.oracles. "
                f"Received: {kind} {parameter.name!r}"
            )
        if names.count(parameter.name) > 1:
            raise InputError(
                "A hyperparameter is declared once, under one condition: give those of different "
                f"conditions different names. Received: {parameter.name!r} twice"
            )


def listed_values(parameter: Any) -> Iterator[Any]:
    """The different values of a hyperparameter, in its order.

    Args:
        parameter: A hyperparameter of keras-tuner that has a list of values.

    Yields:
        Values, one by one: there may be very many.

    Example:
        >>> hp = keras_tuner.HyperParameters()
        >>> _ = hp.Float("rate", 0.0, 0.3, step=0.1), hp.Int("units", 2, 16, 2, sampling="log")
        >>> [list(listed_values(parameter)) for parameter in hp.space]
        [[0.0, 0.1, 0.2, 0.3], [2, 4, 8, 16]]
    """
    kind = type(parameter).__name__
    if kind not in ("Int", "Float"):
        yield from dict.fromkeys(parameter.values)
        return
    for value in _stepped(parameter.get_config()):  # keras-tuner's own leave out 0.3 here
        yield round(value) if kind == "Int" else float(f"{value:.12g}")


def _stepped(config: Mapping[str, Any]) -> Iterator[float]:
    low, high, step = (config[name] for name in ("min_value", "max_value", "step"))
    is_linear, is_log = (config["sampling"] == name for name in ("linear", "log"))
    steps = (high - low) / step if is_linear else math.log(high / low, step)
    for number in range(int(steps + 1e-8) + 1):
        up = low + number * step if is_linear else low * step**number
        yield up if is_linear or is_log else high + low - up


def count_combinations(space: Any, most: int) -> int:
    """The number of combinations, as far as it is of interest.

    Args:
        space: `keras_tuner.HyperParameters`.
        most: Counting ends above it.

    Returns:
        The number, or `most + 1`.
    """
    return sum(1 for _, _ in zip(range(most + 1), combinations(space), strict=False))
