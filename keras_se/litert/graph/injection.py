"""Parts and twins of a float TFLite file that take gates, or a feature map, as inputs."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

from keras_se.litert.graph.flatbuffer import TFLiteModel, packed, unpacked
from keras_se.litert.graph.sites import GateNode

GATES = "keras_se_gates"  # prefix of the names of inputs


def with_gates_as_inputs(
    file: TFLiteModel, nodes: Sequence[GateNode], names: Iterable[tuple[str, int]]
) -> bytes:
    """Returns a twin of a float file whose gates are inputs of its main sub-graph.

    Args:
        file: The file.
        nodes: Its sites; the input of a site has its name behind a prefix.
        names: The inputs of the file, by the names that they get, as tensors.
    """
    model = unpacked(file.content)
    graph = model.subgraphs[0]
    # Without signatures an input has the name of its tensor.
    model.signatureDefs = []
    for name, tensor in names:
        graph.tensors[tensor].name = name.encode()
    for node in nodes:
        given = copy.copy(graph.tensors[node.gate_tensor])
        given.name, given.buffer = f"{GATES}_{node.site.name}".encode(), 0
        if len(given.shape) == 1:  # an input has an axis for the samples
            given.shape, given.shapeSignature = [1, *given.shape], None
        graph.tensors.append(given)
        index = len(graph.tensors) - 1
        # Only the site itself: other products may have the same gates, and gates may be outputs.
        for position in node.positions:
            operator = graph.operators[position]
            operator.inputs = [index if i == node.gate_tensor else int(i) for i in operator.inputs]
        graph.inputs = [*map(int, graph.inputs), index]
    return packed(model)


def excitation_of(file: TFLiteModel, node: GateNode) -> bytes | None:
    """Returns the part of a file from the map that a site squeezes to its gates.

    `None` if the gates are made of more than that one map.
    """
    needed = _needed(file, node)
    model = unpacked(file.content)
    graph = model.subgraphs[0]
    operators = [graph.operators[n] for n in needed]
    read = {int(i) for operator in operators for i in operator.inputs} - {node.squeezed_tensor}
    # The shape of the file's input, for one, may make that of the gates.
    if node.squeezed_tensor is None or read & {int(i) for i in graph.inputs}:
        return None
    model.signatureDefs, graph.operators = [], operators
    graph.inputs, graph.outputs = [node.squeezed_tensor], [node.gate_tensor]
    return packed(model)


def _needed(file: TFLiteModel, node: GateNode) -> list[int]:
    """Returns the positions of the operators between the squeezed map and the gates."""
    producers = file.graphs[0].producers
    found, to_visit = set[int](), [node.gate_tensor]
    while to_visit:
        tensor = to_visit.pop()
        operator: Any = producers.get(tensor)
        if tensor != node.squeezed_tensor and operator and operator.position not in found:
            found.add(operator.position)
            to_visit += [i for i in operator.inputs if i >= 0]
    return sorted(found)
