"""Recognizes a gate by its values on a grid, in a model as in a file."""

import numpy as np

GRID = np.linspace(-64.0, 64.0, 1025)
_RANGES = {"sigmoid": (0.0, 1.0), "one_plus_tanh": (0.0, 2.0), "tanh": (-1.0, 1.0)}
_EDGE = 0.02  # part of the range by which quantized constants may move the ends of a gate
_STRAIGHT = 0.05  # largest distance from a straight line, in logits or as a part of the range


def recognized_gate(values: np.ndarray, is_quantized: bool = False) -> str | None:
    """The name of a gate from its values on the grid, up to a scale and an offset of its input.

    Returns `"unknown"` for other functions, and `None` for the swish-like ones: they are
    activations, and no gates.
    """
    low, high = float(values.min()), float(values.max())
    # Calibration lowers the upper clip of a quantized file to the largest gate that it saw.
    top = high if is_quantized and 0.0 < high < 1.0 else 1.0
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
