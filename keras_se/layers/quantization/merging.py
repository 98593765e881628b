"""Merging layers with the rounding of an int8 file, whose operations take two tensors."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_se.errors import InputError
from keras_se.layers.quantization.fake_quantize import FakeQuantize
from keras_se.layers.quantization.kernels import unbuilt_copy

# Looked up by the exact type: a subclass may compute something else.
MERGES: dict[type, Callable[[Any, Any], Any]] = {
    keras.layers.Add: ops.add,
    keras.layers.Average: ops.add,
    keras.layers.Maximum: ops.maximum,
    keras.layers.Minimum: ops.minimum,
    keras.layers.Multiply: ops.multiply,
}


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAwareMerge(keras.layers.Wrapper):
    """Merges several tensors two by two, and rounds between; the last result is not rounded."""

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        if type(layer) not in MERGES:
            raise InputError(
                f"QuantizeAwareMerge wraps one of {[kind.__name__ for kind in MERGES]}. "
                f"Received: {type(layer).__name__} {layer.name!r}"
            )
        super().__init__(layer, **{"dtype": layer.dtype_policy, **kwargs})
        self.between: list[FakeQuantize] = []

    def build(self, input_shape: list[tuple[int | None, ...]]) -> None:
        """Creates the ranges, one for each result but the last."""
        self.layer.build(input_shape)
        is_mean = isinstance(self.layer, keras.layers.Average)
        self.between = [
            FakeQuantize(name=f"between_{n}", dtype=self.dtype_policy)
            for n in range(len(input_shape) - 2 + is_mean)
        ]
        for part in self.between:
            part.build(input_shape[0])

    def call(self, inputs: list[Any]) -> Any:
        """Computes what the layer does."""
        merge, results = MERGES[type(self.layer)], list(self.between)
        merged = inputs[0]
        for n, part in enumerate(inputs[1:]):
            merged = merge(merged, part)
            merged = results[n](merged) if n < len(results) else merged
        is_mean = isinstance(self.layer, keras.layers.Average)
        return merged * (1.0 / len(inputs)) if is_mean else merged

    def plain(self) -> keras.layers.Layer:
        """Returns an unbuilt copy of the wrapped layer."""
        return unbuilt_copy(self.layer)

    def compute_output_shape(self, input_shape: list[tuple[int | None, ...]]) -> Any:
        """Returns the output shape of the layer."""
        return self.layer.compute_output_shape(input_shape)
