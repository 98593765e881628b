"""Keras 3 activations as tf_keras layers that compute the same values.

The libraries differ in hard_sigmoid: Keras 3 computes relu6(x + 3) / 6, tf_keras clips 0.2 x + 0.5
to [0, 1]. The results differ by up to 0.083.
"""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_se.compress.tfmot.bridge.factory import Function, Maker, chained

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


def activation(make: Maker, identifier: Any, name: str) -> Function | None:
    """Return a tf_keras function for a Keras 3 activation, or `None` if it is unknown."""
    function = keras.activations.get(identifier)
    known = function.__name__ if inspect.isfunction(function) else ""
    # A custom function may have the name of a built-in one, so compare the objects.
    if getattr(keras.activations, known, None) is not function:
        return None
    if known in _SAME:
        # A linear Activation layer would get a range of its own and block fusion in int8.
        return chained() if known == "linear" else make("Activation", name, activation=known)
    return _WRITTEN_OUT[known](make, name) if known in _WRITTEN_OUT else None


def hard_sigmoid(make: Maker, name: str) -> Function:
    """Build the hard sigmoid of Keras 3, relu6(x + 3) / 6."""
    return chained(
        # TFLite fuses and quantizes these operations. rounding.py recognizes the scale 1/6.
        make("Rescaling", f"{name}_shift", scale=1.0, offset=3.0),
        make("ReLU", f"{name}_relu6", max_value=6.0),
        make("Rescaling", f"{name}_sixth", scale=1.0 / 6.0),
    )


def _hard_silu(make: Maker, name: str) -> Function:
    gate = hard_sigmoid(make, name)
    product = make("Multiply", f"{name}_product")
    return lambda tensor: product([tensor, gate(tensor)])


_WRITTEN_OUT: dict[str, Callable[[Maker, str], Function]] = {
    "hard_sigmoid": hard_sigmoid,
    "hard_silu": _hard_silu,
    # The function has the slope 0.2; the layer in tf_keras defaults to 0.3.
    "leaky_relu": lambda make, name: make("LeakyReLU", name, alpha=0.2),
    "relu6": lambda make, name: make("ReLU", name, max_value=6.0),
    "silu": lambda make, name: make("Activation", name, activation="swish"),
}
