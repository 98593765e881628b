"""The loss that fits a classifier's outputs."""

from typing import Any

import keras
import numpy as np


def cross_entropy_of(model: keras.Model, x: Any) -> keras.losses.Loss:
    """The cross entropy of integer labels, of logits where the outputs are no probabilities.

    Args:
        model: A built model with one output of shape (batch, classes).
        x: A few inputs to look at its outputs on.

    Returns:
        A loss: binary for one class, else categorical.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, "softmax")])
        >>> cross_entropy_of(model, np.ones((4, 2), "float32")).from_logits
        False
    """
    outputs = model.predict(x, verbose=0)
    values = keras.tree.flatten(outputs)[0]
    if values.shape[1] == 1:
        is_logit = values.min() < 0.0 or values.max() > 1.0
        return keras.losses.BinaryCrossentropy(from_logits=bool(is_logit))
    is_logit = values.min() < 0.0 or not np.allclose(values.sum(axis=1), 1.0, atol=1e-3)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=bool(is_logit))
