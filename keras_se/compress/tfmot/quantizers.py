"""Quantizers for the kernel, bias and output of a tf_keras layer.

The classes derive from those of tensorflow-model-optimization (tfmot): importing this module loads
it.
"""

from typing import Any

from keras_se.compress.tfmot.bridge.environment import load_tensorflow, load_tf_keras, load_tfmot
from keras_se.compress.tfmot.rounding import Output
from keras_se.layers.quantization.activation import decollapse_bias
from keras_se.layers.quantization.kernels import quantized_kernel

_tensorflow = load_tensorflow()
_quantization: Any = load_tfmot().quantization.keras
NARROWED = 0.01  # share of the distance to the range of a batch, per training step
# Output channel axes by kernel name in tf_keras. A depthwise kernel also has the multiplier, which
# tfmot takes for the only channel axis.
KERNEL_AXES = {"kernel": (-1,), "depthwise_kernel": (-2, -1)}
_BIASES = ("bias", "beta")


def wrapped(layer: Any, preserving: Any, output: Output | None) -> Any:
    """Wrap a layer for quantization-aware training with tfmot, named `quant_` plus its name."""
    quantizers = {
        name: _Bias() if name in _BIASES else _Kernel(preserving)
        for name in (*KERNEL_AXES, *_BIASES)
        if getattr(layer, name, None) is not None
    }
    return _Wrapper(
        layer, _LayerConfig(quantizers, None if output is None else _MovingRange(output))
    )


class _MovingRange(_quantization.quantizers.Quantizer):
    """A range that starts at a given one, widens at once and narrows slowly."""

    # The range of tfmot starts at ±6, takes a thousand steps to adapt, and clips gates until
    # then.
    def __init__(self, output: Output) -> None:
        self._output = output

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
        constant = load_tf_keras().initializers.Constant
        return {
            key: layer.add_weight(
                f"{name}_{key}", initializer=constant(float(value)), trainable=False
            )
            for key, value in zip(("min", "max"), self._limited(*self._output.range), strict=True)
        }

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        low, high = weights["min"], weights["max"]
        if training and not self._output.is_fixed:
            lowest, highest = self._limited(
                _tensorflow.reduce_min(inputs), _tensorflow.reduce_max(inputs)
            )
            low.assign(_tensorflow.minimum(lowest, low + NARROWED * (lowest - low)))
            high.assign(_tensorflow.maximum(highest, high + NARROWED * (highest - high)))
        return _tensorflow.quantization.fake_quant_with_min_max_vars(inputs, low, high)

    def _limited(self, low: Any, high: Any) -> tuple[Any, Any]:
        # Zero stays in the range: int8 represents it exactly.
        limit = self._output.limit
        return (
            _tensorflow.clip_by_value(low, -limit, 0.0),
            _tensorflow.clip_by_value(high, 0.0, limit),
        )

    def get_config(self) -> dict[str, Any]:
        return {"output": self._output}


class _Kernel(_quantization.quantizers.Quantizer):
    """Rounds a kernel per output channel, without clipping."""

    # The quantizer of tfmot leaves an operation in the graph that the converter rejects for
    # Dense layers and for channels that are zero throughout.
    def __init__(self, preserving: Any) -> None:
        self._preserving = preserving

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
        variables = {"axes": KERNEL_AXES[name]}
        if self._preserving is not None:
            variables |= self._preserving.build(tensor_shape, name, layer)
        return variables

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        if training and self._preserving is not None:
            return self._preserving(inputs, training, weights, **kwargs)
        rank = len(inputs.shape)
        channels = {axis % rank for axis in weights["axes"]}
        return quantized_kernel(inputs, tuple(set(range(rank)) - channels))

    def get_config(self) -> dict[str, Any]:
        return {"preserving": self._preserving}


class _Bias(_quantization.quantizers.Quantizer):
    """Makes the values of a bias distinct."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
        return {}

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        # The converter would use the scale of the first channel for a bias of equal values.
        return decollapse_bias(inputs, inputs.shape[-1])

    def get_config(self) -> dict[str, Any]:
        return {}


class _LayerConfig(_quantization.QuantizeConfig):
    """Quantizers of the kernels, biases and output of one layer."""

    def __init__(self, own: dict[str, Any], output: Any) -> None:
        self._own = own
        self._output = output

    def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
        return [(getattr(layer, name), quantizer) for name, quantizer in self._own.items()]

    def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
        for name, value in zip(self._own, quantize_weights, strict=True):
            setattr(layer, name, value)

    # Activations are layers of their own after the conversion to tf_keras.
    def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
        return []

    def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
        pass

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        return [] if self._output is None else [self._output]

    def get_config(self) -> dict[str, Any]:
        return {"own": self._own, "output": self._output}


class _Wrapper(_quantization.QuantizeWrapperV2):
    """The tfmot wrapper for a layer that may be frozen."""

    @property
    def trainable_weights(self) -> list[Any]:
        # QuantizeWrapperV2 trains the weights of frozen layers, too.
        return super().trainable_weights if self.trainable else []

    @property
    def non_trainable_weights(self) -> list[Any]:
        frozen = [] if self.trainable else super().trainable_weights
        weights = [*frozen, *super().non_trainable_weights]
        # A frozen weight can be in both lists.
        return list({id(weight): weight for weight in weights}.values())
