"""The grid of a space: lists of values and their combinations."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from keras_se.errors import InputError


def combinations(space: Any) -> Iterator[dict[str, Any]]:
    """Yields the active values of every combination, in the order of the space."""
    check_space(space)
    # `is_active` looks at the values of the space itself, so it works on a copy.
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
    """Raises if a hyperparameter has no finite list of values or is declared twice."""
    names = [parameter.name for parameter in space.space]
    for parameter in space.space:
        kind = type(parameter).__name__
        if kind in ("Int", "Float") and parameter.get_config()["step"] is None:
            raise InputError(
                "This search needs hyperparameters with a list of values: a Choice, a Boolean, an "
                "Int, or a Float with a step. For others give oracle='random'. "
                f"Received: {kind} {parameter.name!r}"
            )
        # keras-tuner drops the value of such a name where one of its conditions does not hold.
        if names.count(parameter.name) > 1:
            raise InputError(
                "A hyperparameter must be declared once, under one condition: give those of "
                f"different conditions different names. Received: {parameter.name!r} twice"
            )


def listed_values(parameter: Any) -> Iterator[Any]:
    """Yields the distinct values of a hyperparameter, in order."""
    kind = type(parameter).__name__
    if kind not in ("Int", "Float"):
        yield from dict.fromkeys(parameter.values)
        return
    # Not `parameter.values`: its floating-point steps lose the last value of 0.0 ... 0.3 by 0.1.
    config = parameter.get_config()
    low, high, step = (config[name] for name in ("min_value", "max_value", "step"))
    is_linear, is_log = (config["sampling"] == name for name in ("linear", "log"))
    steps = (high - low) / step if is_linear else math.log(high / low, step)
    # The quotient of floats may fall just below a whole number, which would lose the last step.
    for number in range(int(steps + 1e-8) + 1):
        up = low + number * step if is_linear else low * step**number
        value = up if is_linear or is_log else high + low - up
        # Twelve digits turn 0.30000000000000004 into the 0.3 that the user wrote.
        yield round(value) if kind == "Int" else float(f"{value:.12g}")
