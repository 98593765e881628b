"""Keeps chosen SE sites in float32 inside an integer file.

A site computes in float32 where integer arithmetic would lose its gates:

    int8 map -> DEQUANTIZE -> MEAN ... gate -> MUL -> QUANTIZE -> int8 map

The float operators come from the float32 conversion of the model; the rest of the file stays. The
map and the product keep their codes, so this restores only what the site itself loses.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from keras_se.errors import InputError, import_extra
from keras_se.litert.graph.flatbuffer import CASTS, packed, unpacked
from keras_se.litert.graph.sites import GateNode, main_nodes


def keep_float(quantized: bytes, float32: bytes, sites: Sequence[str]) -> bytes:
    """Returns a quantized file with the named SE sites in float32."""
    nodes, float_nodes = (
        {node.site.name: node for node in main_nodes(content)} for content in (quantized, float32)
    )
    if _sizes(nodes) != _sizes(float_nodes):
        raise InputError(
            "keep_float needs two conversions of one model, with the same SE sites. "
            f"Received: {_sizes(nodes)} in the quantized file, {_sizes(float_nodes)} in the "
            "float32 file"
        )
    check_names(sites, list(nodes), "the quantized file")
    try:
        graft = _Graft(unpacked(quantized), unpacked(float32))
        for name in sites:
            graft.site(nodes[name], float_nodes[name])
        return graft.finished()
    except (InputError, ImportError):
        raise
    except Exception as error:  # a malformed table can raise anything here
        raise InputError(
            "keep_float needs files whose graphs follow the schema. "
            f"Received: {len(quantized)} and {len(float32)} bytes; changing them gives "
            f"{type(error).__name__}: {error}"
        ) from error


def check_names(names: Sequence[str], known: Sequence[str], of: str) -> None:
    """Raises `InputError` unless `names` are different names of known sites."""
    if isinstance(names, str) or not set(names) <= set(known) or len(set(names)) < len(names):
        raise InputError(
            f"keep_float must be a list of names of SE sites, each once; {of} has "
            f"{list(known)}. Received: {names if isinstance(names, str) else list(names)!r}"
        )


def _sizes(nodes: Mapping[str, GateNode]) -> dict[str, tuple[int, int]]:
    return {name: (node.site.channels, node.site.width) for name, node in nodes.items()}


class _Graft:
    """Replaces integer operators of one file by float operators of another."""

    def __init__(self, model: Any, source: Any) -> None:
        self._schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
        self._model, self._source = model, source
        self._graph, self._source_graph = model.subgraphs[0], source.subgraphs[0]
        self._operators, self._read_before = list(self._graph.operators), self._read()
        self._constants: dict[int, int] = {}  # by float tensor; shared by all sites
        types = self._schema.TensorType
        # By code type, the operator versions that support it.
        self._versions = {
            types.INT8: {"QUANTIZE": 1, "DEQUANTIZE": 2},
            types.INT16: {"QUANTIZE": 2, "DEQUANTIZE": 3},
        }

    def site(self, node: GateNode, float_node: GateNode) -> None:
        tensors = (node.feature_tensor, node.gate_tensor, node.product_tensor)
        if any(self._graph.tensors[i].type not in self._versions for i in tensors):
            raise InputError(
                "keep_float needs sites in int8 or int16. "
                f"Received: {node.site.name}, which is in float"
            )
        self._added: list[Any] = []
        copies = {float_node.feature_tensor: self._dequantized(node.feature_tensor)}
        for position in float_node.positions:
            self._copy(self._source_graph.operators[position], copies, node.site.name)
        # Other operators may read any tensor of the site: gates that are an output, or the
        # bottleneck of a shift. So make codes of all; `finished` drops those without a reader.
        codes = set()
        for operator, float_operator in self._operator_pairs(node, float_node):
            (tensor,), (float_tensor,) = _outputs(operator), _outputs(float_operator)
            if self._graph.tensors[tensor].type in self._versions:
                codes.add(tensor)
                self._convert("QUANTIZE", copies[float_tensor], tensor, of=tensor)
        self._insert(node.product_tensor, codes)

    def _insert(self, product: int, codes: set[int]) -> None:
        """Inserts the added operators at the product; removes the old producers of `codes`."""
        operators = self._graph.operators
        place = next(n for n, operator in enumerate(operators) if product in _outputs(operator))
        before, after = (
            [operator for operator in part if not _outputs(operator) & codes]
            for part in (operators[:place], operators[place:])
        )
        self._graph.operators = [*before, *self._added, *after]

    def _operator_pairs(self, node: GateNode, float_node: GateNode) -> Iterator[tuple[Any, Any]]:
        """Yields each operator of a site with its counterpart in the float file."""
        found, sources = _computing(node), _computing(float_node)
        if [name for name, _ in found] != [name for name, _ in sources]:
            raise InputError(
                "keep_float needs two conversions of one model, with the same operators in a site. "
                f"Received: {node.site.name} of {node.operators} in the quantized file, of "
                f"{float_node.operators} in the float32 file"
            )
        for (_, position), (_, source) in zip(found, sources, strict=True):
            yield self._operators[position], self._source_graph.operators[source]

    def finished(self) -> bytes:
        self._drop_unread()
        self._graph.operators = self._sorted()
        self._drop_tensors()
        self._drop_buffers()
        return packed(self._model)

    def _dequantized(self, tensor: int) -> int:
        """Adds a float32 tensor with the values of a quantized one."""
        values = copy.copy(self._graph.tensors[tensor])
        values.type, values.quantization = self._schema.TensorType.FLOAT32, None
        index = self._add_tensor(values)
        self._convert("DEQUANTIZE", tensor, index, of=tensor)
        return index

    def _convert(self, name: str, source: int, target: int, of: int) -> None:
        """Adds an operator between values and the codes of tensor `of`."""
        code, operator = self._schema.OperatorCodeT(), self._schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self._schema.BuiltinOperator, name)
        code.version = self._versions[self._graph.tensors[of].type][name]
        operator.opcodeIndex = self._code(code)
        operator.inputs, operator.outputs = [source], [target]
        self._added.append(operator)

    def _copy(self, operator: Any, copies: dict[int, int], site: str) -> None:
        """Copies an operator of the float file; `copies` maps its tensors to new ones."""
        added = copy.copy(operator)
        added.opcodeIndex = self._code(self._source.operatorCodes[operator.opcodeIndex])
        added.inputs = [self._input(int(i), copies, site) for i in operator.inputs]
        for i in _outputs(operator):
            copies[i] = self._add_tensor(copy.copy(self._source_graph.tensors[i]))
        added.outputs = [copies[int(i)] for i in operator.outputs]
        self._added.append(added)

    def _input(self, tensor: int, copies: dict[int, int], site: str) -> int:
        if tensor < 0:  # an omitted optional input
            return tensor
        if tensor in copies:
            return copies[tensor]
        if tensor not in self._constants:
            constant = copy.copy(self._source_graph.tensors[tensor])
            data = self._source.buffers[constant.buffer].data
            if data is None or len(data) == 0:
                raise InputError(
                    "A site to be kept in float32 must read its feature map and constants only. "
                    f"Received: {site}, which reads {bytes(constant.name).decode()!r}"
                )
            self._constants[tensor] = self._add_tensor(constant, data)
        return self._constants[tensor]

    def _add_tensor(self, tensor: Any, data: Any = None) -> int:
        """Appends a tensor under a unique name; without data it is an activation."""
        names, name = {bytes(t.name) for t in self._graph.tensors}, bytes(tensor.name)
        while name in names:
            name += b"/float32"
        tensor.name, tensor.buffer = name, 0  # schema.fbs: buffer 0 is empty
        if data is not None:
            tensor.buffer = len(self._model.buffers)
            buffer = self._schema.BufferT()
            buffer.data = data
            self._model.buffers.append(buffer)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _code(self, code: Any) -> int:
        """Returns the index of an operator code; appends it if it is missing."""
        # Versions count too: an older version of an operator may not know the type.
        codes = self._model.operatorCodes
        for index, known in enumerate(codes):
            if vars(known) == vars(code):
                return index
        codes.append(code)
        return len(codes) - 1

    def _read(self) -> set[int]:
        """Returns the tensors that an operator or the caller reads."""
        read = {int(i) for i in self._graph.outputs}
        return read.union(*(_inputs(operator) for operator in self._graph.operators))

    def _drop_unread(self) -> None:
        """Removes operators whose results have lost all their readers."""
        while True:
            read = self._read()
            # Operators that nothing read before stay: they are part of the original file.
            unread = self._read_before - read
            operators = self._graph.operators
            kept = [o for o in operators if _outputs(o) & read or not _outputs(o) & unread]
            if len(kept) == len(operators):
                return
            self._graph.operators = kept

    def _sorted(self) -> list[Any]:
        """Sorts the operators topologically, otherwise in their order."""
        # The added operators go to the place of the product, but others may read them earlier.
        producers = {i: o for o in self._graph.operators for i in _outputs(o)}
        done: dict[int, Any] = {}

        def visit(operator: Any) -> None:
            for tensor in sorted(_inputs(operator)):
                producer = producers.get(tensor)
                if producer is not None and id(producer) not in done:
                    visit(producer)
            done.setdefault(id(operator), operator)

        for operator in self._graph.operators:
            visit(operator)
        return list(done.values())

    def _drop_tensors(self) -> None:
        graph = self._graph
        # Indices change, so every table that refers to a tensor must change with them.
        tables = [(graph, "inputs"), (graph, "outputs")]
        for operator in graph.operators:
            tables += [(operator, "inputs"), (operator, "outputs")]
            if operator.intermediates is not None:
                tables.append((operator, "intermediates"))
        used = sorted({int(i) for owner, name in tables for i in getattr(owner, name) if i >= 0})
        place = {old: new for new, old in enumerate(used)}
        graph.tensors = [graph.tensors[i] for i in used]
        for owner, name in tables:
            # -1 stands for an omitted input.
            setattr(owner, name, [place.get(int(i), -1) for i in getattr(owner, name)])
        for signature in self._model.signatureDefs or ():
            if signature.subgraphIndex == 0:
                for entry in (*signature.inputs, *signature.outputs):
                    entry.tensorIndex = place[entry.tensorIndex]

    def _drop_buffers(self) -> None:
        model = self._model
        tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
        # Metadata refers to buffers too.
        users = [*tensors, *(model.metadata or ())]
        used = sorted({0, *(user.buffer for user in users)})
        place = {old: new for new, old in enumerate(used)}
        model.buffers = [model.buffers[i] for i in used]
        for user in users:
            user.buffer = place[user.buffer]


def _computing(node: GateNode) -> list[tuple[str, int]]:
    """Returns the operators of a site except casts, as names and positions."""
    pairs = zip(node.operators, node.positions, strict=True)
    return [(name, position) for name, position in pairs if name not in CASTS]


def _inputs(operator: Any) -> set[int]:
    return {int(i) for i in operator.inputs if i >= 0}


def _outputs(operator: Any) -> set[int]:
    return {int(i) for i in operator.outputs}
