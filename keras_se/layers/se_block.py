"""The Squeeze-and-Excitation block as a Keras layer."""

from collections.abc import Callable
from typing import Any, Literal, Unpack, get_args

import keras
import numpy as np
from keras import ops

from keras_se.errors import InputError
from keras_se.layers import squeezes
from keras_se.layers.excitation import Excitation, ExcitationArguments, LayerArguments
from keras_se.layers.gates import GateName
from keras_se.layers.precision import in_float32
from keras_se.layers.squeezes import SqueezeName

DataFormat = Literal["channels_last", "channels_first"]


class BlockArguments(ExcitationArguments, total=False):
    """The arguments of `SEBlock` but `ratio`."""

    squeeze: SqueezeName | Callable[..., Any]
    data_format: DataFormat | None


@keras.saving.register_keras_serializable(package="keras_se")
class SEBlock(Excitation):
    """Squeeze-and-Excitation: recalibrates the channels of a feature map.

    The block squeezes each channel to one number by pooling over all positions. It excites through
    a bottleneck of C / r units, `s = gate(W2 · activation(W1 · squeeze + b1) + b2)`, and
    recalibrates the input, `output_c = s_c · input_c`. It adds 2·C·width weights and width + C
    biases.

    On images it converts to five TFLite operations for any batch size: pooling, two 1×1
    convolutions, gate and product.

    Args:
        ratio: The reduction ratio r of the paper, a divisor of at least 1 that may be fractional.
            The bottleneck has max(1, floor(C / ratio)) units, computed exactly.
        width: Number of units of the bottleneck. If given, `ratio` is unused.
        divisor: If above 1, C / ratio is rounded to a multiple of `divisor` by the rule of the
            MobileNet models: the nearest multiple, but at least 90 % of C / ratio.
        squeeze: `"avg"`, `"max"`, `"avg_max"` (half of each), `"std"`, or a registered callable.
            See `keras_se.layers.squeezes`.
        activation: Activation of the bottleneck, any identifier of `keras.activations`.
        gate: `"sigmoid"`, `"hard_sigmoid"`, `"one_plus_tanh"`, `"tanh"`, `"relu"`, `"softmax"`
            (times C), or a registered callable such as
            `keras_se.layers.DivisiveNormalization()`. See `keras_se.layers.gates`.
        shift: If `True`, the block computes the affine form `output_c = s_c · input_c + t_c`. The
            shift t comes from the same bottleneck without a gate and starts at zero.
        use_bias: Whether the fully connected layers have a bias.
        identity_init: If `True`, a new block is exactly the identity. Requires a gate that
            reaches 1 with a nonzero slope, since the block could not learn otherwise:
            `"one_plus_tanh"`, `"softmax"`, or `"relu"` with bias.
        data_format: `"channels_last"` or `"channels_first"`. Defaults to the Keras
            configuration.
        kernel_initializer: Initializer of all weight matrices.
        bias_initializer: Initializer of all biases.
        kernel_regularizer: Regularizer of all weight matrices.
        bias_regularizer: Regularizer of all biases.
        kernel_constraint: Constraint on all weight matrices.
        bias_constraint: Constraint on all biases.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Feature map with a batch axis, one to three spatial axes and a channel axis.
        mask: Booleans of shape `(batch, *leading spatial axes)`, such as the Keras mask of a
            sequence. The squeeze ignores positions where the mask is false, and is 0 if it is
            false everywhere. The mask is passed on to the next layer.
        return_gates: If `True`, returns `(outputs, gates)`.

    Input shape:
        `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for `"channels_first"`.
        Spatial sizes may be unknown; `channels` must be known.

    Output shape:
        The shape of the input. Gates have the shape `(batch, channels)`.

    Raises:
        InputError: If an argument is invalid, or the input has a rank other than 3, 4 or 5.

    Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507v4, sections 3.1 and 3.2.

    Example:
        >>> import numpy as np
        >>> block = SEBlock(ratio=4)
        >>> block(np.ones((2, 8, 8, 16), "float32")).shape
        TensorShape([2, 8, 8, 16])
        >>> block.gates(np.ones((2, 8, 8, 16), "float32")).shape
        (2, 16)
    """

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
        data_format: DataFormat | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Unpack[LayerArguments],
    ) -> None:
        super().__init__(
            ratio,
            width=width,
            divisor=divisor,
            squeeze=squeeze,
            activation=activation,
            gate=gate,
            shift=shift,
            use_bias=use_bias,
            identity_init=identity_init,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            **kwargs,
        )
        self.data_format = _standardize_data_format(data_format)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights for the number of channels of `input_shape`."""
        self.build_excitation(self._channels(input_shape))

    def call(self, inputs: Any, mask: Any = None, return_gates: bool = False) -> Any:
        """Recalibrates `inputs`; see the class."""
        gates, shift = self.excite(self.squeezed(inputs, mask))
        channels = gates.shape[-1]
        sizes = [1] * len(inputs.shape)
        sizes[self._channel_axis] = channels
        shape = tuple(sizes[1:])
        outputs = self.scaled(inputs, _reshaped(gates, shape))
        if shift is not None:
            outputs = self.shifted(outputs, _reshaped(shift, shape))
        return (outputs, ops.reshape(gates, (-1, channels))) if return_gates else outputs

    def gates(self, x: Any, mask: Any = None) -> np.ndarray:
        """Returns the gates for feature maps.

        Args:
            x: Array of feature maps, shaped as for a call.
            mask: As for a call.

        Returns:
            Array of shape (batch, channels), in the block's compute dtype.

        Raises:
            InputError: If `x` is symbolic.

        Example:
            >>> import numpy as np
            >>> SEBlock(ratio=2).gates(np.zeros((1, 4, 4, 2), "float32"))
            array([[0.5, 0.5]], dtype=float32)
        """
        if isinstance(x, keras.KerasTensor):
            raise InputError(
                "SEBlock.gates needs arrays; for symbolic tensors call the block with "
                f"return_gates=True. Received: x={x!r}"
            )
        _, gates = self(x, mask=mask, return_gates=True)
        return ops.convert_to_numpy(gates)

    def _channels(self, input_shape: tuple[int | None, ...]) -> int:
        if len(input_shape) not in (3, 4, 5):
            raise InputError(
                "SEBlock needs feature maps of rank 3, 4 or 5: a batch axis, one to three spatial "
                f"axes and a channel axis. Received: input_shape={tuple(input_shape)}"
            )
        channels = input_shape[self._channel_axis]
        if channels is None:
            raise InputError(
                f"SEBlock needs a known number of channels on axis {self._channel_axis} "
                f"(data_format={self.data_format!r}). Received: input_shape={tuple(input_shape)}"
            )
        return channels

    @property
    def _channel_axis(self) -> int:
        return -1 if self.data_format == "channels_last" else 1

    def squeezed(self, inputs: Any, mask: Any = None) -> Any:
        """Squeezes feature maps to shape (batch, 1, 1, channels)."""
        pooled = in_float32(lambda x: self._pooled(x, mask), inputs)
        return _reshaped(pooled, (1, 1, inputs.shape[self._channel_axis]))

    def scaled(self, inputs: Any, gates: Any) -> Any:
        """Multiplies feature maps by gates that broadcast to them."""
        return inputs * gates

    def shifted(self, inputs: Any, shift: Any) -> Any:
        """Adds a shift that broadcasts to the feature maps."""
        return inputs + shift

    def squeeze_function(self) -> squeezes.Squeeze:
        """Returns the function that squeezes the feature maps."""
        return squeezes.get(self.squeeze)

    def _pooled(self, inputs: Any, mask: Any) -> Any:
        rank = len(inputs.shape)
        spatial = tuple(range(1, rank - 1) if self._channel_axis == -1 else range(2, rank))
        squeeze = self.squeeze_function()
        # Without an example or a position there is no maximum, and the mean is 0 / 0.
        if 0 in inputs.shape:
            return ops.sum(inputs, axis=spatial, keepdims=True)
        if mask is None:
            return squeeze(inputs, spatial)
        self._check_mask(mask, inputs)
        return squeeze(inputs, spatial, mask=self._broadcast_mask(mask, rank))

    def _check_mask(self, mask: Any, inputs: Any) -> None:
        given, sizes = tuple(np.shape(mask)), list(inputs.shape)
        sizes.pop(self._channel_axis)
        fits = all(a in (1, None, b) or b is None for a, b in zip(given, sizes, strict=False))
        if not 2 <= len(given) <= len(sizes) or not fits:
            raise InputError(
                "A mask must have the shape (batch, *leading spatial axes) of the input; after a "
                "layer with strides of 2, that of mask[:, ::2]. "
                f"Received: mask of shape {given} for an input of shape {tuple(inputs.shape)}"
            )

    def _broadcast_mask(self, mask: Any, rank: int) -> Any:
        """Adds axes of size 1 to a mask, so that it broadcasts to the input."""
        if not squeezes.takes_mask(squeezes.get(self.squeeze)):
            raise InputError(
                "Masked inputs need a squeeze with an argument `mask`. "
                f"Received: squeeze={self.squeeze!r}"
            )
        mask = ops.cast(mask, "bool")
        if self._channel_axis == 1:
            mask = ops.expand_dims(mask, 1)
        return ops.expand_dims(mask, tuple(range(len(mask.shape), rank)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        self._channels(input_shape)
        return tuple(input_shape)

    def compute_output_spec(self, inputs: Any, mask: Any = None, return_gates: bool = False) -> Any:
        """Returns symbolic outputs, and symbolic gates if `return_gates`."""
        if mask is not None:
            self._check_mask(mask, inputs)
        outputs = keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )
        if not return_gates:
            return outputs
        shape = (inputs.shape[0], self._channels(inputs.shape))
        return outputs, keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`, in normalized form."""
        return {**super().get_config(), "data_format": self.data_format}


def _standardize_data_format(data_format: DataFormat | None) -> DataFormat:
    if data_format is None:
        return keras.config.image_data_format()
    if data_format not in get_args(DataFormat):
        raise InputError(
            "data_format must be 'channels_last' or 'channels_first'. "
            f"Received: data_format={data_format!r}"
        )
    return data_format


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    """Reshapes `x` to (batch, *shape)."""
    # A RESHAPE to the same shape would be one more operation in TFLite.
    return x if tuple(x.shape[1:]) == shape else ops.reshape(x, (-1, *shape))
