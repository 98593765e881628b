"""Calibration data of quantization-aware training, checked before any work is done on them."""

from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.litert import calibration as checks
from keras_se.litert.signature import input_arrays, input_specs


def calibration_samples(model: keras.Model, calibration: Any) -> dict[str, np.ndarray]:
    """Samples by name of the input, on which a model is alive and finite.

    Args:
        model: A built functional or Sequential model.
        calibration: One array, or a list or dictionary of them, shape (samples, *input shape).

    Returns:
        Arrays of the types of the inputs, in the order of `model.inputs`.

    Raises:
        InputError: If there are none, they do not fit the model, or on them an output is not finite
            or a bottleneck is zero throughout.
    """
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
    observed = checks.observe(model, list(samples.values()))
    checks.check_finite(observed)
    checks.check_bottlenecks(observed)
    return samples
