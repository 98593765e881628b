"""Keras 3 activations as tf_keras layers that compute the same values.

The libraries differ in hard_sigmoid: Keras 3 computes relu6(x + 3) / 6, tf_keras clips 0.2 x + 0.5
to [0, 1]. The results differ by up to 0.083.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import keras

from keras_se.compress.tfmot.bridge.factory import Function, LayerFactory, compose

_SAME = (
    "elu",
    "exponential",
    "gelu",
    "linear",
    "mish",
    "relu",
    "selu",
    "sigmoid",
    "softmax",
    "softplus",
    "softsign",
    "tanh",
)


def convert_activation(new_layer: LayerFactory, identifier: Any, name: str) -> Function | None:
    """Return a tf_keras function for a Keras 3 activation, or `None` if it is unknown."""
    function = keras.activations.get(identifier)
    known = function.__name__ if inspect.isfunction(function) else ""
    # A custom function may have the name of a built-in one, so compare the objects.
    if getattr(keras.activations, known, None) is not function:
        return new_layer.opened(new_layer, function, name)
    if known in _SAME:
        # A linear Activation layer would get a range of its own and block fusion in int8.
        return compose() if known == "linear" else new_layer("Activation", name, activation=known)
    return _WRITTEN_OUT[known](new_layer, name) if known in _WRITTEN_OUT else None


def _hard_sigmoid(new_layer: LayerFactory, name: str) -> Function:
    """Build the hard sigmoid of Keras 3, relu6(x + 3) / 6."""
    return compose(
        # TFLite fuses and quantizes these operations. rounding.py recognizes the scale 1/6.
        new_layer("Rescaling", f"{name}_shift", scale=1.0, offset=3.0),
        new_layer("ReLU", f"{name}_relu6", max_value=6.0),
        new_layer("Rescaling", f"{name}_sixth", scale=1.0 / 6.0),
    )


def _hard_silu(new_layer: LayerFactory, name: str) -> Function:
    gate = _hard_sigmoid(new_layer, name)
    product = new_layer("Multiply", f"{name}_product")
    return lambda tensor: product([tensor, gate(tensor)])


def clip(new_layer: LayerFactory, name: str, lowest: float, highest: float) -> Function:
    """Build min(max(x, lowest), highest)."""
    relu = new_layer("ReLU", name, max_value=highest - lowest)
    if lowest == 0.0:
        return compose(relu)
    shift = new_layer("Rescaling", f"{name}_shift", scale=1.0, offset=-lowest)
    return compose(shift, relu, new_layer("Rescaling", f"{name}_back", scale=1.0, offset=lowest))


def gelu(new_layer: LayerFactory, name: str, approximate: bool) -> Function:
    """Build GELU, or its approximation 0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    if not approximate:
        return compose(new_layer("Activation", name, activation="gelu"))
    cube = new_layer("Multiply", f"{name}_cube")
    share = new_layer("Rescaling", f"{name}_share", scale=0.044715)
    total = new_layer("Add", f"{name}_sum")
    gate = compose(
        new_layer("Rescaling", f"{name}_scale", scale=math.sqrt(2.0 / math.pi)),
        new_layer("Activation", f"{name}_tanh", activation="tanh"),
        new_layer("Rescaling", f"{name}_one", scale=1.0, offset=1.0),
        new_layer("Rescaling", f"{name}_half", scale=0.5),
    )
    product = new_layer("Multiply", name)

    def call(tensor: Any) -> Any:
        cubed = cube([tensor, tensor, tensor])
        return product([tensor, gate(total([tensor, share(cubed)]))])

    return call


_WRITTEN_OUT: dict[str, Callable[[LayerFactory, str], Function]] = {
    "hard_sigmoid": _hard_sigmoid,
    "hard_silu": _hard_silu,
    # The function has the slope 0.2; the layer in tf_keras defaults to 0.3.
    "leaky_relu": lambda new_layer, name: new_layer("LeakyReLU", name, alpha=0.2),
    "relu6": lambda new_layer, name: new_layer("ReLU", name, max_value=6.0),
    "silu": lambda new_layer, name: new_layer("Activation", name, activation="swish"),
}
