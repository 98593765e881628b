"""Models of tf_keras in which tfmot wraps some layers: all, those of the trunk, or those of SE."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import keras

from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.translation import translate
from keras_se.errors import InputError, warn
from keras_se.graph.fitting import fitted

Scope = Literal["all", "trunk", "se"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
# Layers to prune and cluster. Depthwise kernels have few weights, and these matter most.
_WITH_KERNEL = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "Conv3DTranspose", "Dense")


def copied(layer: Any) -> Any:
    """Return a copy of a built tf_keras layer with its weights."""
    from keras_se.compress.tfmot.batch_normalization import BatchNormalization  # loads tf_keras

    is_normalization = type(layer) is load_tf_keras().layers.BatchNormalization
    kind = BatchNormalization if is_normalization else type(layer)
    copy = kind.from_config(layer.get_config())
    # The wrappers of tfmot read the weights when they are built, so build the copy first.
    if layer.weights:
        copy.build(layer.get_input_shape_at(0))
        copy.set_weights(layer.get_weights())
    return copy


def rebuilt(model: Any, wrap: Callable[[Any], Any]) -> Any:
    """Clone a functional tf_keras model; `wrap` returns the new layer for each old one."""
    return load_tf_keras().models.clone_model(model, clone_function=wrap)


def compress_in_scope(
    technique: str, model: keras.Model, scope: Scope, wrap: Callable[[Any], Any]
) -> Any:
    """Convert a model for training with the trainable kernel layers in a scope wrapped."""
    from keras_se.compress.tfmot.compressed_model import trainable_model  # loads tf_keras

    if scope not in SCOPES:
        raise InputError(f"scope must be one of {list(SCOPES)}. Received: scope={scope!r}")
    model = fitted(model, technique)
    translation = translate(model)
    wanted, frozen = set(), []
    for weights in translation.weights:
        layer = translation.model.get_layer(weights.layer)
        is_inside = scope in ("all", "se" if weights.is_se else "trunk")
        if not is_inside or type(layer).__name__ not in _WITH_KERNEL:
            continue
        # Frozen layers must not change, so they are not wrapped.
        if layer.trainable:
            wanted.add(layer.name)
        else:
            frozen.append(layer.name)
    if not wanted:
        raise InputError(
            f"{technique} needs kernels in its scope that are not frozen. "
            f"Received: scope={scope!r} for model {model.name!r}, which has none there"
        )
    if frozen:
        warn(
            f"{technique} leaves frozen kernels as they are; set trainable = True to compress "
            f"them. Received: {frozen} with trainable=False",
            UserWarning,
        )
    new_model = rebuilt(
        translation.model,
        lambda layer: wrap(copied(layer)) if layer.name in wanted else copied(layer),
    )
    return trainable_model(new_model, technique, model, translation.weights)
