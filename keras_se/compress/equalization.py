"""Cross-layer equalization: keeps outlier channels from using up the int8 range of a tensor."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_se.graph.inputs import fresh_inputs, packed_inputs
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Graph, trace
from keras_se.graph.visits import Visit, walk
from keras_se.layers import SEBlock
from keras_se.litert.inputs import batches, input_arrays, input_specs

_PASSING = (
    keras.layers.AveragePooling2D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Identity,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling2D,
    keras.layers.SpatialDropout2D,
    keras.layers.UpSampling2D,
    keras.layers.ZeroPadding2D,
)
_KERNELS = (
    keras.layers.Conv2D,
    keras.layers.Dense,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
)
_LARGEST = 1e4  # bound on the factor of a channel, up or down


def equalize(model: keras.Model, calibration: Any) -> keras.Model:
    """Rescales the channels of feature maps to similar ranges without changing the function.

    int8 has one range for all channels of a tensor. If a few channels are much larger than the
    rest, few steps remain for the others and for the gates that are squeezed from them. After a
    BatchNormalization and a ReLU, the scale of a channel is free: a factor that multiplies the
    channel there divides the kernels that use it next, including the first one of an SE block.

    Args:
        model: A built functional or Sequential model, channels last. The function does not change
            it.
        calibration: Representative inputs, shape (samples, *input shape), or a list or dictionary
            of them. They may have any size that the model takes.

    Returns:
        A new uncompiled model with the same layers, gates and outputs up to rounding, and other
        weights. Channels whose scale would affect the outputs, such as inputs of a sum, are
        unchanged.

    Raises:
        InputError: If the model is not a built graph of layers, or the data do not match it.

    Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction",
    arXiv 1906.04721, section 4.1, with measured ranges of activations.

    Example:
        >>> layers = keras.layers
        >>> model = keras.Sequential([keras.Input((2,)), layers.BatchNormalization(),
        ...                           layers.ReLU(), layers.Dense(1, kernel_initializer="ones")])
        >>> same = equalize(model, np.array([[1.0, 100.0], [2.0, 300.0]]))
        >>> [f"{weight:.2f}" for weight in same.layers[-1].kernel.numpy().ravel()]
        ['0.54', '6.62']
    """
    new_model = Rebuilding(trace(model, "equalize")).model()
    specs = input_specs(model, "equalize", any_size=True)
    samples = list(input_arrays(specs, calibration, "calibration").values())
    graph = Graph(new_model)
    places = [place for part in graph.family() for place in _places(part)]
    if places:
        for place, magnitudes in zip(places, _magnitudes(graph, places, samples), strict=True):
            _equalize(place, magnitudes)
    return new_model


@dataclass
class _Place:
    """A BatchNormalization with free channel scales, and the kernels that use its output.

    Attributes:
        layer: The BatchNormalization.
        is_rectified: Whether only the positive part of its output is used.
        kernels: Variables, each with the axis of its input channels.
    """

    layer: Any
    is_rectified: bool
    kernels: list[tuple[Any, int]] = field(default_factory=list)


def _places(graph: Graph) -> Iterator[_Place]:
    layers = [call.layer for call in graph.calls]
    for n, layer in enumerate(layers):
        if not isinstance(layer, keras.layers.BatchNormalization) or layers.count(layer) != 1:
            continue
        # A factor per channel needs gamma and beta, both on the axis of the channels.
        (output,) = graph.calls[n].outputs
        is_last = layer.axis in (-1, len(output.shape) - 1)
        if not is_last or layer.gamma is None or layer.beta is None:
            continue
        consumers = [layers[c] for c, _ in graph.consumers.get(id(output), [])]
        place = _Place(layer, bool(consumers) and all(map(_rectifies, consumers)))
        if _follow(graph, n, layers, place):
            yield place


def _follow(graph: Graph, n: int, layers: list[Any], place: _Place) -> bool:
    """Return whether every use of the output of call `n` permits scaling; collect the kernels."""
    (output,) = graph.calls[n].outputs
    consumers = graph.consumers.get(id(output), [])
    if graph.is_output(output) or not consumers:
        return False
    for consumer, position in consumers:
        layer = layers[consumer]
        # A shared layer also receives tensors that keep the old scale.
        if position != 0 or layers.count(layer) != 1 or len(graph.calls[consumer].outputs) != 1:
            return False
        # A grouped kernel has only the channels of one group on axis -2.
        if isinstance(layer, _KERNELS) and getattr(layer, "groups", 1) == 1:
            is_separable = isinstance(layer, keras.layers.SeparableConv2D)
            place.kernels.append((layer.depthwise_kernel if is_separable else layer.kernel, -2))
            continue
        # w1 absorbs the factor, so the gates stay the same and the output keeps the new scale:
        # follow it on. A shift would be added without the factor.
        if isinstance(layer, SEBlock) and not layer.shift and layer.data_format == "channels_last":
            place.kernels.append((layer.w1, 0))
        elif not _passes(layer):
            return False
        if not _follow(graph, consumer, layers, place):
            return False
    return True


def _rectifies(layer: Any) -> bool:
    if isinstance(layer, keras.layers.Activation):
        return layer.activation is keras.activations.relu
    return isinstance(layer, keras.layers.ReLU) and layer.negative_slope == 0


def _passes(layer: Any) -> bool:
    """Return whether the layer commutes with a positive factor per channel."""
    if isinstance(layer, keras.layers.ReLU):
        return layer.max_value is None and layer.threshold == 0
    if isinstance(layer, keras.layers.Activation):
        free = (keras.activations.relu, keras.activations.leaky_relu, keras.activations.linear)
        return layer.activation in free
    return isinstance(layer, _PASSING) and getattr(layer, "data_format", None) != "channels_first"


def _magnitudes(graph: Graph, places: list[_Place], samples: list[np.ndarray]) -> list[np.ndarray]:
    """Measure the magnitude that counts for each channel of each place."""
    inputs, tensors = fresh_inputs(graph.model), {}

    def keep(visit: Visit) -> Any:
        tensors[id(visit.layer)] = outputs = visit.outputs()
        return outputs

    walk(graph, inputs, keep)
    reader = keras.Model(inputs, [tensors[id(place.layer)] for place in places])
    # The maximum and the negated minimum of each channel, batch by batch.
    extremes: list[list[np.ndarray]] = [[] for _ in places]
    for batch in batches(samples):
        outputs = keras.tree.flatten(reader(packed_inputs(graph.model, batch), training=False))
        for found, output in zip(extremes, outputs, strict=True):
            values = keras.ops.convert_to_numpy(output).reshape(-1, output.shape[-1])
            found.append(np.stack([values.max(axis=0), -values.min(axis=0)]))
    magnitudes = []
    for place, found in zip(places, extremes, strict=True):
        high, low = np.max(found, axis=0)
        # A ReLU cuts off the negative part. A channel that is never positive keeps its magnitude,
        # or its range would be zero.
        is_cut = place.is_rectified & (high > 0.0)
        magnitudes.append(np.where(is_cut, high, np.maximum(np.abs(high), np.abs(low))))
    return magnitudes


def _equalize(place: _Place, activations: np.ndarray) -> None:
    """Split the ranges of activations and kernels evenly between the two."""
    weights = np.zeros(len(activations))
    for variable, axis in place.kernels:
        kernel = np.abs(variable.numpy())
        others = tuple(a for a in range(kernel.ndim) if a != axis % kernel.ndim)
        # Relative to each kernel: its own scale must not outweigh the other kernels.
        weights = np.maximum(weights, kernel.max(axis=others) / max(kernel.max(), 1e-30))
    alive = (activations > 0.0) & (weights > 0.0)
    if not alive.any():
        return
    factors = np.ones(len(activations))
    factors[alive] = np.sqrt(weights[alive] / activations[alive])
    # A factor common to all channels gains nothing in int8, so the median channel stays put.
    factors[alive] /= np.median(factors[alive])
    factors = np.clip(factors, 1.0 / _LARGEST, _LARGEST)
    for variable in (place.layer.gamma, place.layer.beta):
        variable.assign(variable.numpy() * factors)
    for variable, axis in place.kernels:
        shape = [-1 if a == axis % len(variable.shape) else 1 for a in range(len(variable.shape))]
        variable.assign(variable.numpy() / factors.reshape(shape))
