"""Copies trained weights from tf_keras back to Keras 3."""

from typing import Any

import keras
import numpy as np

from keras_se.compress.tfmot.bridge.agreement import agree
from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.translation import Translation
from keras_se.errors import InputError
from keras_se.graph.precision import in_float32
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import trace


def from_tf_keras(tf_keras_model: Any, like: keras.Model) -> keras.Model:
    """Copies trained weights from a tf_keras model to a Keras 3 model.

    Args:
        tf_keras_model: The model that `to_tf_keras(like)` returned, with or without training.
            tensorflow-model-optimization may have wrapped its layers. The function does not change
            it.
        like: The Keras 3 model from which it was made. The weights of `like` are not used. The
            function does not change it.

    Returns:
        An uncompiled copy of `like`, in float32, with the trained weights. Masks, centroids and
        quantization ranges are not weights and are not copied.

    Raises:
        InputError: If `tf_keras_model` is not a tf_keras model, does not have the layers of `like`,
            or has no wrapped layers and computes other outputs.
        MissingExtraError: If TensorFlow or tf_keras is not installed.

    Example:
        >>> from keras_se.compress import to_tf_keras
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> from_tf_keras(to_tf_keras(model), like=model).count_params()
        8
    """
    if not isinstance(tf_keras_model, load_tf_keras().Model):
        kind = type(tf_keras_model)
        raise InputError(
            "from_tf_keras needs a tf_keras model, as to_tf_keras returns. "
            f"Received: {kind.__module__.split('.')[0]}.{kind.__name__}"
        )
    graph = trace(like, "from_tf_keras")
    new_model = Rebuilding(graph, precision=in_float32).model()
    # The translation refers to the variables of the copy, which receive the values below.
    translation = Translation(new_model)
    found = {inner_layer(layer).name: layer for layer in tf_keras_model.layers}
    for weights in translation.weights:
        pattern = translation.model.get_layer(weights.layer)
        values = _values(found.get(weights.layer), pattern)
        for variable, value in zip(weights.variables, values, strict=True):
            variable.assign(np.reshape(value, variable.shape))
    # Wrapped layers round or mask, so their outputs differ on purpose.
    is_plain = all(inner_layer(layer) is layer for layer in tf_keras_model.layers)
    if is_plain and not agree(new_model, tf_keras_model):
        raise _wrong_model(f"{tf_keras_model.name!r}, which computes something else")
    return new_model


def inner_layer(layer: Any) -> Any:
    """Return the layer inside a tfmot wrapper, or the layer itself."""
    is_wrapper = isinstance(layer, load_tf_keras().layers.Wrapper)
    return layer.layer if is_wrapper else layer


def base_name(variable: Any) -> str:
    """Return the name of a tf_keras variable in its layer: `kernel` for `conv/kernel:0`."""
    name: str = variable.name.rpartition("/")[-1].partition(":")[0]
    return name


def _values(layer: Any, pattern: Any) -> list[np.ndarray]:
    """Return the weights of a layer in the order of the weights of `pattern`."""
    if layer is None:
        raise _wrong_model(f"one without a layer {pattern.name!r}")
    # tfmot moves some variables from a layer to its wrapper. The order of the weights changes.
    known = {base_name(w): w for w in (*layer.weights, *inner_layer(layer).weights)}
    values = []
    for weight in pattern.weights:
        own = known.get(base_name(weight))
        if own is None or tuple(own.shape) != tuple(weight.shape):
            shape = None if own is None else tuple(own.shape)
            raise _wrong_model(
                f"layer {pattern.name!r} with {base_name(weight)} of shape {shape}, "
                f"not {tuple(weight.shape)}"
            )
        # The last training step updates pruned weights after they were masked: mask them again.
        is_pruned = "mask" in known and base_name(weight) == "kernel"
        values.append(own.numpy() * known["mask"].numpy() if is_pruned else own.numpy())
    return values


def _wrong_model(received: str) -> InputError:
    return InputError(
        f"from_tf_keras needs the model that to_tf_keras(like) returned. Received: {received}"
    )
