"""The only module that imports tf_keras and tensorflow-model-optimization (tfmot).

On import, tfmot sets `TF_USE_LEGACY_KERAS` for the whole process. TensorFlow then loads Keras 2 if
it has not loaded Keras yet. This module prevents both.
"""

import os
import warnings
from functools import cache
from typing import Any

from keras_se.errors import import_extra

_VARIABLE = "TF_USE_LEGACY_KERAS"


def load_tensorflow() -> Any:
    """Import TensorFlow."""
    return import_extra("tensorflow", "compress")


def load_tf_keras() -> Any:
    """Import tf_keras."""
    return _loaded("tf_keras")


def load_tfmot() -> Any:
    """Import tensorflow-model-optimization without side effects on the process."""
    # tfmot imports tf_keras. Loading it first reports a missing tf_keras with its extra.
    _loaded("tf_keras")
    return _loaded("tensorflow_model_optimization")


@cache
def _loaded(module: str) -> Any:
    # TensorFlow picks its Keras version on first access, by the variable that tfmot sets: access it
    # before tfmot is imported.
    _ = load_tensorflow().keras.Model
    before = os.environ.get(_VARIABLE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # tfmot uses distutils
            return import_extra(module, "compress")
    finally:
        os.environ.pop(_VARIABLE, None)
        if before is not None:
            os.environ[_VARIABLE] = before
