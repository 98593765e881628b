"""Compiles the candidates of a search: all alike, and without shared objects."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_se.errors import InputError, reason

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
            "Without compile= the base model must be compiled. "
            f"Received: model {base.name!r}, which is not compiled"
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
            "Without compile= the base model must be compiled with what Keras knows or has "
            f"registered. Received: model {base.name!r}, which gives: {reason(error)}"
        ) from error


def _unwrapped(loss: Any) -> Any:
    # Without the lists and dicts by which Keras tracks losses.
    if isinstance(loss, dict):
        return {output: _unwrapped(part) for output, part in loss.items()}
    return [_unwrapped(part) for part in loss] if isinstance(loss, list | tuple) else loss


def _arguments(compile: Mapping[str, Any]) -> dict[str, Any]:
    # A shared optimizer or metric would carry its state from one candidate to the next.
    _check_plain(compile)
    arguments = dict(compile)
    rate = arguments.pop("learning_rate", None)
    optimizer = arguments.get("optimizer", "rmsprop")
    config: dict[str, Any] = {"class_name": str(optimizer), "config": {}}
    if isinstance(optimizer, Mapping):
        config = dict(optimizer)
    if rate is not None:
        config["config"] = {**config.get("config", {}), "learning_rate": rate}
    arguments["optimizer"] = _found("optimizer", config)
    for name in {"loss", "metrics", "weighted_metrics"} & arguments.keys():
        arguments[name] = _resolved(name, arguments[name])
    return arguments


def _check_plain(compile: Mapping[str, Any]) -> None:
    _, *known = inspect.signature(keras.Model.compile).parameters  # without self
    known.append("learning_rate")
    unknown = [key for key in compile if key not in known]
    if unknown:
        raise InputError(f"compile must hold arguments among {known}. Received: {unknown}")
    for name, value in compile.items():
        if not is_plain(value):
            raise InputError(
                "A mapping compile must hold names, numbers, lists and dictionaries, since models "
                "share no object; for objects give a function of the model. "
                f"Received: {name}={value!r}"
            )
        # `metrics.get` takes a plain string, but `Model.compile` does not.
        if name in ("metrics", "weighted_metrics") and isinstance(value, str):
            raise InputError(f"{name} must be a list of names. Received: {name}={value!r}")


def is_plain(value: Any) -> bool:
    """Returns whether a value holds only what JSON can, with texts as keys."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and is_plain(v) for k, v in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _resolved(name: str, value: Any) -> Any:
    """Replaces configurations by objects; keeps names."""
    if isinstance(value, Mapping) and "class_name" in value:
        return _found(name, dict(value))
    if isinstance(value, Mapping):
        return {output: _resolved(name, part) for output, part in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(name, part) for part in value]
    if value is not None and (name == "loss" or value not in _BY_KERAS):
        # Only a check. The name stays, because Keras logs the metric under the name as given.
        _found(name, value)
    return value


def _found(name: str, identifier: Any) -> Any:
    getters = {"optimizer": keras.optimizers.get, "loss": keras.losses.get}
    get: Callable[[Any], Any] = getters.get(name, keras.metrics.get)
    try:
        return get(identifier)
    except Exception as error:  # Keras raises several types for an unknown name
        raise InputError(
            f"compile must name what Keras knows. Received: {name}={identifier!r}, "
            f"which gives: {reason(error)}"
        ) from error
