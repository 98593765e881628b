"""Compiles the candidates of a search: all alike, and without shared objects."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_se.errors import InputError

Compile = Callable[[keras.Model], Any] | Mapping[str, Any] | None

# `Model.compile` picks the variant that fits the loss; `metrics.get` does not know all of them.
_BY_KERAS = ("accuracy", "acc", "crossentropy", "ce")


def check_compile(compile: Compile) -> None:
    """Raises if `compile_like` cannot use `compile`, before a search starts."""
    if isinstance(compile, Mapping):
        _arguments(compile)
    elif compile is not None and not callable(compile):
        raise InputError(
            "compile must be None, a function of the model, or a mapping of arguments of "
            f"Model.compile. Received: compile={compile!r}"
        )


def compile_like(model: keras.Model, base: keras.Model, compile: Compile = None) -> None:
    """Compiles a candidate by a function, by a mapping, or as its base model is compiled."""
    if compile is None:
        _compile_as(model, base)
    elif isinstance(compile, Mapping):
        model.compile(**_arguments(compile))
    else:
        compile(model)


def _compile_as(model: keras.Model, base: keras.Model) -> None:
    if not base.compiled:
        raise InputError(
            "Without compile= candidates are compiled as the base model is. "
            f"Received: model {base.name!r}, which is not compiled; give compile="
        )
    try:
        config = base.get_compile_config()
        # The loss has no state, so models may share it. Its config may lack arguments, such as
        # the delta of Huber.
        config["loss"] = None
        arguments = {**keras.saving.deserialize_keras_object(config), "loss": _unwrapped(base.loss)}
        model.compile(**arguments)
    except Exception as error:  # the user's own optimizer or metric may raise anything
        raise InputError(
            "Without compile= the base model is compiled by what Keras knows or has registered; "
            f"else give compile=. Received: model {base.name!r}, which gives: {_line(error)}"
        ) from error


def _unwrapped(loss: Any) -> Any:
    """Returns a loss with plain lists and dicts, without Keras's tracking wrappers."""
    if isinstance(loss, dict):
        return {output: _unwrapped(part) for output, part in loss.items()}
    return [_unwrapped(part) for part in loss] if isinstance(loss, list | tuple) else loss


def _arguments(compile: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments of `Model.compile`, with new objects."""
    # A shared optimizer or metric would carry its state from one candidate to the next.
    _check_plain(compile)
    arguments = dict(compile)
    rate = arguments.pop("learning_rate", None)
    arguments["optimizer"] = _optimizer(arguments.get("optimizer", "rmsprop"), rate)
    getters = {
        "loss": keras.losses.get,
        "metrics": keras.metrics.get,
        "weighted_metrics": keras.metrics.get,
    }
    for name in getters.keys() & arguments.keys():
        arguments[name] = _resolved(name, arguments[name], getters[name])
    return arguments


def _check_plain(compile: Mapping[str, Any]) -> None:
    _, *known = inspect.signature(keras.Model.compile).parameters  # without self
    known.append("learning_rate")
    unknown = [key for key in compile if key not in known]
    if unknown:
        raise InputError(f"compile holds arguments among {known}. Received: {unknown}")
    for name, value in compile.items():
        if not _is_plain(value):
            raise InputError(
                "A mapping compile holds names, numbers, lists and dictionaries, since models must "
                "not share an object; for objects give a function of the model. "
                f"Received: {name}={value!r}"
            )
        # `metrics.get` takes a plain string, but `Model.compile` does not.
        if name in ("metrics", "weighted_metrics") and isinstance(value, str):
            raise InputError(f"{name} must be a list of names. Received: {name}={value!r}")


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _optimizer(identifier: Any, rate: Any) -> Any:
    config: dict[str, Any] = {"class_name": str(identifier), "config": {}}
    if isinstance(identifier, Mapping):
        config = dict(identifier)
    if rate is not None:
        config["config"] = {**config.get("config", {}), "learning_rate": rate}
    return _found("optimizer", config, keras.optimizers.get)


def _resolved(name: str, value: Any, get: Callable[[Any], Any]) -> Any:
    """Replaces configurations by objects; keeps names."""
    if isinstance(value, Mapping) and "class_name" in value:
        return _found(name, dict(value), get)
    if isinstance(value, Mapping):
        return {output: _resolved(name, part, get) for output, part in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(name, part, get) for part in value]
    if value is not None and (name == "loss" or value not in _BY_KERAS):
        # Only a check. The name stays, because Keras logs the metric under the name as given.
        _found(name, value, get)
    return value


def _found(name: str, identifier: Any, get: Callable[[Any], Any]) -> Any:
    try:
        return get(identifier)
    except Exception as error:  # Keras raises several types for an unknown name
        raise InputError(
            f"compile names what Keras knows. Received: {name}={identifier!r}, "
            f"which gives: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
