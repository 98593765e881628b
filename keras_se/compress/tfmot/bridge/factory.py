"""Builds tf_keras layers with unique names."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.graph.models import free_name

Function = Callable[..., Any]  # maps tf_keras tensors


@dataclass(frozen=True)
class LayerWeights:
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


@dataclass(frozen=True)
class Converted:
    """What a Keras 3 layer becomes in tf_keras.

    Attributes:
        function: Maps the inputs of the layer to its outputs.
        weights: The tf_keras layers that hold its weights.
    """

    function: Function
    weights: tuple[LayerWeights, ...] = ()


class NoCounterpartError(Exception):
    """Why tf_keras has no counterpart, as a clause that follows the name of a layer."""


class LayerFactory:
    """Builds the layers of one tf_keras model.

    Attributes:
        names: The names of the layers that were built.
        opened: Returns the function of tf_keras tensors that computes what a function of Keras
            tensors does, with layers of some name.
    """

    def __init__(self, opened: "Callable[[LayerFactory, Any, str], Function]") -> None:
        self.names: set[str] = set()
        self.opened = opened
        self._kinds = load_tf_keras().layers

    def __call__(self, kind: str, name: str, **arguments: Any) -> Any:
        """Build a layer of `tf_keras.layers`; append a number to the name if it is taken."""
        # tf_keras rejects a model with two layers of the same name.
        unique = free_name(name, self.names)
        self.names.add(unique)
        # Explicit dtype: a global policy of tf_keras must not change a float32 model.
        return getattr(self._kinds, kind)(name=unique, dtype="float32", **arguments)


def compose(*functions: Function) -> Function:
    """Compose functions, the first one first; no functions give the identity."""

    def call(tensor: Any) -> Any:
        for function in functions:
            tensor = function(tensor)
        return tensor

    return call
