"""Builds tf_keras layers with unique names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_se.compress.tfmot.bridge.environment import load_tf_keras

Function = Callable[..., Any]  # maps tf_keras tensors


@dataclass(frozen=True)
class Carried:
    """The weights of a tf_keras layer.

    Attributes:
        layer: Name of the layer.
        variables: The Keras 3 variables in the order of the layer's weights. Sizes are equal,
            shapes may differ.
        is_se: Whether the layer is part of an `SEBlock`.
    """

    layer: str
    variables: tuple[Any, ...]
    is_se: bool = False


class Maker:
    """Builds the layers of one tf_keras model.

    Attributes:
        layers: All layers built so far, by name.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Any] = {}
        self._kinds = load_tf_keras().layers

    def __call__(self, kind: str, name: str, **arguments: Any) -> Any:
        """Build a layer of `tf_keras.layers`; append a number to the name if it is taken."""
        own = self.free(name)
        # Explicit dtype: a global policy of tf_keras must not change a float32 model.
        layer = getattr(self._kinds, kind)(name=own, dtype="float32", **arguments)
        self.layers[own] = layer
        return layer

    def free(self, name: str) -> str:
        """Return the first of NAME, NAME_1, NAME_2, ... that is not taken."""
        # tf_keras rejects a model with two layers of the same name.
        own, number = name, 0
        while own in self.layers:
            number += 1
            own = f"{name}_{number}"
        return own


def chained(*functions: Function) -> Function:
    """Compose functions, the first one first; no functions give the identity."""

    def call(tensor: Any) -> Any:
        for function in functions:
            tensor = function(tensor)
        return tensor

    return call
