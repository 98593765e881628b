"""Files and folders that appear complete or not at all, and `.keras` files in and out."""

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import keras

from keras_se.errors import InputError, first_line


def refuse_existing(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuse an output path that exists, before any work starts."""
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
    """Yield a temporary folder to fill; on success rename it to `path`."""
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


def write_file(
    path: str | os.PathLike[str], content: bytes, overwrite: bool = False
) -> Path | None:
    """Write a file completely or not at all, and return the new name of the old one."""
    return write_files({path: content}, overwrite)[0]


def write_files(
    contents: Mapping[str | os.PathLike[str], bytes], overwrite: bool = False
) -> list[Path | None]:
    """Write all of several files or none, and return the new names of the old ones."""
    targets = [Path(path) for path in contents]
    for target in targets:
        check_file_name(target)
        refuse_existing(target, overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    moved: list[tuple[Path, Path]] = []  # (from, to), to undo after a failure
    try:
        for target, content in zip(targets, contents.values(), strict=True):
            descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
            written.append(Path(name))
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.chmod(name, 0o644)
        # Rename after all files are written: a full disk then changes nothing.
        asides: list[Path | None] = []
        for target, temporary in zip(targets, list(written), strict=True):
            asides.append(_set_aside(target, overwrite))
            if asides[-1] is not None:
                moved.append((target, asides[-1]))
            os.rename(temporary, target)
            moved.append((temporary, target))
    except BaseException:
        # Last first: the new file leaves the name before the old one returns.
        for before, after in reversed(moved):
            os.replace(after, before)
        for temporary in written:
            temporary.unlink(missing_ok=True)
        raise
    return asides


def check_file_name(path: str | os.PathLike[str]) -> None:
    """Refuse a path that cannot be the name of a new file."""
    # On a null byte `os` functions raise ValueError, not OSError.
    valid = isinstance(path, str | os.PathLike) and "\0" not in os.fspath(path)
    if not valid or Path(path).name in ("", ".", "..") or Path(path).is_dir():
        raise InputError(f"The output must be the name of a file. Received: {path!r}")
    above = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise InputError(f"The output must lie in a folder. Received: {path}; {above} is none")


def _set_aside(target: Path, overwrite: bool) -> Path | None:
    # Check again: another process may have taken the name since.
    refuse_existing(target, overwrite)
    if not os.path.lexists(target):
        return None
    return target.rename(free_name(target))


def free_name(target: Path) -> Path:
    """Return the first of `NAME.1`, `NAME.2`, ... that does not exist."""
    number = 1
    while os.path.lexists(target.with_name(f"{target.name}.{number}")):
        number += 1
    return target.with_name(f"{target.name}.{number}")


def load_model(path: str) -> keras.Model:
    """Load a `.keras` file in safe mode."""
    if not Path(path).is_file():
        raise InputError(f"A model must be an existing .keras file. Received: {path!r}")
    # `load_model` of Keras also takes HDF5 files, by their suffix.
    if not path.endswith(".keras") or not zipfile.is_zipfile(path):
        raise InputError(
            "A model must be a .keras file, a zip archive that model.save wrote. "
            f"Received: {path!r}, which is not"
        )
    try:
        # Safe mode is the default: Keras refuses files that hold Python code, such as a Lambda.
        return keras.saving.load_model(path)
    except Exception as error:  # Keras gives zip, HDF5, JSON and its own errors for a bad file
        raise InputError(
            "A model must be a .keras file that Keras loads in safe mode, with --import for custom "
            f"layers. Received: {path!r}, which gives: {first_line(error)}"
        ) from error


def model_bytes(model: keras.Model) -> bytes:
    """Serialize a model to the bytes of a `.keras` file."""
    # `Model.save` writes to a path only, and takes the format from its suffix.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        model.save(path)
        return path.read_bytes()
