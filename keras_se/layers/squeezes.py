"""Squeezes: how a feature map becomes one number per channel.

A squeeze is a function `f(x, axis, mask)` that reduces the spatial axes `axis` of `x` and keeps
them as axes of size 1. `mask` is `None`, or booleans that broadcast against `x`: only positions
where it is true count, and where none is, the squeeze is 0. Squeezes are known by name: the same
name in `SEBlock(squeeze=...)`, in a saved configuration, in a search space and on the command line.
A function `f(x, axis)` or `f(x, axis, mask)` of the user's serves too, once it is registered with
`keras.saving.register_keras_serializable`; without `mask` it is refused where a mask comes.

Source: Hu et al., arXiv 1709.01507v4, section 3.1 (average) and section 6.2 (maximum). `avg_max` is
the mean of both; `std`, the standard deviation, is the second moment of style-based recalibration
(Lee et al., "SRM", arXiv 1903.10829, section 3.1).
"""

import inspect
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_se.layers import registration

Squeeze = Callable[..., Any]
_Axes = tuple[int, ...]

MIN_VARIANCE = 1e-14  # the slope of the square root is infinite at 0
_registered = keras.saving.register_keras_serializable(package="keras_se")


@_registered
def avg(x: Any, axis: _Axes, mask: Any = None) -> Any:
    """Mean over the spatial axes, the paper's choice: shape (batch, 1, ..., channels)."""
    if mask is None:
        return ops.mean(x, axis=axis, keepdims=True)
    # The share of positions under the mask is the same before and after it is broadcast.
    share = ops.mean(ops.cast(mask, x.dtype), axis=axis, keepdims=True)
    mean = ops.mean(ops.where(mask, x, ops.zeros_like(x)), axis=axis, keepdims=True)
    return mean / ops.where(share == 0, ops.ones_like(share), share)


@_registered
def max(x: Any, axis: _Axes, mask: Any = None) -> Any:
    """Maximum over the spatial axes: shape (batch, 1, ..., channels)."""
    if mask is None:
        return ops.max(x, axis=axis, keepdims=True)
    lowest = ops.full_like(x, -float("inf"))
    highest = ops.max(ops.where(mask, x, lowest), axis=axis, keepdims=True)
    return _zero_where_none(highest, axis, mask)


@_registered
def avg_max(x: Any, axis: _Axes, mask: Any = None) -> Any:
    """Half of the mean and half of the maximum: shape (batch, 1, ..., channels)."""
    return 0.5 * (avg(x, axis, mask) + max(x, axis, mask))


@_registered
def std(x: Any, axis: _Axes, mask: Any = None) -> Any:
    """Standard deviation over the spatial axes, at least 1e-7: shape (batch, 1, ..., channels)."""
    if mask is not None:
        x = ops.where(mask, x, ops.zeros_like(x))  # what stands in the padding has no gradient
    variance = avg(ops.square(x - avg(x, axis, mask)), axis, mask)
    deviation = ops.sqrt(ops.maximum(variance, MIN_VARIANCE))
    return deviation if mask is None else _zero_where_none(deviation, axis, mask)


def _zero_where_none(pooled: Any, axis: _Axes, mask: Any) -> Any:
    return ops.where(ops.any(mask, axis=axis, keepdims=True), pooled, ops.zeros_like(pooled))


SQUEEZES: dict[str, Squeeze] = {"avg": avg, "max": max, "avg_max": avg_max, "std": std}


def standardize(identifier: Any) -> Any:
    """The name of a squeeze, or the user's own registered callable.

    Args:
        identifier: One of the names in `SQUEEZES` or its function, a registered callable, or its
            serialized form.

    Returns:
        A name, or a callable that has none here.

    Raises:
        InputError: If there is no such squeeze, or a callable is not registered.

    Example:
        >>> standardize(avg)
        'avg'
    """
    return registration.standardize("squeeze", identifier, SQUEEZES)


def get(identifier: Any) -> Squeeze:
    """The squeeze that an identifier stands for.

    Args:
        identifier: As for `standardize`.

    Returns:
        A function `f(x, axis, mask)` that keeps the reduced axes; one of the user's may be without
        `mask`.

    Raises:
        InputError: As from `standardize`.

    Example:
        >>> get("avg").__name__
        'avg'
    """
    identifier = standardize(identifier)
    return SQUEEZES[identifier] if isinstance(identifier, str) else identifier


def takes_mask(squeeze: Squeeze) -> bool:
    """Whether a squeeze has an argument `mask`.

    Args:
        squeeze: The function.

    Returns:
        True for all named squeezes.

    Example:
        >>> takes_mask(avg)
        True
    """
    return "mask" in inspect.signature(squeeze).parameters
