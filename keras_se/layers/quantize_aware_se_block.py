"""The SE block, as an int8 file computes it."""

from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.layers.fake_quantize import FakeQuantize
from keras_se.layers.gates import GATES
from keras_se.layers.quantize_aware import quantized_kernel
from keras_se.layers.quantize_aware_activation import FORMS, QuantizeAwareActivation, uneven
from keras_se.layers.se_block import SEBlock

_SQUEEZES = ("avg", "max")
_GATES = tuple(gate for gate in GATES if gate in FORMS and gate != "softmax")  # C times softmax


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAwareSEBlock(SEBlock):
    """An `SEBlock` with the rounding of an int8 file: squeeze, kernels, bottleneck, gate, product.

    Its gates are those that the file will have, up to the rounding of what is before the block, so
    that what reads or judges gates reads these.

    Args:
        *args: As of `SEBlock`, but its squeeze is `"avg"` or `"max"`, its activation and its gate
            are among those of `QuantizeAwareActivation`, and it has no shift.
        **kwargs: As of `SEBlock`.

    Input shape:
        That of `SEBlock`; the features are taken as they come, rounded by what is before.

    Output shape:
        That of `SEBlock`.

    Raises:
        InputError: If an argument breaks its rule.

    Example:
        >>> import numpy as np
        >>> block = QuantizeAwareSEBlock(2, gate="one_plus_tanh", identity_init=True)
        >>> block.gates(np.ones((1, 4, 4, 2), "float32"))
        array([[1., 1.]], dtype=float32)
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        activation = keras.activations.serialize(self.activation)
        if self.squeeze not in _SQUEEZES or self.gate not in _GATES or self.shift:
            raise InputError(
                f"Quantization-aware training takes SE blocks that squeeze by one of {_SQUEEZES}, "
                f"with a gate among {_GATES} and without shift. Received: {self.name!r} "
                f"with squeeze={self.squeeze!r}, gate={self.gate!r}, shift={self.shift}"
            )
        self.squeezing = FakeQuantize(name="squeezing") if self.squeeze == "avg" else None
        self.hidden = QuantizeAwareActivation(activation, name="hidden")
        self.gating = QuantizeAwareActivation(self.gate, name="gating")
        self.product = FakeQuantize(name="product")

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the weights and the ranges."""
        super().build(input_shape)
        for part in (self.squeezing, self.hidden, self.gating, self.product):
            if part is not None:
                part.build(input_shape)

    def squeezed(self, inputs: Any, mask: Any = None) -> Any:
        """As of `SEBlock`, rounded: a mean to a range of its own, a maximum is as it comes."""
        pooled = super().squeezed(inputs, mask)
        return pooled if self.squeezing is None else self.squeezing(pooled)

    def connected(self, x: Any, kernel: Any, bias: Any) -> Any:
        """As of `SEBlock`, with the kernel rounded."""
        bias = None if bias is None else uneven(bias, kernel.shape[-1])
        return super().connected(x, quantized_kernel(kernel, 0), bias)

    def bottleneck(self, pooled: Any) -> Any:
        """As of `SEBlock`, rounded."""
        return self.hidden(self.connected(pooled, self.w1, self.b1))

    def gated(self, logits: Any) -> Any:
        """As of `SEBlock`, rounded."""
        return self.gating(logits)

    def call(self, inputs: Any, mask: Any = None, return_gates: bool = False) -> Any:
        """Recalibrates `inputs`; see the class."""
        outputs, gates = super().call(inputs, mask=mask, return_gates=True)
        outputs = self.product(outputs)
        return (outputs, gates) if return_gates else outputs

    def plain(self) -> SEBlock:
        """An `SEBlock` like this one, not built."""
        return SEBlock.from_config(self.get_config())
