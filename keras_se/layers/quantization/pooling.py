"""Average pooling of a sequence with the rounding of an int8 file."""

from typing import Any

import keras
from keras import ops

from keras_se.layers import squeezes
from keras_se.layers.quantization.fake_quantize import FakeQuantize
from keras_se.layers.quantization.wrapper import QuantizeAwareWrapper

UNIT = (0.0, 1.0)  # the range of a mask, and of the share of the positions that it keeps


@keras.saving.register_keras_serializable(package="keras_se")
class QuantizeAwarePooling(QuantizeAwareWrapper):
    """Averages over the steps of a mask as the squeeze of an `SEBlock` does; 0 if there are none.

    The sum of a plain layer under a mask would be clipped by the reference kernels of LiteRT.
    """

    kinds = (keras.layers.GlobalAveragePooling1D,)

    def __init__(self, layer: keras.layers.Layer, **kwargs: Any) -> None:
        super().__init__(layer, **kwargs)
        self.share = FakeQuantize(UNIT, name="share", dtype=self.dtype_policy)
        self.masked = FakeQuantize(name="masked", dtype=self.dtype_policy)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the range of the sums under a mask."""
        super().build(input_shape)
        for part in (self.share, self.masked):
            part.build(input_shape)

    def call(self, inputs: Any, mask: Any = None) -> Any:
        """Computes the averages, without rounding them."""
        if mask is None:
            return self.layer(inputs)
        kept = ops.expand_dims(ops.cast(mask, "bool"), -1)
        mean = squeezes.masked_avg(inputs, (1,), kept, self.share, self.masked)
        return mean if self.layer.keepdims else ops.squeeze(mean, 1)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> Any:
        """Returns the output shape of the layer."""
        return tuple(self.layer.compute_output_shape(input_shape))
