"""Keeps chosen parts of an integer file in float32: SE sites, and tensors with what makes them.

A site computes in float32 where integer arithmetic would lose its gates:

    int8 map -> DEQUANTIZE -> MEAN ... gate -> MUL -> QUANTIZE -> int8 map

The float operators come from the float32 file of the network; the rest of the file stays. Map and
product of a site keep their codes, so it alone restores only what the site itself loses. What the
layers before it lose comes back with their tensors: the operators that make and that read one
become float, and between them it has no codes.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_se.errors import InputError, import_extra
from keras_se.litert.graph.flatbuffer import CASTS, TFLite, TFLiteModel, packed, unpacked
from keras_se.litert.graph.sites import GateNode, main_nodes


def keep_float(
    quantized: bytes, float32: bytes, sites: Sequence[str], tensors: Sequence[str] = ()
) -> bytes:
    """Returns a quantized file with the named SE sites, and the named tensors, in float32.

    Tensors have the same names in both files, as converters and quantizers leave them. In the place
    of the float file another with more bits may stand, int16x8 for int8.
    """
    file, float_file = TFLiteModel(quantized), TFLiteModel(float32)
    nodes, float_nodes = (
        {node.site.name: node for node in main_nodes(read)} for read in (file, float_file)
    )
    if _sizes(nodes) != _sizes(float_nodes):
        raise InputError(
            "keep_float needs two conversions of one model, with the same SE sites. "
            f"Received: {_sizes(nodes)} in the quantized file, {_sizes(float_nodes)} in the "
            "float32 file"
        )
    check_names(sites, list(nodes), "the quantized file")
    pairs = [(nodes[name], float_nodes[name]) for name in sites]
    try:
        graft = _Graft(unpacked(quantized), unpacked(float32), counterparts(float_file, file))
        positions = set(graft.around(tensors))
        for node, float_node in pairs:
            positions.update(graft.site(node, float_node))
        graft.replace(positions)
        return graft.finished()
    except (InputError, ImportError):
        raise
    except Exception as error:  # a malformed table can raise anything here
        raise InputError(
            "keep_float needs files whose graphs follow the schema. "
            f"Received: {len(quantized)} and {len(float32)} bytes; changing them gives "
            f"{type(error).__name__}: {error}"
        ) from error


def counterparts(float32: TFLite, quantized: TFLite) -> dict[int, int]:
    """Returns the tensors of a float file that are in a quantized one, under the same name.

    If that holds values of codes, they are the codes.
    """
    graphs = [TFLiteModel.of(content).graphs[0] for content in (float32, quantized)]
    known, others = ({g.name(i): i for i in range(g.tensors)} for g in graphs)
    shape, other_shape = (graph.shape for graph in graphs)
    # A float output has the name, and its codes, which are what is replaced, have another.
    codes = {o.outputs[0]: o.inputs[0] for o in graphs[1].operators if o.name == "DEQUANTIZE"}
    return {
        i: codes.get(others[name], others[name])
        for name, i in known.items()
        if name in others and shape(i) == other_shape(others[name])
    }


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

    def __init__(self, model: Any, source: Any, known: Mapping[int, int]) -> None:
        self._schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
        self._model, self._source, self._known = model, source, dict(known)
        self._graph, self._source_graph = model.subgraphs[0], source.subgraphs[0]
        self._operators, self._read_before = list(self._graph.operators), self._read()
        self._constants: dict[int, int] = {}  # by float tensor
        self._copies: dict[int, int] = {}  # activations, by float tensor
        self._added: list[Any] = []
        types = self._schema.TensorType
        # By code type, the operator versions that support it.
        self._versions = {
            types.INT8: {"QUANTIZE": 1, "DEQUANTIZE": 2},
            types.INT16: {"QUANTIZE": 2, "DEQUANTIZE": 3},
        }

    def site(self, node: GateNode, float_node: GateNode) -> Iterable[int]:
        """Returns the operators of a site, and notes which tensors are which."""
        tensors = (node.feature_tensor, node.gate_tensor, node.product_tensor)
        if not all(map(self._has_codes, tensors)):
            raise InputError(
                "keep_float needs sites in int8 or int16. "
                f"Received: {node.site.name}, which is in float"
            )
        self._known[float_node.feature_tensor] = node.feature_tensor
        for operator, float_operator in self._operator_pairs(node, float_node):
            (tensor,), (float_tensor,) = _outputs(operator), _outputs(float_operator)
            self._known[float_tensor] = tensor
        return float_node.positions

    def around(self, names: Sequence[str]) -> Iterator[int]:
        """Yields the float operators that make or read one of the named tensors."""
        wanted = {
            n for n, t in enumerate(self._source_graph.tensors) if bytes(t.name).decode() in names
        }
        for position, operator in enumerate(self._source_graph.operators):
            # What the quantized file computes in float already stays as it is.
            codes = {self._known[i] for i in _outputs(operator) if i in self._known}
            is_near = (_inputs(operator) | _outputs(operator)) & wanted
            if is_near and codes and all(map(self._has_codes, codes)):
                yield position

    def replace(self, positions: Iterable[int]) -> None:
        """Puts float operators in the place of those that make the same tensors."""
        makers: dict[int, Any] = {}
        for position in sorted(positions):
            operator = self._source_graph.operators[position]
            self._copy(operator)
            # Other operators may read any of them, as gates that are an output; `finished` drops
            # those without a reader.
            for float_tensor in _outputs(operator) & set(self._known):
                tensor = self._known[float_tensor]
                if self._has_codes(tensor):
                    self._convert("QUANTIZE", self._copies[float_tensor], tensor)
                    makers[tensor] = self._added[-1]
        # In the old places, for the order of parallel sites tells their names.
        self._graph.operators = [
            new
            for operator in self._graph.operators
            for new in [makers[i] for i in sorted(_outputs(operator) & set(makers))] or [operator]
        ]
        self._join(makers)

    def _join(self, makers: Mapping[int, Any]) -> None:
        """Gives values without codes in between to what the file read as values of codes."""
        left, dequantize = dict(makers), self._schema.BuiltinOperator.DEQUANTIZE
        for operator in list(self._graph.operators):
            code = self._model.operatorCodes[operator.opcodeIndex]
            if max(code.builtinCode, code.deprecatedBuiltinCode) != dequantize:
                continue
            codes, target = int(operator.inputs[0]), int(operator.outputs[0])
            maker = left.pop(codes, None)  # a second reader keeps the codes
            if maker is None:
                continue
            (wide,) = _inputs(maker)
            if self._graph.tensors[wide].type != self._graph.tensors[target].type:
                continue
            for other in self._added:
                other.inputs = [target if i == wide else i for i in other.inputs]
                other.outputs = [target if i == wide else i for i in other.outputs]
            self._copies = {i: target if n == wide else n for i, n in self._copies.items()}
            self._graph.operators.remove(operator)

    def _has_codes(self, tensor: int) -> bool:
        return self._graph.tensors[tensor].type in self._versions

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
        self._graph.operators = self._sorted()
        self._drop_unread()
        self._drop_tensors()
        self._drop_buffers()
        return packed(self._model)

    def _entered(self, own: int, tensor: int) -> int:
        """Adds a tensor of the source with the values of a quantized one."""
        values = copy.copy(self._source_graph.tensors[tensor])
        is_float = values.type not in self._versions
        index = self._add_tensor(values)
        self._convert("DEQUANTIZE" if is_float else "QUANTIZE", own, index)
        return index

    def _convert(self, name: str, source: int, target: int) -> None:
        """Adds an operator between values and codes, or between codes."""
        code, operator = self._schema.OperatorCodeT(), self._schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self._schema.BuiltinOperator, name)
        types = [self._graph.tensors[tensor].type for tensor in (source, target)]
        code.version = max(self._versions[t][name] for t in types if t in self._versions)
        operator.opcodeIndex = self._code(code)
        operator.inputs, operator.outputs = [source], [target]
        self._added.append(operator)

    def _copy(self, operator: Any) -> None:
        """Copies an operator of the float file."""
        added = copy.copy(operator)
        added.opcodeIndex = self._code(self._source.operatorCodes[operator.opcodeIndex])
        added.inputs = [self._input(int(i)) for i in operator.inputs]
        for i in _outputs(operator):
            self._copies[i] = self._add_tensor(copy.copy(self._source_graph.tensors[i]))
        added.outputs = [self._copies[int(i)] for i in operator.outputs]
        self._added.append(added)

    def _input(self, tensor: int) -> int:
        if tensor < 0:  # an omitted optional input
            return tensor
        if tensor in self._copies:
            return self._copies[tensor]
        constant = copy.copy(self._source_graph.tensors[tensor])
        data = self._source.buffers[constant.buffer].data
        if data is not None and len(data):
            if tensor not in self._constants:
                self._constants[tensor] = self._add_tensor(constant, data)
            return self._constants[tensor]
        if tensor not in self._known:
            raise InputError(
                "What is kept in float32 must read constants, and tensors that the quantized file "
                f"has, too. Received: {bytes(constant.name).decode()!r}, which it has not"
            )
        own = self._known[tensor]
        if self._has_codes(own):
            own = self._copies[tensor] = self._entered(own, tensor)
        return own

    def _add_tensor(self, tensor: Any, data: Any = None) -> int:
        """Appends a tensor under a unique name; without data it is an activation."""
        names, name = {bytes(t.name) for t in self._graph.tensors}, bytes(tensor.name)
        while name in names:
            name += b"/wide"
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
            added = {i for operator in self._added for i in _outputs(operator)}
            unread = (self._read_before | added) - read
            operators = self._graph.operators
            kept = [o for o in operators if _outputs(o) & read or not _outputs(o) & unread]
            if len(kept) == len(operators):
                return
            self._graph.operators = kept

    def _sorted(self) -> list[Any]:
        """Sorts the operators topologically, the added ones before what reads them."""
        operators = [*self._added, *self._graph.operators]
        producers = {i: operator for operator in operators for i in _outputs(operator)}
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
