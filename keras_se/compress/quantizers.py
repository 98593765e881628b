"""How a layer of tf_keras is quantized in training: its kernel, and its output."""

from dataclasses import dataclass
from functools import cache
from typing import Any

from keras_se.compress.loading import load_tensorflow, load_tf_keras, load_tfmot

NARROWED = 0.01  # of the way to the range of a batch, per step of training
Range = tuple[float, float]  # the lowest and the highest value that int8 stands for


@dataclass(frozen=True)
class Output:
    """How an output is quantized.

    Attributes:
        range: Where its range starts.
        is_fixed: Whether it stays there.
    """

    range: Range
    is_fixed: bool = False


def wrapped(layer: Any, kernel: str | None, quantizer: Any, output: Output | None) -> Any:
    """A layer that is quantized in training.

    Args:
        layer: A layer of tf_keras, built where it has weights.
        kernel: Name of its kernel; `None` without one.
        quantizer: A quantizer of tfmot for the kernel; by default, by channel.
        output: How its output is quantized; `None` where it is not.

    Returns:
        The wrapper of tfmot, named `quant_` and the name of the layer.
    """
    classes = _classes()
    if kernel is not None and quantizer is None:
        has_channels = type(layer).__name__ != "Dense"  # the converter has none for it
        quantizer = classes.kernel(8, per_axis=has_channels, symmetric=True, narrow_range=True)
    own = None if output is None else classes.output(output)
    config = classes.config(kernel, quantizer, own)
    return load_tfmot().quantization.keras.QuantizeWrapperV2(layer, config)


@dataclass(frozen=True)
class _Classes:
    config: Any
    kernel: Any
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
                key: layer.add_weight(f"{name}_{key}", initializer=constant(value), trainable=False)
                for key, value in zip(("min", "max"), self._output.range, strict=True)
            }

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            low, high = weights["min"], weights["max"]
            if training and not self._output.is_fixed:
                lowest = tensorflow.minimum(tensorflow.reduce_min(inputs), 0.0)
                highest = tensorflow.maximum(tensorflow.reduce_max(inputs), 0.0)
                low.assign(tensorflow.minimum(lowest, low + NARROWED * (lowest - low)))
                high.assign(tensorflow.maximum(highest, high + NARROWED * (highest - high)))
            return tensorflow.quantization.fake_quant_with_min_max_vars(inputs, low, high)

        def get_config(self) -> dict[str, Any]:
            return {"output": self._output}

    class ByChannel(quantizers.LastValueQuantizer):
        """Kernels by channel, as TFLite has them: depthwise ones by channel and multiplier.

        Of these tfmot takes the last axis alone, which holds the multiplier: one range for all.
        """

        def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
            self._merged = tuple(tensor_shape)
            if name.startswith("depthwise"):
                self._merged = (*tensor_shape[:2], 1, tensor_shape[2] * tensor_shape[3])
            return super().build(self._merged, name, layer)

        def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
            merged = tensorflow.reshape(inputs, self._merged)
            return tensorflow.reshape(
                super().__call__(merged, training, weights, **kwargs), inputs.shape
            )

    class LayerConfig(quantization.QuantizeConfig):
        """A kernel and an output; activations are layers of their own."""

        def __init__(self, kernel: str | None, quantizer: Any, output: Any) -> None:
            self._kernel = kernel
            self._quantizer = quantizer
            self._output = output

        def get_weights_and_quantizers(self, layer: Any) -> list[Any]:
            return [(getattr(layer, self._kernel), self._quantizer)] if self._kernel else []

        def set_quantize_weights(self, layer: Any, quantize_weights: Any) -> None:
            if self._kernel:
                setattr(layer, self._kernel, quantize_weights[0])

        def get_activations_and_quantizers(self, layer: Any) -> list[Any]:
            return []

        def set_quantize_activations(self, layer: Any, quantize_activations: Any) -> None:
            pass

        def get_output_quantizers(self, layer: Any) -> list[Any]:
            return [] if self._output is None else [self._output]

        def get_config(self) -> dict[str, Any]:
            return {"kernel": self._kernel, "quantizer": self._quantizer, "output": self._output}

    return _Classes(LayerConfig, ByChannel, MovingRange)
