"""Quantization-aware training of SE models, from ranges that were measured."""

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np

from keras_se.compress.bridge import ENTRY, check_same, translated
from keras_se.compress.loading import load_tf_keras, load_tfmot
from keras_se.compress.origins import QUANTIZED, Origin
from keras_se.compress.quantizers import Output, Range, wrapped
from keras_se.compress.restoring import base_name
from keras_se.compress.training import trainable_model
from keras_se.compress.wrapping import copied, rebuilt
from keras_se.errors import InputError
from keras_se.litert.signature import input_arrays, input_specs

ENGINES = ("tfmot", "keras")
_SCHEMES = ("sparsity", "clusters", "both")
_FEW_ZEROS = 0.1  # below this share of a kernel, it was not pruned
_BATCH = 32
_CONVOLUTIONS = {"Conv2D": "kernel", "DepthwiseConv2D": "depthwise_kernel"}
_KERNELS = {**_CONVOLUTIONS, "Dense": "kernel"}
_ACTIVATIONS = ("gelu", "linear", "relu", "sigmoid", "softmax", "swish", "tanh")
# What hands values on, so that int8 has no range of its own for it.
_SAME_VALUES = frozenset({
    *("ActivityRegularization", "AveragePooling2D", "Cropping2D", "Dropout", "Flatten"),
    *("GaussianDropout", "GaussianNoise", "GlobalMaxPooling2D", "MaxPooling2D", "Permute"),
    *("Reshape", "SpatialDropout2D", "UpSampling2D", "ZeroPadding2D"),
})  # fmt: skip
_OWN_RANGE = frozenset({
    *("Activation", "Add", "BatchNormalization", "Concatenate"),
    *("GlobalAveragePooling2D", "LeakyReLU", "Maximum", "Minimum", "Multiply", "ReLU"),
    *("Rescaling", "Softmax", "Subtract"),
})  # fmt: skip
_TAKES_RELU = (*_KERNELS, "Add", "BatchNormalization", "Multiply", "Rescaling", "Subtract")
_FIXED: dict[str, Range] = {  # what TFLite prescribes
    "sigmoid": (0.0, 255 / 256),
    "softmax": (0.0, 255 / 256),
    "tanh": (-1.0, 127 / 128),
}


def quantize_aware(model: keras.Model, calibration: Any, *, preserve: str | None = None) -> Any:
    """A model that computes as its int8 file will, and trains on.

    Kernels are rounded per channel (those of `Dense` as a whole), activations where the file
    has a tensor of its own: after a convolution with its BatchNormalization and ReLU, after each
    gate, and after the product that recalibrates. The ranges of sigmoid, tanh and softmax are those
    that TFLite prescribes; all others start where the calibration data put them, and then widen at
    once and narrow by 1 % a step with the training data.

    Args:
        model: A built functional or Sequential Keras 3 model, with or without SE, as
            `to_tf_keras` takes it, with inputs of known size. It is not changed.
        calibration: Representative inputs, shape (samples, *input shape), or a list or dictionary
            of them; a hundred samples or more.
        preserve: What of earlier training with compression stays: the `"sparsity"` of a pruned
            model, the `"clusters"` of a clustered one, or `"both"`. Depthwise kernels have neither.

    Returns:
        A `tf_keras.Model` to `compile` and `fit`, with the objects of Keras 3 or of tf_keras.
        `keras_se.to_tflite` of it is an int8 file and needs no calibration, `keras_se.read_gates`
        gives its rounded gates, `keras_se.verify(model, tflite, x, reference=...)` judges the file
        against both models, and `strip` makes a Keras 3 model of it.

    Raises:
        InputError: If the model cannot be carried to tf_keras or has a layer that is not known in
            int8, the data do not fit it, or there is nothing to preserve.
        MissingExtraError: If TensorFlow, tf_keras or tensorflow-model-optimization is missing.

    Source: Jacob et al., arXiv 1712.05877, section 3; TensorFlow Model Optimization, "Quantization
    aware training".

    Example:
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
        >>> [layer.name for layer in quantize_aware(model, x).layers if "product" in layer.name]
        ['quant_se_block_product']
    """
    if calibration is None:
        raise InputError(
            "quantize_aware needs calibration data: representative inputs. "
            "Received: calibration=None"
        )
    if preserve not in (None, *_SCHEMES):
        raise InputError(f"preserve is one of {list(_SCHEMES)}. Received: preserve={preserve!r}")
    walk, translation = translated(model, quantizable=True)
    check_same(model, translation.model, walk)
    samples = input_arrays(input_specs(model), calibration, "calibration")
    plan = _Plan(translation.model)
    quantizer = _preserving(model, preserve)
    ranges = _ranges(translation.model, plan.measured, list(samples.values()))

    def wrap(layer: Any) -> Any:
        if layer.name in plan.idle:
            return copied(layer)
        output = plan.output(layer, ranges)
        if layer.name in plan.lone:
            return wrapped(_ones(layer), "depthwise_kernel", None, output)
        kernel = _KERNELS.get(_kind(layer))
        return wrapped(copied(layer), kernel, quantizer(layer), output)

    new_model = rebuilt(translation.model, wrap)
    start_kernel_ranges(new_model)
    return trainable_model(new_model, Origin(model, QUANTIZED))


