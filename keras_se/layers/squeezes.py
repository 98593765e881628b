"""Squeezes: how a feature map becomes one number per channel.

A squeeze is a function `f(x, axis)` that reduces the spatial axes `axis` of `x` and keeps them as
axes of size 1. Squeezes are known by name: the same name in `SEBlock(squeeze=...)`, in a saved
configuration, in a search space and on the command line.

Source: Hu et al., arXiv 1709.01507v4, section 3.1 (average) and section 6.2 (maximum).
"""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_se.errors import InputError

Squeeze = Callable[[Any, tuple[int, ...]], Any]


def avg(x: Any, axis: tuple[int, ...]) -> Any:
    """Mean over the spatial axes, the paper's choice: shape (batch, 1, ..., channels)."""
    return ops.mean(x, axis=axis, keepdims=True)


def max(x: Any, axis: tuple[int, ...]) -> Any:
    """Maximum over the spatial axes: shape (batch, 1, ..., channels)."""
    return ops.max(x, axis=axis, keepdims=True)


SQUEEZES: dict[str, Squeeze] = {"avg": avg, "max": max}


def get(identifier: str) -> Squeeze:
    """The squeeze of that name.

    Args:
        identifier: One of the names in `SQUEEZES`.

    Returns:
        A function `f(x, axis)` that keeps the reduced axes.

    Raises:
        InputError: If there is no squeeze of that name.

    Example:
        >>> get("avg").__name__
        'avg'
    """
    if not isinstance(identifier, str) or identifier not in SQUEEZES:
        raise InputError(
            f"squeeze must be one of {sorted(SQUEEZES)}. Received: squeeze={identifier!r}"
        )
    return SQUEEZES[identifier]
