"""Activations and gates with the rounding of an int8 file."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_se.layers.quantization.fake_quantize import FakeQuantize

_Range = tuple[float, float]
_DIFFERENCE = 1e-6  # far below a step of the int32 bias in the file
# LiteRT pins the output ranges of LOGISTIC, SOFTMAX (both `_UNIT`) and TANH (`_SIGNED`).
_UNIT = (0.0, 255 / 256)
_SIGNED = (-1.0, 127 / 128)
_SIX = (0.0, 6.0)  # of RELU6
_SIXTH = 1.0 / 6.0


def decollapse_bias(bias: Any, channels: int) -> Any:
    """Makes the nonzero values of a bias differ, at least in the seventh digit."""
    # In a model with ranges of its own, the converter of TensorFlow 2.21 scales a bias of equal
    # values by the scale of the first channel on all channels.
    return bias * (1.0 + _DIFFERENCE * ops.arange(channels, dtype="float32"))


@dataclass(frozen=True)
class _Int8Activation:
    """How an int8 file computes an activation.

    Attributes:
        function: Function of the input and of one rounding function per range in `between`.
        is_standalone: Whether it is an operation of its own, on a quantized input.
        between: The ranges of the tensors between its operations.
        after: The range of the output; `None` if data sets it.
        is_integer: Whether the file computes it in int8, and not in float32 between two roundings.
    """

    function: Callable[..., Any]
    is_standalone: bool = True
    between: tuple[_Range, ...] = ()
    after: _Range | None = None
    is_integer: bool = True

    @property
    def is_fused(self) -> bool:
        """Whether it becomes part of the operation before it."""
        return not self.is_standalone and not self.between


def _relu6_of_3_more(x: Any) -> Any:
    return ops.relu6(x + decollapse_bias(3.0, x.shape[-1]))


ACTIVATIONS = {
    "linear": _Int8Activation(lambda x: x, is_standalone=False),
    "relu": _Int8Activation(lambda x: ops.relu(x), is_standalone=False),
    "relu6": _Int8Activation(lambda x: ops.relu6(x), is_standalone=False),
    "sigmoid": _Int8Activation(lambda x: ops.sigmoid(x), after=_UNIT),
    "tanh": _Int8Activation(lambda x: ops.tanh(x), after=_SIGNED),
    "one_plus_tanh": _Int8Activation(
        lambda x, q: 1.0 + q(ops.tanh(x)), between=(_SIGNED,), after=(0.0, 1 + 127 / 128)
    ),
    "hard_sigmoid": _Int8Activation(
        lambda x, q: q(_relu6_of_3_more(x)) * _SIXTH,
        is_standalone=False,
        between=(_SIX,),
        after=(0.0, 1.0),
    ),
    "hard_silu": _Int8Activation(
        lambda x, q, r: x * r(q(_relu6_of_3_more(x)) * _SIXTH), between=(_SIX, (0.0, 1.0))
    ),
    "silu": _Int8Activation(lambda x, q: x * q(ops.sigmoid(x)), between=(_UNIT,)),
    "softmax": _Int8Activation(lambda x: ops.softmax(x), after=_UNIT),
    # The gate of that name.
    "softmax_gate": _Int8Activation(lambda x, q: q(ops.softmax(x)) * x.shape[-1], between=(_UNIT,)),
    "gelu": _Int8Activation(lambda x: ops.gelu(x, approximate=False)),
    "leaky_relu": _Int8Activation(lambda x: ops.leaky_relu(x, negative_slope=0.2)),
}
# In no order: a function may depend on that of the channels.
_PROBE = np.random.default_rng(0).permutation(
    np.linspace(-9.0, 9.0, 1203, dtype="float32").reshape(-1, 3), axis=1
)
_ROUNDING = 1e-5  # relative: that of float32, and of `decollapse_bias`


def activation_name(activation: Any) -> str | None:
    """Returns the name in `ACTIVATIONS` of what a function computes, or `None`.

    A function of another library is known by its values.
    """
    name = activation if isinstance(activation, str) else getattr(activation, "__name__", "")
    if isinstance(activation, str) or getattr(keras.activations, name, None) is activation:
        return name if name in ACTIVATIONS else None
    try:
        found = ops.convert_to_numpy(activation(ops.convert_to_tensor(_PROBE)))
    except Exception:  # the code of the user's function may raise anything
        return None
    return next((name for name in ACTIVATIONS if _computes(name, found)), None)


@cache
def _unrounded(name: str) -> np.ndarray:
    """Returns the values of a known activation, without rounding."""
    known = ACTIVATIONS[name]
    between = [lambda x: x] * len(known.between)
    return ops.convert_to_numpy(known.function(ops.convert_to_tensor(_PROBE), *between))


def _computes(name: str, found: np.ndarray) -> bool:
    expected = _unrounded(name)
    if found.shape != expected.shape:
        return False
    return bool(np.allclose(found, expected, rtol=_ROUNDING, atol=_ROUNDING))


def int8_form(activation: Any) -> _Int8Activation:
    """Returns how an int8 file computes an activation, a name of `ACTIVATIONS` or a function."""
    name = activation_name(activation)
    if name is not None:
        return ACTIVATIONS[name]
    return _Int8Activation(keras.activations.get(activation), is_integer=False)


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAwareActivation(keras.layers.Layer):
    """Computes an activation or gate with the rounding of its operations in an int8 file.

    A function without an int8 form is computed in float32, between two roundings.
    """

    def __init__(
        self, activation: Any, takes_sums: bool = True, is_last: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(activation, dict):
            activation = keras.saving.deserialize_keras_object(activation)
        self.known = known = int8_form(activation)
        self.activation = activation
        self.takes_sums = takes_sums
        self.is_last = is_last
        # `takes_sums`: the input comes unrounded from a kernel. Fused activations leave it so.
        # Of the precision of this layer, whatever the global policy is.
        policy = {"dtype": self.dtype_policy}
        is_rounded_before = takes_sums and known.is_standalone
        self.before = FakeQuantize(name="before", **policy) if is_rounded_before else None
        self.between = [FakeQuantize(ends, **policy) for ends in known.between]
        # The output of the model is not rounded to a pinned range: losses take its logarithm.
        is_pinned = known.is_standalone and known.after is not None
        self.after = (
            None if is_last and is_pinned else FakeQuantize(known.after, name="after", **policy)
        )
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the ranges."""
        for part in (self.before, *self.between, self.after):
            if part is not None:
                part.build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Computes the rounded activations."""
        x = inputs if self.before is None else self.before(inputs)
        known = self.known
        if not known.is_standalone and not self.takes_sums and len(x.shape) == 4:
            # XNNPACK takes an int8 ReLU only if it is fused with an operation before it. This one
            # is the identity.
            x = ops.depthwise_conv(x, ops.ones((1, 1, x.shape[-1], 1)))
        x = known.function(x, *self.between)
        return x if self.after is None else self.after(x)

    def plain(self) -> keras.layers.Layer:
        """Returns a Keras layer that computes the same without rounding."""
        return keras.layers.Activation(self.activation, name=self.name, dtype=self.dtype_policy)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`."""
        return {
            **super().get_config(),
            "activation": self.activation
            if isinstance(self.activation, str)
            else keras.saving.serialize_keras_object(self.activation),
            "takes_sums": self.takes_sums,
            "is_last": self.is_last,
        }