class _Plan:
    """Which outputs of a model are rounded.

    Attributes:
        measured: Names of the layers whose output has a range to be measured.
        idle: Names of the entries to a BatchNormalization that TFLite folds into a kernel.
        lone: Names of the entries to any other: a depthwise kernel of ones there takes it in.
    """

    def __init__(self, model: Any) -> None:
        self._layers = {layer.name: layer for layer in model.layers}
        self._outputs = {id(tensor) for tensor in model.outputs}
        for layer in self._layers.values():
            _check_known(layer)
        entries = {name for name in self._layers if self._is_normalized(name)}
        self.idle = {name for name in entries if self._folds(name)}
        self.lone = entries - self.idle
        self.measured = {name for name, layer in self._layers.items() if self._has_range(layer)}

    def output(self, layer: Any, ranges: dict[str, Range]) -> Output | None:
        """How the output of a layer is rounded."""
        if layer.name not in self.measured:
            return None
        fixed = _fixed_range(layer)
        return Output(ranges[layer.name]) if fixed is None else Output(fixed, is_fixed=True)

    def _is_normalized(self, name: str) -> bool:
        layer = self._layers[name]
        return name.endswith(ENTRY) and _kind(self._sole_consumer(layer)) == "BatchNormalization"

    def _folds(self, name: str) -> bool:
        """Whether what is normalized is that of a convolution alone."""
        producer = _producer(self._layers[name])
        if _kind(producer) in _CONVOLUTIONS and self._sole_consumer(producer) is not None:
            return True
        shape = self._layers[name].output.shape
        if len(shape) != 4:
            raise InputError(
                "quantize_aware takes BatchNormalization of feature maps. "
                f"Received: {_consumers(self._layers[name])[0].name!r}"
            )
        return False

    def _has_range(self, layer: Any) -> bool:
        kind = _kind(layer)
        if kind == "InputLayer" or kind in _SAME_VALUES or layer.name in self.idle | self.lone:
            return False
        return not self._is_fused(layer)

    def _is_fused(self, layer: Any) -> bool:
        """Whether TFLite computes a layer and the one after it at once."""
        following = self._sole_consumer(layer)
        if following is None:
            return False
        if _is_relu(following):
            return _kind(layer) in _TAKES_RELU
        is_moved = _kind(following) == "Rescaling" and bool(np.all(following.scale == 1))
        return _kind(layer) in _CONVOLUTIONS and (
            following.name in self.idle or (is_moved and self._is_fused(following))
        )

    def _sole_consumer(self, layer: Any) -> Any:
        consumers = [c for c in _consumers(layer) if c.name in self._layers]
        is_output = any(id(tensor) in self._outputs for tensor in _outputs(layer))
        return consumers[0] if len(consumers) == 1 and not is_output else None


def _preserving(model: keras.Model, preserve: str | None) -> Callable[[Any], Any]:
    """What gives the quantizer of tfmot for the kernel of a layer; `None` for the usual one."""
    if preserve is None:
        return lambda layer: None
    kernels = [w.numpy() for w in model.trainable_weights if len(w.shape) > 1]
    is_sparse = any((kernel == 0).mean() > _FEW_ZEROS for kernel in kernels)
    is_clustered = any(np.unique(kernel).size < kernel.size / 2 for kernel in kernels)
    if (preserve != "clusters" and not is_sparse) or (preserve != "sparsity" and not is_clustered):
        raise InputError(
            "What is preserved must be there: train with prune or cluster first, and strip. "
            f"Received: preserve={preserve!r} for model {model.name!r} without it"
        )
    combine = load_tfmot().experimental.combine
    scheme = (
        combine.Default8BitPrunePreserveQuantizeScheme()
        if preserve == "sparsity"
        else combine.Default8BitClusterPreserveQuantizeScheme(preserve == "both")
    )

    def quantizer(layer: Any) -> Any:
        if _kind(layer) not in ("Conv2D", "Dense"):
            return None
        return scheme.get_quantize_registry().get_quantize_config(layer).weight_quantizer

    return quantizer


