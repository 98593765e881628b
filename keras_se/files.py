"""Files and folders that appear complete or not at all, and `.keras` files in and out.

A file has its name only once its content is on the disk, to survive a kill or a power failure.
"""

import itertools
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import keras

from keras_se.errors import InputError, reason
from keras_se.untrusted import check_archive, check_weights, parse_json

_MAX_CONFIG = 2**26  # bytes; large models have a few MiB
_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"


def refuse_existing(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raises if an output path exists, before any work starts."""
    working = Path.cwd()
    # With overwrite, the user's working directory would be renamed.
    if Path(path).resolve() in (working, *working.parents):
        raise InputError(
            f"The output must not be the working directory or one above it. Received: {path}"
        )
    # `lexists`: a dangling symbolic link also takes the name.
    if os.path.lexists(path) and not overwrite:
        raise InputError(
            "The output must not exist yet; with overwrite it is renamed aside. "
            f"Received: {path}, which exists"
        )


@contextmanager
def output_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Yields a temporary folder to fill; on success renames it to `path`."""
    target = Path(path)
    refuse_existing(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same parent: `rename` does not work across file systems.
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        # Only now: after a failure the old folder keeps its name.
        _set_aside(target, overwrite)
        # `mkdtemp` makes a folder that only its owner can read.
        folder.chmod(0o755)
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_files(
    contents: Mapping[str | os.PathLike[str], bytes], overwrite: bool = False
) -> list[Path | None]:
    """Writes all of several new files or none; returns the new names of old ones."""
    targets = [Path(path) for path in contents]
    for target in targets:
        check_file_name(target)
        refuse_existing(target, overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:  # after a failure, from the last step to the first
        for target, content in zip(targets, contents.values(), strict=True):
            undo.callback(_temporary(target).unlink, missing_ok=True)
            _temporary(target).write_bytes(content)
        # Rename after all files are written: a full disk then changes nothing.
        asides = []
        for target in targets:
            asides.append(_set_aside(target, overwrite))
            if asides[-1] is not None:
                undo.callback(os.replace, asides[-1], target)
            _move(_temporary(target), target)
            undo.callback(target.unlink)
        undo.pop_all()
    return asides


def replace_file(path: Path, content: bytes) -> None:
    """Writes or replaces a file completely or not at all."""
    with replacement(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacement(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yields the name of a temporary file to write; then moves it to `path`."""
    temporary = _temporary(path, suffix)
    try:
        yield temporary
        _move(temporary, path)
    except BaseException:  # also on Ctrl-C
        temporary.unlink(missing_ok=True)
        raise


def _temporary(path: Path, suffix: str = "") -> Path:
    # In the same folder: `os.replace` is atomic only within a file system. The dot and ".tmp" keep
    # the file out of globs for records; the process id keeps two writers apart.
    return path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")


def _move(temporary: Path, path: Path) -> None:
    # Content before name, or a power failure may leave half a file.
    _synchronize(temporary)
    os.replace(temporary, path)
    _synchronize(path.parent)


def _synchronize(path: Path) -> None:
    # Windows opens no folders, and does not sync a file that is open for reading.
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_file_name(path: str | os.PathLike[str]) -> None:
    """Raises if a path cannot be the name of a new file."""
    # On a null byte `os` functions raise ValueError, not OSError.
    valid = isinstance(path, str | os.PathLike) and "\0" not in os.fspath(path)
    if not valid or Path(path).name in ("", ".", "..") or Path(path).is_dir():
        raise InputError(f"The output must be the name of a file. Received: {path!r}")
    above = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise InputError(f"The output must lie in a folder. Received: {path}; {above} is a file")


def _set_aside(target: Path, overwrite: bool) -> Path | None:
    # Check again: another process may have taken the name since.
    refuse_existing(target, overwrite)
    return target.rename(free_name(target)) if os.path.lexists(target) else None


def free_name(target: Path) -> Path:
    """Returns the first of `NAME.1`, `NAME.2`, ... that does not exist."""
    names = (target.with_name(f"{target.name}.{number}") for number in itertools.count(1))
    return next(name for name in names if not os.path.lexists(name))


def archive_config(path: str) -> dict[str, Any]:
    """Returns the configuration in a `.keras` file, of Keras or of tf_keras."""
    _check_name(path)
    try:
        check_archive(path)
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            with archive.open(_CONFIG) as file:
                text = file.read(_MAX_CONFIG + 1)
        if len(text) > _MAX_CONFIG:
            raise ValueError(f"its {_CONFIG} has more than {_MAX_CONFIG >> 20} MiB")
        if not isinstance(config := parse_json(text), dict):
            raise ValueError(f"its {_CONFIG} is no object")
        if _WEIGHTS in names:
            check_weights(path, _WEIGHTS)
    except Exception as error:  # zip, zlib, HDF5 and JSON faults share no base class
        raise InputError(
            "A .keras file must hold a config.json that can be read, and weights of the size of "
            f"the file. Received: {path!r}, which gives: {reason(error)}"
        ) from error
    return config


def is_of_tf_keras(config: dict[str, Any]) -> bool:
    """Returns whether a configuration is that of a compressed model of tf_keras."""
    return config.get("registered_name") == "keras_se>CompressedModel"


def _check_name(path: str) -> None:
    if not Path(path).is_file():
        raise InputError(f"A model must be an existing .keras file. Received: {path!r}")
    # `load_model` of Keras also takes HDF5 files, by their suffix.
    if not path.endswith(".keras") or not zipfile.is_zipfile(path):
        raise InputError(
            "A model must be a .keras file, a zip archive that model.save wrote. "
            f"Received: {path!r}, which is not"
        )


def load_model(path: str, compile: bool = True) -> keras.Model:
    """Loads a `.keras` file in safe mode."""
    if is_of_tf_keras(archive_config(path)):
        raise InputError(
            "A model must be of Keras: keras_se.compress.load opens a compressed one of tf_keras, "
            f"and strip makes a Keras model of it. Received: {path!r}, of tf_keras"
        )
    try:
        # Safe mode is the default: Keras refuses files that hold Python code, such as a Lambda.
        return keras.saving.load_model(path, compile=compile)
    except Exception as error:  # Keras gives zip, HDF5, JSON and its own errors for a bad file
        raise InputError(
            "A model must be a .keras file that Keras loads in safe mode; layers and functions of "
            "your own are registered first, by an import or with --import. "
            f"Received: {path!r}, which gives: {reason(error)}"
        ) from error


def model_bytes(model: keras.Model) -> bytes:
    """Returns a model as the bytes of a `.keras` file."""
    # `Model.save` writes to a path only, and takes the format from its suffix.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        return path.read_bytes()
