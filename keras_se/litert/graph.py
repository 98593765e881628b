"""SE gates in any TFLite file, found by the structure of its graph.

A site is a product of a feature map with one value per channel that traces back, through tensors
without spatial extent and one or two convolutions or fully connected layers, to a pooling over all
positions of that same map.

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
_MAX_MATRICES = 2
_SCALED_PRODUCTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "MUL"}
_MAX_RESCALING = 256.0  # XNNPACK takes no larger input scale · filter scale / output scale
_WITHOUT_EFFECT = {"RESHAPE", "QUANTIZE", "DEQUANTIZE"}
_RELU, _RELU6 = 1, 3  # schema.fbs, ActivationFunctionType


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
        positions: Where these are among the operators of the file.
    """

    site: Site
    gate_tensor: int
    feature_tensor: int
    product_tensor: int
    quantized: bool
    operators: tuple[str, ...]
    positions: tuple[int, ...]


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
    return _parsed(content, _Graph.dead_tensors)


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
    return dict(_parsed(content, _Graph.gate_codes))


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
        types = schema.TensorType
        self._largest_codes = {types.INT8: 127, types.UINT8: 255, types.INT16: 32767}
        self._float_types = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16}
        self._names = {code: name for name, code in vars(builtin).items() if name.isupper()}
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        subgraph = model.subgraphs[0]
        self._codes, self._buffers = model.operatorCodes, model.buffers
        self._tensors, self._operators = subgraph.tensors, subgraph.operators
        self._producers = {
            int(i): (position, operator)
            for position, operator in enumerate(self._operators)
            for i in operator.outputs
        }

    def operator_names(self) -> Iterator[str]:
        return (self._name(operator) for operator in self._operators)

    def dead_tensors(self) -> Iterator[str]:
        for operator in self._operators:
            if self._name(operator) in _SCALED_PRODUCTS:
                left, right = (self._scale(int(i)) for i in operator.inputs[:2])
                output = int(operator.outputs[0])
                if left * right >= _MAX_RESCALING * self._scale(output) > 0.0:
                    yield self._tensor_name(output)

    def _scale(self, tensor: int) -> float:
        """The largest scale of a quantized tensor, 0 for others."""
        quantization = self._tensors[tensor].quantization
        scales = None if quantization is None else quantization.scale
        return 0.0 if scales is None or len(scales) == 0 else float(max(scales))

    def gate_codes(self) -> Iterator[tuple[str, tuple[float, float] | None]]:
        for node in self.gate_nodes():
            pinned = [
                int(self._operators[position].outputs[0])
                for position, name in zip(node.positions, node.operators, strict=True)
                if name in ("LOGISTIC", "TANH")
            ]
            step = self._scale(pinned[-1]) if pinned else 0.0
            if not step:
                yield node.site.name, None
                continue
            tensor = self._tensors[pinned[-1]]
            top = self._largest_codes[tensor.type] - int(tensor.quantization.zeroPoint[0])
            yield node.site.name, (step, step * top + (node.site.gate == "one_plus_tanh"))

    def gate_nodes(self) -> Iterator[GateNode]:
        found = 0
        for position, product in enumerate(self._operators):
            node = self._gate_node(position, product, f"se_{found + 1}")
            if node is not None:
                found += 1
                yield node

    def _gate_node(self, position: int, product: Any, name: str) -> GateNode | None:
        if self._name(product) != "MUL":
            return None
        left, right = (int(i) for i in product.inputs)
        for gate, feature in ((left, right), (right, left)):
            chain = self._excitation(gate, feature)
            if chain is not None:
                return self._node(name, gate, feature, {**chain, position: product})
        return None

    def _excitation(self, gate: int, feature: int) -> dict[int, Any] | None:
        """By position, the operators from a pooling of `feature` to the gate, or None."""
        if not self._is_per_channel(gate, feature):
            return None
        source, found, matrices = self._unquantized(feature), {}, 0
        to_visit = [gate]
        while to_visit:
            tensor = to_visit.pop()
            if self._is_map_of_one(tensor, source):
                continue
            if tensor not in self._producers or not self._is_vector(tensor):
                return None
            position, operator = self._producers[tensor]
            if position in found:
                continue
            found[position] = operator
            matrices += self._name(operator) in _MATRICES
            if matrices > _MAX_MATRICES:
                return None
            pooling = self._pooling(operator, source)
            if pooling is None:
                to_visit += self._data_inputs(operator)
            else:
                found |= pooling
        return {position: found[position] for position in sorted(found)} if matrices else None

    def _pooling(self, operator: Any, source: int) -> dict[int, Any] | None:
        """The operators before a pooling: none, or those that square the deviation from the mean.

        By position; `None` if the operator is no pooling of `source`.
        """
        if self._name(operator) not in _POOLS:
            return None
        pooled = self._unquantized(int(operator.inputs[0]))
        if pooled == source:
            return {}
        before = self._squared_deviation(pooled)
        if not before:
            return None
        *_, difference = before.values()
        inputs = {self._unquantized(int(i)) for i in difference.inputs}
        if source not in inputs:
            return None
        means = (self._producers[i] for i in inputs - {source} if i in self._producers)
        return {**before, **dict(means)}

    def _squared_deviation(self, tensor: int) -> dict[int, Any]:
        """By position, the operators that make a squared difference, the subtraction last."""
        position, operator = self._producers.get(tensor, (-1, None))
        if operator is None or self._name(operator) not in ("SQUARED_DIFFERENCE", "SQUARE"):
            return {}
        found = {position: operator}
        if self._name(operator) == "SQUARE":
            difference = self._unquantized(int(operator.inputs[0]))
            position, operator = self._producers.get(difference, (-1, None))
            if operator is None or self._name(operator) != "SUB":
                return {}
            found[position] = operator
        return found

    def _is_map_of_one(self, tensor: int, source: int) -> bool:
        """Whether `tensor` is the gated map itself, of one position: its pooling is folded away."""
        return self._unquantized(tensor) == source and self._is_vector(source)

    def _is_vector(self, tensor: int) -> bool:
        return sum(size > 1 for size in self._shape(tensor)) <= 1

    def _is_per_channel(self, gate: int, feature: int) -> bool:
        gate_shape, shape = self._shape(gate), self._shape(feature)
        fits = all(g in (1, f) for g, f in zip(gate_shape, shape, strict=False))
        return len(gate_shape) == len(shape) > 2 and fits and self._is_vector(gate)

    def _matrices(self, chain: Iterable[Any]) -> list[Any]:
        return [operator for operator in chain if self._name(operator) in _MATRICES]

    def _data_inputs(self, operator: Any) -> list[int]:
        """The inputs that are not constants."""
        return [int(i) for i in operator.inputs if i >= 0 and not self._is_constant(int(i))]

    def _unquantized(self, tensor: int) -> int:
        seen: set[int] = set()
        while tensor in self._producers and tensor not in seen:
            seen.add(tensor)
            _, operator = self._producers[tensor]
            if self._name(operator) not in ("QUANTIZE", "DEQUANTIZE"):
                break
            tensor = int(operator.inputs[0])
        return tensor

    def _node(self, name: str, gate: int, feature: int, operators: dict[int, Any]) -> GateNode:
        *chain, product = operators.values()
        first_matrix = self._matrices(chain)[0]
        site = Site(
            name=name,
            channels=math.prod(self._shape(gate)),
            width=math.prod(self._shape(int(first_matrix.outputs[0]))),
            gate=self._gate_name(chain),
            after=self._tensor_name(feature),
            layer=self._tensor_name(gate),
            source="tflite",
        )
        return GateNode(
            site=site,
            gate_tensor=gate,
            feature_tensor=feature,
            product_tensor=int(product.outputs[0]),
            quantized=self._tensors[gate].type not in self._float_types,
            operators=tuple(map(self._name, operators.values())),
            positions=tuple(operators),
        )

    def _gate_name(self, chain: list[Any]) -> str:
        last_matrix = self._matrices(chain)[-1]
        names = {self._name(operator) for operator in chain[chain.index(last_matrix) + 1 :]}
        fused = getattr(last_matrix.builtinOptions, "fusedActivationFunction", 0)
        names |= {name for code, name in ((_RELU, "RELU"), (_RELU6, "RELU6")) if fused == code}
        names -= _WITHOUT_EFFECT
        if "LOGISTIC" in names:
            return "sigmoid"
        if "TANH" in names:
            return "one_plus_tanh" if "ADD" in names else "tanh"
        if "SOFTMAX" in names or {"EXP", "SUM", "DIV"} <= names:
            return "softmax"
        if {"RELU6", "MUL"} <= names:
            return "hard_sigmoid"
        return "relu" if names == {"RELU"} else "unknown"

    def _name(self, operator: Any) -> str:
        code = self._codes[operator.opcodeIndex]
        return self._names[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def _shape(self, tensor: int) -> tuple[int, ...]:
        shape = self._tensors[tensor].shape
        return () if shape is None else tuple(int(size) for size in shape)

    def _is_constant(self, tensor: int) -> bool:
        """Whether a tensor is stored in the file, possibly as float16 to be made float32."""
        data = self._buffers[self._tensors[tensor].buffer].data
        if data is not None and len(data) > 0:
            return True
        operator = self._producer(tensor)
        if operator is None or self._name(operator) != "DEQUANTIZE":
            return False
        stored = self._buffers[self._tensors[int(operator.inputs[0])].buffer].data
        return stored is not None and len(stored) > 0

    def _producer(self, tensor: int) -> Any:
        return self._producers[tensor][1] if tensor in self._producers else None

    def _tensor_name(self, tensor: int) -> str:
        return bytes(self._tensors[tensor].name).decode("utf-8", "replace")
