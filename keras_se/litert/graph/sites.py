"""SE gates in any TFLite file, found by the structure of its graph.

A site is the product of a feature map with one value per channel. That value traces back, through
vectors and one or two matrices, to a pooling over all positions of the same map or, in a cross
site, of another map. Names, order and number format of the operators do not matter.

Structure cannot separate two cases. On a map of one position the converter folds the pooling away,
so a gated linear unit of two matrices is SE. And SE along the rows of a channels-last map is SE
along the channels of a channels-first map.
"""

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from keras_se.errors import InputError
from keras_se.graph.visits import site_names
from keras_se.litert.graph.excitations import REPEATS, GatePath, gated_by
from keras_se.litert.graph.flatbuffer import LAYOUTS, SubGraph, TFLite, TFLiteModel
from keras_se.sites.site import PREFIXES, Site

_LARGEST_CODES = {"INT8": 127, "UINT8": 255, "INT16": 32767}


@dataclass(frozen=True)
class GateNode:
    """An SE site of a TFLite file, with its tensor indices.

    Attributes:
        site: The site, named by its ordinal among the operators.
        gate_tensor: Index of the tensor that holds the gates.
        feature_tensor: Index of the gated tensor.
        squeezed_tensor: Index of the tensor of which the gates are made; `None` if it is not one.
        product_tensor: Index of the product.
        quantized: Whether the gates are integer codes.
        operators: Names of the operators of the site, from the pooling to the product.
        positions: Indices of these operators in the sub-graph.
        subgraph: Index of the sub-graph.
    """

    site: Site
    gate_tensor: int
    feature_tensor: int
    squeezed_tensor: int | None
    product_tensor: int
    quantized: bool
    operators: tuple[str, ...]
    positions: tuple[int, ...]
    subgraph: int = 0


def file_sites(tflite: TFLite) -> list[Site]:
    """Returns the sites of a TFLite file, self and cross, in the order of its operators."""
    return [node.site for node in gate_nodes(tflite, kinds=tuple(PREFIXES))]


def operator_names(tflite: TFLite) -> list[str]:
    """Returns the operator names of the first sub-graph of a TFLite file."""
    main = TFLiteModel.of(tflite).graphs[0]
    return [operator.name for operator in main.operators]


def gate_nodes(tflite: TFLite, kinds: Collection[str] = ("self",)) -> list[GateNode]:
    """Returns the SE sites of a TFLite file, with their tensor indices."""
    if not set(kinds) <= set(PREFIXES):
        raise InputError(f"kinds must be of {list(PREFIXES)}. Received: kinds={kinds!r}")
    return [node for node in TFLiteModel.of(tflite).read(_nodes) if node.site.kind in kinds]


def float_operators(tflite: TFLite) -> list[str]:
    """Returns the operators of a file that compute in floating point."""
    return TFLiteModel.of(tflite).read(_in_float)


def main_nodes(tflite: TFLite, kinds: Collection[str] = ("self",)) -> list[GateNode]:
    """Returns the SE sites of the main sub-graph, by default those that gate their own map."""
    # A plain run computes no other sub-graph.
    return [node for node in gate_nodes(tflite, kinds) if node.subgraph == 0]


def precision(tflite: TFLite) -> str:
    """Returns the coarsest type in a file: `"int8"`, `"float16"` or `"float32"`."""
    types = set(TFLiteModel.of(tflite).read(_types))
    # A file of 16-bit activations has 8-bit weights.
    if types & {"INT4", *_LARGEST_CODES}:
        return "int8"
    return "float16" if "FLOAT16" in types else "float32"


def _types(graph: SubGraph) -> Iterator[str]:
    """Yields the types of floats and of codes of them."""
    for tensor in range(graph.tensors):
        kind = graph.type(tensor)
        if "FLOAT" in kind or graph.scale(tensor):
            yield kind


def gate_codes(tflite: TFLite) -> dict[str, tuple[float, float] | None]:
    """Returns, by site name, the step and ceiling of gates whose scale the format fixes."""
    return dict(TFLiteModel.of(tflite).read(_codes))


def _in_float(graph: SubGraph) -> Iterator[str]:
    for operator in graph.operators:
        is_float = any("FLOAT" in graph.type(output) for output in operator.outputs)
        if is_float and operator.name not in ("QUANTIZE", "DEQUANTIZE"):
            yield operator.name


def _codes(graph: SubGraph) -> Iterator[tuple[str, tuple[float, float] | None]]:
    for node in _nodes(graph):
        yield node.site.name, _code(graph, node)


def _code(graph: SubGraph, node: GateNode) -> tuple[float, float] | None:
    """Returns the step and ceiling of a gate; `None` unless the format fixes its scale."""
    chain = [graph.operators[position] for position in node.positions[:-1]]
    # TFLite fixes the output scale of these two; calibration sets all others.
    pinned = [n for n, operator in enumerate(chain) if operator.name in ("LOGISTIC", "TANH")]
    if not pinned:
        return None
    tensor = chain[pinned[-1]].outputs[0]
    after = {operator.name for operator in chain[pinned[-1] + 1 :]}
    # In 1 + tanh the ADD belongs to the gate; it moves the ceiling and keeps the step.
    one = node.site.gate == "one_plus_tanh"
    step = graph.scale(tensor)
    if not step or after - LAYOUTS - REPEATS - {"QUANTIZE", "ADD" if one else ""}:
        return None
    top = _LARGEST_CODES[graph.type(tensor)] - graph.zero_point(tensor)
    return step, step * top + one


def _nodes(graph: SubGraph) -> Iterator[GateNode]:
    """Yields the self and cross sites of a sub-graph, in the order of their products."""
    # Each kind counts on its own, so a cross site does not renumber the self sites.
    paths = itertools.repeat(graph.prefix)
    names = {kind: site_names(paths, prefix) for kind, prefix in PREFIXES.items()}
    needed = graph.needed
    for product in graph.operators:
        # A product that no output is made of gates nothing.
        path = gated_by(graph, product) if product.position in needed else None
        if path is not None:
            yield _node(graph, product.position, path, next(names[path.kind]))


def _node(graph: SubGraph, product: int, path: GatePath, name: str) -> GateNode:
    operators = dict(sorted({**path.operators, product: graph.operators[product]}.items()))
    site = Site(
        name=name,
        channels=path.channels,
        width=path.width,
        gate=path.function,
        after=graph.name(path.feature),
        layer=graph.name(path.gate),
        source="tflite",
        kind=path.kind,
        form=path.form,
        squeeze=path.squeeze,
    )
    return GateNode(
        site=site,
        gate_tensor=path.gate,
        feature_tensor=path.feature,
        squeezed_tensor=_squeezed(graph, path),
        product_tensor=operators[product].outputs[0],
        quantized="FLOAT" not in graph.type(path.gate),
        operators=tuple(operator.name for operator in operators.values()),
        positions=tuple(operators),
        subgraph=graph.index,
    )


def _squeezed(graph: SubGraph, path: GatePath) -> int | None:
    """Returns the one tensor that the operators of a site read from outside of it."""
    made = {tensor for operator in path.operators.values() for tensor in operator.outputs}
    read = {
        tensor for operator in path.operators.values() for tensor in graph.data_inputs(operator)
    }
    outside = read - made
    return outside.pop() if len(outside) == 1 else None
