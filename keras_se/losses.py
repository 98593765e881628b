"""The loss that fits a classifier's outputs."""

from typing import Any

import keras
import numpy as np


def cross_entropy_of(model: keras.Model, x: Any) -> keras.losses.Loss:
    """Return the cross entropy for integer labels, from logits unless outputs are probabilities."""
    # Look at values: the last activation may be a layer, an argument or a raw operation.
    outputs = model.predict(x, verbose=0)
    values = keras.tree.flatten(outputs)[0]
    if values.shape[1] == 1:
        is_logit = values.min() < 0.0 or values.max() > 1.0
        return keras.losses.BinaryCrossentropy(from_logits=bool(is_logit))
    is_logit = values.min() < 0.0 or not np.allclose(values.sum(axis=1), 1.0, atol=1e-3)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=bool(is_logit))
