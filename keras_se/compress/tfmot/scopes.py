"""Rebuilds a tf_keras model with some of its layers wrapped."""

from collections.abc import Callable
from typing import Any

from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.translation import Translation
from keras_se.errors import InputError

SCOPES = ("all", "trunk", "se")
# Layers to prune and cluster. Depthwise kernels have few weights, and these matter most.
_WITH_KERNEL = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "Conv3DTranspose", "Dense")


def copied(layer: Any) -> Any:
    """Return a copy of a built tf_keras layer with its weights."""
    copy = type(layer).from_config(layer.get_config())
    # The wrappers of tfmot read the weights when they are built, so build the copy first.
    if layer.weights:
        copy.build(layer.get_input_shape_at(0))
        copy.set_weights(layer.get_weights())
    return copy


def rebuilt(model: Any, wrap: Callable[[Any], Any]) -> Any:
    """Clone a functional tf_keras model; `wrap` returns the new layer for each old one."""
    return load_tf_keras().models.clone_model(model, clone_function=wrap)


def rebuilt_in_scope(
    purpose: str, translation: Translation, scope: str, wrap: Callable[[Any], Any]
) -> Any:
    """Rebuild a model with the trainable kernel layers in a scope wrapped."""
    wanted = {
        carried.layer
        for carried in translation.carried
        if scope in ("all", "se" if carried.is_se else "trunk")
        and type(translation.model.get_layer(carried.layer)).__name__ in _WITH_KERNEL
        # Frozen layers must not change, so they are not wrapped.
        and translation.model.get_layer(carried.layer).trainable
    }
    if not wanted:
        raise InputError(
            f"{purpose} takes models with kernels in its scope that are not frozen. "
            f"Received: scope={scope!r} for model {translation.model.name!r}, which has none there"
        )
    return rebuilt(
        translation.model,
        lambda layer: wrap(copied(layer)) if layer.name in wanted else copied(layer),
    )


def check_scope(purpose: str, scope: str) -> None:
    """Raise `InputError` if the scope is unknown."""
    if scope not in SCOPES:
        raise InputError(f"{purpose} has the scopes {list(SCOPES)}. Received: scope={scope!r}")
