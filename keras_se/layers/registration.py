"""Identifiers of gates and squeezes: names, or registered callables of the user's own."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_se.errors import InputError


def standardize(role: str, identifier: Any, named: Mapping[str, Callable[..., Any]]) -> Any:
    """A name, or the user's own registered callable.

    Args:
        role: What it serves as, for the message: `"gate"` or `"squeeze"`.
        identifier: One of the names or its function, a registered callable, or what `serialize`
            made of one.
        named: The functions that have a name.

    Returns:
        A name, or a callable that has none here.

    Raises:
        InputError: If there is no such name, or a callable is not registered.

    Example:
        >>> standardize("squeeze", abs, {"absolute": abs})
        'absolute'
    """
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    for name, function in named.items():
        if identifier is function:
            return name
    if callable(identifier):
        registered_name(role, identifier)
    elif not isinstance(identifier, str) or identifier not in named:
        raise InputError(
            f"{role} must be one of {sorted(named)} or a registered callable. "
            f"Received: {role}={identifier!r}"
        )
    return identifier


def serialize(identifier: Any) -> Any:
    """What a configuration holds for a standardized identifier.

    Args:
        identifier: What `standardize` returned.

    Returns:
        The name, or for a callable Keras's dictionary for that object.

    Example:
        >>> serialize("avg")
        'avg'
    """
    if isinstance(identifier, str):
        return identifier
    return keras.saving.serialize_keras_object(identifier)


def registered_name(role: str, function: Any) -> str:
    """The registered name of a callable.

    Args:
        role: What the callable serves as, for the message.
        function: A function, or an object whose class has `get_config` and `from_config`.

    Returns:
        `"package>name"`.

    Raises:
        InputError: If neither the function nor the class of the object is registered: a file that
            holds it could not be loaded.

    Example:
        >>> from keras_se.layers.gates import tanh
        >>> registered_name("gate", tanh)
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
