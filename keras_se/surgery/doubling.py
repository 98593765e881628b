"""Keeps the function of a network under a fresh gate of ½ by doubling the layer before it.

A block whose last kernel is zero multiplies by gate(0): ½ for `sigmoid` and `hard_sigmoid`. Doubled
weights restore the product to the last bit if every layer in between is positively homogeneous,
f(2x) = 2·f(x), and nothing else consumes the doubled tensor.
"""

from typing import Any

import numpy as np
from keras import activations, layers

from keras_se.graph.trace import Graph
from keras_se.layers import SEBlock
from keras_se.surgery.placements import Edges

_HOMOGENEOUS = (  # exact types only: a subclass may compute anything
    SEBlock,  # a fresh block multiplies by a constant
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.Dropout,
    layers.LeakyReLU,
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.PReLU,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
)
_LINEAR = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.Dense,
)
_HOMOGENEOUS_ACTIVATIONS = (activations.linear, activations.relu, activations.leaky_relu)


def scalable_layer(whole: Graph, graph: Graph, producer: int, edges: Edges | None) -> Any:
    """Returns the layer whose weights scale only the gated tensor, or `None`."""
    n = producer
    if n < 0:
        return None
    tensor = graph.calls[n].outputs[0]
    # An output of the model, or a consumer other than the block, would show the doubling.
    if edges is not None and (
        sorted(graph.consumers[id(tensor)]) != sorted(edges) or graph.is_output(tensor)
    ):
        return None
    while True:
        layer = graph.calls[n].layer
        # Doubled activations may overflow float16; a shared layer would double elsewhere, too.
        uses = sum(call.layer is layer for part in whole.family() for call in part.calls)
        if getattr(layer, "compute_dtype", "float32") == "float16" or uses != 1:
            return None
        if _can_scale(layer):
            return layer
        if not _is_homogeneous(layer):
            return None
        before = [graph.producers[t] for t in graph.calls[n].inputs if t in graph.producers]
        if len(before) != 1 or graph.sole_consumer(before[0]) != n:
            return None
        n = before[0]


def scale(layer: Any, factor: float) -> None:
    """Multiplies the weights of a layer so that its output scales by `factor`."""
    is_normalization = isinstance(layer, layers.BatchNormalization | layers.LayerNormalization)
    weights = (layer.gamma, layer.beta) if is_normalization else (layer.kernel, layer.bias)
    for variable in weights:
        if variable is not None:
            variable.assign(np.asarray(variable.numpy()) * factor)


def _can_scale(layer: Any) -> bool:
    if type(layer) in (layers.BatchNormalization, layers.LayerNormalization):
        return layer.gamma is not None
    if type(layer) not in _LINEAR or layer.activation not in _HOMOGENEOUS_ACTIVATIONS:
        return False
    # The kernel of a quantized or LoRA layer is not a plain float variable.
    return not (getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False))


def _is_homogeneous(layer: Any) -> bool:
    if type(layer) is layers.ReLU:  # a cap or a threshold does not scale with the input
        return layer.max_value is None and not layer.threshold
    if type(layer) is layers.Activation:
        return layer.activation in _HOMOGENEOUS_ACTIVATIONS
    return type(layer) in _HOMOGENEOUS
