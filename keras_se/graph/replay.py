"""Layers called again in a second graph: with their variables, or for shapes alone."""

from typing import Any

import keras


class _Shared(keras.layers.Layer):
    """Calls a layer in a second graph, with the same variables and no trace in the first."""

    def __init__(self, layer: keras.layers.Layer, constants: dict[str, Any] | None = None) -> None:
        super().__init__(dtype=layer.dtype_policy)
        self.layer = layer
        self.constants = constants
        self.supports_masking = layer.supports_masking
        self.built = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Keras does not take tensors and constants together among the keyword arguments.
        if self.constants is not None:
            return super().__call__(*args, **kwargs)
        tensors = {
            name: value
            for name, value in kwargs.items()
            if any(isinstance(part, keras.KerasTensor) for part in keras.tree.flatten(value))
        }
        constants = {name: value for name, value in kwargs.items() if name not in tensors}
        return _Shared(self.layer, constants)(*args, **tensors)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs, **(self.constants or {}))

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs, **(self.constants or {}))


class _Outline(keras.Operation):
    """Computes the shapes of a layer's outputs: far cheaper to call than a layer."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__()
        self.layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        # A layer casts its inputs to its own precision, an operation does not.
        args, kwargs = keras.tree.map_structure(self._autocast, (args, kwargs))
        return self.layer.compute_output_spec(*args, **kwargs)

    def _autocast(self, value: Any) -> Any:
        dtype = self.layer.compute_dtype
        is_float = isinstance(value, keras.KerasTensor) and "float" in value.dtype
        if not is_float or not self.layer.autocast or dtype is None or value.dtype == dtype:
            return value
        return keras.KerasTensor(value.shape, dtype=dtype, sparse=value.sparse)


def shared(operation: Any) -> Any:
    """What to call for a layer or raw operation in a second graph that computes values."""
    return _Shared(operation) if isinstance(operation, keras.layers.Layer) else operation


def outlined(operation: Any) -> Any:
    """What to call for a layer or raw operation where only the shapes of the outputs matter."""
    # A layer of the user's may compute its outputs' shapes in ways that only a real call knows.
    is_known = type(operation).__module__.startswith(("keras.", "keras_se."))
    is_layer = isinstance(operation, keras.layers.Layer)
    return _Outline(operation) if is_layer and is_known else shared(operation)
