"""Keeps the function of a network under a fresh gate of ½ by doubling the layer before it.

A block whose last kernel is zero multiplies by gate(0): ½ for `sigmoid` and `hard_sigmoid`. Doubled
weights restore the product to the last bit if every layer in between is positively homogeneous,
f(2x) = 2·f(x), and nothing else consumes the doubled tensor.
"""

from typing import Any

import numpy as np

from keras_se.graph.trace import Graph
from keras_se.layers import SEBlock
from keras_se.surgery.placements import Edges
from keras_se.surgery.scaling import passes, scale_output, takes_output

_TWO = np.array([2.0])


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
        layer, (tensor, *_) = graph.calls[n].layer, graph.calls[n].outputs
        # Doubled activations may overflow float16; a shared layer would double elsewhere, too.
        uses = sum(call.layer is layer for part in whole.family() for call in part.calls)
        if getattr(layer, "compute_dtype", "float32") == "float16" or uses != 1:
            return None
        if takes_output(layer, _TWO, None, len(tensor.shape)):
            return layer
        # A fresh block multiplies by a constant.
        if type(layer) is not SEBlock and not passes(layer, _TWO, None, len(tensor.shape)):
            return None
        before = [graph.producers[t] for t in graph.calls[n].inputs if t in graph.producers]
        if len(before) != 1 or graph.sole_consumer(before[0]) != n:
            return None
        n = before[0]


def scale(layer: Any, factor: float) -> None:
    """Multiplies the weights of a layer so that its output scales by `factor`."""
    scale_output(layer, np.array([factor]))
