"""From tf_keras back to Keras 3: trained weights, in a copy of the model that they came from."""

from typing import Any

import keras
import numpy as np

from keras_se.compress.bridge import agree, translated
from keras_se.compress.loading import load_tf_keras
from keras_se.errors import InputError
from keras_se.rebuilding import Rebuilding
from keras_se.replay import check_graph


def from_tf_keras(tf_keras_model: Any, like: keras.Model) -> keras.Model:
    """Trained weights back into a Keras 3 model.

    Args:
        tf_keras_model: What `to_tf_keras(like)` gave, trained since; its layers may have been
            wrapped by tensorflow-model-optimization. It is not changed.
        like: The Keras 3 model that it was made from; its own weights do not matter. It is not
            changed.

    Returns:
        A copy of `like` with the weights, uncompiled. Masks, centroids and ranges of quantization
        are not weights: they are left behind.

    Raises:
        InputError: If `tf_keras_model` is no model of tf_keras, does not have the layers of `like`,
            or, where nothing is wrapped, computes something else.
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
            "from_tf_keras takes a model of tf_keras, such as to_tf_keras returns. "
            f"Received: {kind.__module__.split('.')[0]}.{kind.__name__}"
        )
    check_graph("from_tf_keras", like)
    new_model = Rebuilding({}).model(like)
    translation = translated(new_model)[1]
    found = {inner_layer(layer).name: layer for layer in tf_keras_model.layers}
    for carried in translation.carried:
        pattern = translation.model.get_layer(carried.layer)
        for variable, value in zip(
            carried.variables, _values(found.get(carried.layer), pattern), strict=True
        ):
            variable.assign(np.reshape(value, variable.shape))
    is_plain = all(inner_layer(layer) is layer for layer in tf_keras_model.layers)
    if is_plain and not agree(new_model, tf_keras_model):
        raise InputError(
            "from_tf_keras takes the model that to_tf_keras made of `like`. "
            f"Received: {tf_keras_model.name!r}, which computes something else"
        )
    return new_model


def inner_layer(layer: Any) -> Any:
    """The layer that a wrapper of tensorflow-model-optimization holds.

    Args:
        layer: A layer of tf_keras.

    Returns:
        The layer itself where it is no wrapper.
    """
    is_wrapper = isinstance(layer, load_tf_keras().layers.Wrapper)
    return layer.layer if is_wrapper else layer


def base_name(variable: Any) -> str:
    """The name of a variable of tf_keras within its layer.

    Args:
        variable: Such as `conv/kernel:0`.

    Returns:
        Such as `kernel`.
    """
    name: str = variable.name.rpartition("/")[-1].partition(":")[0]
    return name


def _values(layer: Any, pattern: Any) -> list[np.ndarray]:
    """The weights of a layer in the order of those of another one."""
    if layer is None:
        raise InputError(
            "from_tf_keras takes the model that to_tf_keras made of `like`. "
            f"Received: one without a layer {pattern.name!r}"
        )
    known = {base_name(w): w for w in (*layer.weights, *inner_layer(layer).weights)}
    values = []
    for weight in pattern.weights:
        own = known.get(base_name(weight))
        if own is None or tuple(own.shape) != tuple(weight.shape):
            shape = None if own is None else tuple(own.shape)
            raise InputError(
                "from_tf_keras takes the model that to_tf_keras made of `like`. Received: "
                f"layer {pattern.name!r} with {base_name(weight)} of shape {shape}, "
                f"not {tuple(weight.shape)}"
            )
        values.append(_masked(own, known))
    return values


def _masked(variable: Any, known: dict[str, Any]) -> np.ndarray:
    """A weight, with zeros where its layer is pruned: a step of training fills them in again."""
    values: np.ndarray = variable.numpy()
    is_pruned = "mask" in known and base_name(variable) == "kernel"
    return values * known["mask"].numpy() if is_pruned else values
