"""Excitations in a TFLite graph: the operators from a pooling to the gates of a product."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from keras_se.litert.graph.flatbuffer import Operator, Shape, SubGraph
from keras_se.litert.graph.functions import gate_name
from keras_se.litert.graph.squeezes import (
    MAX_OPERATORS,
    Operators,
    is_weight,
    origin,
    squeeze,
    squeeze_name,
    squeeze_of_any,
)
from keras_se.sites.site import FORMS, Form

REPEATS = {"BROADCAST_TO", "TILE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"}
_FILLS = {"ADD": 0.0, "MUL": 1.0}  # repeat gates, too, with a constant of this value
MATRICES = {"CONV_2D", "CONV_3D", "FULLY_CONNECTED", "BATCH_MATMUL"}
_MAX_MATRICES = 2


@dataclass(frozen=True)
class GatePath:
    """The operators from a squeeze to the gates of a product.

    Attributes:
        kind: `"self"` if it pools the gated map, `"cross"` if it pools another one.
        gate: The tensor of the gates.
        feature: The gated tensor.
        function: Name of the gate.
        channels: Number of gates per sample.
        width: Units after the first matrix.
        form: `"two_matrices"` or `"one_matrix"`.
        squeeze: Name of the squeeze, or `"unknown"`.
        operators: By position, the operators from the pooling to the gates.
    """

    kind: str
    gate: int
    feature: int
    function: str
    channels: int
    width: int
    form: Form
    squeeze: str
    operators: Operators


def gated_by(graph: SubGraph, product: Operator) -> GatePath | None:
    """Returns the path to the gates of a product; `None` if neither factor holds gates."""
    if product.name != "MUL" or len(graph.data_inputs(product)) != 2:
        return None
    left, right = product.inputs
    for gate, feature in ((left, right), (right, left)):
        found = _gate_path(graph, product, gate, feature)
        if found is not None:
            return found
    return None


def _gate_path(graph: SubGraph, product: Operator, gate: int, feature: int) -> GatePath | None:
    shape = graph.shape(feature)
    gate, repeats = _unrepeated(graph, gate, len(shape))
    channel = _channel_axis(graph.shape(gate), shape)
    if channel is None or _is_mixture(graph, product.outputs[0], channel):
        return None
    traced = _traced(graph, gate, *origin(graph, feature, channel), batch=shape[0])
    if traced is None:
        return None
    kind, squeezing, excitation = traced
    operators = dict(sorted({**squeezing, **excitation}.items()))
    matrices = [o for o in excitation.values() if _is_matrix(graph, o, shape[0])]
    # On a map of one position one matrix is only a gated linear unit, not SE.
    is_folded = kind == "self" and _is_vector(shape, shape[0])
    fewest = _MAX_MATRICES if is_folded else 1
    depth = _depth(graph, gate, excitation, matrices)
    if not fewest <= depth <= _MAX_MATRICES:
        return None
    function = gate_name(graph, gate, operators.values(), matrices)
    # Another map may scale this one without a gate; only a known gate makes a cross site.
    if function is None or (kind == "cross" and function == "unknown"):
        return None
    return GatePath(
        kind=kind,
        gate=gate,
        feature=feature,
        function=function,
        channels=_length(graph.shape(gate), shape[0]),
        width=_length(graph.shape(matrices[0].outputs[0]), shape[0]),
        form=FORMS[depth],
        squeeze=squeeze_name(squeezing, excitation),
        operators={**operators, **repeats},
    )


def _unrepeated(graph: SubGraph, gate: int, rank: int) -> tuple[int, Operators]:
    """Returns the gates before they are repeated over the map, and the repeating operators."""
    repeats: Operators = {}
    tensor, operator = gate, graph.producers.get(gate)
    # The check of positions ends cycles in malformed files.
    while operator is not None and operator.position not in repeats:
        inputs = graph.data_inputs(operator)
        if not _may_repeat(graph, operator) or len(inputs) != 1:
            break
        repeats[operator.position] = operator
        (tensor,) = inputs
        shape = graph.shape(tensor)
        is_repeated = any(o.name != "RESHAPE" for o in repeats.values())
        if is_repeated and _is_vector(shape, graph.shape(gate)[0]) and len(shape) <= rank:
            return tensor, repeats
        operator = graph.producers.get(tensor)
    return gate, {}


def _may_repeat(graph: SubGraph, operator: Operator) -> bool:
    # The converter reshapes between two repetitions.
    if operator.name not in _FILLS:
        return operator.name in REPEATS | {"RESHAPE"}
    constants = [graph.values(i) for i in operator.inputs if i in graph.constants]
    return all(len(v) and (v == _FILLS[operator.name]).all() for v in constants)


def _is_mixture(graph: SubGraph, product: int, channel: int) -> bool:
    """Whether a product is only summed over its gates: they weigh branches, and no channels."""
    readers = [operator for operator in graph.operators if product in operator.inputs]
    summed = [graph.values(reader.inputs[1]) for reader in readers if reader.name == "SUM"]
    rank = len(graph.shape(product))
    axes = [[int(n) % rank for n in numbers] for numbers in summed]
    is_summed = product not in graph.outputs and len(readers) > 0
    return is_summed and axes == [[channel]] * len(readers)


def _channel_axis(gate: Shape, feature: Shape) -> int | None:
    """Returns the axis of a map along which the gates differ; `None` if there is none."""
    if not 2 < len(feature) >= len(gate):
        return None
    gate = (1,) * (len(feature) - len(gate)) + gate
    pairs = list(zip(gate, feature, strict=True))
    # An open batch is -1 in the map.
    fits = all(g in (1, f) for g, f in pairs) and (gate[0] == feature[0] or feature[0] < 0)
    axes = [n for n, (g, _) in enumerate(pairs) if g != 1 and n > 0]
    if not fits or len(axes) > 1:
        return None
    if axes and axes[0] not in (1, len(feature) - 1):
        return None  # no layout has its channels on this axis
    single = [n for n, size in enumerate(feature) if size == 1 and n > 0]
    return next(iter(axes or single[::-1]), None)


def _traced(
    graph: SubGraph, gate: int, source: int, channel: int, *, batch: int
) -> tuple[str, Operators, Operators] | None:
    """Returns the kind of a gate path, and the operators of its squeezes and its excitation.

    `None` if a branch has no pooling.
    """
    found: Operators = {}
    squeezes: Operators = {}
    kinds, to_visit = {"self"}, [gate]
    # The converter removes the pooling of a map of one position.
    is_folded = _is_vector(graph.shape(source), batch)
    while to_visit:
        tensor = to_visit.pop()
        if tensor == source and is_folded:
            continue
        operator = graph.producers.get(tensor)
        is_followed = operator is not None and _is_vector(graph.shape(tensor), batch)
        if operator is None or not is_followed or len(found) > MAX_OPERATORS:
            return None
        if operator.position in found:
            continue
        inputs = graph.data_inputs(operator)
        is_between = all(_is_vector(graph.shape(i), batch) for i in inputs)
        if is_between and not _takes_count(graph, operator, source):
            found[operator.position] = operator
            to_visit += inputs
            continue
        kind, squeezing = "self", squeeze(graph, tensor, source, channel)
        if squeezing is None:
            kind, squeezing = "cross", squeeze_of_any(graph, tensor, source)
        if squeezing is None or (is_folded and kind == "cross"):
            return None
        # Maps of two inputs are no map and its gates: one input modulates another, as in FiLM.
        if kind == "cross" and not _starts_of(graph, tensor) & _starts_of(graph, source):
            return None
        kinds.add(kind)
        squeezes |= squeezing
    # "cross" sorts first: one cross path makes a cross site.
    return min(kinds), squeezes, dict(sorted(found.items()))


def _starts_of(graph: SubGraph, tensor: int) -> set[int]:
    """Returns the inputs of the graph on which a tensor depends."""
    found, seen, to_visit = set[int](), set[int](), [tensor]
    while to_visit:
        tensor = to_visit.pop()
        operator = graph.producers.get(tensor)
        if operator is None:
            found.add(tensor)
        elif tensor not in seen:
            seen.add(tensor)
            to_visit += graph.data_inputs(operator)
    return found


def _takes_count(graph: SubGraph, operator: Operator, source: int) -> bool:
    """Whether an operator takes a vector and a weight per sample, such as a number of positions."""
    # Then it is part of a squeeze under a mask, and not of the excitation.
    inputs = graph.data_inputs(operator)
    single = [i for i in inputs if all(size == 1 for size in graph.shape(i)[1:])]
    return len(inputs) > 1 and any(is_weight(graph, i, source) for i in single)


def _is_vector(shape: Shape, batch: int) -> bool:
    """Whether a tensor has at most one axis besides the batch."""
    sizes = [size for size in shape if size != 1]
    if batch in sizes:
        sizes.remove(batch)
    elif batch > 1:  # a value over all samples is not a statistic of each
        return False
    return len(sizes) <= 1


def _length(shape: Shape, batch: int) -> int:
    """Returns the number of values of a vector per sample."""
    return abs(math.prod(shape)) // abs(batch)


def _is_matrix(graph: SubGraph, operator: Operator, batch: int) -> bool:
    """Whether an operator multiplies a whole vector by a matrix."""
    if operator.name not in MATRICES:
        return False
    shape = graph.shape(graph.data_inputs(operator)[0])
    # A convolution with fewer input channels slides along the vector.
    return operator.name == "BATCH_MATMUL" or shape[-1] == _length(shape, batch)


def _depth(graph: SubGraph, gate: int, operators: Operators, matrices: Iterable[Operator]) -> int:
    """Returns the most matrices on a path to the gate; 0 if one has two variable inputs."""
    # CBAM sends two squeezes through the same matrices, so count per path, not in total.
    positions = {matrix.position for matrix in matrices}
    depths: dict[int, int] = {}
    for operator in operators.values():
        inputs = graph.data_inputs(operator)
        if operator.name in MATRICES and len(inputs) != 1:
            return 0
        depth = max((depths.get(i, 0) for i in inputs), default=0)
        depths.update(dict.fromkeys(operator.outputs, depth + (operator.position in positions)))
    return depths.get(gate, 0)
