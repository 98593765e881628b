"""Raw Keras 3 operations, such as `x + 3.0`, as functions of tf_keras tensors."""

import operator
import re
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_se.compress.tfmot.bridge import shapes
from keras_se.compress.tfmot.bridge.activations import clip, convert_activation, gelu
from keras_se.compress.tfmot.bridge.environment import load_tensorflow
from keras_se.compress.tfmot.bridge.factory import (
    Converted,
    Function,
    LayerFactory,
    NoCounterpartError,
    compose,
)
from keras_se.compress.tfmot.bridge.layers import rescaling
from keras_se.compress.tfmot.bridge.trained import convert_trained
from keras_se.graph.composites import takes_variables
from keras_se.graph.models import raw_activation
from keras_se.graph.trace import Call

_LAYERS = ("Add", "Maximum", "Minimum", "Multiply", "Subtract")
_COMMUTE = ("Add", "Maximum", "Minimum", "Multiply")
# What no layer of tf_keras computes becomes an operation of TensorFlow, which tf_keras saves.
_OF_TENSORFLOW = {
    "Add": "math.add",
    "Divide": "math.divide",
    "Maximum": "math.maximum",
    "Minimum": "math.minimum",
    "Multiply": "math.multiply",
    "Power": "math.pow",
    "Subtract": "math.subtract",
    "TrueDivide": "math.divide",
}
_ELEMENTWISE = {
    **{"Absolute": "abs", "Cos": "cos", "Erf": "erf", "Expm1": "expm1", "Log": "log"},
    **{"Log1p": "log1p", "Reciprocal": "reciprocal", "Rsqrt": "rsqrt", "Sign": "sign"},
    **{"Sin": "sin", "Sqrt": "sqrt"},
}
_REDUCTIONS = {
    **{"Max": "reduce_max", "Mean": "reduce_mean", "Min": "reduce_min", "Prod": "reduce_prod"},
    **{"Std": "reduce_std", "Sum": "reduce_sum", "Var": "reduce_variance"},
}
_POOLINGS = {"Max": "Max", "Mean": "Average"}
# Operations of these kinds compute what the layer does that takes their settings.
_SAME = {
    "Elu": ("ELU", {"alpha": "alpha"}),
    "LeakyRelu": ("LeakyReLU", {"alpha": "negative_slope"}),
    "ReLU": ("ReLU", {key: key for key in ("max_value", "negative_slope", "threshold")}),
    "Softmax": ("Softmax", {"axis": "axis"}),
}


def convert_operation(new_layer: LayerFactory, call: Call, name: str) -> Converted | None:
    """Return what the call of a raw operation becomes, or `None` if it is unknown."""
    kind = type(call.layer).__name__
    if takes_variables(call):
        return convert_trained(new_layer, call, name)
    if kind in shapes.CONVERTERS:
        moved = shapes.CONVERTERS[kind](new_layer, call, name)
        return Converted(lambda tensor, *_, **__: moved(tensor))  # the others are settings
    if call.kwargs:
        return None
    function: Function | None = None
    if kind in _CONVERTERS:
        function = _CONVERTERS[kind](new_layer, call, name)
    elif len(call.args) == 2 and kind in _OF_TENSORFLOW:
        function = _arithmetic(new_layer, kind, call, name)
    elif len(call.args) == 1:
        function = _of_one(new_layer, kind, call, name)
    return None if function is None else Converted(function)


def _of_one(new_layer: LayerFactory, kind: str, call: Call, name: str) -> Function | None:
    """Convert an operation on one tensor, value by value or along axes."""
    own = call.layer
    if kind in _REDUCTIONS:
        return _reduced(new_layer, kind, call, name)
    if kind in _ELEMENTWISE:
        return _tensorflow(f"math.{_ELEMENTWISE[kind]}")
    activation = raw_activation(own)
    if activation is not None:
        return convert_activation(new_layer, activation, name)
    if kind in _SAME:
        layer, settings = _SAME[kind]
        return new_layer(layer, name, **{to: getattr(own, key) for to, key in settings.items()})
    # Operation classes are named after their functions: HardSilu computes hard_silu.
    snake_case = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
    is_known = hasattr(keras.activations, snake_case) and not hasattr(own, "axis")
    return convert_activation(new_layer, snake_case, name) if is_known else None


def _tensorflow(path: str, **settings: Any) -> Function:
    function = operator.attrgetter(path)(load_tensorflow())
    return lambda *tensors: function(*tensors, **settings)


