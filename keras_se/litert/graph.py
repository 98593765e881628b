"""SE gates in any TFLite file, found by the structure of its graph.

A site is a product of a feature map with one value per channel that traces back, through at most
two convolutions or fully connected layers, to a pooling over all positions of that same map.

Source: the TFLite schema (`schema.fbs`), read with the generated code that LiteRT ships.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from keras_se.errors import InputError, import_extra
from keras_se.sites import Site

TFLite = bytes | bytearray | str | os.PathLike[str]


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
        path = Path(tflite)
        if not path.is_file():
            raise InputError(f"A TFLite file must exist to be read. Received: {path}")
        content, source = path.read_bytes(), str(path)
    if content[4:8] != b"TFL3":
        raise InputError(f"A TFLite file holds 'TFL3' at byte 4. Received: {source}")
    return content


_POOLS = {"MEAN", "AVERAGE_POOL_2D", "SUM", "REDUCE_MAX"}
_MATRICES = {"CONV_2D", "FULLY_CONNECTED"}
_PASS_THROUGH = {
    *("RESHAPE", "EXPAND_DIMS", "SQUEEZE", "TRANSPOSE", "QUANTIZE", "DEQUANTIZE"),
    *("LOGISTIC", "TANH", "RELU", "RELU6", "HARD_SWISH", "RELU_0_TO_1"),
    *("ADD", "SUB", "MUL", "DIV", "MINIMUM", "MAXIMUM"),
}
_RELU6 = 3  # schema.fbs, ActivationFunctionType


@dataclass(frozen=True)
class GateNode:
    """An SE site of a TFLite file, with the indices of its tensors in the first sub-graph.

    Attributes:
        site: The site, its name an ordinal in the order of the operators.
        gate_tensor: Index of the tensor that holds the gates.
        feature_tensor: Index of the tensor that is gated.
        product_tensor: Index of the gated result.
        quantized: Whether the gates are integer codes.
        operators: Names of the operators of the site, from the pooling to the product.
    """

    site: Site
    gate_tensor: int
    feature_tensor: int
    product_tensor: int
    quantized: bool
    operators: tuple[str, ...]


def file_sites(tflite: TFLite) -> list[Site]:
    """The SE sites of a TFLite file, in the order of its operators.

    Args:
        tflite: The bytes of the file, or its path.

    Returns:
        One `Site` per gated feature map; empty if there is none.

    Raises:
        InputError: If the file is not a TFLite file.
        MissingExtraError: If LiteRT is not installed.
    """
    return [node.site for node in gate_nodes(read_bytes(tflite))]


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
    return _parsed(read_bytes(tflite), _Graph.operator_names)


def gate_nodes(content: bytes) -> list[GateNode]:
    """The SE sites of a TFLite file, with the tensors to read them from.

    Args:
        content: The bytes of the file.

    Returns:
        One `GateNode` per site, in the order of the operators.

    Raises:
        InputError: If the bytes do not hold a TFLite graph.
        MissingExtraError: If LiteRT is not installed.
    """
    return _parsed(content, _Graph.gate_nodes)


_T = TypeVar("_T")


def _parsed(content: bytes, read: "Callable[[_Graph], Iterable[_T]]") -> list[_T]:
    try:
        return list(read(_Graph(content)))
    except ImportError:
        raise
    except Exception as error:  # whatever a malformed table leads the generated reader into
        raise InputError(
            "A TFLite file must hold a graph that follows the schema. "
            f"Received: {len(content)} bytes; reading them gives {type(error).__name__}: {error}"
        ) from error


class _Graph:
    """The first sub-graph of a file, with the producer of each tensor."""

    def __init__(self, content: bytes) -> None:
        schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
        builtin = schema.BuiltinOperator
        self._float_types = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16}
        self._names = {code: name for name, code in vars(builtin).items() if name.isupper()}
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        subgraph = model.subgraphs[0]
        self._codes, self._buffers = model.operatorCodes, model.buffers
        self._tensors, self._operators = subgraph.tensors, subgraph.operators
        self._producers = {int(i): op for op in self._operators for i in op.outputs}

    def operator_names(self) -> Iterator[str]:
        return (self._name(operator) for operator in self._operators)

    def gate_nodes(self) -> Iterator[GateNode]:
        found = 0
        for product in self._operators:
            node = self._gate_node(product, f"se_{found + 1}")
            if node is not None:
                found += 1
                yield node

    def _gate_node(self, product: Any, name: str) -> GateNode | None:
        if self._name(product) != "MUL":
            return None
        left, right = (int(i) for i in product.inputs)
        for gate, feature in ((left, right), (right, left)):
            chain = self._excitation(gate, feature)
            if chain is not None:
                return self._node(name, gate, feature, product, chain)
        return None

    def _excitation(self, gate: int, feature: int) -> list[Any] | None:
        """The operators from the gate back to a pooling of `feature`, or None."""
        if not self._is_per_channel(gate, feature):
            return None
        chain: list[Any] = []
        tensor: int | None = gate
        while tensor is not None and tensor in self._producers:
            operator = self._producers[tensor]
            chain.append(operator)
            name = self._name(operator)
            if name in _POOLS:
                pooled = self._unquantized(int(operator.inputs[0]))
                is_site = pooled == self._unquantized(feature) and self._matrices(chain)
                return chain if is_site else None
            if name not in _MATRICES | _PASS_THROUGH or len(self._matrices(chain)) > 2:
                return None
            tensor = self._data_input(operator)
        return None

    def _is_per_channel(self, gate: int, feature: int) -> bool:
        gate_shape, shape = self._shape(gate), self._shape(feature)
        fits = all(g in (1, f) for g, f in zip(gate_shape, shape, strict=False))
        one_axis = sum(size > 1 for size in gate_shape) <= 1
        return len(gate_shape) == len(shape) > 2 and fits and one_axis

    def _matrices(self, chain: list[Any]) -> list[Any]:
        return [operator for operator in chain if self._name(operator) in _MATRICES]

    def _data_input(self, operator: Any) -> int | None:
        """The one input that is not a constant."""
        inputs = [int(i) for i in operator.inputs if i >= 0 and not self._is_constant(int(i))]
        return inputs[0] if len(inputs) == 1 else None

    def _unquantized(self, tensor: int) -> int:
        while self._name(self._producers.get(tensor)) in ("QUANTIZE", "DEQUANTIZE"):
            tensor = int(self._producers[tensor].inputs[0])
        return tensor

    def _node(self, name: str, gate: int, feature: int, product: Any, chain: list[Any]) -> GateNode:
        first_matrix = self._matrices(chain)[-1]
        site = Site(
            name=name,
            channels=math.prod(self._shape(gate)),
            width=math.prod(self._shape(int(first_matrix.outputs[0]))),
            gate=self._gate_name(chain),
            after=self._tensor_name(feature),
            layer=self._tensor_name(gate),
        )
        names = tuple(self._name(operator) for operator in [*reversed(chain), product])
        quantized = self._tensors[gate].type not in self._float_types
        return GateNode(site, gate, feature, int(product.outputs[0]), quantized, names)

    def _gate_name(self, chain: list[Any]) -> str:
        last_matrix = self._matrices(chain)[0]
        names = {self._name(operator) for operator in chain[: chain.index(last_matrix)]}
        if getattr(last_matrix.builtinOptions, "fusedActivationFunction", 0) == _RELU6:
            names.add("RELU6")
        if "LOGISTIC" in names:
            return "sigmoid"
        if "TANH" in names:
            return "one_plus_tanh" if "ADD" in names else "tanh"
        return "hard_sigmoid" if {"RELU6", "MUL"} <= names else "unknown"

    def _name(self, operator: Any) -> str:
        if operator is None:
            return ""
        code = self._codes[operator.opcodeIndex]
        return self._names[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def _shape(self, tensor: int) -> tuple[int, ...]:
        shape = self._tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def _is_constant(self, tensor: int) -> bool:
        data = self._buffers[self._tensors[tensor].buffer].data
        return data is not None and len(data) > 0

    def _tensor_name(self, tensor: int) -> str:
        return bytes(self._tensors[tensor].name).decode("utf-8", "replace")
