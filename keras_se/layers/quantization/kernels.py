"""Layers with kernels, with the rounding of an int8 file.

Source: Krishnamoorthi, arXiv 1806.08342, sections 3.1.2 (per-channel scales) and 4 (training);
LiteRT documentation, "8-bit quantization specification".
"""

from typing import Any

import keras
from keras import ops

from keras_se.errors import InputError
from keras_se.layers.quantization.activation import (
    ACTIVATIONS,
    QuantizeAwareActivation,
    activation_name,
    decollapse_bias,
)
from keras_se.layers.quantization.fake_quantize import FakeQuantize

_LARGEST = 127.0  # kernels are symmetric in TFLite and do not use -128


def unbuilt_copy(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Returns a layer with the same arguments and no weights yet."""
    return type(layer).from_config(layer.get_config())


def quantized_kernel(kernel: Any, axis: Any) -> Any:
    """Rounds a kernel to symmetric int8; `axis` are the axes other than output channels."""
    kernel = ops.convert_to_tensor(kernel)
    # The scale is the largest magnitude over 127: nothing is clipped, and the whole gradient
    # passes. A factor per channel, as of a folded BatchNormalization, leaves the integers alone.
    scale = ops.stop_gradient(ops.max(ops.abs(kernel), axis=axis, keepdims=True)) / _LARGEST
    # A channel of zeros would divide by zero.
    scale = ops.where(scale == 0, ops.ones_like(scale), scale)
    rounded = ops.round(kernel / scale) * scale
    # The straight-through estimator: the gradient of `round` is zero almost everywhere.
    return kernel + ops.stop_gradient(rounded - kernel)


def _dense(layer: Any, x: Any, between: Any) -> Any:
    return ops.matmul(x, quantized_kernel(layer.kernel, 0))


def _conv(layer: Any, x: Any, between: Any) -> Any:
    return layer.convolution_op(x, quantized_kernel(layer.kernel, (0, 1, 2)))


def _depthwise(layer: Any, x: Any, between: Any) -> Any:
    return _depthwise_conv(layer, x, layer.kernel)


def _separable(layer: Any, x: Any, between: Any) -> Any:
    # In a file these are two operations, and the tensor between them has a range.
    x = between(_depthwise_conv(layer, x, layer.depthwise_kernel))
    return ops.conv(x, quantized_kernel(layer.pointwise_kernel, (0, 1, 2)))


def _depthwise_conv(layer: Any, x: Any, kernel: Any) -> Any:
    return ops.depthwise_conv(
        x,
        quantized_kernel(kernel, (0, 1)),  # one scale per channel and multiplier
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
    )


# Looked up by the exact type: a subclass may compute something else.
KERNELS = {
    keras.layers.Dense: _dense,
    keras.layers.Conv2D: _conv,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv2D: _separable,
}


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAware(keras.layers.Wrapper):
    """Computes with the kernel of a layer rounded to int8, and trains the float kernel."""

    def __init__(self, layer: keras.layers.Layer, is_last: bool = False, **kwargs: Any) -> None:
        if type(layer) not in KERNELS:
            raise InputError(
                f"QuantizeAware wraps one of {[kind.__name__ for kind in KERNELS]}. "
                f"Received: {type(layer).__name__} {layer.name!r}"
            )
        kwargs.setdefault("activity_regularizer", layer.activity_regularizer)
        super().__init__(layer, **kwargs)
        self.is_last = is_last
        self.activated: QuantizeAwareActivation | None = None
        # The converter fuses ReLUs with the kernel: the sums before them are not rounded. All other
        # activations are operations with ranges of their own.
        name = activation_name(layer.activation)
        if name not in ACTIVATIONS or not ACTIVATIONS[name].is_fused:
            self.activated = QuantizeAwareActivation(name, is_last=is_last, name="activated")
        is_separable = isinstance(layer, keras.layers.SeparableConv2D)
        self.between = FakeQuantize(name="between") if is_separable else None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the layer and creates the ranges."""
        if not self.layer.built:
            self.layer.build(input_shape)
        for part in (self.activated, self.between):
            if part is not None:
                part.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Any) -> Any:
        """Computes the outputs of the layer with a rounded kernel."""
        sums = KERNELS[type(self.layer)](self.layer, inputs, self.between)
        if self.layer.bias is not None:
            sums = sums + decollapse_bias(self.layer.bias, sums.shape[-1])
        # No range on the sums: the converter fuses what follows, and rounds after that.
        activation = self.layer.activation if self.activated is None else self.activated
        return activation(sums)

    def plain(self) -> keras.layers.Layer:
        """Returns an unbuilt copy of the wrapped layer."""
        return unbuilt_copy(self.layer)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """Returns the output shape of the layer."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`."""
        return {**super().get_config(), "is_last": self.is_last}
