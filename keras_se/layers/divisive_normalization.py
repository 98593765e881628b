"""Divisive normalization as a gate."""

from typing import Any, Self

import keras
from keras import ops

from keras_se.errors import InputError
from keras_se.layers.precision import in_float32


@keras.saving.register_keras_serializable(package="keras_se")
class DivisiveNormalization:
    """Divisive normalization: channels inhibit each other.

    Computes the normalization equation
    `R_c = gamma · D_c^n / (sigma^n + Σ_k w_k · D_k^n)`. The driving input is
    `D = softplus(v)`, which is positive. The normalization pool holds all channels with equal
    weights, `w_k = 1 / C`. A gate is high where the drive of its channel exceeds that of the pool,
    and the mean gate is at most gamma.

    This class is also an example of a custom gate: a registered class with `get_config` and
    `from_config`, whose instances map pre-gate values to gates.

    Args:
        gamma: The gain, above 0.
        sigma: The semi-saturation constant, above 0: the drive at which the gates of a uniform
            pool are half of gamma.
        n: The exponent, at least 1; 2 is the usual choice in the retina and in V1.

    Raises:
        InputError: If a constant is out of its range.

    Source: Carandini and Heeger, "Normalization as a canonical neural computation", Nature Reviews
    Neuroscience 13, 51-62 (2012), the normalization equation.

    Example:
        >>> from keras_se import SEBlock
        >>> SEBlock(4, gate=DivisiveNormalization(gamma=2.0)).get_config()["gate"]["config"]
        {'gamma': 2.0, 'sigma': 1.0, 'n': 2.0}
    """

    def __init__(self, gamma: float = 2.0, sigma: float = 1.0, n: float = 2.0) -> None:
        if gamma <= 0 or sigma <= 0 or n < 1:
            raise InputError(
                "gamma and sigma must be above 0 and n at least 1. "
                f"Received: gamma={gamma!r}, sigma={sigma!r}, n={n!r}"
            )
        self.gamma = float(gamma)
        self.sigma = float(sigma)
        self.n = float(n)

    def __call__(self, v: Any) -> Any:
        """Returns gates of the shape of `v`, with the channels on the last axis."""
        return in_float32(self._normalized, v)

    def _normalized(self, v: Any) -> Any:
        drive = ops.softplus(v) ** self.n
        pool = ops.mean(drive, axis=-1, keepdims=True)
        return self.gamma * drive / (self.sigma**self.n + pool)

    def get_config(self) -> dict[str, float]:
        """Returns the constants."""
        return {"gamma": self.gamma, "sigma": self.sigma, "n": self.n}

    @classmethod
    def from_config(cls, config: dict[str, float]) -> Self:
        """Creates the gate from its constants."""
        return cls(**config)
