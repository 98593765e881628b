"""Recognizes the gate that a chain of TFLite operators computes, by its values.

The operators after the last matrices are evaluated on a grid, so it does not matter how a converter
writes the gate. Its shape identifies it, up to a scale and an offset of the input.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from keras_se.litert.graph.flatbuffer import CASTS, LAYOUTS, Operator, SubGraph

_GRID = np.linspace(-64.0, 64.0, 1025)
_RANGES = {"sigmoid": (0.0, 1.0), "one_plus_tanh": (0.0, 2.0), "tanh": (-1.0, 1.0)}
_EDGE = 0.02  # part of the range by which quantized constants may move the ends of a gate
_STRAIGHT = 0.05  # largest distance from a straight line, in logits or as a part of the range


def gate_name(
    graph: SubGraph, gate: int, operators: Iterable[Operator], matrices: Iterable[Operator]
) -> str | None:
    """Returns the name of the gate, `"unknown"`, or `None` for a swish-like activation."""
    after = _after_matrices(graph, gate, operators, {m.position for m in matrices})
    values = _evaluated(graph, gate, after, matrices)
    if values is not None:
        return _recognized(values, quantized=graph.scale(gate) > 0.0)
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
    known = {m.outputs[0]: _activated(m.activation, _GRID) for m in matrices}
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
        return np.full_like(_GRID, values[0] if len(values) else 1.0)
    return known.get(tensor)


def _activated(activation: str, values: np.ndarray) -> np.ndarray:
    return np.asarray(_UNARY[activation](values) if activation else values)


def _recognized(values: np.ndarray, quantized: bool) -> str | None:
    low, high = float(values.min()), float(values.max())
    # Calibration lowers the upper clip of a quantized file to the largest gate that it saw.
    top = high if quantized and 0.0 < high < 1.0 else 1.0
    is_ramp = _is_straight(_inside(values / top))
    if is_ramp and abs(low) < _EDGE and abs(high - top) < _EDGE:
        return "hard_sigmoid"
    for name, (lowest, highest) in _RANGES.items():
        if _is_logistic((values - lowest) / (highest - lowest)):
            return name
    if low == 0.0 and high > 1.0 and values[-1] == high and _is_straight(values[values > 0.0]):
        return "relu" if (values[: len(values) // 4] == 0.0).all() else "unknown"
    # Swishes dip below zero and grow without bound: activations, not gates.
    dips = low < -_EDGE and abs(values[0]) < _EDGE and values[-1] > 6.0
    return None if dips else "unknown"


def _inside(values: np.ndarray) -> np.ndarray:
    return values[(values > _EDGE) & (values < 1.0 - _EDGE)]


def _is_logistic(values: np.ndarray) -> bool:
    """Whether values follow a logistic function from 0 to 1."""
    inside = _inside(values)
    if abs(values.min()) >= _EDGE or not 1.0 - _EDGE <= values.max() < 1.0 + _EDGE:
        return False
    # The logits of a logistic function are a straight line.
    return _is_straight(np.log(inside / (1.0 - inside)))


def _is_straight(values: np.ndarray) -> bool:
    if len(values) < 3:
        return False
    line = np.linspace(values[0], values[-1], len(values))
    return bool(np.abs(values - line).max() < _STRAIGHT)


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
