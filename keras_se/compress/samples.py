"""Checks of the calibration data for quantization-aware training."""

from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.litert import calibration as checks
from keras_se.litert.signature import input_arrays, input_specs


def calibration_samples(model: keras.Model, calibration: Any) -> dict[str, np.ndarray]:
    """Return calibration arrays by input name, or raise `InputError` if they are unusable."""
    if calibration is None:
        raise InputError(
            "Quantization-aware training starts from calibration data: representative inputs, as "
            "for to_tflite. Received: calibration=None"
        )
    specs = input_specs(model)
    if any(spec.dtype != "float32" for spec in specs):
        raise InputError(
            "Quantization-aware training takes models with inputs of float32. "
            f"Received: {[spec.dtype for spec in specs]}"
        )
    samples = input_arrays(specs, calibration, "calibration")
    # Check before any model is built. Infinite outputs or a dead bottleneck give no valid range.
    observed = checks.observe(model, list(samples.values()))
    checks.check_finite(observed)
    checks.check_bottlenecks(observed)
    return samples
