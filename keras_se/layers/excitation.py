"""The base class of `SEBlock` and `GraphSEBlock`."""

from collections.abc import Callable
from typing import Any, Self, TypedDict, Unpack

import keras
import numpy as np
from keras import ops

from keras_se.errors import InputError
from keras_se.layers import gates as gates_module
from keras_se.layers import registration, squeezes
from keras_se.layers.bottleneck import (
    Layout,
    bottleneck_width,
    standardize_ratio,
    to_dense,
    validate_width_arguments,
)
from keras_se.layers.gates import GateName
from keras_se.layers.squeezes import SqueezeName


class LayerArguments(TypedDict, total=False):
    """The arguments of `keras.layers.Layer`."""

    name: str | None
    dtype: Any
    trainable: bool
    autocast: bool
    activity_regularizer: Any


class ExcitationArguments(LayerArguments, total=False):
    """The arguments that all SE blocks take alike, but `ratio`."""

    width: int | None
    divisor: int
    activation: Any
    gate: GateName | Callable[..., Any]
    shift: bool
    use_bias: bool
    identity_init: bool
    kernel_initializer: Any
    bias_initializer: Any
    kernel_regularizer: Any
    bias_regularizer: Any
    kernel_constraint: Any
    bias_constraint: Any


class Excitation(keras.layers.Layer):
    """Computes gates, `s = gate(W2 · activation(W1 · squeeze + b1) + b2)`; owns the weights."""

    def __init__(
        self,
        ratio: float = 16,
        *,
        width: int | None = None,
        divisor: int = 1,
        squeeze: SqueezeName | Callable[..., Any] = "avg",
        activation: Any = "relu",
        gate: GateName | Callable[..., Any] = "sigmoid",
        shift: bool = False,
        use_bias: bool = True,
        identity_init: bool = False,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        validate_width_arguments(ratio, width, divisor)
        squeeze, gate = squeezes.standardize(squeeze), gates_module.standardize(gate)
        if identity_init:
            _check_identity(gate, use_bias)
        super().__init__(**kwargs)
        # NumPy numbers would not survive the JSON of `get_config`.
        self.ratio = standardize_ratio(ratio)
        self.width = None if width is None else int(width)
        self.divisor = int(divisor)
        self.squeeze = squeeze
        self.activation = keras.activations.get(activation)
        self.gate = gate
        self.shift = shift
        self.use_bias = use_bias
        self.identity_init = identity_init
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.w1: Any = None
        self.b1: Any = None
        self.w2: Any = None
        self.b2: Any = None
        self.w_shift: Any = None
        self.b_shift: Any = None

    def build_excitation(self, channels: int) -> None:
        """Creates the variables for `channels` channels."""
        if self.gate == "softmax" and channels == 1:
            raise InputError("gate='softmax' needs at least two channels. Received: channels=1")
        width = bottleneck_width(channels, self.ratio, width=self.width, divisor=self.divisor)
        kernel_2, bias_2 = _decorrelated(self.kernel_initializer), self.bias_initializer
        if self.identity_init:
            # With a zero kernel the gates are exactly 1, whatever the first kernel gives.
            kernel_2 = keras.initializers.Zeros()
            bias_2 = keras.initializers.Constant(gates_module.get(self.gate).one_at)
        self.w1 = self._add_kernel("w1", (channels, width), self.kernel_initializer)
        self.b1 = self._add_bias("b1", width, self.bias_initializer)
        self.w2 = self._add_kernel("w2", (width, channels), kernel_2)
        self.b2 = self._add_bias("b2", channels, bias_2)
        if self.shift:
            # The shift starts at zero, so that `identity_init` still gives the identity.
            self.w_shift = self._add_kernel("w_shift", (width, channels), "zeros")
            self.b_shift = self._add_bias("b_shift", channels, "zeros")

    def excite(self, pooled: Any) -> tuple[Any, Any]:
        """Returns the gates and the shift (or `None`) for squeezed features, in their shape."""
        hidden = self.bottleneck(pooled)
        gates = self.gated(self.connected(hidden, self.w2, self.b2))
        if not self.shift:
            return gates, None
        return gates, self.connected(hidden, self.w_shift, self.b_shift)

    def bottleneck(self, pooled: Any) -> Any:
        """Returns the activations of the bottleneck."""
        return self.activation(self.connected(pooled, self.w1, self.b1))

    def gated(self, logits: Any) -> Any:
        """Applies the gate to the output of the last kernel."""
        return gates_module.get(self.gate).function(logits)

    def connected(self, x: Any, kernel: Any, bias: Any) -> Any:
        """Applies a fully connected layer to (batch, units) or (batch, 1, 1, units)."""
        # The convolution of oneDNN in TensorFlow returns a wrong shape for an empty batch.
        if len(x.shape) == 2 or x.shape[0] == 0:
            y = ops.matmul(x, kernel)
        else:
            # On kept axes a 1×1 convolution needs no RESHAPE in TFLite.
            kernel = ops.expand_dims(kernel, (0, 1))
            y = ops.conv(x, kernel, padding="valid", data_format="channels_last")
        return y if bias is None else y + bias

    def excitation(self) -> tuple[np.ndarray | None, ...]:
        """Returns the matrices and biases of a built block as arrays.

        Returns:
            `(w1, b1, w2, b2)` of shapes (C, width), (width,), (width, C) and (C,). With `shift`,
            `w_shift` of shape (width, C) and `b_shift` of shape (C,) follow. Biases are `None` in a
            block without bias.

        Raises:
            InputError: If the block is not built.

        Example:
            >>> from keras_se import SEBlock
            >>> block = SEBlock(2)
            >>> block.build((None, 8, 8, 4))
            >>> [w.shape for w in block.excitation()]
            [(4, 2), (2,), (2, 4), (4,)]
        """
        variables = [self.w1, self.b1, self.w2, self.b2]
        if self.shift:
            variables += [self.w_shift, self.b_shift]
        self._check_built()
        return tuple(None if v is None else v.numpy() for v in variables)

    def set_excitation(
        self,
        w1: Any,
        b1: Any,
        w2: Any,
        b2: Any,
        w_shift: Any = None,
        b_shift: Any = None,
        *,
        layout: Layout | None = None,
    ) -> Self:
        """Sets the matrices and biases, such as those of a block of another library.

        Args:
            w1: First kernel: (C, width) or (1, 1, C, width) in layout "dense" (Keras), (width, C)
                or (width, C, 1, 1) in layout "torch".
            b1: First bias, (width,); `None` for zeros.
            w2: Second kernel: (width, C) or (1, 1, width, C) in layout "dense", (C, width) or
                (C, width, 1, 1) in layout "torch".
            b2: Second bias, (C,); `None` for zeros.
            w_shift: Kernel of the shift, shaped like `w2`; `None` for a block without `shift`.
            b_shift: Bias of the shift, (C,); `None` for zeros.
            layout: "dense" or "torch". Required if a kernel is square.

        Returns:
            The block itself.

        Raises:
            InputError: If the block is not built, a shape does not fit, the layout is ambiguous,
                or the block has no variable for a given bias or shift. The block is unchanged
                then.

        Example:
            >>> from keras_se import SEBlock
            >>> block = SEBlock(2)
            >>> block.build((None, 8, 8, 4))
            >>> w1, b1, w2, b2 = block.excitation()
            >>> _ = block.set_excitation(w1.T[..., None, None], b1, w2.T[..., None, None], b2)
        """
        self._check_built()
        channels, width = (int(size) for size in self.w1.shape)
        # Check everything before the first assignment: an error leaves the block unchanged.
        assigned = [
            (variable, _fitted(name, variable, value, shape, layout))
            for name, variable, value, shape in (
                ("w1", self.w1, w1, (channels, width)),
                ("b1", self.b1, b1, (width,)),
                ("w2", self.w2, w2, (width, channels)),
                ("b2", self.b2, b2, (channels,)),
                ("w_shift", self.w_shift, w_shift, (width, channels)),
                ("b_shift", self.b_shift, b_shift, (channels,)),
            )
        ]
        for variable, value in assigned:
            if variable is not None:
                variable.assign(value)
        return self

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`, in normalized form."""
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "width": self.width,
            "divisor": self.divisor,
            "squeeze": registration.serialize(self.squeeze),
            "activation": keras.activations.serialize(self.activation),
            "gate": registration.serialize(self.gate),
            "shift": self.shift,
            "use_bias": self.use_bias,
            "identity_init": self.identity_init,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    def _check_built(self) -> None:
        if self.w1 is None:
            raise InputError(
                "A block has no matrices until it is built: call it or its build method first. "
                f"Received: {type(self).__name__} {self.name!r}, which is not built"
            )

    def _add_kernel(self, name: str, shape: tuple[int, int], initializer: Any) -> Any:
        return self.add_weight(
            name=name,
            shape=shape,
            initializer=initializer,
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
        )

    def _add_bias(self, name: str, units: int, initializer: Any) -> Any:
        if not self.use_bias:
            return None
        return self.add_weight(
            name=name,
            shape=(units,),
            initializer=initializer,
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
        )


def _check_identity(gate: Any, use_bias: bool) -> None:
    one_at = gates_module.get(gate).one_at
    # A gate that is 1 only where it is flat gives no gradient: the block could not learn.
    if one_at is None:
        raise InputError(
            "identity_init=True needs a gate that is known to reach 1 with a nonzero slope, such "
            f"as 'one_plus_tanh'. Received: gate={gate!r}"
        )
    if one_at != 0.0 and not use_bias:
        raise InputError(
            f"identity_init=True with gate={gate!r} needs use_bias=True, since this gate is 1 at "
            f"{one_at:g}. Received: use_bias=False"
        )


def _decorrelated(initializer: Any) -> Any:
    """Returns an initializer of the same kind that draws other numbers."""
    # With one integer seed both matrices would hold the same numbers.
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    if isinstance(getattr(initializer, "seed", None), keras.random.SeedGenerator):
        return initializer  # a seed generator advances at each use
    config = initializer.get_config()
    if "seed" not in config:
        return initializer
    if isinstance(config["seed"], int):
        config["seed"] += 1
    return type(initializer).from_config(config)


def _fitted(
    name: str, variable: Any, value: Any, shape: tuple[int, ...], layout: Layout | None
) -> np.ndarray | None:
    """Returns `value` in the shape of its variable, or `None` if there is neither."""
    if variable is None:
        # Zeros are fine: a block without this variable computes the same.
        if value is not None and np.any(np.asarray(value)):
            raise InputError(
                "set_excitation needs a block with shift=True for a shift and with use_bias=True "
                f"for a bias. Received: {name} for a block without it"
            )
        return None
    if len(shape) == 2:
        return to_dense(name, value, (shape[0], shape[1]), layout)
    array = np.zeros(shape) if value is None else np.asarray(value)
    if array.shape != shape:
        raise InputError(f"{name} must have the shape {shape}. Received: {array.shape}")
    return array
