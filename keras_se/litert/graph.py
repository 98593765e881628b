"""SE gates in any TFLite file, found by the structure of its graph.

A site is a product of a feature map with one value per channel that traces back, through tensors
without spatial extent and one or two matrices (convolutions, fully connected layers), to a pooling
over all positions of a map: of the gated map itself, or, in a cross site, of another one. Names,
order and number format of the operators do not matter.

What cannot be told apart by structure: on a map of one position a gated linear unit of two matrices
is SE, its pooling folded away (one matrix is not enough there); and SE along the rows of a map with
channels last is SE along the channels of one with channels first.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from keras_se.errors import InputError
from keras_se.litert.flatbuffer import Operator, SubGraph, TFLite, read_bytes, read_graphs
from keras_se.litert.graph_excitations import REPEATS, Excitation, gated_by
from keras_se.sites import Site

__all__ = [
    "GateNode",
    "TFLite",
    "dead_tensors",
    "file_sites",
    "float_operators",
    "gate_codes",
    "gate_nodes",
    "main_nodes",
    "operator_names",
    "read_bytes",
]

_NAMES = {"self": "se", "cross": "cross"}
_SCALED_PRODUCTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL"}
_MAX_RESCALING = 256.0  # XNNPACK takes no larger input scale · filter scale / output scale
_LARGEST_CODES = {"INT8": 127, "UINT8": 255, "INT16": 32767}
_UNSCALED = {"RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS", "QUANTIZE"} | REPEATS


@dataclass(frozen=True)
class GateNode:
    """An SE site of a TFLite file, with the indices of its tensors in its sub-graph.

    Attributes:
        site: The site, its name an ordinal in the order of the operators.
        gate_tensor: Index of the tensor that holds the gates.
        feature_tensor: Index of the tensor that is gated.
        product_tensor: Index of the gated result.
        quantized: Whether the gates are integer codes.
        operators: Names of the operators of the site, from the pooling to the product.
        positions: Where these are among the operators of the sub-graph.
        subgraph: Index of the sub-graph.
    """

    site: Site
    gate_tensor: int
    feature_tensor: int
    product_tensor: int
    quantized: bool
    operators: tuple[str, ...]
    positions: tuple[int, ...]
    subgraph: int = 0


def file_sites(tflite: TFLite) -> list[Site]:
    """The SE sites of a TFLite file, in the order of its operators, both kinds.

    Sites of the main sub-graph are `se_1`, `se_2`, ..., those whose gates come from another map
    `cross_1`, ...; in a further sub-graph they begin with the key of its signature
    (`"encode/se_1"`), or with its number (`"subgraph_2/se_1"`) where it has none.

    Args:
        tflite: The bytes of the file, or its path.

    Returns:
        One `Site` per gated feature map; empty if there is none.

    Raises:
        InputError: If the file is not a TFLite file.
        MissingExtraError: If LiteRT is not installed.

    Example:
        >>> import keras
        >>> from keras_se import SEBlock, to_tflite
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> [(site.name, site.gate) for site in file_sites(to_tflite(model, "float32"))]
        [('se_1', 'sigmoid')]
    """
    return [node.site for node in gate_nodes(read_bytes(tflite), kinds=tuple(_NAMES))]


def operator_names(tflite: TFLite) -> list[str]:
    """The names of the operators of a TFLite file's first sub-graph, in their order.

    Args:
        tflite: The bytes of the file, or its path.

    Returns:
        Names as in the TFLite schema, such as `"CONV_2D"`.

    Raises:
        InputError: If the file is not a TFLite file.
        MissingExtraError: If LiteRT is not installed.
    """
    content = read_bytes(tflite)
    return read_graphs(content, lambda graphs: (o.name for o in graphs[0].operators))


def gate_nodes(content: bytes, kinds: Collection[str] = ("self",)) -> list[GateNode]:
    """The SE sites of a TFLite file, with the tensors to read them from.

    Args:
        content: The bytes of the file.
        kinds: Which sites to give: `"self"`, `"cross"`, or both.

    Returns:
        One `GateNode` per site, in the order of the sub-graphs and their operators.

    Raises:
        InputError: If the bytes do not hold a TFLite graph, or there is no such kind.
        MissingExtraError: If LiteRT is not installed.
    """
    if not set(kinds) <= set(_NAMES):
        raise InputError(f"kinds must be of {list(_NAMES)}. Received: kinds={kinds!r}")
    nodes = read_graphs(content, lambda graphs: (n for graph in graphs for n in _nodes(graph)))
    return [node for node in nodes if node.site.kind in kinds]


def dead_tensors(content: bytes) -> list[str]:
    """The activations of a quantized file that were almost zero on all calibration data.

    The converter gives them a scale so small that the default delegate of the runtime fails to
    prepare the file, and may bring the process down.

    Args:
        content: The bytes of the file.

    Returns:
        Names of tensors.

    Raises:
        InputError: If the bytes do not hold a TFLite graph.
        MissingExtraError: If LiteRT is not installed.
    """
    return read_graphs(content, lambda graphs: (n for graph in graphs for n in _dead(graph)))


def float_operators(content: bytes) -> list[str]:
    """The operators of a file that compute in floating point.

    Args:
        content: The bytes of the file.

    Returns:
        Their names; those that only convert from one type to another are none.

    Raises:
        InputError: If the bytes do not hold a TFLite graph.
        MissingExtraError: If LiteRT is not installed.
    """
    return read_graphs(content, lambda graphs: (n for graph in graphs for n in _in_float(graph)))


def main_nodes(content: bytes) -> list[GateNode]:
    """The SE sites that gate their own map in the main sub-graph: those that a plain run computes.

    Args:
        content: The bytes of the file.

    Returns:
        One `GateNode` per site, in the order of the operators.

    Raises:
        InputError: If the bytes do not hold a TFLite graph.
        MissingExtraError: If LiteRT is not installed.
    """
    return [node for node in gate_nodes(content) if node.subgraph == 0]


def gate_codes(content: bytes) -> dict[str, tuple[float, float] | None]:
    """The step and the ceiling that a file's format pins for its gates.

    Args:
        content: The bytes of the file.

    Returns:
        By site name, the distance of two codes of the sigmoid or tanh, and the largest gate that
        they hold; `None` in floating point and for gates that calibration gives a range.

    Raises:
        InputError: If the bytes do not hold a TFLite graph.
        MissingExtraError: If LiteRT is not installed.
    """
    return dict(read_graphs(content, _codes))


def _dead(graph: SubGraph) -> Iterator[str]:
    for operator in graph.operators:
        if operator.name in _SCALED_PRODUCTS:
            left, right = (graph.scale(i) for i in operator.inputs[:2])
            output = operator.outputs[0]
            if left * right >= _MAX_RESCALING * graph.scale(output) > 0.0:
                yield graph.name(output)


def _in_float(graph: SubGraph) -> Iterator[str]:
    for operator in graph.operators:
        is_float = any("FLOAT" in graph.type(output) for output in operator.outputs)
        if is_float and operator.name not in ("QUANTIZE", "DEQUANTIZE"):
            yield operator.name


def _codes(graphs: list[SubGraph]) -> Iterator[tuple[str, tuple[float, float] | None]]:
    for graph in graphs:
        for node in _nodes(graph):
            if node.site.kind == "self":
                yield node.site.name, _code(graph, node)


def _code(graph: SubGraph, node: GateNode) -> tuple[float, float] | None:
    """The step and the ceiling of a node's sigmoid or tanh, unless something rescales it."""
    chain = [graph.operators[position] for position in node.positions[:-1]]
    pinned = [n for n, operator in enumerate(chain) if operator.name in ("LOGISTIC", "TANH")]
    if not pinned:
        return None
    tensor = chain[pinned[-1]].outputs[0]
    after = {operator.name for operator in chain[pinned[-1] + 1 :]} - _UNSCALED
    one = node.site.gate == "one_plus_tanh"
    step = graph.scale(tensor)
    if not step or after - ({"ADD"} if one else set()):
        return None
    top = _LARGEST_CODES[graph.type(tensor)] - graph.zero_point(tensor)
    return step, step * top + one


