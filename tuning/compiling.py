"""How the candidates of a search are compiled: all alike, and with no object in common."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_se.errors import InputError

Compile = Callable[[keras.Model], Any] | Mapping[str, Any] | None

_BY_KERAS = ("accuracy", "acc", "crossentropy", "ce")  # metrics that depend on the loss


def check_compile(compile: Compile) -> None:
    """Checks what `compile_like` will be given, before a search is paid for.

    Args:
        compile: As for `compile_like`.

    Raises:
        InputError: If it is none of the three, or a mapping breaks its rule.

    Example:
        >>> check_compile({"optimizer": "adam", "learning_rate": 0.01, "loss": "mse"})
    """
    if isinstance(compile, Mapping):
        _arguments(compile)
    elif compile is not None and not callable(compile):
        raise InputError(
            "compile must be None, a function of the model, or a mapping of arguments of "
            f"Model.compile. Received: compile={compile!r}"
        )


def compile_like(model: keras.Model, base: keras.Model, compile: Compile = None) -> None:
    """Compiles a candidate.

    Args:
        model: The model to compile.
        base: The model that it was made from.
        compile: A function that compiles the model given to it. Or arguments of `Model.compile` as
            JSON or TOML hold them: `optimizer`, `loss` and `metrics` are names or
            `{"class_name": ..., "config": ...}`, of each output or of all; `learning_rate` is set
            on the optimizer. `None` compiles as `base` was compiled.

    Raises:
        InputError: If a mapping breaks its rule, or with `None` the base is not compiled, or by
            something of the user's own that Keras cannot find.

    Example:
        >>> base = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> base.compile("sgd", loss="mse")
        >>> twin = keras.models.clone_model(base)
        >>> compile_like(twin, base)
        >>> twin.loss
        'mse'
    """
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
        config["loss"] = None  # shared: it has no state, and its config may lack Huber's delta
        arguments = {**keras.saving.deserialize_keras_object(config), "loss": _unwrapped(base.loss)}
        model.compile(**arguments)
    except Exception as error:  # whatever the user's own optimizer or metric raises
        raise InputError(
            "Without compile= the base model is compiled by what Keras knows or has registered; "
            f"else give compile=. Received: model {base.name!r}, which gives: {_line(error)}"
        ) from error


def _unwrapped(loss: Any) -> Any:
    """A loss as it was given; Keras tracks lists and dictionaries by classes of its own."""
    if isinstance(loss, dict):
        return {output: _unwrapped(part) for output, part in loss.items()}
    return [_unwrapped(part) for part in loss] if isinstance(loss, list | tuple) else loss


def _arguments(compile: Mapping[str, Any]) -> dict[str, Any]:
    """New objects for each model: a shared optimizer or metric would carry its state over."""
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
    """The value with objects for configurations; names stay, as Keras logs metrics by them."""
    if isinstance(value, Mapping) and "class_name" in value:
        return _found(name, dict(value), get)
    if isinstance(value, Mapping):
        return {output: _resolved(name, part, get) for output, part in value.items()}
    if isinstance(value, list | tuple):
        return [_resolved(name, part, get) for part in value]
    if value is not None and (name == "loss" or value not in _BY_KERAS):
        _found(name, value, get)
    return value


def _found(name: str, identifier: Any, get: Callable[[Any], Any]) -> Any:
    try:
        return get(identifier)
    except Exception as error:  # Keras has no one type for what it does not know
        raise InputError(
            f"compile names what Keras knows. Received: {name}={identifier!r}, "
            f"which gives: {_line(error)}"
        ) from error


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
