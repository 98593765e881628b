"""The rounding of an 8-bit file, in the training of a Keras model."""

from typing import Any

import keras
from keras import ops

from keras_se.errors import InputError

START = 6.0  # of a range that no data have set


@keras.saving.register_keras_serializable(package="keras_se")
class FakeQuantize(keras.layers.Layer):
    """Rounds a tensor to the 256 values that it can have in an int8 file; a gradient passes by.

    The range `[low, high]` is moved until zero is one of the values, as TFLite does it. What is
    outside is clipped, and has no gradient. In training the range follows the extremes of the
    batches by an exponential moving average; a batch that is zero throughout leaves it alone.

    Args:
        fixed: The range, where the format fixes it; it follows nothing then.
        momentum: Of the moving average, between 0 and 1.
        **kwargs: Arguments of `keras.layers.Layer`.

    Input shape:
        Any.

    Output shape:
        That of the input.

    Attributes:
        low: Variable of shape (); the lower end of the range. `None` with `fixed`.
        high: Variable of shape (); the upper end.
        observing: Whether calls widen the range to what they see, and pass it on as it is.

    Raises:
        InputError: If an argument breaks its rule.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", arXiv 1712.05877, section 3.

    Example:
        >>> import numpy as np
        >>> FakeQuantize(fixed=(0.0, 255 / 256))(np.array([[0.5, 0.5001, 2.0]])).numpy()
        array([[0.5       , 0.5       , 0.99609375]], dtype=float32)
    """

    def __init__(
        self, fixed: tuple[float, float] | None = None, momentum: float = 0.99, **kwargs: Any
    ) -> None:
        if fixed is not None and not fixed[0] <= 0.0 <= fixed[1]:
            raise InputError(f"A range of int8 holds zero. Received: fixed={tuple(fixed)}")
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
        """Creates the range, where it is not fixed."""
        if self.fixed is None:
            self.low = self._end("low", -START)
            self.high = self._end("high", START)

    def _end(self, name: str, value: float) -> Any:
        start = keras.initializers.Constant(value)
        return self.add_weight(name=name, shape=(), initializer=start, trainable=False)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Rounds `inputs`; see the class."""
        if self.observing:
            self._widen(inputs)
            return inputs
        if self.fixed is not None:
            low, high = self.fixed
        else:
            if training and self.trainable:
                self._follow(inputs)
            low, high = self.low, self.high
        return keras.quantizers.fake_quant_with_min_max_vars(inputs, low, high)

    def observe(self) -> None:
        """Forgets the range: calls widen it until `observing` is false again."""
        self.observing = True
        if self.fixed is None:
            self.low.assign(0.0)
            self.high.assign(0.0)

    def _widen(self, inputs: Any) -> None:
        if self.fixed is None:
            low, high = _extremes(inputs)
            self.low.assign(ops.minimum(self.low, low))
            self.high.assign(ops.maximum(self.high, high))

    def _follow(self, inputs: Any) -> None:
        low, high = _extremes(inputs)
        is_alive = ops.greater(high, low)  # a range of no width would not load
        for end, value in ((self.low, low), (self.high, high)):
            part = ops.where(is_alive, 1.0 - self.momentum, 0.0)
            end.assign(end + part * (value - end))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """The shape of the input."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of `__init__`."""
        return {**super().get_config(), "fixed": self.fixed, "momentum": self.momentum}


def _extremes(x: Any) -> tuple[Any, Any]:
    """The least and the largest value, zero among them."""
    x = ops.stop_gradient(ops.cast(x, "float32"))
    return ops.minimum(ops.min(x), 0.0), ops.maximum(ops.max(x), 0.0)


def is_quantize_aware(model: Any) -> bool:
    """Whether a model holds the ranges of an int8 file.

    Args:
        model: A Keras model.

    Returns:
        True for what `quantize_natively` made, nested models included.

    Example:
        >>> is_quantize_aware(keras.Sequential([keras.Input((2,)), FakeQuantize()]))
        True
    """
    return any(
        isinstance(layer, FakeQuantize) or is_quantize_aware(layer)
        for layer in getattr(model, "layers", ())
    )
