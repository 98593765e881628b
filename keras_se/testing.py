"""Assertions for the test suite of a network that is shipped."""

from typing import Any

import keras

from keras_se.litert.graph.flatbuffer import TFLite
from keras_se.verification.reports.gate_report import GateReport
from keras_se.verification.verdict import verify


def assert_gates_survive(
    reference: keras.Model | TFLite, tflite: TFLite, x: Any, y: Any = None, **options: Any
) -> GateReport:
    """Asserts that the gates of a TFLite file survive, as `keras_se.verify` judges it.

    Args:
        reference: The Keras model, or a float TFLite file of it.
        tflite: The bytes or the path of the file that is shipped.
        x: Held-out inputs, at least 32.
        y: Labels, for the accuracy in the message.
        **options: Further arguments of `keras_se.verify`, such as `strict=True`.

    Returns:
        The report, for further assertions.

    Raises:
        AssertionError: If the file does not pass; its message is the report.
        InputError: As `keras_se.verify`.

    Example:
        >>> import numpy as np
        >>> from keras_se import SEBlock, to_tflite
        >>> wide = keras.initializers.RandomNormal(stddev=2.0, seed=0)
        >>> block = SEBlock(2, kernel_initializer=wide)
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), block])
        >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
        >>> assert_gates_survive(model, to_tflite(model, "float32"), x).verdict
        'the gates survive'
    """
    __tracebackhide__ = True  # pytest shows the line of the caller
    report = verify(reference, tflite, x, y, **options)
    if not report.passed:
        raise AssertionError(str(report))
    return report
