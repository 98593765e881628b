"""Layers with kernels, with the rounding of an int8 file.

Source: Krishnamoorthi, arXiv 1806.08342, sections 3.1.2 (per-channel scales) and 4 (training);
LiteRT documentation, "8-bit quantization specification".
"""

import re
from functools import partial
from typing import Any

import keras
from keras import ops

from keras_se.layers.quantization.activation import (
    QuantizeAwareActivation,
    decollapse_bias,
    int8_form,
)
from keras_se.layers.quantization.fake_quantize import FakeQuantize
from keras_se.layers.quantization.wrapper import QuantizeAwareWrapper

_LARGEST = 127.0  # kernels are symmetric in TFLite and do not use -128


def quantized_kernel(kernel: Any, axis: Any, preserves_zeros: bool = False) -> Any:
    """Rounds a kernel to symmetric int8; `axis` are the axes other than output channels.

    With `preserves_zeros`, weights of zero have no gradient.
    """
    kernel = ops.convert_to_tensor(kernel)
    if preserves_zeros:
        kernel = kernel * ops.stop_gradient(ops.cast(kernel != 0, kernel.dtype))
    # The scale is the largest magnitude over 127: nothing is clipped, and the whole gradient
    # passes. A factor per channel, as of a folded BatchNormalization, leaves the integers alone.
    scale = ops.stop_gradient(ops.max(ops.abs(kernel), axis=axis, keepdims=True)) / _LARGEST
    # A channel of zeros would divide by zero.
    scale = ops.where(scale == 0, ops.ones_like(scale), scale)
    rounded = ops.round(kernel / scale) * scale
    # The straight-through estimator: the gradient of `round` is zero almost everywhere.
    return kernel + ops.stop_gradient(rounded - kernel)


def _dense(layer: Any, x: Any, rounded: Any, between: Any) -> Any:
    return ops.matmul(x, rounded(layer.kernel, 0))


def _einsum(layer: Any, x: Any, rounded: Any, between: Any) -> Any:
    form = _EINSUM.fullmatch(layer.equation)
    axes = range(len(form["contracted"])) if form else ()
    return ops.einsum(layer.equation, x, rounded(layer.kernel, tuple(axes)))


def _conv(layer: Any, x: Any, rounded: Any, between: Any) -> Any:
    kernel = rounded(layer.kernel, tuple(range(len(layer.kernel.shape) - 1)))
    if layer.padding != "causal":
        return layer.convolution_op(x, kernel)
    before = layer.dilation_rate[0] * (layer.kernel_size[0] - 1)
    return ops.conv(
        ops.pad(x, ((0, 0), (before, 0), (0, 0))),
        kernel,
        strides=layer.strides,
        padding="valid",
        dilation_rate=layer.dilation_rate,
    )


def _transposed(layer: Any, x: Any, rounded: Any, between: Any) -> Any:
    # The output channels come before those of the input.
    *positions, _, last = range(len(layer.kernel.shape))
    return ops.conv_transpose(
        x,
        rounded(layer.kernel, (*positions, last)),
        strides=layer.strides,
        padding=layer.padding,
        output_padding=layer.output_padding,
        dilation_rate=layer.dilation_rate,
    )


def _depthwise(layer: Any, x: Any, rounded: Any, between: Any) -> Any:
    return _depthwise_conv(layer, x, rounded, layer.kernel)


def _separable(layer: Any, x: Any, rounded: Any, between: Any) -> Any:
    # In a file these are two operations, and the tensor between them has a range.
    x = between(_depthwise_conv(layer, x, rounded, layer.depthwise_kernel))
    kernel = layer.pointwise_kernel
    return ops.conv(x, rounded(kernel, tuple(range(len(kernel.shape) - 1))))


def _depthwise_conv(layer: Any, x: Any, rounded: Any, kernel: Any) -> Any:
    return ops.depthwise_conv(
        x,
        rounded(kernel, tuple(range(len(kernel.shape) - 2))),  # one scale a channel and multiplier
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
    )


KERNELS = {
    keras.layers.Dense: _dense,
    keras.layers.EinsumDense: _einsum,
    keras.layers.Conv1D: _conv,
    keras.layers.Conv2D: _conv,
    keras.layers.Conv1DTranspose: _transposed,
    keras.layers.Conv2DTranspose: _transposed,
    keras.layers.DepthwiseConv1D: _depthwise,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv1D: _separable,
    keras.layers.SeparableConv2D: _separable,
}


# As in Dense: the last axes of the input are contracted with the first ones of the kernel, whose
# other ones become the last of the output.
_EINSUM = re.compile(
    r"(?P<kept>\.{3}|\w+)(?P<contracted>\w+),(?P=contracted)(?P<given>\w+)->(?P=kept)(?P=given)"
)


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAware(QuantizeAwareWrapper):
    """Computes with the kernel of a layer rounded to int8, and trains the float kernel."""

    kinds = tuple(KERNELS)

    def __init__(
        self,
        layer: keras.layers.Layer,
        is_last: bool = False,
        preserves_zeros: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("activity_regularizer", layer.activity_regularizer)
        super().__init__(layer, **kwargs)
        self.is_last = is_last
        self.preserves_zeros = preserves_zeros
        self.activated: QuantizeAwareActivation | None = None
        # The converter fuses ReLUs with the kernel: the sums before them are not rounded. All other
        # activations are operations with ranges of their own.
        if not int8_form(layer.activation).is_fused:
            self.activated = QuantizeAwareActivation(
                layer.activation, is_last=is_last, name="activated", dtype=self.dtype_policy
            )
        separable = keras.layers.SeparableConv1D | keras.layers.SeparableConv2D
        is_separable = isinstance(layer, separable)
        self.between = (
            FakeQuantize(name="between", dtype=self.dtype_policy) if is_separable else None
        )

    @classmethod
    def takes(cls, layer: Any) -> bool:
        """Returns whether it wraps this layer, whose kernel must be one that a file rounds."""
        if type(layer) is keras.layers.EinsumDense:
            return _EINSUM.fullmatch(layer.equation) is not None
        return super().takes(layer)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the layer and creates the ranges."""
        if not self.layer.built:
            self.layer.build(input_shape)
        for part in (self.activated, self.between):
            if part is not None:
                part.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Any) -> Any:
        """Computes the outputs of the layer with a rounded kernel."""
        rounded = partial(quantized_kernel, preserves_zeros=self.preserves_zeros)
        sums = KERNELS[type(self.layer)](self.layer, inputs, rounded, self.between)
        if self.layer.bias is not None:
            sums = sums + decollapse_bias(self.layer.bias, sums.shape[-1])
        # No range on the sums: the converter fuses what follows, and rounds after that.
        activation = self.layer.activation if self.activated is None else self.activated
        return activation(sums)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """Returns the output shape of the layer."""
        return tuple(self.layer.compute_output_shape(input_shape))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`."""
        return {
            **super().get_config(),
            "is_last": self.is_last,
            "preserves_zeros": self.preserves_zeros,
        }
