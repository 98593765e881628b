"""Recognizes the gate that a chain of TFLite operators computes, by its values.

The operators after the last matrices are evaluated on a grid, so it does not matter how a converter
writes the gate. Its shape identifies it, up to a scale and an offset of the input.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from keras_se.litert.graph.flatbuffer import CASTS, LAYOUTS, Operator, SubGraph
from keras_se.sites.recognition import GRID, recognized_gate


def gate_name(
    graph: SubGraph, gate: int, operators: Iterable[Operator], matrices: Iterable[Operator]
) -> str | None:
    """Returns the name of the gate, `"unknown"`, or `None` for a swish-like activation."""
    after = _after_matrices(graph, gate, operators, {m.position for m in matrices})
    values = _evaluated(graph, gate, after, matrices)
    if values is not None:
        return recognized_gate(values, is_quantized=graph.scale(gate) > 0.0)
    # Softmax mixes channels, so the grid cannot evaluate it; its operators identify it.
    names = {operator.name for operator in after}
    return "softmax" if "SOFTMAX" in names or {"EXP", "SUM", "DIV"} <= names else "unknown"


def _after_matrices(
    graph: SubGraph, gate: int, operators: Iterable[Operator], matrices: set[int]
) -> list[Operator]:
    wanted = {gate}
    after: list[Operator] = []
    for operator in sorted(operators, key=lambda o: o.position, reverse=True):
        if operator.position not in matrices and wanted.intersection(operator.outputs):
            wanted.update(graph.data_inputs(operator))
            after.insert(0, operator)
    return after


def _evaluated(
    graph: SubGraph, gate: int, after: Iterable[Operator], matrices: Iterable[Operator]
) -> np.ndarray | None:
    """Returns the gate on the grid; `None` if an operator is not element-wise."""
    known = {m.outputs[0]: _activated(m.activation, GRID) for m in matrices}
    for operator in after:
        function = _UNARY.get(operator.name) or _BINARY.get(operator.name)
        count = 2 if operator.name in _BINARY else 1
        given = [_argument(graph, known, i) for i in operator.inputs[:count]]
        if function is None or any(value is None for value in given):
            return None
        # The grid leaves the domain of LOG and SQRT, and EXP may overflow on it.
        with np.errstate(all="ignore"):
            values = function(*given)
        known.update(dict.fromkeys(operator.outputs, _activated(operator.activation, values)))
    gates = known.get(gate)
    return gates if gates is not None and np.isfinite(gates).all() else None


def _argument(graph: SubGraph, known: Mapping[int, np.ndarray], tensor: int) -> np.ndarray | None:
    if tensor in graph.constants:  # one channel suffices: a bias is only an offset
        values = graph.values(tensor)
        return np.full_like(GRID, values[0] if len(values) else 1.0)
    return known.get(tensor)


def _activated(activation: str, values: np.ndarray) -> np.ndarray:
    return np.asarray(_UNARY[activation](values) if activation else values)


def _logistic(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


_Function = Callable[..., np.ndarray]
_UNARY: dict[str, _Function] = {
    **dict.fromkeys(CASTS | LAYOUTS | {"STRIDED_SLICE", "SLICE"}, lambda x: x),
    "LOGISTIC": _logistic,
    "TANH": np.tanh,
    "RELU": lambda x: np.maximum(x, 0.0),
    "RELU6": lambda x: np.clip(x, 0.0, 6.0),
    "RELU_N1_TO_1": lambda x: np.clip(x, -1.0, 1.0),
    "RELU_0_TO_1": lambda x: np.clip(x, 0.0, 1.0),
    "HARD_SWISH": lambda x: x * np.clip(x + 3.0, 0.0, 6.0) / 6.0,
    "GELU": lambda x: x * _logistic(1.702 * x),
    "EXP": np.exp,
    "NEG": np.negative,
    "ABS": np.abs,
    "SQUARE": np.square,
    "SQRT": np.sqrt,
    "RSQRT": lambda x: 1.0 / np.sqrt(x),
    "LOG": np.log,
}
_BINARY: dict[str, _Function] = {
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "DIV": np.divide,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "POW": np.power,
}
