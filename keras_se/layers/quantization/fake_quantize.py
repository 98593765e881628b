"""Fake quantization to int8, for quantization-aware training.

Source: Jacob et al., arXiv 1712.05877, section 3.
"""

from typing import Any

import keras
from keras import ops

from keras_se.errors import InputError

START = 6.0  # the ends of a range before data sets it
_AUGMENTATIONS = tuple(
    kind for name, kind in vars(keras.layers).items() if name.startswith("Random")
)
# Their outputs lie in the range of their input, so TFLite gives them no range of their own.
SAME_RANGE = (
    *_AUGMENTATIONS,
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.CenterCrop,
    keras.layers.Cropping1D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
    keras.layers.Identity,
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.Permute,
    keras.layers.RepeatVector,
    keras.layers.Reshape,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.UpSampling1D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
)


@keras.saving.register_keras_serializable(package="keras_se")
class FakeQuantize(keras.layers.Layer):
    """Rounds a tensor to the 256 values of its range in an int8 file."""

    def __init__(
        self, fixed: tuple[float, float] | None = None, momentum: float = 0.99, **kwargs: Any
    ) -> None:
        if fixed is not None and not fixed[0] <= 0.0 <= fixed[1]:
            raise InputError(f"An int8 range must include zero. Received: fixed={tuple(fixed)}")
        if not 0.0 <= momentum < 1.0:
            raise InputError(
                f"momentum must be at least 0 and below 1. Received: momentum={momentum!r}"
            )
        super().__init__(**kwargs)
        self.fixed = None if fixed is None else (float(fixed[0]), float(fixed[1]))
        self.momentum = momentum
        self.low: Any = None
        self.high: Any = None
        self.observing = False
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates the range, unless it is fixed."""
        if self.fixed is None:
            self.low = self._end("low", -START)
            self.high = self._end("high", START)

    def _end(self, name: str, value: float) -> Any:
        start = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=(), initializer=start, trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Rounds the inputs; in training the range widens at once and narrows slowly."""
        if self.observing:
            # Not rounded: the ranges of later layers must come from unrounded values.
            self._widen(inputs)
            return inputs
        if self.fixed is not None:
            low, high = self.fixed
        else:
            if training and self.trainable:
                self._follow(inputs)
            low, high = self.low, self.high
        # Moves the range until zero is one of its values, as TFLite does. What is outside is
        # clipped and has no gradient.
        return keras.quantizers.fake_quant_with_min_max_vars(inputs, low, high)

    def observe(self) -> None:
        """Resets the range; calls only widen it until `observing` is false again."""
        self.observing = True
        if self.fixed is None:
            self.low.assign(0.0)
            self.high.assign(0.0)

    def restart(self) -> None:
        """Sets the range to that before data."""
        self.low.assign(-START)
        self.high.assign(START)

    def _widen(self, inputs: Any) -> None:
        if self.fixed is None:
            low, high = _extremes(inputs)
            self.low.assign(ops.minimum(self.low, low))
            self.high.assign(ops.maximum(self.high, high))

    def _follow(self, inputs: Any) -> None:
        low, high = _extremes(inputs)
        # A batch of zeros leaves the range alone: TFLite does not load a range of no width.
        part = ops.where(ops.greater(high, low), 1.0 - self.momentum, 0.0)
        # Widened at once: dropout would lose what a range clips of the larger values that it makes.
        self.low.assign(ops.minimum(low, self.low + part * (low - self.low)))
        self.high.assign(ops.maximum(high, self.high + part * (high - self.high)))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of `__init__`."""
        return {**super().get_config(), "fixed": self.fixed, "momentum": self.momentum}


def _extremes(x: Any) -> tuple[Any, Any]:
    """Returns the minimum and the maximum of `x` and zero."""
    # An int8 range must hold zero, so zero counts as a value.
    x = ops.stop_gradient(ops.cast(x, "float32"))
    return ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)


def is_quantize_aware(model: Any) -> bool:
    """Returns whether a model, or a model nested in it, has `FakeQuantize` layers."""
    return any(
        isinstance(layer, FakeQuantize) or is_quantize_aware(layer)
        for layer in getattr(model, "layers", ())
    )
