"""Raw Keras 3 operations, such as `x + 3.0`, as tf_keras layers."""

import re
from typing import Any

import keras
import numpy as np

from keras_se.compress.tfmot.bridge.activations import convert_activation
from keras_se.compress.tfmot.bridge.factory import Function, LayerFactory
from keras_se.compress.tfmot.bridge.layers import rescaling
from keras_se.graph.models import raw_activation

_OF_TENSORS = ("Add", "Multiply", "Subtract")


def convert_operation(
    new_layer: LayerFactory, operation: Any, arguments: tuple[Any, ...], name: str
) -> Function | None:
    """Return a function of the same arguments for a raw operation, or `None` if it is unknown."""
    kind = type(operation).__name__
    if len(arguments) == 2 and kind in ("Add", "Subtract", "Multiply", "Divide", "TrueDivide"):
        return _arithmetic(new_layer, kind, name, arguments)
    if kind == "Negative":
        return new_layer("Rescaling", name, scale=-1.0)
    if kind == "Reshape":
        return new_layer("Reshape", name, target_shape=tuple(operation.newshape[1:]))
    if kind == "Concatenate":
        return new_layer("Concatenate", name, axis=operation.axis)
    if kind == "Mean":
        return _mean(new_layer, operation, len(arguments[0].shape), name)
    if len(arguments) != 1:
        return None
    activation = raw_activation(operation)
    if activation is not None:
        return convert_activation(new_layer, activation, name)
    # Operation classes are named after their functions: LeakyRelu computes leaky_relu.
    snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
    is_known = hasattr(keras.activations, snake_case) and not hasattr(operation, "axis")
    return convert_activation(new_layer, snake_case, name) if is_known else None


def _arithmetic(
    new_layer: LayerFactory, kind: str, name: str, arguments: tuple[Any, ...]
) -> Function | None:
    first, second = (_constant(argument) for argument in arguments)
    # An array may broadcast along any axis, which Rescaling does not support.
    is_array = any(_is_array(a) for a in arguments)
    if is_array or (second == 0.0 and "Divide" in kind):
        return None
    if first is None and second is None:
        if kind not in _OF_TENSORS:
            return None
        merging = new_layer(kind, name)
        return lambda *given: merging(list(given))
    if first is None and second is not None:
        scale, offset = {
            "Add": (1.0, second),
            "Subtract": (1.0, -second),
            "Multiply": (second, 0.0),
        }.get(kind, (1.0 / second, 0.0))
        position = 0
    # c / x is not linear in x, so Rescaling cannot compute it.
    elif first is not None and second is None and "Divide" not in kind:
        scale, offset = {"Add": (1.0, first), "Subtract": (-1.0, first)}.get(kind, (first, 0.0))
        position = 1
    else:
        return None
    rescaled = rescaling(new_layer, name, scale, offset)
    return lambda *given: rescaled(given[position])


def _is_array(argument: Any) -> bool:
    # A symbolic tensor of tf_keras has no values.
    is_constant = isinstance(argument, np.ndarray) or hasattr(argument, "numpy")
    return is_constant and len(argument.shape) > 0


def _constant(argument: Any) -> float | None:
    """Convert a scalar constant to float; return `None` for tensors and arrays."""
    is_number = isinstance(argument, int | float | np.number)
    is_scalar = isinstance(argument, np.ndarray) and argument.ndim == 0
    return float(argument) if is_number or is_scalar else None


def _mean(new_layer: LayerFactory, operation: Any, rank: int, name: str) -> Function | None:
    axes = tuple(operation.axis) if isinstance(operation.axis, list | tuple) else ()
    # Only a mean over all spatial axes is a global pooling.
    if tuple(sorted(axis % rank for axis in axes)) != tuple(range(1, rank - 1)):
        return None
    kind = f"GlobalAveragePooling{rank - 2}D"
    return new_layer(kind, name, keepdims=bool(operation.keepdims))
