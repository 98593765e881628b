"""Identifiers of gates and squeezes: names or registered callables."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_se.errors import InputError


def standardize(role: str, identifier: Any, named: Mapping[str, Callable[..., Any]]) -> Any:
    """Returns the name of a known function, or a registered callable itself."""
    if isinstance(identifier, dict):
        identifier = keras.saving.deserialize_keras_object(identifier)
    # Saved configurations hold names, so a known function becomes its name.
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
    """Returns the form of a standardized identifier in a configuration."""
    if isinstance(identifier, str):
        return identifier
    return keras.saving.serialize_keras_object(identifier)


def registered_name(role: str, function: Any) -> str:
    """Returns the registered name, `"package>name"`, of a callable."""
    # Keras registers the class of an object, not the object.
    target = function if hasattr(function, "__name__") else type(function)
    name: str = keras.saving.get_registered_name(target)
    # A saved model with an unregistered callable could not be loaded. A class is refused too: a
    # call would create an object instead of a tensor.
    if inspect.isclass(function) or keras.saving.get_registered_object(name) is not target:
        raise InputError(
            f"A callable {role} must be registered with "
            "keras.saving.register_keras_serializable, so that saved models can be loaded. "
            f"Received: {role}={function!r}"
        )
    return name
