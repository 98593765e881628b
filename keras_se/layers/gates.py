"""Gates: functions that map an excitation to a factor per channel.

`GATES` holds the function of each gate and facts about it, by the name that is used in
`SEBlock(gate=...)`, in configurations, in search spaces and on the command line. A custom gate is a
function or an object registered with `keras.saving.register_keras_serializable`. It takes pre-gate
values with the channels on the last axis and returns gates of the same shape.

| gate | range | largest slope | at 0 | 1 at | step of its int8 code |
|---|---|---|---|---|---|
| sigmoid | (0, 1) | 1/4 | 1/2 | - | 1/256, pinned by LiteRT |
| hard_sigmoid | [0, 1] | 1/6 | 1/2 | its knee only | calibrated, nominally 1/256 |
| one_plus_tanh | (0, 2) | 1 | 1 | 0 | 1/128, pinned by LiteRT |
| tanh | (-1, 1) | 1 | 0 | - | 1/128, pinned by LiteRT |
| relu | [0, ∞) | 1 | 0 | 1 | calibrated |
| softmax | (0, C) | C/4 | 1 | equal inputs | calibrated |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from keras_se.layers import registration

GateName = Literal["sigmoid", "hard_sigmoid", "one_plus_tanh", "tanh", "relu", "softmax"]

_registered = keras.saving.register_keras_serializable(package="keras_se")


@_registered
def sigmoid(v: Any) -> Any:
    """The logistic function 1 / (1 + exp(-v)), the gate of the paper."""
    return ops.sigmoid(v)


@_registered
def hard_sigmoid(v: Any) -> Any:
    """relu6(v + 3) / 6: the gate of MobileNetV3, piecewise linear with slope 1/6."""
    return ops.relu6(v + 3.0) * (1.0 / 6.0)  # a product, as in keras.applications


@_registered
def one_plus_tanh(v: Any) -> Any:
    """1 + tanh(v) = 2·sigmoid(2v): between 0 and 2, exactly 1 at v = 0."""
    return 1.0 + ops.tanh(v)


@_registered
def tanh(v: Any) -> Any:
    """The hyperbolic tangent: between -1 and 1, so that a gate may flip the sign of a channel."""
    return ops.tanh(v)


@_registered
def relu(v: Any) -> Any:
    """The positive part of v; in the ablation of the paper worse than no SE at all."""
    return ops.relu(v)


@_registered
def softmax(v: Any) -> Any:
    """C·softmax(v) over the channels, which compete; equal inputs give exactly 1."""
    if v.shape[0] == 0:
        return v  # an empty batch has no maximum
    exponential = ops.exp(v - ops.max(v, axis=-1, keepdims=True))
    # XLA turns a division by the constant C into a product, which is not exactly 1.
    return exponential * v.shape[-1] / ops.sum(exponential, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Gate:
    """A gate and the known facts about it.

    Attributes:
        name: The name in configurations, search spaces and reports.
        function: Maps pre-gate values to gates of the same shape, channels on the last axis.
        inverse: Maps gates strictly inside the range to pre-gate values (NumPy), or `None`.
        low: Largest lower bound of the gate.
        high: Smallest upper bound of the gate; softmax has none here, since its bound is C.
        slope: Largest slope of the function; `None` if it is unknown or depends on C.
        one_at: The input at which the gate is exactly 1 and its slope is not zero, or `None`.
        at_rest: The gate at 0 where the layer before can make up for it, or `None`: no factor can
            undo a gate of 0, and a gate of 1 needs none.
        step: Nominal step of the gate in an int8 file; `None` if the range of the gate is
            calibrated.
        ceiling: Largest value of the gate in an int8 file.
    """

    name: str
    function: Callable[[Any], Any]
    inverse: Callable[[np.ndarray], np.ndarray] | None = None
    low: float = -math.inf
    high: float = math.inf
    slope: float | None = None
    one_at: float | None = None
    at_rest: float | None = None
    step: float | None = None
    ceiling: float = math.inf


GATES: dict[str, Gate] = {
    gate.name: gate
    for gate in (
        Gate(
            "sigmoid",
            function=sigmoid,
            inverse=lambda s: np.log(s / (1.0 - s)),
            low=0.0,
            high=1.0,
            slope=1 / 4,
            at_rest=1 / 2,
            # LiteRT pins the int8 output of LOGISTIC to scale 1/256 and zero point -128.
            step=1 / 256,
            ceiling=255 / 256,
        ),
        Gate(
            "hard_sigmoid",
            function=hard_sigmoid,
            inverse=lambda s: 6.0 * s - 3.0,
            low=0.0,
            high=1.0,
            # No `one_at`: it reaches 1 only at its knee, where the slope becomes 0.
            slope=1 / 6,
            at_rest=1 / 2,
            step=1 / 256,  # nominal: the scale in the file is calibrated
            ceiling=1.0,
        ),
        Gate(
            "one_plus_tanh",
            function=one_plus_tanh,
            inverse=lambda s: np.arctanh(s - 1.0),
            low=0.0,
            high=2.0,
            slope=1.0,
            one_at=0.0,
            # LiteRT pins the int8 output of TANH to scale 1/128 and zero point 0.
            step=1 / 128,
            ceiling=1 + 127 / 128,
        ),
        Gate(
            "tanh",
            function=tanh,
            inverse=np.arctanh,
            low=-1.0,
            high=1.0,
            slope=1.0,
            step=1 / 128,
            ceiling=127 / 128,
        ),
        Gate("relu", function=relu, inverse=lambda s: s, low=0.0, slope=1.0, one_at=1.0),
        Gate("softmax", function=softmax, inverse=np.log, low=0.0, one_at=0.0),
    )
}


def standardize(identifier: Any) -> Any:
    """Returns the name of a gate, or a registered custom gate itself."""
    functions = {name: gate.function for name, gate in GATES.items()}
    return registration.standardize("gate", identifier, functions)


def get(identifier: Any) -> Gate:
    """Returns the `Gate` for an identifier; a custom gate has no known facts."""
    identifier = standardize(identifier)
    if isinstance(identifier, str):
        return GATES[identifier]
    return Gate(registration.registered_name("gate", identifier), identifier)
