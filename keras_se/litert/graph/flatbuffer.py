"""Reads a TFLite file: its sub-graphs, or the whole file to be changed.

Source: the TFLite schema (`schema.fbs`), through the generated code that LiteRT ships.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.untrusted import read_file

Shape = tuple[int, ...]
_T = TypeVar("_T")

_ACTIVATIONS = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH"}  # ActivationFunctionType
# Operators that move values but do not compute with them.
CASTS = {"QUANTIZE", "DEQUANTIZE", "CAST"}
LAYOUTS = {"TRANSPOSE", "RESHAPE", "EXPAND_DIMS", "SQUEEZE"}
_MAX_MOVES = 8  # an operator of a malformed file can read its own output
_MAX_FILE = 2**33  # bytes; a flatbuffer ends at 2 GiB, and weights may lie behind it
_OUTSIDE = 1  # schema.fbs: larger offsets point to data behind the flatbuffer
_ALIGNMENT = 16  # schema.fbs: `force_align` of the data of a buffer


class TFLiteModel:
    """A TFLite file that is read and parsed once, for functions that take a file.

    Attributes:
        content: The bytes of the file.
    """

    def __init__(self, tflite: "TFLite") -> None:
        self.content = _read_bytes(tflite)

    @classmethod
    def of(cls, tflite: "TFLite") -> "TFLiteModel":
        """Returns a file as it is if it was parsed, or else from its bytes or its path."""
        return tflite if isinstance(tflite, cls) else cls(tflite)

    @cached_property
    def graphs(self) -> list["SubGraph"]:
        """The sub-graphs, the main one first."""
        schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
        model = self._parsed
        with _readable(self.content):
            return [SubGraph(schema, model, n) for n in range(len(model.subgraphs))]

    @cached_property
    def metadata(self) -> dict[bytes, bytes]:
        """The named buffers that no operator reads."""
        model = self._parsed
        with _readable(self.content):
            return {
                bytes(entry.name): bytes(_items(model.buffers[entry.buffer].data))
                for entry in _items(model.metadata)
            }

    @cached_property
    def _parsed(self) -> Any:
        schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
        with _readable(self.content):
            _check_size(schema.Model.GetRootAs(self.content, 0), len(self.content))
            model = schema.ModelT.InitFromPackedBuf(self.content, 0)
            _take_inside(model, self.content)
            return model

    def read(self, read: Callable[["SubGraph"], Iterable[_T]]) -> list[_T]:
        """Returns what a function finds in the sub-graphs, the main one first."""
        graphs = self.graphs
        # `read` may be a generator that fails only when it runs, so exhaust it here.
        with _readable(self.content):
            return [item for graph in graphs for item in read(graph)]


TFLite = bytes | bytearray | str | os.PathLike[str] | TFLiteModel


@contextmanager
def _readable(content: bytes) -> Iterator[None]:
    """Turns what the reader raises on a malformed table, which may be anything, into an error."""
    try:
        yield
    except Exception as error:
        raise InputError(
            "A TFLite file must hold a graph that follows the schema. "
            f"Received: {len(content)} bytes; reading them gives {type(error).__name__}: {error}"
        ) from error


def read_bytes(tflite: TFLite) -> bytes:
    """Returns the bytes of a TFLite file."""
    return TFLiteModel.of(tflite).content


def file_name(tflite: TFLite) -> str:
    """Returns the name of a file that is given by its path; empty for one in memory."""
    return Path(tflite).name if isinstance(tflite, str | os.PathLike) else ""


def _read_bytes(tflite: Any) -> bytes:
    if isinstance(tflite, bytes | bytearray):
        content, source = bytes(tflite), f"{len(tflite)} bytes"
    else:
        if not isinstance(tflite, str | os.PathLike):
            raise InputError(
                "A TFLite file must be given as bytes or as a path. "
                f"Received: {type(tflite).__name__}"
            )
        path = Path(tflite)
        if not path.is_file():
            raise InputError(f"A TFLite file must exist to be read. Received: {path}")
        content, source = _read_path(path), str(path)
    if content[4:8] != b"TFL3":
        raise InputError(f"A TFLite file holds 'TFL3' at byte 4. Received: {source}")
    return content


def _read_path(path: Path) -> bytes:
    try:
        return read_file(path, _MAX_FILE)
    except ValueError as error:
        raise InputError(f"A TFLite file must fit in memory. Received: {path}: {error}") from error


@dataclass(frozen=True)
class Operator:
    """One operator of a sub-graph.

    Attributes:
        position: Its index among the operators.
        name: Its name in the schema, such as `"CONV_2D"`.
        inputs: Tensor indices; -1 for an omitted input.
        outputs: Tensor indices.
        activation: Name of the fused activation; empty if there is none.
        options: Its builtin options, an object of the generated schema.
    """

    position: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: str
    options: Any


class SubGraph:
    """One sub-graph of a file: its operators, tensors and constants.

    Attributes:
        index: Its index among the sub-graphs.
        prefix: Prefix of the names of its sites; empty for the first.
        operators: In the order of the file.
        outputs: The tensors that it returns.
        producers: By tensor, the operator that computes it.
        constants: Tensors that do not depend on the value of an input: stored in the file, or
            computed from constants, variables or shapes.
    """

    def __init__(self, schema: Any, model: Any, index: int) -> None:
        self.index = index
        self.prefix = _prefix(model, index)
        self._types = {code: name for name, code in vars(schema.TensorType).items()}
        self._tensors = model.subgraphs[index].tensors
        self._buffers = model.buffers
        self.outputs = _integers(model.subgraphs[index].outputs)
        names = {code: n for n, code in vars(schema.BuiltinOperator).items() if n.isupper()}
        # The schema has two fields for the code; old files leave the wider one at 0.
        codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
        self.operators = [
            _operator(position, operator, codes)
            for position, operator in enumerate(_items(model.subgraphs[index].operators))
        ]
        self.producers = {i: operator for operator in self.operators for i in operator.outputs}
        self.constants = self._found_constants()

    @cached_property
    def needed(self) -> set[int]:
        """The positions of the operators that an output, or a state, is made of."""
        found = set[int]()
        # Operators without outputs, such as assignments to variables, are for what they do.
        ends = [operator for operator in self.operators if not operator.outputs]
        to_visit = [*self.outputs, *(i for operator in ends for i in operator.inputs)]
        while to_visit:
            operator = self.producers.get(to_visit.pop())
            if operator is not None and operator.position not in found:
                found.add(operator.position)
                to_visit += operator.inputs
        return found

    def _found_constants(self) -> set[int]:
        found = {i for i in range(self.tensors) if self._is_stored(i)}
        for operator in self.operators:
            # SHAPE reads no values. Operators without inputs, such as variables, pass too.
            if operator.name == "SHAPE" or found.issuperset(i for i in operator.inputs if i >= 0):
                found.update(operator.outputs)
        return found

    def _is_stored(self, tensor: int) -> bool:
        return len(_items(self._buffers[self._tensors[tensor].buffer].data)) > 0

    @property
    def tensors(self) -> int:
        """The number of tensors."""
        return len(_items(self._tensors))

    def data_inputs(self, operator: Operator) -> list[int]:
        """Returns the inputs of an operator that are not constants."""
        return [i for i in operator.inputs if i >= 0 and i not in self.constants]

    def shape(self, tensor: int) -> Shape:
        """Returns the shape of a tensor, with -1 for an unknown size."""
        # A quantizer may write a cast without the unknown sizes of what it casts.
        for _ in range(_MAX_MOVES):
            operator = self.producers.get(tensor)
            if operator is None or operator.name not in CASTS:
                break
            tensor = operator.inputs[0]
        sizes = _integers(self._tensors[tensor].shape)
        signature = _integers(self._tensors[tensor].shapeSignature)
        # Only the signature marks unknown sizes by -1, and a file may omit it.
        return signature if len(signature) == len(sizes) else sizes

    def name(self, tensor: int) -> str:
        """Returns the name of a tensor; replaces bytes that are not UTF-8."""
        return bytes(_items(self._tensors[tensor].name)).decode("utf-8", "replace")

    def type(self, tensor: int) -> str:
        """Returns the type of a tensor as the schema names it, such as `"INT8"`."""
        return str(self._types[self._tensors[tensor].type])

    def scale(self, tensor: int) -> float:
        """Returns the largest scale of a tensor, or 0 if it is not quantized."""
        scales = _items(getattr(self._tensors[tensor].quantization, "scale", None))
        return float(max(scales)) if len(scales) else 0.0

    def zero_point(self, tensor: int) -> int:
        """Returns the first zero point of a tensor, or 0 if it is not quantized."""
        points = _items(getattr(self._tensors[tensor].quantization, "zeroPoint", None))
        return int(points[0]) if len(points) else 0

    def values(self, tensor: int) -> np.ndarray:
        """Returns a constant as a flat, dequantized array; empty if it is not stored as numbers."""
        # Float16 files, for one, dequantize their weights.
        for _ in range(_MAX_MOVES):
            operator = self.producers.get(tensor)
            if operator is None or operator.name not in CASTS | LAYOUTS:
                break
            tensor = operator.inputs[0]
        data = _items(self._buffers[self._tensors[tensor].buffer].data)
        kind = self.type(tensor).lower()
        # NumPy has no int4.
        if len(data) == 0 or not kind.startswith(("float", "int", "uint")) or kind == "int4":
            return np.zeros(0)
        stored = np.frombuffer(bytes(data), np.dtype(kind))
        return dequantized(stored, self.scale(tensor), self.zero_point(tensor))


def dequantized(values: np.ndarray, scale: float, zero_point: int) -> np.ndarray:
    """Returns what integer codes stand for, as float32; values without a scale are no codes."""
    if scale == 0.0 or values.dtype.kind not in "iu":
        return values
    return (values.astype("float32") - zero_point) * np.float32(scale)


def _operator(position: int, operator: Any, codes: list[str]) -> Operator:
    options = operator.builtinOptions
    return Operator(
        position=position,
        name=codes[operator.opcodeIndex],
        inputs=_integers(operator.inputs),
        outputs=_integers(operator.outputs),
        activation=_ACTIVATIONS.get(getattr(options, "fusedActivationFunction", 0), ""),
        options=options,
    )


def _items(values: Any) -> Any:
    """Returns a vector of the file, or an empty tuple if it is omitted."""
    return () if values is None else values


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in _items(values))


def _prefix(model: Any, index: int) -> str:
    # Other sub-graphs have sites such as "encode/se_1" or, without a key, "subgraph_2/se_1".
    if index == 0:
        return ""
    keys = (s.signatureKey for s in _items(model.signatureDefs) if s.subgraphIndex == index)
    key = next(keys, None)
    return f"{bytes(key).decode('utf-8', 'replace')}/" if key else f"subgraph_{index}/"


def _check_size(model: Any, size: int) -> None:
    """Raises for a small file that refers to one table many times: it would unpack for hours."""
    listed = 0
    for entries in _entries(model):
        listed += entries
        if listed > size:
            raise ValueError(f"more than {size} entries in as many bytes")


def _entries(model: Any) -> Iterator[int]:
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        yield 1 + graph.InputsLength() + graph.OutputsLength()
        for n in range(graph.TensorsLength()):
            tensor = graph.Tensors(n)
            scaled = tensor.Quantization()
            scales = 0 if scaled is None else scaled.ScaleLength() + scaled.ZeroPointLength()
            yield 1 + len(_items(tensor.Name())) + tensor.ShapeLength() + scales
        for n in range(graph.OperatorsLength()):
            operator = graph.Operators(n)
            yield 1 + operator.InputsLength() + operator.OutputsLength()
    for n in range(model.SignatureDefsLength()):
        signature = model.SignatureDefs(n)
        yield 1 + signature.InputsLength() + signature.OutputsLength()


def unpacked(content: bytes) -> Any:
    """Unpacks a TFLite file to a `ModelT` that can be changed."""
    schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
    with _readable(content):
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        _take_inside(model, content)
    if model.externalBuffers:
        raise InputError(
            "A TFLite file must have all of its data in one file to be changed. "
            "Received: a file with external buffers"
        )
    return model


def _take_inside(model: Any, content: bytes) -> None:
    """Moves what a file keeps behind its flatbuffer into the objects: packing would lose it."""
    for buffer in _items(model.buffers):
        if buffer.offset > _OUTSIDE:
            buffer.data = _behind(content, buffer.offset, buffer.size)
            buffer.offset = buffer.size = 0
    for graph in model.subgraphs:
        for operator in _items(graph.operators):
            if operator.largeCustomOptionsOffset > _OUTSIDE:
                place = operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize
                operator.customOptions = _behind(content, *place)
                operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0


def _behind(content: bytes, offset: int, size: int) -> np.ndarray:
    if offset + size > len(content):
        raise ValueError(f"{size} bytes at {offset}")
    return np.frombuffer(content, "uint8", size, offset)


def with_outputs(tflite: TFLite, tensors: Iterable[int]) -> bytes:
    """Returns a file whose main sub-graph has more tensors among its outputs."""
    model = unpacked(read_bytes(tflite))
    add_outputs(model.subgraphs[0], tensors)
    return packed(model)


def add_outputs(graph: Any, tensors: Iterable[int]) -> None:
    """Adds tensors to the outputs of an unpacked sub-graph; one may be there already."""
    graph.outputs = list(dict.fromkeys([*map(int, graph.outputs), *tensors]))


def packed(model: Any) -> bytes:
    """Packs a `ModelT` to the bytes of a TFLite file."""
    flatbuffers: Any = import_extra("flatbuffers", "litert")

    class Builder(flatbuffers.Builder):
        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803
            # The generated `Pack` does not align the data of buffers, which are vectors of bytes.
            alignment = _ALIGNMENT if elemSize == 1 else alignment
            return super().StartVector(elemSize, numElems, alignment)

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
