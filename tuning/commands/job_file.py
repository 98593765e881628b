"""Reads the arguments of `search` from `job.toml`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keras_se.cli.files import read_settings
from keras_se.errors import InputError
from keras_se.untrusted import read_toml
from tuning.space import SESpace
from tuning.trials.job import MAX_JOB

# What a job can set: `model`, `data`, and the arguments of `search` that a file can hold.
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("model", "data", "train", "validation", "test", "data_id"), (str,)),
    **dict.fromkeys(("objective", "oracle", "directory", "deployed"), (str,)),
    **dict.fromkeys(("epochs", "batch_size", "max_parameters", "workers", "threads"), (int,)),
    **dict.fromkeys(("fresh_seeds", "keep_weights", "max_seeds", "max_trials"), (int,)),
    "seeds": (int, list),
    "timeout": (int, float),
    "modules": (list,),
    "where": (str, list),
    **dict.fromkeys(("space", "fit"), (dict,)),
    "compile": (dict, str),
}


def read_job(path: Path) -> dict[str, Any]:
    """Reads keyword arguments of `search` from a TOML file."""
    try:
        content = read_toml(path, MAX_JOB)
    except (OSError, ValueError) as error:
        raise InputError(f"A job must be a TOML file. Received: {str(path)!r}: {error}") from error
    # `search` writes the file into its own folder, so a job goes on where its file is.
    arguments = job_arguments({"directory": str(path.parent), **content}, str(path))
    # `search` refuses the working directory as the folder of a search.
    if "directory" not in content and path.parent.resolve() == Path.cwd():
        raise InputError(
            'A job in the working directory must set directory, such as directory = "runs/first". '
            f"Received: {str(path)!r} without"
        )
    return arguments


def job_arguments(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Checks plain values and returns them as keyword arguments of `search`."""
    unknown = sorted(set(content) - set(_TYPES))
    if unknown:
        raise InputError(
            f"A job can set {', '.join(_TYPES)}. Received: {', '.join(unknown)} in {source!r}"
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
            "data of a job stands for train and validation. "
            f"Received: data and {' and '.join(doubled)} in {source!r}"
        )
    names = {"model": "model_or_builder", "data": "train"}
    arguments = {names.get(name, name): value for name, value in content.items()}
    if "space" in content:
        arguments["space"] = SESpace.from_dict(content["space"])
    return arguments


def _check(name: str, value: Any, source: str) -> None:
    types = _TYPES[name]
    # bool is a subclass of int.
    if not isinstance(value, types) or isinstance(value, bool):
        wanted = " or ".join(kind.__name__ for kind in types)
        raise InputError(f"{name} of a job must be {wanted}. Received: {value!r} in {source!r}")
    listed = value if name in ("modules", "where") and isinstance(value, list) else []
    if not all(isinstance(part, str) for part in listed):
        raise InputError(
            f"{name} of a job must be a list of names. Received: {value!r} in {source!r}"
        )
    for part in keras.tree.flatten(value):
        # `Job.description` writes this prefix for objects without a name.
        if str(part).startswith("a live "):
            raise InputError(
                "A search of objects without an importable name can be resumed only from Python. "
                f"Received: {name} = {part!r} in {source!r}"
            )


def read_space(path: str) -> SESpace:
    """Reads an `SESpace` from a JSON file that holds its arguments."""
    content = read_settings(path, "A space")
    if not isinstance(content, dict):
        raise InputError(
            "A space must be a JSON object with arguments of SESpace. "
            f"Received: {type(content).__name__} from {path!r}"
        )
    return SESpace.from_dict(content)
