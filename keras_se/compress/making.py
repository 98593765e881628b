"""Layers of tf_keras, each with a name of its own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_se.compress.loading import load_tf_keras

Function = Callable[..., Any]  # of tensors of tf_keras


@dataclass(frozen=True)
class Carried:
    """Weights that a layer of tf_keras holds.

    Attributes:
        layer: Its name.
        variables: The variables of the Keras 3 model, in the order of the layer's weights, which
            have the same sizes and may have other shapes.
        is_se: Whether the layer is a part of an `SEBlock`.
    """

    layer: str
    variables: tuple[Any, ...]
    is_se: bool = False


class Maker:
    """Makes the layers of one model of tf_keras.

    Attributes:
        layers: The layers so far, by name.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Any] = {}
        self._kinds = load_tf_keras().layers

    def __call__(self, kind: str, name: str, **arguments: Any) -> Any:
        """A new layer.

        Args:
            kind: Name of its class in `tf_keras.layers`.
            name: The wanted name; a number is added where it is taken.
            **arguments: Of the class.

        Returns:
            The layer.
        """
        own = self.free(name)
        layer = getattr(self._kinds, kind)(name=own, dtype="float32", **arguments)
        self.layers[own] = layer
        return layer

    def free(self, name: str) -> str:
        """The first of NAME, NAME_1, NAME_2, ... that no layer has.

        Args:
            name: The wanted name.

        Returns:
            The free one.
        """
        own, number = name, 0
        while own in self.layers:
            number += 1
            own = f"{name}_{number}"
        return own


def chained(*functions: Function) -> Function:
    """One function after the other.

    Args:
        *functions: Functions of one tensor, or layers.

    Returns:
        Their composition, the first one first; the identity of none.

    Example:
        >>> chained(abs, float)(-1)
        1.0
    """

    def call(tensor: Any) -> Any:
        for function in functions:
            tensor = function(tensor)
        return tensor

    return call
