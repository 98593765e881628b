"""Squeezes: functions that reduce a feature map to one number per channel.

A squeeze `f(x, axis, mask)` reduces the spatial axes `axis` of `x` and keeps them with size 1.
`mask` is `None` or booleans that broadcast to `x`. Only positions where it is true count; the
squeeze is 0 if there are none. A custom squeeze is a function `f(x, axis)` or `f(x, axis, mask)`
registered with `keras.saving.register_keras_serializable`. Masked inputs need the second form.

Source: Hu et al., arXiv 1709.01507v4, sections 3.1 (average) and 6.2 (maximum); Lee et al., "SRM",
arXiv 1903.10829, section 3.1 (standard deviation).
"""

import inspect
from collections.abc import Callable
from typing import Any, Literal

import keras
from keras import ops

from keras_se.layers import registration

Squeeze = Callable[..., Any]
SqueezeName = Literal["avg", "max", "avg_max", "std"]
_Axes = tuple[int, ...]

MIN_VARIANCE = 1e-14  # the slope of the square root is infinite at 0
_registered = keras.saving.register_keras_serializable(package="keras_se")


@_registered
def avg(x: Any, axis: _Axes, mask: Any = None) -> Any:
    """Mean over the spatial axes, the squeeze of the paper: shape (batch, 1, ..., channels)."""
    if mask is None:
        return ops.mean(x, axis=axis, keepdims=True)
    return masked_avg(x, axis, mask)


def masked_avg(
    x: Any,
    axis: _Axes,
    mask: Any,
    of_mask: Callable[[Any], Any] = lambda share: share,
    of_map: Callable[[Any], Any] = lambda mean: mean,
) -> Any:
    """Mean over the positions of a mask, with what rounds its steps as an int8 file does."""
    # The mask need not be broadcast first: its mean over size-1 axes is the same.
    share = of_mask(ops.mean(of_mask(ops.cast(mask, x.dtype)), axis=axis, keepdims=True))
    mean = of_map(ops.mean(ops.where(mask, x, ops.zeros_like(x)), axis=axis, keepdims=True))
    return mean / of_mask(ops.where(share == 0, ops.ones_like(share), share))


@_registered
def max(x: Any, axis: _Axes, mask: Any = None) -> Any:
    """Maximum over the spatial axes: shape (batch, 1, ..., channels)."""
    if mask is None:
        return ops.max(x, axis=axis, keepdims=True)
    # The padding may hold NaN. Where all is padding, all is 0.
    x = ops.where(mask, x, ops.zeros_like(x))
    # Not -inf, which would take up the range of an int8 file.
    lowest = ops.min(x, axis=axis, keepdims=True)
    return ops.max(ops.where(mask, x, lowest), axis=axis, keepdims=True)


@_registered
def avg_max(x: Any, axis: _Axes, mask: Any = None) -> Any:
    """Half of the mean and half of the maximum: shape (batch, 1, ..., channels)."""
    return 0.5 * (avg(x, axis, mask) + max(x, axis, mask))


@_registered
def std(x: Any, axis: _Axes, mask: Any = None) -> Any:
    """Standard deviation over the spatial axes, at least 1e-7: shape (batch, 1, ..., channels)."""
    if mask is not None:
        # NaN in the padding would reach the gradient through the square.
        x = ops.where(mask, x, ops.zeros_like(x))
    # E[x²] - E[x]² would lose all digits where the mean is large.
    # NumPy's minus does not take a tensor of PyTorch.
    variance = avg(ops.square(ops.subtract(x, avg(x, axis, mask))), axis, mask)
    deviation = ops.sqrt(ops.maximum(variance, MIN_VARIANCE))
    if mask is None:
        return deviation
    return ops.where(ops.any(mask, axis=axis, keepdims=True), deviation, ops.zeros_like(deviation))


SQUEEZES: dict[str, Squeeze] = {"avg": avg, "max": max, "avg_max": avg_max, "std": std}


def standardize(identifier: Any) -> Any:
    """Returns the name of a squeeze, or a registered custom squeeze itself."""
    return registration.standardize("squeeze", identifier, SQUEEZES)


def get(identifier: Any) -> Squeeze:
    """Returns the squeeze function for an identifier."""
    identifier = standardize(identifier)
    return SQUEEZES[identifier] if isinstance(identifier, str) else identifier


def name(identifier: Any) -> str:
    """Returns the name of a squeeze; of a custom one that under which it is registered."""
    identifier = standardize(identifier)
    if isinstance(identifier, str):
        return identifier
    return registration.registered_name("squeeze", identifier)


def takes_mask(squeeze: Squeeze) -> bool:
    """Returns whether a squeeze has an argument `mask`."""
    return "mask" in inspect.signature(squeeze).parameters
