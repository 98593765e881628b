"""Files that commands read and write."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from keras_se.errors import InputError
from keras_se.files import check_file_name, refuse_existing, write_files
from keras_se.isolation import check_runs
from keras_se.litert.graph.flatbuffer import read_bytes
from keras_se.untrusted import read_json

_MAX_JSON = 2**24  # bytes of a plan or a space


def check_output(path: str | None, overwrite: bool, suffix: str = "") -> None:
    """Raises if an output file cannot be written. Call it before any work starts."""
    if path is None:
        return
    if not path.endswith(suffix):
        kind = {".keras": "model", ".html": "page", ".npz": "recording"}.get(suffix, "TFLite")
        raise InputError(f"The name of a {kind} file must end in {suffix}. Received: {path!r}")
    check_file_name(path)
    refuse_existing(path, overwrite)


def write_outputs(contents: Mapping[str, bytes], overwrite: bool) -> None:
    """Writes all of several files or none."""
    print_renamed(write_files({Path(p): content for p, content in contents.items()}, overwrite))


def print_renamed(asides: Iterable[Path | None]) -> None:
    """Prints the new names of files that were there before."""
    for aside in asides:
        if aside is not None:
            click.echo(f"The old {aside.with_suffix('')} is now {aside}")


def read_settings(path: str, what: str) -> Any:
    """Returns the content of a JSON file."""
    try:
        return read_json(path, _MAX_JSON)
    except (OSError, ValueError) as error:
        raise InputError(f"{what} must be a JSON file. Received: {path!r}: {error}") from error


def check_tflite(*paths: str) -> None:
    """Raises unless TFLite files run in a process of their own, before this one loads them.

    On the command line files may come from anywhere, and native code may crash on them. In Python
    they are loaded at once.
    """
    check_runs([read_bytes(path) for path in paths])
