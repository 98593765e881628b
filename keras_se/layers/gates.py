"""Gates: how an excitation becomes a factor per channel, with the facts that others rely on.

One table, `GATES`, serves the layer (the function), `identity_init` (the input at which a gate is 1
and its slope there) and the verifier (the code of the gate in an 8-bit file). Gates are known by
name: the same name in `SEBlock(gate=...)`, in a saved configuration, in a search space and on the
command line.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from keras_se.errors import InputError


def sigmoid(v: Any) -> Any:
    """1 / (1 + exp(-v)), the paper's gate."""
    return ops.sigmoid(v)


def hard_sigmoid(v: Any) -> Any:
    """relu6(v + 3) / 6: MobileNetV3's gate, piecewise linear with slope 1/6."""
    return ops.hard_sigmoid(v)


def one_plus_tanh(v: Any) -> Any:
    """1 + tanh(v) = 2·sigmoid(2v): between 0 and 2, exactly 1 at v = 0."""
    return 1.0 + ops.tanh(v)


@dataclass(frozen=True)
class Gate:
    """A gate and what is known of it.

    Attributes:
        name: The name in configurations, search spaces and reports.
        function: Maps pre-gate values to gate values, element by element.
        inverse: Maps gate values strictly between `low` and `high` to pre-gate values (NumPy).
        low: Largest lower bound of the gate's values.
        high: Smallest upper bound of the gate's values.
        slope: Largest slope of the function.
        one_at: The input at which the gate is exactly 1 *with a slope that is not zero*, or None.
        step: Step of the gate's code in a full-integer (int8) file.
        ceiling: Largest value that this code can hold.
    """

    name: str
    function: Callable[[Any], Any]
    inverse: Callable[[np.ndarray], np.ndarray]
    low: float
    high: float
    slope: float
    one_at: float | None
    step: float
    ceiling: float


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
            one_at=None,
            step=1 / 256,  # LiteRT pins the int8 output of LOGISTIC to scale 1/256,
            ceiling=255 / 256,  # zero point -128
        ),
        Gate(
            "hard_sigmoid",
            function=hard_sigmoid,
            inverse=lambda s: 6.0 * s - 3.0,
            low=0.0,
            high=1.0,
            slope=1 / 6,
            one_at=None,  # 1 is reached at its knee only, where the slope ends
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
    )
}


def get(identifier: str) -> Gate:
    """The gate of that name.

    Args:
        identifier: One of the names in `GATES`.

    Returns:
        The `Gate`: its function and its facts.

    Raises:
        InputError: If there is no gate of that name.

    Example:
        >>> get("sigmoid").slope
        0.25
    """
    if not isinstance(identifier, str) or identifier not in GATES:
        raise InputError(f"gate must be one of {sorted(GATES)}. Received: gate={identifier!r}")
    return GATES[identifier]
