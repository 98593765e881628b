"""Gates: how an excitation becomes a factor per channel, with the facts that others rely on.

One table, `GATES`, serves the layer (the function), `identity_init` (the input at which a gate is 1
with a slope that is not zero) and the verifier (the code of the gate in an 8-bit file). Gates are
known by name: the same name in `SEBlock(gate=...)`, in a saved configuration, in a search space and
on the command line. A function or an object of the user's serves too, once it is registered with
`keras.saving.register_keras_serializable`; it is given pre-gate values with the channels on the
last axis and returns gates of that shape.

| gate | range | largest slope | 1 at | step of its int8 code |
|---|---|---|---|---|
| sigmoid | (0, 1) | 1/4 | - | 1/256, pinned by LiteRT |
| hard_sigmoid | [0, 1] | 1/6 | its knee only | calibrated, nominally 1/256 |
| one_plus_tanh | (0, 2) | 1 | 0 | 1/128, pinned by LiteRT |
| tanh | (-1, 1) | 1 | - | 1/128, pinned by LiteRT |
| relu | [0, ∞) | 1 | 1 | calibrated |
| softmax | (0, C) | C/4 | equal inputs | calibrated |
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_se.layers import registration

_registered = keras.saving.register_keras_serializable(package="keras_se")


@_registered
def sigmoid(v: Any) -> Any:
    """The logistic function 1 / (1 + exp(-v)), the paper's gate."""
    return ops.sigmoid(v)


@_registered
def hard_sigmoid(v: Any) -> Any:
    """relu6(v + 3) / 6: MobileNetV3's gate, piecewise linear with slope 1/6."""
    return ops.relu6(v + 3.0) * (1.0 / 6.0)  # as keras.applications has it


@_registered
def one_plus_tanh(v: Any) -> Any:
    """1 + tanh(v) = 2·sigmoid(2v): between 0 and 2, exactly 1 at v = 0."""
    return 1.0 + ops.tanh(v)


@_registered
def tanh(v: Any) -> Any:
    """The hyperbolic tangent: between -1 and 1, so that a channel may change its sign."""
    return ops.tanh(v)


@_registered
def relu(v: Any) -> Any:
    """The positive part of v: in the paper's ablation worse than no SE at all."""
    return ops.relu(v)


@_registered
def softmax(v: Any) -> Any:
    """C·softmax(v) over the channels: they compete, and equal inputs give exactly 1."""
    if v.shape[0] == 0:
        return v  # there is no maximum
    exponential = ops.exp(v - ops.max(v, axis=-1, keepdims=True))
    # XLA turns a division by the constant C into a product, which is not exactly 1.
    return exponential * v.shape[-1] / ops.sum(exponential, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Gate:
    """A gate and what is known of it.

    Attributes:
        name: The name in configurations, search spaces and reports.
        function: Maps pre-gate values to gate values of the same shape, channels on the last axis.
        inverse: Maps gate values strictly inside the range to pre-gate values (NumPy), or `None`.
        low: Largest lower bound of the gate's values.
        high: Smallest upper bound of the gate's values; of softmax it is C.
        slope: Largest slope of the function, `None` where it is not one number.
        one_at: The input at which the gate is exactly 1 *with a slope that is not zero*, or `None`.
        step: Nominal step of the gate's code in a full-integer (int8) file; `None` where the range
            of the gate, and so the step, is calibrated.
        ceiling: Largest value that this code can hold.
    """

    name: str
    function: Callable[[Any], Any]
    inverse: Callable[[np.ndarray], np.ndarray] | None = None
    low: float = -math.inf
    high: float = math.inf
    slope: float | None = None
    one_at: float | None = None
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
            step=1 / 256,  # LiteRT pins the int8 output of LOGISTIC to scale 1/256,
            ceiling=255 / 256,  # zero point -128
        ),
        Gate(
            "hard_sigmoid",
            function=hard_sigmoid,
            inverse=lambda s: 6.0 * s - 3.0,
            low=0.0,
            high=1.0,
            slope=1 / 6,  # and 0 from its knees on, where it reaches 0 and 1
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
            step=1 / 128,  # LiteRT pins the int8 output of TANH to scale 1/128,
            ceiling=1 + 127 / 128,  # zero point 0
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
    """The name of a gate, or the user's own registered callable.

    Args:
        identifier: One of the names in `GATES` or its function, a registered callable, or its
            serialized form.

    Returns:
        A name, or a callable that has none here.

    Raises:
        InputError: If there is no such gate, or a callable is not registered.

    Example:
        >>> standardize(sigmoid)
        'sigmoid'
    """
    functions = {name: gate.function for name, gate in GATES.items()}
    return registration.standardize("gate", identifier, functions)


def get(identifier: Any) -> Gate:
    """The gate that an identifier stands for.

    Args:
        identifier: As for `standardize`.

    Returns:
        The `Gate`: its function and its facts; of the user's own gates no fact is known.

    Raises:
        InputError: As from `standardize`.

    Example:
        >>> get("sigmoid").slope
        0.25
    """
    identifier = standardize(identifier)
    if isinstance(identifier, str):
        return GATES[identifier]
    return Gate(registration.registered_name("gate", identifier), identifier)
