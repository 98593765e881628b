"""How a layer of tf_keras is quantized in training: its kernel, and its output."""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

from keras_se.compress.loading import load_tensorflow, load_tf_keras, load_tfmot
from keras_se.layers.quantize_aware import quantized_kernel
from keras_se.layers.quantize_aware_activation import uneven

NARROWED = 0.01  # of the way to the range of a batch, per step of training
# By name of a kernel in tf_keras, the axes of its output channels.
KERNEL_AXES = {"kernel": (-1,), "depthwise_kernel": (-2, -1)}
_BIASES = ("bias", "beta")
Range = tuple[float, float]  # the lowest and the highest value that int8 stands for


@dataclass(frozen=True)
class Output:
    """How an output is quantized.

    Attributes:
        range: Where its range starts.
        is_fixed: Whether it stays there.
        limit: What it never exceeds, on either side.
    """

    range: Range
    is_fixed: bool = False
    limit: float = math.inf


def wrapped(layer: Any, preserving: Any, output: Output | None) -> Any:
    """A layer that is quantized in training.

    Args:
        layer: A layer of tf_keras, built where it has weights.
        preserving: A quantizer of tfmot that its kernel is trained with, to preserve something;
            `None` for the rounding alone.
        output: How its output is quantized; `None` where it is not.

    Returns:
        The wrapper of tfmot, named `quant_` and the name of the layer.
    """
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
    """Subclasses of what tfmot defines, which is loaded at their first use."""
    quantization: Any = load_tfmot().quantization.keras
    quantizers: Any = quantization.quantizers
    tensorflow = load_tensorflow()

    class MovingRange(quantizers.Quantizer):
        """A range that starts at a known one, widens at once and narrows slowly.

        That of tfmot starts at ±6 and takes a thousand steps to move: until then it clips gates.
        """

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
            limit = self._output.limit
            return (
                tensorflow.clip_by_value(low, -limit, 0.0),
                tensorflow.clip_by_value(high, 0.0, limit),
            )

        def get_config(self) -> dict[str, Any]:
            return {"output": self._output}

    class Kernel(quantizers.Quantizer):
        """Rounds a kernel by output channel; nothing is clipped, and the gradient passes whole.

        What tfmot has in its place leaves an operation in the graph, which the converter takes
        neither for `Dense`, nor where a channel is zero throughout; and of a depthwise kernel it
        takes the last axis for the channels, which holds the multiplier.
        """

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
        """Keeps the values of a bias apart, which the converter needs."""

        def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
            return {}

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            return uneven(inputs, inputs.shape[-1])

        def get_config(self) -> dict[str, Any]:
            return {}

    class LayerConfig(quantization.QuantizeConfig):
        """Kernels, biases and an output; activations are layers of their own."""

        def __init__(self, own: dict[str, Any], output: Any) -> None:
            self._own = own
            self._output = output

        def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
            return [(getattr(layer, name), quantizer) for name, quantizer in self._own.items()]

        def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
            for name, value in zip(self._own, quantize_weights, strict=True):
                setattr(layer, name, value)

        def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
            return []

        def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
            pass

        def get_output_quantizers(self, layer: Any) -> list[Any]:
            return [] if self._output is None else [self._output]

        def get_config(self) -> dict[str, Any]:
            return {"own": self._own, "output": self._output}

    class Wrapper(quantization.QuantizeWrapperV2):
        """The wrapper of tfmot, which would train what is frozen."""

        @property
        def trainable_weights(self) -> list[Any]:
            return super().trainable_weights if self.trainable else []

        @property
        def non_trainable_weights(self) -> list[Any]:
            frozen = [] if self.trainable else super().trainable_weights
            weights = [*frozen, *super().non_trainable_weights]
            return list({id(weight): weight for weight in weights}.values())

    return _Classes(Wrapper, LayerConfig, Kernel, Bias, MovingRange)
