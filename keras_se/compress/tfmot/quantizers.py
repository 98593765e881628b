"""Quantizers for the kernel, bias and output of a tf_keras layer.

The classes derive from those of tensorflow-model-optimization (tfmot): importing this module loads
it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_se.compress.tfmot.bridge.environment import load_tensorflow, load_tf_keras, load_tfmot
from keras_se.compress.tfmot.rounding import Output, kind_of
from keras_se.layers.quantization.activation import decollapse_bias
from keras_se.layers.quantization.kernels import quantized_kernel

_tensorflow = load_tensorflow()
_tf_keras = load_tf_keras()
_quantization: Any = load_tfmot().quantization.keras
_combine: Any = load_tfmot().experimental.combine
NARROWED = 0.01  # share of the distance to the range of a batch, per training step
# Output channel axes by kernel name in tf_keras. A depthwise kernel also has the multiplier, which
# tfmot takes for the only channel axis.
KERNEL_AXES = {"kernel": (-1,), "depthwise_kernel": (-2, -1)}
_BIASES = ("bias", "beta")
_CENTROIDS = "cluster_centroids_tf"  # the key of tfmot


def wrapped(layer: Any, preserve: str | None, output: Output | None) -> Any:
    """Wrap a layer for quantization-aware training with tfmot, named `quant_` plus its name."""
    names = [n for n in (*KERNEL_AXES, *_BIASES) if getattr(layer, n, None) is not None]
    # Depthwise kernels are neither pruned nor clustered: there is nothing to preserve.
    preserve = preserve if kind_of(layer) in ("Conv2D", "Dense") else None
    return _Wrapper(layer, _LayerConfig(layer, names, preserve, output))


class _MovingRange(_quantization.quantizers.Quantizer):
    """A range that starts at a given one, widens at once and narrows slowly."""

    # The range of tfmot starts at ±6, takes a thousand steps to adapt, and clips gates until
    # then.
    def __init__(self, output: Output) -> None:
        self._output = output

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
        constant = _tf_keras.initializers.Constant
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
        config = dataclasses.asdict(self._output)
        # JSON has no infinity.
        return {**config, "limit": None if math.isinf(config["limit"]) else config["limit"]}


class _Kernel(_quantization.quantizers.Quantizer):
    """Rounds a kernel per output channel, without clipping."""

    # The quantizer of tfmot leaves an operation in the graph that the converter rejects for
    # Dense layers and for channels that are zero throughout.
    def __init__(self, preserving: Any, centroids: Sequence[int] | None = None) -> None:
        self._preserving = preserving
        self._centroids = centroids

    def build(self, tensor_shape: Any, name: str, layer: Any) -> Any:
        variables: dict[str, Any] = {"axes": KERNEL_AXES[name]}
        if self._preserving is None:
            return variables
        kernel = getattr(layer.layer, name)
        # tfmot counts the values of the kernel, which a saved model gets only later.
        if self._centroids is not None:
            kernel.assign(_with_centroids(kernel.shape, self._centroids))
        for key, value in self._preserving.build(tensor_shape, name, layer).items():
            variables[key] = saved(layer, f"{name}_{key}", value)
        if _CENTROIDS in variables:
            self._centroids = variables[_CENTROIDS].shape.as_list()
        return variables

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        if training and self._preserving is not None:
            return self._preserving(inputs, training, weights, **kwargs)
        rank = len(inputs.shape)
        channels = {axis % rank for axis in weights["axes"]}
        return quantized_kernel(inputs, tuple(set(range(rank)) - channels))

    def get_config(self) -> dict[str, Any]:
        # tfmot turns this off for a kernel without zeros.
        is_sparse = getattr(self._preserving, "preserve_sparsity", True)
        return {"centroids": self._centroids, "is_sparse": is_sparse}


def saved(layer: Any, name: str, value: Any) -> Any:
    """Return a weight instead of a tensor, which a saved model would lack."""
    if not _tensorflow.is_tensor(value) or isinstance(value, _tensorflow.Variable):
        return value
    return layer.add_weight(
        name,
        shape=value.shape,
        dtype=value.dtype,
        initializer=_tf_keras.initializers.Constant(value.numpy()),
        trainable=False,
    )


def _with_centroids(shape: Any, centroids: Sequence[int]) -> np.ndarray:
    """Return a kernel in which tfmot finds so many values, in all or per output channel."""
    channels, size, count = shape[-1], math.prod(shape[:-1]), centroids[-1]
    values = np.arange(channels * size)
    if len(centroids) > 1:
        values = np.tile(values[:size] % count, channels)
    elif len(shape) == 2:
        values %= count
    else:
        # tfmot counts them per channel unless the numbers of the channels differ by two.
        few = max(1, count - (channels - 1) * size)
        values = np.where(values < size, values % few, (values - size + few) % count)
    values = values.reshape(channels, size)
    return values.T.reshape(shape).astype("float32")


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

    def __init__(
        self,
        layer: Any,
        names: Sequence[str],
        preserve: str | None,
        output: Output | None,
        kernels: Mapping[str, Any] | None = None,
    ) -> None:
        self._preserve = preserve
        known = kernels or {}
        self._own = {
            name: _Bias() if name in _BIASES else _kernel(layer, preserve, known.get(name))
            for name in names
        }
        self._output = None if output is None else _MovingRange(output)

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
        return {
            "names": list(self._own),
            "preserve": self._preserve,
            "output": None if self._output is None else self._output.get_config(),
            "kernels": {
                name: quantizer.get_config()
                for name, quantizer in self._own.items()
                if self._preserve is not None and name in KERNEL_AXES
            },
        }


def _kernel(layer: Any, preserve: str | None, config: Mapping[str, Any] | None) -> _Kernel:
    if preserve is None:
        return _Kernel(None)
    is_sparse = config is None or config["is_sparse"]
    scheme = (
        _combine.Default8BitPrunePreserveQuantizeScheme()
        if preserve == "sparsity"
        else _combine.Default8BitClusterPreserveQuantizeScheme(preserve == "both" and is_sparse)
    )
    preserving = scheme.get_quantize_registry().get_quantize_config(layer).weight_quantizer
    return _Kernel(preserving, None if config is None else config["centroids"])


@_tf_keras.saving.register_keras_serializable(package="keras_se", name="Wrapper")
class _Wrapper(_quantization.QuantizeWrapperV2):
    """The tfmot wrapper for a layer that may be frozen."""

    def get_config(self) -> dict[str, Any]:
        # tfmot would name classes; here the settings are enough.
        return {**super().get_config(), "quantize_config": self.quantize_config.get_config()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Any:
        layer = _tf_keras.saving.deserialize_keras_object(config["layer"])
        settings = dict(config["quantize_config"])
        output = settings.pop("output")
        if output is not None:
            limit = math.inf if output["limit"] is None else output["limit"]
            output = Output(tuple(output["range"]), output["is_fixed"], limit)
        return cls(layer, _LayerConfig(layer, output=output, **settings), name=config["name"])

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
