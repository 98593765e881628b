"""Activations that are zero on all data of calibration: a quantized file with one does not load."""

from collections.abc import Iterator, Sequence

from keras_se.errors import InputError
from keras_se.litert.graph.flatbuffer import SubGraph, TFLite, TFLiteModel
from keras_se.litert.graph.sites import gate_nodes
from keras_se.sites.site import PREFIXES

_SCALED_PRODUCTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL"}
_MAX_RESCALING = 256.0  # XNNPACK needs input scale * filter scale / output scale below this


def check_alive(tflite: TFLite) -> None:
    """Raises `InputError` for a file with activations that calibration saw as almost zero."""
    # Their scale is so small that XNNPACK fails to prepare the file, or crashes the process.
    file = TFLiteModel.of(tflite)
    dead = dict(file.read(_dead))
    if not dead:
        return
    inside = {
        (node.subgraph, position): node.site.name
        for node in gate_nodes(file, tuple(PREFIXES))
        for position in node.positions
    }
    check_bottlenecks(list(dict.fromkeys(inside[at] for at in dead if at in inside)))
    raise InputError(
        "Every activation must be somewhere not zero on the data of calibration or training: "
        f"a file with a dead one does not load. Received: only zeros in {[*dead.values()]}"
    )


def check_bottlenecks(dead: Sequence[str]) -> None:
    """Raises `InputError` if sites have a bottleneck of nothing but zeros."""
    if dead:
        raise InputError(
            "The bottleneck of each SE site must be somewhere not zero on the data of calibration: "
            "an integer file with a dead one does not load. "
            f"Received: only zeros at {', '.join(dead)}, whose gates are constant in the float "
            "network already. Fold them into constants (keras_se.fold, keras-se fold, or deploy "
            "with fold), or train further, with a wider bottleneck (ratio=, divisor= or width=)"
        )


def _dead(graph: SubGraph) -> Iterator[tuple[tuple[int, int], str]]:
    """Yields the places of operators with an output of almost zeros, and its name."""
    for operator in graph.operators:
        if operator.name in _SCALED_PRODUCTS:
            left, right = (graph.scale(i) for i in operator.inputs[:2])
            output = operator.outputs[0]
            # The scale of a float tensor is 0.
            if left * right >= _MAX_RESCALING * graph.scale(output) > 0.0:
                yield (graph.index, operator.position), graph.name(output)
