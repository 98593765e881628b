"""Per-channel scales and offsets, as one operation of an int8 file."""

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_se.errors import InputError
from keras_se.layers.quantization.activation import decollapse_bias
from keras_se.layers.quantization.fake_quantize import FakeQuantize
from keras_se.layers.quantization.wrapper import QuantizeAwareWrapper

_PIXELS = FakeQuantize((0.0, 255.0), dtype="float32")  # exact for integers of 8 bits


def _batch_normalization(layer: Any) -> tuple[Any, Any]:
    scale = ops.rsqrt(layer.moving_variance + layer.epsilon)
    scale = scale if layer.gamma is None else scale * layer.gamma
    offset = -layer.moving_mean * scale
    return scale, offset if layer.beta is None else offset + layer.beta


def _rescaling(layer: Any) -> tuple[Any, Any]:
    scale, offset = (ops.convert_to_tensor(x, "float32") for x in (layer.scale, layer.offset))
    return scale, offset


def _normalization(layer: Any) -> tuple[Any, Any]:
    mean, variance = (ops.convert_to_tensor(x, "float32") for x in (layer.mean, layer.variance))
    # Keras clips the standard deviation in the same way.
    scale = 1.0 / ops.maximum(ops.sqrt(variance), keras.config.epsilon())
    return scale, -mean * scale


AFFINE: dict[type, Callable[[Any], tuple[Any, Any]]] = {
    keras.layers.BatchNormalization: _batch_normalization,
    keras.layers.Rescaling: _rescaling,
    keras.layers.Normalization: _normalization,
}


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAwareAffine(QuantizeAwareWrapper):
    """Computes `y = scale · x + offset` of a layer as a depthwise convolution of size 1."""

    kinds = tuple(AFFINE)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the layer."""
        last = len(input_shape) - 1
        # A `Rescaling` has a scale for all channels, or one of the shape that it multiplies.
        sizes = np.shape(getattr(self.layer, "scale", ()))[:-1]
        is_last = getattr(self.layer, "axis", -1) in (-1, last, (-1,), (last,))
        if not is_last or any(size != 1 for size in sizes):
            raise InputError(
                "Quantization-aware training supports scales and offsets of the last axis only. "
                f"Received: layer {self.layer.name!r} on {tuple(input_shape)}"
            )
        super().build(input_shape)

    def call(self, inputs: Any, training: bool = False, mask: Any = None) -> Any:
        """Computes the outputs of the layer, without rounding them."""
        # In training BatchNormalization normalizes by the batch and updates its statistics.
        if training and isinstance(self.layer, keras.layers.BatchNormalization):
            return self.layer(inputs, training=True, mask=mask)
        if not keras.backend.is_float_dtype(inputs.dtype):
            inputs = _PIXELS(ops.cast(inputs, self.compute_dtype))
        scale, offset = AFFINE[type(self.layer)](self.layer)
        # A product and a sum would be two operations with no range between them. As a kernel with
        # one weight per channel, the scale is exact in int8.
        channels = inputs.shape[-1]
        # `Rescaling` may have one scale for all channels.
        kernel = ops.broadcast_to(ops.reshape(scale, (-1,)), (channels,))
        shape = tuple(inputs.shape[1:])
        is_map = len(shape) == 3
        maps = inputs if is_map else ops.reshape(inputs, (-1, 1, math.prod(shape[:-1]), channels))
        outputs = ops.depthwise_conv(maps, ops.reshape(kernel, (1, 1, channels, 1)))
        outputs = outputs + decollapse_bias(ops.reshape(offset, (-1,)), channels)
        return outputs if is_map else ops.reshape(outputs, (-1, *shape))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return input_shape
