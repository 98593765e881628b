"""The Squeeze-and-Excitation block as a Keras layer."""

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_se.errors import InputError
from keras_se.layers import gates as gates_module
from keras_se.layers import squeezes as squeezes_module
from keras_se.layers.widths import bottleneck_width, validate_width_arguments


@keras.saving.register_keras_serializable(package="keras_se")
class SEBlock(keras.layers.Layer):
    """Squeeze-and-Excitation: recalibrates the channels of a feature map, example by example.

    The block squeezes each channel to one number (pooling over all positions), excites,
    `s = gate(W2 · activation(W1 · squeeze + b1) + b2)` through a bottleneck of C / r units, and
    recalibrates: `output_c = s_c · input_c`. It adds 2·C·width weights and width + C biases.

    On images it lowers to five TFLite operations, pooling, two 1×1 convolutions, gate and product,
    whatever the batch dimension.

    Args:
        ratio: The paper's reduction ratio r, a divisor of at least 1 that may be fractional:
            the bottleneck has max(1, floor(C / ratio)) units, computed exactly.
        width: Number of units of the bottleneck, set outright; `ratio` is then unused.
        divisor: Above 1, C / ratio is rounded to a multiple of it by the rule of the MobileNet
            models (nearest multiple, never below 90 % of C / ratio).
        squeeze: `"avg"` or `"max"`.
        activation: Activation of the bottleneck, any identifier of `keras.activations`.
        gate: `"sigmoid"`, `"hard_sigmoid"` or `"one_plus_tanh"`.
        use_bias: Whether both fully connected layers have a bias.
        identity_init: If `True`, the last weights start at zero, so that the fresh block is the
            identity function to the last bit. Only for gates that can reach 1 with a slope that is
            not zero: `"one_plus_tanh"`.
        data_format: `"channels_last"` or `"channels_first"`; by default the one of the Keras
            configuration.
        kernel_initializer: Initializer of both weight matrices.
        bias_initializer: Initializer of both biases.
        kernel_regularizer: Regularizer of both weight matrices.
        bias_regularizer: Regularizer of both biases.
        kernel_constraint: Constraint on both weight matrices.
        bias_constraint: Constraint on both biases.
        **kwargs: Arguments of `keras.layers.Layer`, such as `name` and `dtype`.

    Call arguments:
        inputs: Feature map with a batch axis, one to three spatial axes and a channel axis.
        return_gates: If `True`, returns `(outputs, gates)`.

    Input shape:
        `(batch, *spatial, channels)`, or `(batch, channels, *spatial)` for `"channels_first"`.
        Spatial sizes may be unknown; `channels` must be known.

    Output shape:
        That of the input; gates have the shape `(batch, channels)`.

    Raises:
        InputError: If an argument breaks its rule, or the input has a rank other than 3, 4 or 5.

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
        squeeze: str = "avg",
        activation: Any = "relu",
        gate: str = "sigmoid",
        use_bias: bool = True,
        identity_init: bool = False,
        data_format: str | None = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        validate_width_arguments(ratio, width, divisor)
        squeeze_function, gate_facts = squeezes_module.get(squeeze), gates_module.get(gate)
        if identity_init and gate_facts.one_at is None:
            raise InputError(
                "identity_init=True needs a gate that reaches 1 with a slope that is not zero, "
                f"such as 'one_plus_tanh'. Received: gate={gate!r}"
            )
        super().__init__(**kwargs)
        self.ratio = ratio
        self.width = width
        self.divisor = divisor
        self.squeeze = squeeze
        self.activation = keras.activations.get(activation)
        self.gate = gate
        self.use_bias = use_bias
        self.identity_init = identity_init
        self.data_format = _standardize_data_format(data_format)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self._squeeze_function = squeeze_function
        self._gate_function = gate_facts.function

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates `w1` (C, d), `b1` (d,), `w2` (d, C) and `b2` (C,), d the bottleneck's width."""
        channels = self._channels(input_shape)
        width = bottleneck_width(channels, self.ratio, width=self.width, divisor=self.divisor)
        kernel_2, bias_2 = _decorrelated(self.kernel_initializer), self.bias_initializer
        if self.identity_init:
            kernel_2 = bias_2 = keras.initializers.Zeros()
        self.w1 = self._add_kernel("w1", (channels, width), self.kernel_initializer)
        self.b1 = self._add_bias("b1", width, self.bias_initializer)
        self.w2 = self._add_kernel("w2", (width, channels), kernel_2)
        self.b2 = self._add_bias("b2", channels, bias_2)

    def call(self, inputs: Any, return_gates: bool = False) -> Any:
        """Recalibrates `inputs`; see the class."""
        gates = self._excite(self._squeeze(inputs))
        channels, rank = gates.shape[-1], len(inputs.shape)
        outputs = inputs * _reshaped(gates, self._gate_shape(rank, channels))
        return (outputs, ops.reshape(gates, (-1, channels))) if return_gates else outputs

    def gates(self, x: Any) -> np.ndarray:
        """The gate values for the feature maps `x`.

        Args:
            x: Array of feature maps, shape as for calling the block.

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
                "SEBlock.gates takes arrays; in a graph call the block with return_gates=True. "
                f"Received: x={x!r}"
            )
        _, gates = self(x, return_gates=True)
        return ops.convert_to_numpy(gates)

    def _channels(self, input_shape: tuple[int | None, ...]) -> int:
        if len(input_shape) not in (3, 4, 5):
            raise InputError(
                "SEBlock takes feature maps of rank 3, 4 or 5: a batch axis, one to three spatial "
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

    def _squeeze(self, inputs: Any) -> Any:
        """Pools to (batch, 1, 1, channels); half precisions are accumulated in float32."""
        rank = len(inputs.shape)
        spatial = tuple(range(1, rank - 1) if self._channel_axis == -1 else range(2, rank))
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if dtype in ("float16", "bfloat16"):
            inputs = ops.cast(inputs, "float32")
        pooled = ops.cast(self._squeeze_function(inputs, spatial), dtype)
        return _reshaped(pooled, (1, 1, inputs.shape[self._channel_axis]))

    def _excite(self, pooled: Any) -> Any:
        """Gates of shape (batch, 1, 1, channels): two fully connected layers as convolutions.

        As 1×1 convolutions on a map with kept axes, they need no operation on shapes in TFLite.
        """
        hidden = self.activation(_fully_connected(pooled, self.w1, self.b1))
        return self._gate_function(_fully_connected(hidden, self.w2, self.b2))

    def _gate_shape(self, rank: int, channels: int) -> tuple[int, ...]:
        shape = [1] * (rank - 1)
        shape[-1 if self.data_format == "channels_last" else 0] = channels
        return tuple(shape)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the input."""
        self._channels(input_shape)
        return tuple(input_shape)

    def compute_output_spec(self, inputs: Any, return_gates: bool = False) -> Any:
        """Symbolic outputs, with the gates, (batch, channels), if `return_gates`."""
        outputs = keras.KerasTensor(
            self.compute_output_shape(inputs.shape), dtype=self.compute_dtype
        )
        if not return_gates:
            return outputs
        shape = (inputs.shape[0], self._channels(inputs.shape))
        return outputs, keras.KerasTensor(shape, dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """The arguments of `__init__`, as it normalized them."""
        return {
            **super().get_config(),
            "ratio": self.ratio,
            "width": self.width,
            "divisor": self.divisor,
            "squeeze": self.squeeze,
            "activation": keras.activations.serialize(self.activation),
            "gate": self.gate,
            "use_bias": self.use_bias,
            "identity_init": self.identity_init,
            "data_format": self.data_format,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


def _standardize_data_format(data_format: str | None) -> str:
    if data_format is None:
        return keras.config.image_data_format()
    if data_format not in ("channels_first", "channels_last"):
        raise InputError(
            "data_format must be 'channels_last' or 'channels_first'. "
            f"Received: data_format={data_format!r}"
        )
    return data_format


def _decorrelated(initializer: Any) -> Any:
    """Another initializer of the same kind: one seed must not fill both matrices alike."""
    if not isinstance(initializer, keras.initializers.Initializer):
        return initializer
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
        config["seed"] += 1
    return type(initializer).from_config(config)


def _fully_connected(x: Any, kernel: Any, bias: Any) -> Any:
    """A fully connected layer on (batch, 1, 1, units), as a 1×1 convolution."""
    if x.shape[0] == 0:  # oneDNN's convolution in TensorFlow gives an empty batch a wrong shape
        y = ops.matmul(x, kernel)
    else:
        kernel = ops.expand_dims(kernel, (0, 1))
        y = ops.conv(x, kernel, padding="valid", data_format="channels_last")
    return y if bias is None else y + bias


def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    """`x` as (batch, *shape), with no operation where it has that shape."""
    return x if tuple(x.shape[1:]) == shape else ops.reshape(x, (-1, *shape))
