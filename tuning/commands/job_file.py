"""Reads the arguments of `search` from `job.toml`."""

import inspect
import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_se.errors import InputError
from tuning.searching import search
from tuning.space import SESpace

_NOT_IN_FILES = ("model_or_builder", "overwrite", "accept_change", "on_trial", "on_start")
# A new argument of `search` is a key automatically, so it needs an entry in `_TYPES`.
_KEYS = (
    "model",
    "data",
    *(n for n in inspect.signature(search).parameters if n not in _NOT_IN_FILES),
)
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "data", "train", "validation", "test", "objective"), (str,)),
    **dict.fromkeys(("oracle", "data_id", "directory"), (str,)),
    **dict.fromkeys(("epochs", "workers", "fresh_seeds", "batch_size", "max_parameters"), (int,)),
    **dict.fromkeys(("keep_weights", "threads"), (int,)),
    **dict.fromkeys(("space", "fit"), (dict,)),
    "seeds": (int, list),
    "timeout": (int, float),
    "modules": (list,),
    "where": (str, list),
    "compile": (dict, str),
}
_LEAST: dict[str, int] = {
    **dict.fromkeys(("epochs", "workers", "batch_size", "max_parameters", "threads"), 1),
    **dict.fromkeys(("fresh_seeds", "keep_weights", "timeout"), 0),
}


def read_job(path: Path) -> dict[str, Any]:
    """Reads keyword arguments of `search` from a TOML file."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"A job must be a TOML file. Received: {str(path)!r}: {error}") from error
    # `search` writes the file into its own folder, so a job goes on where its file is.
    arguments = job_arguments({"directory": str(path.parent), **content}, str(path))
    # `open_project` refuses the working directory as the folder of a search.
    if "directory" not in content and path.parent.resolve() == Path.cwd():
        raise InputError(
            "A job in the working directory names another one for the search, such as directory = "
            f'"runs/first". Received: {str(path)!r} without'
        )
    return arguments


def job_arguments(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Checks plain values and returns them as keyword arguments of `search`."""
    unknown = sorted(set(content) - set(_KEYS))
    if unknown:
        raise InputError(
            f"A job holds {', '.join(_KEYS)}. Received: {', '.join(unknown)} in {source!r}"
        )
    for name, value in content.items():
        _check(name, value, source)
    missing = [name for name in ("model", "epochs", "directory") if name not in content]
    missing += ["data"] * ("data" not in content and "train" not in content)
    if missing:
        raise InputError(f"A job needs {', '.join(missing)}. Received: {source!r} without")
    doubled = [name for name in ("train", "validation") if "data" in content and name in content]
    if doubled:
        raise InputError(
            "data of a job has all parts, and stands in place of train and validation. "
            f"Received: data and {' and '.join(doubled)} in {source!r}"
        )
    arguments = {k: v for k, v in content.items() if k not in ("model", "data")}
    arguments["model_or_builder"] = content["model"]
    if "data" in content:
        arguments["train"] = content["data"]
    if "space" in content:
        arguments["space"] = SESpace.from_dict(content["space"])
    return arguments


def _check(name: str, value: Any, source: str) -> None:
    types = _TYPES[name]
    # bool is a subclass of int.
    if not isinstance(value, types) or isinstance(value, bool):
        wanted = " or ".join(kind.__name__ for kind in types)
        raise InputError(f"{name} of a job must be {wanted}. Received: {value!r} in {source!r}")
    _check_number(name, value, source)
    listed = value if name in ("modules", "where") and isinstance(value, list) else []
    if not all(isinstance(part, str) for part in listed):
        raise InputError(f"{name} of a job lists names. Received: {value!r} in {source!r}")
    for text in _texts(value):
        # `Job.description` writes this prefix for objects without a name.
        if text.startswith("a live "):
            raise InputError(
                "A search that was started from Python with objects that have no name can only go "
                f"on from there. Received: {name} = {text!r} in {source!r}"
            )


def _check_number(name: str, value: Any, source: str) -> None:
    if name in _LEAST and not value >= _LEAST[name]:  # also true for NaN
        raise InputError(
            f"{name} of a job must be at least {_LEAST[name]}. Received: {value!r} in {source!r}"
        )


def _texts(value: Any) -> Iterator[str]:
    """Yields every string in a nested value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def read_space(path: str) -> SESpace:
    """Reads an `SESpace` from a JSON file that holds its arguments."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"A space must be a JSON file. Received: {path!r}: {error}") from error
    if not isinstance(content, dict):
        raise InputError(
            "A space is a JSON object with arguments of SESpace. "
            f"Received: {type(content).__name__} from {path!r}"
        )
    return SESpace.from_dict(content)