def _check_known(layer: Any) -> None:
    kind = _kind(layer)
    is_known = kind in _SAME_VALUES | _OWN_RANGE or kind in (*_KERNELS, "InputLayer")
    if not is_known or (kind == "Activation" and _activation(layer) not in _ACTIVATIONS):
        what = kind if kind != "Activation" else _activation(layer)
        raise InputError(
            "quantize_aware takes layers and activations that TFLite computes in int8. "
            f"Received: {layer.name!r} ({what})"
        )


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _consumers(layer: Any) -> list[Any]:
    return [node.layer for node in layer.outbound_nodes]


def _producer(layer: Any) -> Any:
    return layer.inbound_nodes[0].inbound_layers


def _outputs(layer: Any) -> list[Any]:
    return [layer.get_output_at(n) for n in range(len(layer.inbound_nodes))]


def _ones(entry: Any) -> Any:
    """A depthwise convolution that computes nothing, in the place of an entry."""
    ones = load_tf_keras().layers.DepthwiseConv2D(
        1, depthwise_initializer="ones", use_bias=False, trainable=False, name=entry.name
    )
    ones.build(entry.input_shape)
    return ones


def _fixed_range(layer: Any) -> Range | None:
    """What TFLite prescribes, and what relu6(x + 3) / 6 cannot leave."""
    if _kind(layer) != "Rescaling":
        return _FIXED.get(_activation(layer))
    is_sixth = np.ndim(layer.scale) == 0 and layer.scale == 1.0 / 6.0
    return (0.0, 1.0) if is_sixth and getattr(_producer(layer), "max_value", None) == 6 else None


def _activation(layer: Any) -> str:
    if _kind(layer) != "Activation":
        return _kind(layer).lower()
    name: str = layer.activation.__name__
    return name


def _is_relu(layer: Any) -> bool:
    if _kind(layer) == "Activation":
        return _activation(layer) == "relu"
    return _kind(layer) == "ReLU" and (
        (layer.max_value in (None, 6)) and layer.negative_slope == 0 and layer.threshold == 0
    )


def _ranges(model: Any, names: set[str], samples: list[np.ndarray]) -> dict[str, Range]:
    """The lowest and the highest value of the outputs of layers, zero included."""
    layers = [layer for layer in model.layers if layer.name in names]
    outputs = {layer.name: _outputs(layer) for layer in layers}
    reader = load_tf_keras().Model(model.input, outputs)
    ranges = dict.fromkeys(outputs, (0.0, 0.0))
    for batch in _batches(samples):
        values = reader(keras.tree.pack_sequence_as(model.input, batch), training=False)
        for name, (low, high) in ranges.items():
            arrays = [v.numpy() for v in keras.tree.flatten(values[name])]
            ranges[name] = (
                min(low, *(float(a.min()) for a in arrays)),
                max(high, *(float(a.max()) for a in arrays)),
            )
    return ranges


def _batches(samples: list[np.ndarray]) -> Iterator[list[np.ndarray]]:
    for start in range(0, len(samples[0]), _BATCH):
        yield [array[start : start + _BATCH] for array in samples]


def start_kernel_ranges(model: Any) -> None:
    """Puts the range of each kernel to its largest magnitude, by channel where it has such.

    Args:
        model: A model whose layers are wrapped.
    """
    for layer in model.layers:
        variables = {base_name(v): v for v in layer.weights}
        for name in ("kernel", "depthwise_kernel"):
            if f"{name}_max" not in variables:
                continue
            kernel, highest = variables[name].numpy(), variables[f"{name}_max"]
            channels = highest.shape.num_elements()
            largest = np.abs(kernel).reshape(-1, channels).max(axis=0).reshape(highest.shape)
            variables[f"{name}_min"].assign(-largest)
            highest.assign(largest)
