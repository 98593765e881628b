"""Callables of the user's own: what is needed of them so that a saved model can be loaded."""

import inspect
from typing import Any

import keras

from keras_se.errors import InputError


def check_registered(role: str, function: Any) -> str:
    """The registered name of a callable.

    Args:
        role: What the callable serves as, for the message: `"gate"` or `"squeeze"`.
        function: A function, or an object whose class has `get_config`.

    Returns:
        `"package>name"`.

    Raises:
        InputError: If neither the function nor the class of the object is registered: a file that
            holds it could not be loaded.

    Example:
        >>> from keras_se.layers.gates import tanh
        >>> check_registered("gate", tanh)
        'keras_se>tanh'
    """
    target = function if hasattr(function, "__name__") else type(function)
    name: str = keras.saving.get_registered_name(target)
    if inspect.isclass(function) or keras.saving.get_registered_object(name) is not target:
        raise InputError(
            f"A callable {role} must be registered with "
            "keras.saving.register_keras_serializable, so that saved models can be loaded. "
            f"Received: {role}={function!r}"
        )
    return name
