"""Layers called again in a second graph: with their variables, or for shapes alone."""

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import keras

_NUMBERS = itertools.count()


class _Shared(keras.layers.Layer):
    """Calls a layer in a second graph, with the same variables and no trace in the first."""

    def __init__(
        self,
        layer: keras.layers.Layer,
        known: Any = None,
        constants: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(dtype=layer.dtype_policy, autocast=layer.autocast)
        self.layer = layer
        self.known = known
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
        return _Shared(self.layer, self.known, constants)(*args, **tensors)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        # Without an explicit `training` among the constants, the layer sees that of the outer call.
        return self.layer(*args, **kwargs, **(self.constants or {}))

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        if self.known is not None:
            return keras.tree.map_structure(_alike, self.known)
        return self.layer.compute_output_spec(*args, **kwargs, **(self.constants or {}))


class _Outline(keras.Operation):
    """Stands for a layer whose outputs' shapes are known or computed: far cheaper to call."""

    def __init__(self, layer: keras.layers.Layer, known: Any = None) -> None:
        super().__init__()
        self.layer = layer
        self.known = known

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        if self.known is not None:
            return keras.tree.map_structure(_alike, self.known)
        # A layer casts its inputs to its own precision, an operation does not.
        args, kwargs = keras.tree.map_structure(self._autocast, (args, kwargs))
        return self.layer.compute_output_spec(*args, **kwargs)

    def _autocast(self, value: Any) -> Any:
        dtype = self.layer.compute_dtype
        is_float = isinstance(value, keras.KerasTensor) and "float" in value.dtype
        if not is_float or not self.layer.autocast or dtype is None or value.dtype == dtype:
            return value
        return keras.KerasTensor(value.shape, dtype=dtype, sparse=value.sparse)


def _alike(part: Any) -> Any:
    if not isinstance(part, keras.KerasTensor):
        return part
    return keras.KerasTensor(part.shape, dtype=part.dtype, sparse=part.sparse)


class Computation(keras.layers.Layer):
    """Computes tensors with a function, as one operation of a second graph.

    Raw operations name themselves, and the graph may hold others of these names from a file.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(name=f"keras_se_computation_{next(_NUMBERS)}", autocast=False)
        self.function = function
        self.supports_masking = True  # what it returns has the mask of its first argument
        self.built = True

    def call(self, *args: Any) -> Any:
        """Returns what the function returns."""
        return self.function(*args)

    def compute_output_spec(self, *args: Any) -> Any:
        """Returns the shapes of what the function returns."""
        # Keras takes some raw operations for sparse, whose tensors it cannot slice.
        dense = [keras.KerasTensor(part.shape, dtype=part.dtype) for part in args]
        return super().compute_output_spec(*dense)


def shared(operation: Any) -> Any:
    """What to call for a layer or raw operation in a second graph that computes values."""
    return _Shared(operation) if isinstance(operation, keras.layers.Layer) else operation


def with_known_outputs(stand_in: Any, known: Any) -> Any:
    """What `shared` returned, for a call that gives outputs of the shapes of `known`."""
    is_shared = isinstance(stand_in, _Shared) and known is not None
    return _Shared(stand_in.layer, known) if is_shared else stand_in


def outlined(operation: Any, known: Any = None) -> Any:
    """What to call for a layer or raw operation where only the shapes of the outputs matter.

    `known` are symbolic outputs of these shapes, if a call need not find them.
    """
    if not isinstance(operation, keras.layers.Layer):
        return operation
    # A layer of the user's may compute its outputs' shapes in ways that only a real call knows.
    is_plain = type(operation).__module__.startswith(("keras.", "keras_se."))
    return _Outline(operation, known) if is_plain or known is not None else shared(operation)


def replayable(operation: Any) -> Any:
    """A raw operation as one for batches of any size: Keras records the size `None` of a batch."""
    shape = getattr(operation, "newshape", None)
    if isinstance(operation, keras.layers.Layer) or not isinstance(shape, tuple | list):
        return operation
    if len(shape) > 1 and shape[0] is None and None not in shape[1:]:
        return keras.layers.Reshape(tuple(shape[1:]), autocast=False)
    return operation


def takes_training(operation: Any) -> bool:
    """Whether the call of a layer has an argument `training`."""
    return "training" in _parameters(operation)


def takes_mask(operation: Any) -> bool:
    """Whether the call of a layer has an argument `mask`."""
    return "mask" in _parameters(operation)


def default_training(operation: Any) -> Any:
    """The default of `training` in the call of a layer; `None` if it has no such argument."""
    parameter = _parameters(operation).get("training")
    return None if parameter is None or parameter.default is parameter.empty else parameter.default


def _parameters(operation: Any) -> dict[str, inspect.Parameter]:
    if not isinstance(operation, keras.layers.Layer):
        return {}
    return dict(inspect.signature(operation.call).parameters)
