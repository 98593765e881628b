"""Layers with kernels, as an int8 file computes them."""

from typing import Any

import keras
from keras import ops

from keras_se.errors import InputError
from keras_se.layers.fake_quantize import FakeQuantize
from keras_se.layers.quantize_aware_activation import FORMS, QuantizeAwareActivation, uneven

_LARGEST = 127.0  # TFLite's kernels are symmetric, without -128


def quantized_kernel(kernel: Any, axis: Any) -> Any:
    """A kernel rounded to the values of int8, symmetric, with a scale for each output channel.

    Nothing is clipped: a scale is the largest magnitude by 127, so that a gradient passes whole.
    A factor for each channel, such as that of BatchNormalization after it, changes the scales and
    not the integers.

    Args:
        kernel: Tensor of weights.
        axis: The axes that are not of output channels.

    Returns:
        A tensor of the same shape.

    Source: LiteRT documentation, "8-bit quantization specification".

    Example:
        >>> import numpy as np
        >>> quantized_kernel(np.array([[127.0, 254.0], [3.4, 4.4]], "float32"), axis=0).numpy()
        array([[127., 254.],
               [  3.,   4.]], dtype=float32)
    """
    kernel = ops.convert_to_tensor(kernel)
    scale = ops.stop_gradient(ops.max(ops.abs(kernel), axis=axis, keepdims=True)) / _LARGEST
    scale = ops.where(scale == 0, ops.ones_like(scale), scale)
    rounded = ops.round(kernel / scale) * scale
    return kernel + ops.stop_gradient(rounded - kernel)


def _dense(layer: Any, x: Any, between: Any) -> Any:
    return ops.matmul(x, quantized_kernel(layer.kernel, 0))


def _conv(layer: Any, x: Any, between: Any) -> Any:
    return layer.convolution_op(x, quantized_kernel(layer.kernel, (0, 1, 2)))


def _depthwise(layer: Any, x: Any, between: Any) -> Any:
    return _depthwise_conv(layer, x, layer.kernel)


def _separable(layer: Any, x: Any, between: Any) -> Any:
    x = between(_depthwise_conv(layer, x, layer.depthwise_kernel))
    return ops.conv(x, quantized_kernel(layer.pointwise_kernel, (0, 1, 2)))


def _depthwise_conv(layer: Any, x: Any, kernel: Any) -> Any:
    return ops.depthwise_conv(
        x,
        quantized_kernel(kernel, (0, 1)),  # a scale for each channel and multiplier
        strides=layer.strides,
        padding=layer.padding,
        dilation_rate=layer.dilation_rate,
    )


KERNELS = {
    keras.layers.Dense: _dense,
    keras.layers.Conv2D: _conv,
    keras.layers.DepthwiseConv2D: _depthwise,
    keras.layers.SeparableConv2D: _separable,
}


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAware(keras.layers.Wrapper):
    """A layer that computes with its kernel rounded to int8, while it trains the one in float.

    An activation that is an operation of its own in an int8 file is rounded before and after it.
    The output of any other is not rounded: what is fused with it comes first.

    Args:
        layer: A `Dense`, `Conv1D`, `Conv2D`, `DepthwiseConv2D` or `SeparableConv2D`.
        is_last: Whether the output is the model's: see `QuantizeAwareActivation`.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape:
        That of the layer.

    Output shape:
        That of the layer.

    Raises:
        InputError: If the layer or its activation is none of the known.

    Source: Krishnamoorthi, "Quantizing deep convolutional networks for efficient inference",
    arXiv 1806.08342, sections 3.1.2 (a scale for each channel) and 4 (training).

    Example:
        >>> import numpy as np
        >>> layer = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(0.5))
        >>> QuantizeAware(layer)(np.ones((1, 2), "float32")).numpy()
        array([[1.]], dtype=float32)
    """

    def __init__(self, layer: keras.layers.Layer, is_last: bool = False, **kwargs: Any) -> None:
        if type(layer) not in KERNELS:
            raise InputError(
                f"QuantizeAware takes one of {[kind.__name__ for kind in KERNELS]}. "
                f"Received: {type(layer).__name__} {layer.name!r}"
            )
        activation = keras.activations.serialize(layer.activation)
        name = activation if isinstance(activation, str) else repr(activation)
        kwargs.setdefault("activity_regularizer", layer.activity_regularizer)
        super().__init__(layer, **kwargs)
        self.is_last = is_last
        self.activated: QuantizeAwareActivation | None = None
        is_fused = name in FORMS and not FORMS[name].is_apart and not FORMS[name].between
        if not is_fused:
            self.activated = QuantizeAwareActivation(name, is_last=is_last, name="activated")
        is_separable = isinstance(layer, keras.layers.SeparableConv2D)
        self.between = FakeQuantize(name="between") if is_separable else None

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Builds the layer, and creates the ranges."""
        if not self.layer.built:
            self.layer.build(input_shape)
        for part in (self.activated, self.between):
            if part is not None:
                part.build(self.compute_output_shape(input_shape))

    def call(self, inputs: Any) -> Any:
        """The outputs of the layer with its kernel rounded."""
        outputs = self._sums(inputs)
        activation = self.layer.activation if self.activated is None else self.activated
        return activation(outputs)

    def _sums(self, x: Any) -> Any:
        """What comes before the activation."""
        y = KERNELS[type(self.layer)](self.layer, x, self.between)
        bias = self.layer.bias
        return y if bias is None else y + uneven(bias, y.shape[-1])

    def plain(self) -> keras.layers.Layer:
        """A layer like the one inside, not built."""
        return type(self.layer).from_config(self.layer.get_config())

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """That of the layer."""
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        """The arguments of `__init__`."""
        return {**super().get_config(), "is_last": self.is_last}
