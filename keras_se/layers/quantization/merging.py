"""Merging layers with the rounding of an int8 file, whose operations take two tensors."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_se.layers.quantization.fake_quantize import FakeQuantize
from keras_se.layers.quantization.wrapper import QuantizeAwareWrapper

MERGES: dict[type, Callable[[Any, Any], Any]] = {
    keras.layers.Add: ops.add,
    keras.layers.Average: ops.add,
    keras.layers.Maximum: ops.maximum,
    keras.layers.Minimum: ops.minimum,
    keras.layers.Multiply: ops.multiply,
}


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAwareMerge(QuantizeAwareWrapper):
    """Merges several tensors two by two, and rounds between; the last result is not rounded."""

    kinds = tuple(MERGES)

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
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

    def compute_output_shape(self, input_shape: list[tuple[int | None, ...]]) -> Any:
        """Returns the output shape of the layer."""
        return self.layer.compute_output_shape(input_shape)
