"""The one place where tf_keras and tensorflow-model-optimization are imported.

On import, tfmot sets `TF_USE_LEGACY_KERAS` for the whole process, and so makes Keras 2 of a Keras
that TensorFlow has not yet loaded. Both are prevented here.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from keras_se.errors import import_extra

_VARIABLE = "TF_USE_LEGACY_KERAS"


def load_tensorflow() -> Any:
    """Imports TensorFlow.

    Returns:
        The module.

    Raises:
        MissingExtraError: If it is not installed.

    Example:
        >>> load_tensorflow().__name__
        'tensorflow'
    """
    return import_extra("tensorflow", "compress")


def load_tf_keras() -> Any:
    """Imports tf_keras.

    Returns:
        The module.

    Raises:
        MissingExtraError: If it is not installed.

    Example:
        >>> load_tf_keras().__name__
        'tf_keras'
    """
    return _loaded("tf_keras")


def load_tfmot() -> Any:
    """Imports tensorflow-model-optimization, and leaves the process as it was.

    Returns:
        The module.

    Raises:
        MissingExtraError: If it is not installed.

    Example:
        >>> load_tfmot().__name__
        'tensorflow_model_optimization'
    """
    _loaded("tf_keras")
    return _loaded("tensorflow_model_optimization")


@cache
def _loaded(module: str) -> Any:
    tensorflow = load_tensorflow()
    with _environment_kept(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tfmot reads versions with distutils
        # TensorFlow decides at the first use which Keras this is, by the variable that tfmot sets.
        _ = tensorflow.keras.Model
        return import_extra(module, "compress")


@contextlib.contextmanager
def _environment_kept() -> Iterator[None]:
    before = os.environ.get(_VARIABLE)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_VARIABLE, None)
        else:
            os.environ[_VARIABLE] = before
