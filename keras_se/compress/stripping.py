"""Conversion of a compressed model back to a Keras 3 model with SE blocks."""

from typing import Any

import keras

from keras_se.compress.keras_engine import strip_natively
from keras_se.compress.tfmot.bridge.environment import load_tfmot
from keras_se.compress.tfmot.bridge.weights import from_tf_keras
from keras_se.errors import InputError
from keras_se.layers.quantization.fake_quantize import is_quantize_aware
from keras_se.litert.compressed import CLUSTERED, origin_of


def strip(model: Any) -> keras.Model:
    """Converts the result of `quantize_aware`, `prune` or `cluster` to a plain Keras 3 model.

    Args:
        model: The compressed model, trained or not. The function does not change it.

    Returns:
        An uncompiled model with the layers of the original, including its `SEBlock`s, and the
        trained weights. Pruned weights are zero and clustered kernels have few distinct values.
        Quantization ranges are dropped.

    Raises:
        InputError: If `model` is not such a model.

    Example:
        >>> from keras_se import SEBlock
        >>> from keras_se.compress import prune
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2, name="se")])
        >>> [layer.name for layer in strip(prune(model)).layers]
        ['se']
    """
    origin = origin_of(model)
    if isinstance(model, keras.Model) and is_quantize_aware(model):
        return strip_natively(model)
    if origin is None:
        raise InputError(
            "strip takes what quantize_aware, prune or cluster returned. "
            f"Received: {type(model).__name__}"
        )
    # The clustering wrapper trains centroids. Only tfmot can write them into the kernels.
    if origin.technique == CLUSTERED:
        model = load_tfmot().clustering.keras.strip_clustering(model)
    return from_tf_keras(model, origin.model)
