"""Files that others wrote: ordinary ones, of a bounded size, that say what they should.

What is wrong raises `OSError` or `ValueError`; the caller says what the file should have been.
"""

import errno
import json
import math
import os
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_DEPTH = 100  # of nested brackets; `json` itself takes about a thousand
_DIRECTORY = 2**24  # bytes of the list of members of an archive, some 200,000 of them
# An archive is unpacked into memory. Numbers rarely shrink to a hundredth; zeros to a thousandth.
_EXPANSION, _SMALL = 100, 2**30
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # of NumPy and Keras; others may ask for GiB
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_file(path: str | os.PathLike[str], limit: int) -> bytes:
    """Returns the content of an ordinary file of at most `limit` bytes."""
    # Opening a named pipe without this flag waits for somebody who writes to it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.fspath(path))
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not an ordinary file")
        # The system may state a size of 0, as for files in /proc.
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1) if status.st_size <= limit else None
    finally:
        os.close(descriptor)
    if content is None or len(content) > limit:
        raise ValueError(f"it has more than {limit:,} bytes")
    return content


def read_json(path: str | os.PathLike[str], limit: int) -> Any:
    """Returns what a JSON file of at most `limit` bytes holds."""
    return parse_json(read_file(path, limit))


def parse_json(
    text: str | bytes, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """Returns what JSON text holds."""
    # `json` alone would take zeros, which a full disk leaves, for UTF-32.
    text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
    try:
        content = json.loads(text, object_hook=object_hook)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    _check_values(content)
    return content


def read_toml(path: str | os.PathLike[str], limit: int) -> dict[str, Any]:
    """Returns what a TOML file of at most `limit` bytes holds."""
    import tomllib  # late: Keras does not load it

    try:
        content = tomllib.loads(read_file(path, limit).decode("utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    _check_values(content)
    return content


def _check_values(content: Any) -> None:
    """Raises for what a parser takes, but what no number, file or terminal can hold."""
    level = [content]
    for _ in range(_DEPTH):
        below: list[Any] = []
        for part in level:
            if isinstance(part, dict):
                below += [*part, *part.values()]
            elif isinstance(part, list):
                below += part
            elif isinstance(part, str):
                part.encode()  # a lone surrogate, "\ud800", raises
            elif isinstance(part, int) and not -(2**63) <= part < 2**63:
                raise ValueError("it holds a number of more than 64 bits")
        level = below
    if level:
        raise ValueError(f"it is nested more than {_DEPTH} deep")


class _Directory:
    """An archive whose list of members is read: `zipfile` does that at once, whatever its size."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        if size > _DIRECTORY:
            raise ValueError("its list of members is too long")
        return self._file.read(size)


def unpacked_limit(path: str | os.PathLike[str]) -> int:
    """Returns how many bytes an archive may unpack to."""
    return max(_SMALL, _EXPANSION * Path(path).stat().st_size)


def check_archive(path: str | os.PathLike[str]) -> None:
    """Raises unless a zip archive states members that can be unpacked into memory."""
    with open(path, "rb") as file, zipfile.ZipFile(_Directory(file)) as archive:
        members = archive.infolist()
    if len({member.filename for member in members}) < len(members):
        raise ValueError("two of its members have one name")
    for member in members:
        if member.compress_type not in _METHODS or member.flag_bits & 1:
            raise ValueError(f"{member.filename!r} is encrypted or of an unusual compression")
    # `zipfile` never unpacks more of a member than is stated here.
    stated, limit = sum(member.file_size for member in members), unpacked_limit(path)
    if stated > limit:
        raise ValueError(f"it unpacks to {stated:,} bytes, and {limit:,} are the limit")


def check_arrays(path: str | os.PathLike[str]) -> None:
    """Raises unless the arrays of an `.npz` file are as large as they say, and no objects."""
    check_archive(path)
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                if version not in _HEADERS:
                    raise ValueError(f"{member.filename!r} is of the format {version}")
                shape, _, dtype = _HEADERS[version](file)
                if dtype.hasobject:
                    raise ValueError(f"{member.filename!r} holds pickled objects")
                stated, held = math.prod(shape) * dtype.itemsize, member.file_size - file.tell()
            if stated != held or min(shape, default=0) < 0:
                raise ValueError(
                    f"{member.filename!r} states {stated:,} bytes of numbers and holds {held:,}"
                )


def check_weights(path: str | os.PathLike[str], name: str) -> None:
    """Raises if an HDF5 file in an archive states more numbers than the archive may unpack to."""
    import h5py  # late: it takes as long as NumPy to load

    limit, stated = unpacked_limit(path), 0

    def add(name: str, item: Any) -> None:
        nonlocal stated
        if not isinstance(item, h5py.Dataset):
            return
        if item.external or item.is_virtual:
            raise ValueError(f"{name!r} refers to other files")
        # Few bytes can state a large array: what is not stored has one value.
        stated += math.prod(item.shape or ()) * item.dtype.itemsize
        if stated > limit:
            raise ValueError(f"its weights have more than {limit:,} bytes")

    with zipfile.ZipFile(path) as archive, archive.open(name) as file, h5py.File(file) as store:
        store.visititems(add)
