"""Quantizers for the kernel, bias and output of a tf_keras layer."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from keras_se.compress.tfmot.bridge.environment import load_tensorflow, load_tf_keras, load_tfmot
from keras_se.layers.quantization.activation import uneven
from keras_se.layers.quantization.kernels import quantized_kernel

NARROWED = 0.01  # share of the distance to the range of a batch, per training step
# Output channel axes by kernel name in tf_keras. A depthwise kernel also has the multiplier, which
# tfmot takes for the only channel axis.
KERNEL_AXES = {"kernel": (-1,), "depthwise_kernel": (-2, -1)}
_BIASES = ("bias", "beta")
Range = tuple[float, float]  # smallest and largest value that int8 represents


@dataclass(frozen=True)
class Output:
    """The quantization of an output.

    Attributes:
        range: The initial range.
        is_fixed: Whether the range stays constant.
        limit: The largest magnitude that the range may reach.
    """

    range: Range
    is_fixed: bool = False
    limit: float = math.inf


def wrapped(layer: Any, preserving: Any, output: Output | None) -> Any:
    """Wrap a layer for quantization-aware training with tfmot, named `quant_` plus its name."""
    classes = _classes()
    quantizers = {
        name: classes.bias() if name in _BIASES else classes.kernel(preserving)
        for name in (*KERNEL_AXES, *_BIASES)
        if getattr(layer, name, None) is not None
    }
    own = None if output is None else classes.output(output)
    return classes.wrapper(layer, classes.config(quantizers, own))


@dataclass(frozen=True)
class _Classes:
    wrapper: Any
    config: Any
    kernel: Any
    bias: Any
    output: Any


@cache
def _classes() -> _Classes:
    """Define the subclasses of tfmot classes; tfmot is loaded on first use."""
    quantization: Any = load_tfmot().quantization.keras
    quantizers: Any = quantization.quantizers
    tensorflow = load_tensorflow()

    class MovingRange(quantizers.Quantizer):
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
                for key, value in zip(
                    ("min", "max"), self._limited(*self._output.range), strict=True
                )
            }

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            low, high = weights["min"], weights["max"]
            if training and not self._output.is_fixed:
                lowest, highest = self._limited(
                    tensorflow.reduce_min(inputs), tensorflow.reduce_max(inputs)
                )
                low.assign(tensorflow.minimum(lowest, low + NARROWED * (lowest - low)))
                high.assign(tensorflow.maximum(highest, high + NARROWED * (highest - high)))
            return tensorflow.quantization.fake_quant_with_min_max_vars(inputs, low, high)

        def _limited(self, low: Any, high: Any) -> tuple[Any, Any]:
            # Zero stays in the range: int8 represents it exactly.
            limit = self._output.limit
            return (
                tensorflow.clip_by_value(low, -limit, 0.0),
                tensorflow.clip_by_value(high, 0.0, limit),
            )

        def get_config(self) -> dict[str, Any]:
            return {"output": self._output}

    class Kernel(quantizers.Quantizer):
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

    class Bias(quantizers.Quantizer):
        """Makes the values of a bias distinct."""

        def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
            return {}

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            # The converter would use the scale of the first channel for a bias of equal values.
            return uneven(inputs, inputs.shape[-1])

        def get_config(self) -> dict[str, Any]:
            return {}

    class LayerConfig(quantization.QuantizeConfig):
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

    class Wrapper(quantization.QuantizeWrapperV2):
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

    return _Classes(Wrapper, LayerConfig, Kernel, Bias, MovingRange)
