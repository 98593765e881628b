"""The SE block with the rounding of an int8 file."""

from typing import Any

import keras

from keras_se.layers import squeezes
from keras_se.layers.quantization.activation import (
    QuantizeAwareActivation,
    decollapse_bias,
)
from keras_se.layers.quantization.fake_quantize import FakeQuantize
from keras_se.layers.quantization.kernels import quantized_kernel
from keras_se.layers.quantization.pooling import UNIT
from keras_se.layers.quantization.wrapper import arguments_of
from keras_se.layers.se_block import SEBlock

# The softmax gate is C times softmax, and the activation is softmax alone.
_GATE_FORMS = {"softmax": "softmax_gate"}
_INTEGER_SQUEEZES = ("avg", "max", "avg_max")


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAwareSEBlock(SEBlock):
    """An `SEBlock` that rounds squeeze, kernels, bottleneck, gate and product to int8."""

    def __init__(self, *args: Any, preserves_zeros: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.preserves_zeros = preserves_zeros
        policy = {"dtype": self.dtype_policy}
        self.ranges = {"share": FakeQuantize(UNIT, name="share", **policy)}
        names = ["product"]
        if self.squeeze in ("avg", "avg_max"):
            names.append("masked")
        if self.squeeze == "avg_max":
            names += ["mean", "sum"]
        # A maximum is one of the rounded inputs, so it needs no range of its own.
        if self.squeeze != "max":
            names.append("squeezing")
        if self.shift:
            names += ["shift", "shifted"]
        for name in names:
            self.ranges[name] = FakeQuantize(name=name, **policy)
        gate = _GATE_FORMS.get(self.gate, self.gate) if isinstance(self.gate, str) else self.gate
        self.hidden = QuantizeAwareActivation(self.activation, name="hidden", **policy)
        self.gating = QuantizeAwareActivation(gate, name="gating", **policy)

    @property
    def is_integer(self) -> bool:
        """Whether a file computes all of the block in int8."""
        parts = (self.hidden, self.gating)
        return self.squeeze in _INTEGER_SQUEEZES and all(part.known.is_integer for part in parts)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights and the ranges."""
        super().build(input_shape)
        for part in self.ranges.values():
            part.build(input_shape)
        for activation in (self.hidden, self.gating):
            activation.build(input_shape)

    def squeeze_function(self) -> squeezes.Squeeze:
        """Returns the function that squeezes, which rounds between its operations."""
        rounded = {"avg": self._mean, "avg_max": self._mean_and_maximum}
        name = self.squeeze if isinstance(self.squeeze, str) else None
        return rounded[name] if name in rounded else super().squeeze_function()

    def _mean(self, x: Any, axis: tuple[int, ...], mask: Any = None) -> Any:
        if mask is None:
            return squeezes.avg(x, axis)
        return squeezes.masked_avg(x, axis, mask, self.ranges["share"], self.ranges["masked"])

    def _mean_and_maximum(self, x: Any, axis: tuple[int, ...], mask: Any = None) -> Any:
        mean = self.ranges["mean"](self._mean(x, axis, mask))
        return 0.5 * self.ranges["sum"](mean + squeezes.max(x, axis, mask))

    def squeezed(self, inputs: Any, mask: Any = None) -> Any:
        """Squeezes as `SEBlock` does, and rounds what is no maximum."""
        pooled = super().squeezed(inputs, mask)
        return self.ranges["squeezing"](pooled) if "squeezing" in self.ranges else pooled

    def connected(self, x: Any, kernel: Any, bias: Any) -> Any:
        """Connects as `SEBlock` does, with a rounded kernel."""
        bias = None if bias is None else decollapse_bias(bias, kernel.shape[-1])
        return super().connected(x, quantized_kernel(kernel, 0, self.preserves_zeros), bias)

    def bottleneck(self, pooled: Any) -> Any:
        """Returns the rounded activations of the bottleneck."""
        return self.hidden(self.connected(pooled, self.w1, self.b1))

    def gated(self, logits: Any) -> Any:
        """Returns the rounded gates."""
        return self.gating(logits)

    def scaled(self, inputs: Any, gates: Any) -> Any:
        """Returns the rounded product of feature maps and gates."""
        return self.ranges["product"](super().scaled(inputs, gates))

    def shifted(self, inputs: Any, shift: Any) -> Any:
        """Returns the rounded sum of feature maps and a rounded shift."""
        return self.ranges["shifted"](super().shifted(inputs, self.ranges["shift"](shift)))

    def plain(self) -> SEBlock:
        """Returns an unbuilt `SEBlock` with the same arguments."""
        arguments = arguments_of(self)
        del arguments["preserves_zeros"]
        return SEBlock(**arguments)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`."""
        return {**super().get_config(), "preserves_zeros": self.preserves_zeros}
