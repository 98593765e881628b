"""The tables of a TFLite file: its sub-graphs with their operators, shapes and constants.

Source: the TFLite schema (`schema.fbs`), read with the generated code that LiteRT ships.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from keras_se.errors import InputError, import_extra

TFLite = bytes | bytearray | str | os.PathLike[str]
Shape = tuple[int, ...]

_ACTIVATIONS = {1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6", 4: "TANH"}  # ActivationFunctionType
_REWRITTEN = {"QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE", "TRANSPOSE"}
_MAX_REWRITES = 8


def read_bytes(tflite: TFLite) -> bytes:
    """The bytes of a TFLite file.

    Args:
        tflite: The bytes themselves, or the path of the file.

    Returns:
        The bytes.

    Raises:
        InputError: If there is no such file, or it does not begin as a TFLite file does.

    Example:
        >>> read_bytes(b"not a model")
        Traceback (most recent call last):
        ...
        keras_se.errors.InputError: A TFLite file holds 'TFL3' at byte 4. Received: 11 bytes
    """
    if isinstance(tflite, bytes | bytearray):
        content, source = bytes(tflite), f"{len(tflite)} bytes"
    else:
        if not isinstance(tflite, str | os.PathLike):
            raise InputError(
                f"A TFLite file is given as bytes or as a path. Received: {type(tflite).__name__}"
            )
        path = Path(tflite)
        if not path.is_file():
            raise InputError(f"A TFLite file must exist to be read. Received: {path}")
        content, source = path.read_bytes(), str(path)
    if content[4:8] != b"TFL3":
        raise InputError(f"A TFLite file holds 'TFL3' at byte 4. Received: {source}")
    return content


@dataclass(frozen=True)
class Operator:
    """One operator of a sub-graph.

    Attributes:
        position: Where it is among the operators.
        name: As in the schema, such as `"CONV_2D"`.
        inputs: Indices of tensors; -1 for one that is left out.
        outputs: Indices of tensors.
        activation: Name of the activation that is fused into it; empty if there is none.
        options: Its own options, of the type that the schema has for it.
    """

    position: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: str
    options: Any


class SubGraph:
    """One sub-graph of a file: its operators, what makes each tensor, and which never change.

    Attributes:
        index: Which of the sub-graphs it is.
        prefix: What the names of its sites begin with; empty for the first.
        operators: In the order of the file.
        producers: By tensor, the operator that makes it.
        constants: Tensors that do not depend on the values of an input: those stored in the file,
            and what is computed from them, from variables or from shapes.
    """

    def __init__(self, schema: Any, model: Any, index: int) -> None:
        self.index = index
        self.prefix = _prefix(model, index)
        self._types = {code: name for name, code in vars(schema.TensorType).items()}
        self._tensors = model.subgraphs[index].tensors
        self._buffers = model.buffers
        names = {code: n for n, code in vars(schema.BuiltinOperator).items() if n.isupper()}
        codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
        self.operators = [
            _operator(position, operator, codes)
            for position, operator in enumerate(_items(model.subgraphs[index].operators))
        ]
        self.producers = {i: operator for operator in self.operators for i in operator.outputs}
        self.constants = self._found_constants()

    def _found_constants(self) -> set[int]:
        found = {i for i in range(len(_items(self._tensors))) if self._is_stored(i)}
        for operator in self.operators:
            if operator.name == "SHAPE" or found.issuperset(i for i in operator.inputs if i >= 0):
                found.update(operator.outputs)
        return found

    def _is_stored(self, tensor: int) -> bool:
        """Whether a tensor has data in the file, possibly behind its tables."""
        buffer = self._buffers[self._tensors[tensor].buffer]
        return len(_items(buffer.data)) > 0 or (buffer.offset > 1 and buffer.size > 0)

    def data_inputs(self, operator: Operator) -> list[int]:
        """The inputs of an operator that are not constants.

        Args:
            operator: One of `operators`.

        Returns:
            Indices of tensors.
        """
        return [i for i in operator.inputs if i >= 0 and i not in self.constants]

    def shape(self, tensor: int) -> Shape:
        """The shape of a tensor, -1 where a size is open.

        Args:
            tensor: Its index.

        Returns:
            Its sizes.
        """
        sizes, signature = (
            _integers(values)
            for values in (self._tensors[tensor].shape, self._tensors[tensor].shapeSignature)
        )
        return signature if len(signature) == len(sizes) else sizes

    def name(self, tensor: int) -> str:
        """The name of a tensor.

        Args:
            tensor: Its index.

        Returns:
            The name; bytes that are not UTF-8 are replaced.
        """
        return bytes(_items(self._tensors[tensor].name)).decode("utf-8", "replace")

    def type(self, tensor: int) -> str:
        """The type of a tensor.

        Args:
            tensor: Its index.

        Returns:
            Its name in the schema, such as `"INT8"`.
        """
        return str(self._types[self._tensors[tensor].type])

    def scale(self, tensor: int) -> float:
        """The largest scale of a quantized tensor.

        Args:
            tensor: Its index.

        Returns:
            The scale, 0 for a tensor that is not quantized.
        """
        quantization = self._tensors[tensor].quantization
        scales: Any = () if quantization is None else _items(quantization.scale)
        return float(max(scales)) if len(scales) else 0.0

    def zero_point(self, tensor: int) -> int:
        """The code that stands for zero in a quantized tensor.

        Args:
            tensor: Its index.

        Returns:
            The code, 0 for a tensor that is not quantized.
        """
        quantization = self._tensors[tensor].quantization
        points: Any = () if quantization is None else _items(quantization.zeroPoint)
        return int(points[0]) if len(points) else 0

    def values(self, tensor: int) -> np.ndarray:
        """The values of a constant, in real units where it is quantized per tensor.

        Args:
            tensor: Its index.

        Returns:
            A flat array; empty for what is computed, or is not stored as numbers.
        """
        for _ in range(_MAX_REWRITES):
            operator = self.producers.get(tensor)
            if operator is None or operator.name not in _REWRITTEN:
                break
            tensor = operator.inputs[0]
        data = _items(self._buffers[self._tensors[tensor].buffer].data)
        kind = self.type(tensor).lower()
        if len(data) == 0 or not kind.startswith(("float", "int", "uint")) or kind == "int4":
            return np.zeros(0)
        stored = np.frombuffer(bytes(data), np.dtype(kind))
        scale = self.scale(tensor)
        return (stored.astype("float64") - self.zero_point(tensor)) * scale if scale else stored


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
    """A vector of the file, empty where it is left out."""
    return () if values is None else values


def _integers(values: Any) -> tuple[int, ...]:
    return tuple(int(value) for value in _items(values))


def _prefix(model: Any, index: int) -> str:
    if index == 0:
        return ""
    keys = (s.signatureKey for s in _items(model.signatureDefs) if s.subgraphIndex == index)
    key = next(keys, None)
    return f"{bytes(key).decode('utf-8', 'replace')}/" if key else f"subgraph_{index}/"


def _check_size(model: Any, size: int) -> None:
    """Refuses tables that are listed over and over, which would take for ever to unpack."""
    listed = 0
    for index in range(model.SubgraphsLength()):
        graph = model.Subgraphs(index)
        listed += graph.TensorsLength() + graph.OperatorsLength()
        listed += sum(len(_items(graph.Tensors(n).Name())) for n in range(graph.TensorsLength()))
        if listed > size:
            raise ValueError(f"{listed} entries in {size} bytes")


_T = TypeVar("_T")


def read_graphs(content: bytes, read: Callable[[list[SubGraph]], Iterable[_T]]) -> list[_T]:
    """What a function reads from the sub-graphs of a file.

    Args:
        content: The bytes of the file.
        read: Takes the sub-graphs, the main one first.

    Returns:
        What `read` gives, as a list.

    Raises:
        InputError: If the bytes do not hold graphs that can be read to the end.
        MissingExtraError: If LiteRT is not installed.
    """
    schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
    try:
        _check_size(schema.Model.GetRootAs(content, 0), len(content))
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        return list(read([SubGraph(schema, model, n) for n in range(len(model.subgraphs))]))
    except Exception as error:  # whatever a malformed table leads the generated reader into
        raise InputError(
            "A TFLite file must hold a graph that follows the schema. "
            f"Received: {len(content)} bytes; reading them gives {type(error).__name__}: {error}"
        ) from error