def _arithmetic(new_layer: LayerFactory, kind: str, call: Call, name: str) -> Function | None:
    first, second = (_constant(argument) for argument in call.args)
    if first is None and second is None:
        return _of_two(new_layer, kind, call, name)
    if kind in ("Maximum", "Minimum", "Power"):
        return _with_number(new_layer, kind, call, name)
    if second is not None and "Divide" in kind and np.any(second == 0.0):
        raise NoCounterpartError("which divides by zero")
    if second is not None and "Divide" in kind:
        kind, second = "Multiply", 1.0 / second
    if first is None and second is not None:
        scale, offset = {"Add": (1.0, second), "Subtract": (1.0, -second)}.get(kind, (second, 0.0))
        position = 0
    # c / x is not linear in x, so Rescaling cannot compute it.
    elif "Divide" not in kind:
        scale, offset = {"Add": (1.0, first), "Subtract": (-1.0, first)}.get(kind, (first, 0.0))
        position = 1
    else:
        divided = compose(_tensorflow("math.reciprocal"), rescaling(new_layer, name, first, 0.0))
        return lambda *given: divided(given[1])
    if call.outputs[0].shape != call.args[position].shape:
        raise NoCounterpartError("which makes a tensor larger by a constant array")
    scale, offset = (value if np.ndim(value) == 0 else value.tolist() for value in (scale, offset))
    rescaled = rescaling(new_layer, name, scale, offset)
    return lambda *given: rescaled(given[position])


def _of_two(new_layer: LayerFactory, kind: str, call: Call, name: str) -> Function:
    # The layers take tensors of other ranks than NumPy does.
    is_alike = len(call.args[0].shape) == len(call.args[1].shape)
    if kind not in _LAYERS or not is_alike:
        return _tensorflow(_OF_TENSORFLOW[kind])
    merging = new_layer(kind, name)
    return lambda *given: merging(list(given))


def _with_number(new_layer: LayerFactory, kind: str, call: Call, name: str) -> Function | None:
    """Convert max(x, c), min(x, c) or x ** c."""
    if kind == "Power" and _constant(call.args[1]) == 2.0:
        square = _square(new_layer, call, name)
        return lambda tensor, _: square(tensor)
    if kind == "Power" and _constant(call.args[1]) is None:
        return None
    numbers = [_constant(argument) for argument in call.args]
    number = next(number for number in numbers if number is not None)
    if np.ndim(number):
        return None
    position = numbers.index(None)
    function = _tensorflow(_OF_TENSORFLOW[kind])
    return lambda *given: function(given[position], number)


def _constant(argument: Any) -> Any:
    """Convert a constant to a float or an array of float32; return `None` for a tensor."""
    is_number = isinstance(argument, int | float | np.number)
    # A symbolic tensor has no values.
    if not is_number and not isinstance(argument, np.ndarray) and not hasattr(argument, "numpy"):
        return None
    values = np.asarray(argument if is_number else keras.ops.convert_to_numpy(argument))
    return float(values) if values.ndim == 0 else values.astype("float32")


def _reduced(new_layer: LayerFactory, kind: str, call: Call, name: str) -> Function:
    own, rank = call.layer, len(call.args[0].shape)
    axis = range(rank) if own.axis is None else own.axis
    axes = sorted(a % rank for a in ([axis] if isinstance(axis, int) else axis))
    # A reduction over all spatial axes is a global pooling.
    if kind in _POOLINGS and axes == [*range(1, rank - 1)] and 3 <= rank <= 5:
        pooling = f"Global{_POOLINGS[kind]}Pooling{rank - 2}D"
        return new_layer(pooling, name, keepdims=bool(own.keepdims))
    return _tensorflow(f"math.{_REDUCTIONS[kind]}", axis=axes, keepdims=bool(own.keepdims))


def _square(new_layer: LayerFactory, call: Call, name: str) -> Function:
    product = new_layer("Multiply", name)
    return lambda tensor: product([tensor, tensor])


_CONVERTERS: dict[str, Callable[[LayerFactory, Call, str], Function]] = {
    "Clip": lambda new_layer, call, name: clip(
        new_layer, name, float(call.layer.x_min), float(call.layer.x_max)
    ),
    "Exp": lambda new_layer, call, name: new_layer("Activation", name, activation="exponential"),
    "Gelu": lambda new_layer, call, name: gelu(new_layer, name, call.layer.approximate),
    "LogSoftmax": lambda new_layer, call, name: _tensorflow("nn.log_softmax", axis=call.layer.axis),
    "Matmul": lambda new_layer, call, name: _tensorflow("linalg.matmul"),
    "Negative": lambda new_layer, call, name: new_layer("Rescaling", name, scale=-1.0),
    "Square": _square,
}
