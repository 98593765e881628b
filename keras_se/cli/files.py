"""Files that commands read and write."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from keras_se.errors import InputError
from keras_se.files import check_file_name, refuse_existing, write_files


def check_output(path: str | None, overwrite: bool, suffix: str = "") -> None:
    """Raises if an output file cannot be written. Call it before any work starts."""
    if path is None:
        return
    if not path.endswith(suffix):
        kind = {".keras": "model", ".html": "page"}.get(suffix, "TFLite")
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


def read_json(path: str, what: str) -> Any:
    """Returns the content of a JSON file."""
    try:
        return json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{what} must be a JSON file. Received: {path!r}: {error}") from error
