"""What the layers have in common that wrap a plain layer."""

from collections.abc import Collection
from typing import Any, ClassVar

import keras

from keras_se.errors import InputError


def arguments_of(layer: keras.layers.Layer) -> dict[str, Any]:
    """Returns the arguments of `__init__`, functions and objects as they are."""
    # A function that is not registered cannot be had back from a configuration.
    live = {
        name: getattr(layer, name, value) if isinstance(value, dict) else value
        for name, value in layer.get_config().items()
    }
    return {**live, "dtype": layer.dtype_policy}


def unbuilt_copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a layer with the same arguments and no weights yet."""
    return type(layer)(**arguments_of(layer))


class QuantizeAwareWrapper(keras.layers.Wrapper):
    """Computes what a plain layer does with the rounding of an int8 file, in its precision.

    Attributes:
        kinds: The classes of layers that it wraps; a subclass may compute something else.
    """

    kinds: ClassVar[Collection[type]] = ()

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        if not self.takes(layer):
            raise InputError(
                f"{type(self).__name__} wraps one of {[kind.__name__ for kind in self.kinds]}. "
                f"Received: {type(layer).__name__} {layer.name!r}"
            )
        super().__init__(layer, **{"dtype": layer.dtype_policy, **kwargs})
        self.supports_masking = layer.supports_masking

    @classmethod
    def takes(cls, layer: Any) -> bool:
        """Returns whether it wraps this layer."""
        return type(layer) in cls.kinds

    def compute_mask(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the mask that the wrapped layer hands on."""
        return self.layer.compute_mask(*args, **kwargs)

    def plain(self) -> keras.layers.Layer:
        """Returns an unbuilt copy of the wrapped layer."""
        return unbuilt_copy(self.layer)
