"""Activations of Keras 3 as layers of tf_keras that compute the same.

The two disagree behind one name: hard_sigmoid is relu6(x + 3) / 6 in Keras 3 and clip(0.2 x + 0.5)
in tf_keras, up to .083 apart. What is written out has operations that TFLite fuses and quantizes.
"""

import inspect
from collections.abc import Callable
from typing import Any

import keras

from keras_se.compress.making import Function, Maker, chained

_SAME = (
    *("elu", "exponential", "gelu", "linear", "mish", "relu", "selu", "sigmoid", "softmax"),
    *("softplus", "softsign", "tanh"),
)


def activation(make: Maker, identifier: Any, name: str) -> Function | None:
    """What computes an activation of Keras 3.

    Args:
        make: Makes the layers.
        identifier: The activation, as `keras.activations.get` takes it.
        name: Of the layers.

    Returns:
        A function of one tensor; `None` for an activation that is not known.
    """
    function = keras.activations.get(identifier)
    known = function.__name__ if inspect.isfunction(function) else ""
    if getattr(keras.activations, known, None) is not function:
        return None
    if known in _SAME:
        return chained() if known == "linear" else make("Activation", name, activation=known)
    return _WRITTEN_OUT[known](make, name) if known in _WRITTEN_OUT else None


def hard_sigmoid(make: Maker, name: str) -> Function:
    """relu6(x + 3) / 6, as Keras 3 has it.

    Args:
        make: Makes the layers.
        name: Of the layers.

    Returns:
        A function of one tensor.
    """
    return chained(
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
    "leaky_relu": lambda make, name: make("LeakyReLU", name, alpha=0.2),
    "relu6": lambda make, name: make("ReLU", name, max_value=6.0),
    "silu": lambda make, name: make("Activation", name, activation="swish"),
}
