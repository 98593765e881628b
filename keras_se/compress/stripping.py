"""From a compressed model back to a Keras 3 model with its SE blocks."""

from typing import Any

import keras

from keras_se.compress.loading import load_tfmot
from keras_se.compress.native import strip_natively
from keras_se.compress.origins import CLUSTERED, origin_of
from keras_se.compress.restoring import from_tf_keras
from keras_se.errors import InputError
from keras_se.layers.fake_quantize import is_quantize_aware


def strip(model: Any) -> keras.Model:
    """The Keras 3 model of what `quantize_aware`, `prune` or `cluster` returned.

    Args:
        model: The compressed model, trained or not. It is not changed.

    Returns:
        A model with the layers of the original, `SEBlock`s where they were, and the trained
        weights, uncompiled: with zeros where it was pruned, with few values where it was
        clustered. The ranges of quantization are left behind.

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
    if origin.technique == CLUSTERED:
        model = load_tfmot().clustering.keras.strip_clustering(model)
    return from_tf_keras(model, origin.model)
