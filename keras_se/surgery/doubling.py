"""Keeps the function of a network under a fresh gate of ½ by doubling the layer before it.

A block whose last kernel is zero multiplies by gate(0): ½ for `sigmoid` and `hard_sigmoid`. Doubled
weights restore the product to the last bit if every layer in between is positively homogeneous,
f(2x) = 2·f(x), and nothing else consumes the doubled tensor.
"""

from typing import Any

import keras
import numpy as np

from keras_se.graph.trace import Graph
from keras_se.layers import SEBlock, gates
from keras_se.surgery.placements import Edges

_HOMOGENEOUS = (  # exact types only: a subclass may compute anything
    SEBlock,  # a fresh block multiplies by a constant
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
    keras.layers.Dropout,
    keras.layers.LeakyReLU,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.PReLU,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
)
_LINEAR = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
)
_HOMOGENEOUS_ACTIVATIONS = (
    keras.activations.linear,
    keras.activations.relu,
    keras.activations.leaky_relu,
)


def rest_value(gate: Any) -> float | None:
    """Returns gate(0) if the layer before can compensate for it (½), else `None`."""
    # The other named gates rest at 0, which no factor can undo, or at 1, which needs none.
    return 0.5 if gates.get(gate).name in ("sigmoid", "hard_sigmoid") else None


def scalable_layer(whole: Graph, graph: Graph, producer: int, edges: Edges | None) -> Any:
    """Returns the layer whose weights scale only the gated tensor, or `None`."""
    n = producer
    if n < 0 or (edges is not None and not _takes_all(graph, n, edges)):
        return None
    while True:
        layer = graph.calls[n].layer
        # Doubled activations may overflow float16; a shared layer would double elsewhere, too.
        overflows = getattr(layer, "compute_dtype", "float32") == "float16"
        if overflows or _count(whole, layer) != 1:
            return None
        if can_scale(layer):
            return layer
        if not _is_homogeneous(layer):
            return None
        before = [graph.producers.get(t) for t in graph.calls[n].inputs if t in graph.producers]
        if len(before) != 1 or before[0] is None or graph.sole_consumer(before[0]) != n:
            return None
        n = before[0]


def scale(layer: Any, factor: float) -> None:
    """Multiplies the weights of a layer so that its output scales by `factor`."""
    if isinstance(layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization):
        variables = [layer.gamma, layer.beta]
    else:
        variables = [layer.kernel, layer.bias if layer.use_bias else None]
    for variable in variables:
        if variable is not None:
            variable.assign(np.asarray(variable.numpy()) * factor)


def can_scale(layer: Any) -> bool:
    """Whether the weights of a layer can scale its output."""
    if type(layer) in (keras.layers.BatchNormalization, keras.layers.LayerNormalization):
        return layer.gamma is not None
    if type(layer) not in _LINEAR or layer.activation not in _HOMOGENEOUS_ACTIVATIONS:
        return False
    # The kernel of a quantized or LoRA layer is not a plain float variable.
    quantized = getattr(layer, "quantization_mode", None) is not None
    return not quantized and not getattr(layer, "lora_enabled", False)


def _is_homogeneous(layer: Any) -> bool:
    if type(layer) is keras.layers.ReLU:  # a cap or a threshold does not scale with the input
        return layer.max_value is None and not layer.threshold
    if type(layer) is keras.layers.Activation:
        return layer.activation in _HOMOGENEOUS_ACTIVATIONS
    return type(layer) in _HOMOGENEOUS


def _takes_all(graph: Graph, producer: int, edges: Edges) -> bool:
    tensor = graph.calls[producer].outputs[0]
    # A model output would show the doubling.
    return sorted(graph.consumers[id(tensor)]) == sorted(edges) and not graph.is_output(tensor)


def _count(graph: Graph, layer: Any) -> int:
    return sum(call.layer is layer for part in graph.family() for call in part.calls)
