"""A model of tf_keras built anew, with layers of it wrapped."""

from collections.abc import Callable
from typing import Any

from keras_se.compress.bridge import Translation
from keras_se.compress.loading import load_tf_keras
from keras_se.errors import InputError

SCOPES = ("all", "trunk", "se")
# Whose kernels tfmot prunes and clusters: depthwise ones are few weights and matter most.
_WITH_KERNEL = ("Conv1D", "Conv2D", "Conv3D", "Conv2DTranspose", "Conv3DTranspose", "Dense")


def copied(layer: Any) -> Any:
    """A layer of tf_keras with the same configuration and weights.

    Args:
        layer: The layer, built.

    Returns:
        The copy, built where it has weights: wrappers of tfmot read these when they are built.
    """
    copy = type(layer).from_config(layer.get_config())
    if layer.weights:
        copy.build(layer.get_input_shape_at(0))
        copy.set_weights(layer.get_weights())
    return copy


def rebuilt(model: Any, wrap: Callable[[Any], Any]) -> Any:
    """A functional model of tf_keras with other layers in the same graph.

    Args:
        model: The model. It is not changed.
        wrap: Called with each of its layers but the inputs; returns a new layer with its weights.

    Returns:
        The new model.
    """
    return load_tf_keras().models.clone_model(model, clone_function=wrap)


def rebuilt_in_scope(
    purpose: str, translation: Translation, scope: str, wrap: Callable[[Any], Any]
) -> Any:
    """A model with the layers wrapped whose kernels lie in a scope; frozen ones are left.

    Args:
        purpose: What the messages say that it is done for.
        translation: The model of tf_keras, and which of its layers belong to SE.
        scope: One that `check_scope` takes: `"all"`, `"trunk"` for everything but SE, or `"se"`.
        wrap: Called with a copy of each layer in the scope; returns the wrapper, or the copy.

    Returns:
        The new model.

    Raises:
        InputError: If there is nothing in the scope.
    """
    wanted = {
        carried.layer
        for carried in translation.carried
        if scope in ("all", "se" if carried.is_se else "trunk")
        and type(translation.model.get_layer(carried.layer)).__name__ in _WITH_KERNEL
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
    """Refuses what is no scope.

    Args:
        purpose: What the message says that it is for.
        scope: The scope.

    Raises:
        InputError: If it is none.
    """
    if scope not in SCOPES:
        raise InputError(f"{purpose} has the scopes {list(SCOPES)}. Received: scope={scope!r}")
