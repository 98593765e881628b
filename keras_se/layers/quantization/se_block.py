"""The SE block with the rounding of an int8 file."""

from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.layers.gates import GATES
from keras_se.layers.quantization.activation import (
    ACTIVATIONS,
    QuantizeAwareActivation,
    activation_name,
    decollapse_bias,
)
from keras_se.layers.quantization.fake_quantize import FakeQuantize
from keras_se.layers.quantization.kernels import quantized_kernel
from keras_se.layers.se_block import SEBlock

_SQUEEZES = ("avg", "max")
# The softmax gate is C times softmax, and the activation is softmax alone.
_GATES = tuple(gate for gate in GATES if gate in ACTIVATIONS and gate != "softmax")


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAwareSEBlock(SEBlock):
    """An `SEBlock` that rounds squeeze, kernels, bottleneck, gate and product to int8."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.squeeze not in _SQUEEZES or self.gate not in _GATES or self.shift:
            raise InputError(
                f"Quantization-aware training supports SE blocks with a squeeze among {_SQUEEZES}, "
                f"a gate among {_GATES} and without shift only. Received: {self.name!r} "
                f"with squeeze={self.squeeze!r}, gate={self.gate!r}, shift={self.shift}"
            )
        # A maximum is one of the rounded inputs, so only the mean needs a range of its own.
        self.squeezing = FakeQuantize(name="squeezing") if self.squeeze == "avg" else None
        self.hidden = QuantizeAwareActivation(activation_name(self.activation), name="hidden")
        self.gating = QuantizeAwareActivation(self.gate, name="gating")
        self.product = FakeQuantize(name="product")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights and the ranges."""
        super().build(input_shape)
        for part in (self.squeezing, self.hidden, self.gating, self.product):
            if part is not None:
                part.build(input_shape)

    def squeezed(self, inputs: Any, mask: Any = None) -> Any:
        """Squeezes as `SEBlock` does, and rounds a mean."""
        pooled = super().squeezed(inputs, mask)
        return pooled if self.squeezing is None else self.squeezing(pooled)

    def connected(self, x: Any, kernel: Any, bias: Any) -> Any:
        """Connects as `SEBlock` does, with a rounded kernel."""
        bias = None if bias is None else decollapse_bias(bias, kernel.shape[-1])
        return super().connected(x, quantized_kernel(kernel, 0), bias)

    def bottleneck(self, pooled: Any) -> Any:
        """Returns the rounded activations of the bottleneck."""
        return self.hidden(self.connected(pooled, self.w1, self.b1))

    def gated(self, logits: Any) -> Any:
        """Returns the rounded gates."""
        return self.gating(logits)

    def call(self, inputs: Any, mask: Any = None, return_gates: bool = False) -> Any:
        """Recalibrates the inputs with rounded gates, and rounds the product."""
        # The gates are those of the file, so that all readers of gates work on this block too.
        outputs, gates = super().call(inputs, mask=mask, return_gates=True)
        outputs = self.product(outputs)
        return (outputs, gates) if return_gates else outputs

    def plain(self) -> SEBlock:
        """Returns an unbuilt `SEBlock` with the same arguments."""
        return SEBlock.from_config(self.get_config())