def _nodes(graph: SubGraph) -> Iterator[GateNode]:
    """The sites of a sub-graph, both kinds, in the order of their products."""
    ordinals = dict.fromkeys(_NAMES, 0)
    for product in graph.operators:
        excitation = gated_by(graph, product)
        if excitation is not None:
            ordinals[excitation.kind] += 1
            name = f"{_NAMES[excitation.kind]}_{ordinals[excitation.kind]}"
            yield _node(graph, product, excitation, f"{graph.prefix}{name}")


def _node(graph: SubGraph, product: Operator, excitation: Excitation, name: str) -> GateNode:
    operators = dict(sorted({**excitation.operators, product.position: product}.items()))
    site = Site(
        name=name,
        channels=excitation.channels,
        width=excitation.width,
        gate=excitation.function,
        after=graph.name(excitation.feature),
        layer=graph.name(excitation.gate),
        source="tflite",
        kind=excitation.kind,
    )
    return GateNode(
        site=site,
        gate_tensor=excitation.gate,
        feature_tensor=excitation.feature,
        product_tensor=product.outputs[0],
        quantized="FLOAT" not in graph.type(excitation.gate),
        operators=tuple(operator.name for operator in operators.values()),
        positions=tuple(operators),
        subgraph=graph.index,
    )
