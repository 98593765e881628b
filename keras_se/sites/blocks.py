"""`SEBlock`s as layers of a model: the arguments of their calls, and those that a layer hides."""

import inspect
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.graph.models import sublayers
from keras_se.layers import SEBlock


def call_arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Returns the arguments of a call of an `SEBlock` by name."""
    arguments = inspect.signature(SEBlock.call).bind(None, *args, **kwargs).arguments
    return {name: value for name, value in arguments.items() if name != "self"}


def check_hidden(layer: Any) -> None:
    """Refuses a layer that contains an `SEBlock` which the graph does not show."""
    if not isinstance(layer, keras.layers.Layer):
        return
    hidden = next((part for part in sublayers(layer) if isinstance(part, SEBlock)), None)
    if hidden is not None:
        raise InputError(
            "SE sites are found where an SEBlock is a layer of a functional or Sequential model. "
            f"Received: {hidden.name!r} inside the layer {layer.name!r} ({type(layer).__name__})"
        )
