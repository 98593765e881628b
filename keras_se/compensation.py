"""The function of a network kept where a fresh gate is ½: the layer before is doubled.

A block whose last kernel is zero gates by the gate's value at rest, gate(0): ½ for `sigmoid` and
`hard_sigmoid`. Doubling the weights of the layer before gives the product back, to the last bit,
wherever all that stands between is positively homogeneous, f(2x) = 2·f(x), such as ReLU and
pooling, and nothing else consumes what is doubled.
"""

from typing import Any

import keras
import numpy as np

from keras_se.layers import SEBlock, gates
from keras_se.placements import Edges
from keras_se.replay import Graph

_HOMOGENEOUS = (  # of these very types: a subclass may compute anything
    SEBlock,  # at rest
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
    """The value of a gate at rest where the layer before can make up for it.

    Args:
        gate: Identifier of a gate.

    Returns:
        ½ for `sigmoid` and `hard_sigmoid`, else `None`.

    Example:
        >>> rest_value("sigmoid")
        0.5
    """
    return 0.5 if gates.get(gate).name in ("sigmoid", "hard_sigmoid") else None


def scalable_layer(whole: Graph, graph: Graph, producer: int, edges: Edges | None) -> Any:
    """The layer whose weights scale what is gated, and nothing else.

    Args:
        whole: The graph of the model.
        graph: This graph, or the one nested in it that holds the site.
        producer: Index of the call whose output is gated; -1 for an input.
        edges: The consumers that get the gated tensor, `None` for all.

    Returns:
        A layer, or `None` if there is none.
    """
    n = producer
    if n < 0 or (edges is not None and not _takes_all(graph, n, edges)):
        return None
    while True:
        layer = graph.calls[n].layer
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
    """Multiplies the weights of a layer such that its output is multiplied.

    Args:
        layer: A layer for which `can_scale` holds.
        factor: The factor.
    """
    if isinstance(layer, keras.layers.BatchNormalization | keras.layers.LayerNormalization):
        variables = [layer.gamma, layer.beta]
    else:
        variables = [layer.kernel, layer.bias if layer.use_bias else None]
    for variable in variables:
        if variable is not None:
            variable.assign(np.asarray(variable.numpy()) * factor)


def can_scale(layer: Any) -> bool:
    """Whether the weights of a layer can scale its output.

    Args:
        layer: Any layer or operation.

    Returns:
        True for normalizations with a gamma, and linear layers with a homogeneous activation.
    """
    if type(layer) in (keras.layers.BatchNormalization, keras.layers.LayerNormalization):
        return layer.gamma is not None
    if type(layer) not in _LINEAR or layer.activation not in _HOMOGENEOUS_ACTIVATIONS:
        return False
    quantized = getattr(layer, "quantization_mode", None) is not None
    return not quantized and not getattr(layer, "lora_enabled", False)


def _is_homogeneous(layer: Any) -> bool:
    if type(layer) is keras.layers.ReLU:
        return layer.max_value is None and not layer.threshold
    if type(layer) is keras.layers.Activation:
        return layer.activation in _HOMOGENEOUS_ACTIVATIONS
    return type(layer) in _HOMOGENEOUS


def _takes_all(graph: Graph, producer: int, edges: Edges) -> bool:
    tensor = id(graph.calls[producer].outputs[0])
    return sorted(graph.consumers[tensor]) == sorted(edges) and tensor not in graph.outputs


def _count(graph: Graph, layer: Any) -> int:
    return sum(call.layer is layer for part in graph.family() for call in part.calls)
