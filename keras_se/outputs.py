"""Files and folders that appear whole or not at all, and never in place of the user's."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from keras_se.errors import InputError


def refuse_existing(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Refuses an output that exists, before any work is done for it.

    Args:
        path: The file or folder to be written.
        overwrite: Whether it may exist.

    Raises:
        InputError: If the name is taken and `overwrite` is false, or it is the working directory or
            one above it.

    Example:
        >>> refuse_existing(tempfile.mkdtemp(), overwrite=True)
    """
    working = Path.cwd()
    if Path(path).resolve() in (working, *working.parents):
        raise InputError(
            f"The output must not be the working directory or one above it. Received: {path}"
        )
    if os.path.lexists(path) and not overwrite:
        raise InputError(
            "The output must not exist yet; with overwrite it is renamed aside. "
            f"Received: {path}, which exists"
        )


@contextmanager
def output_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill, which gets its name only when all that it should hold is there.

    Args:
        path: The name that the folder will have.
        overwrite: Whether a folder of that name may exist: it is renamed aside (`NAME.1`,
            `NAME.2`, ...), nothing in it is lost.

    Yields:
        An empty temporary folder beside it, removed if the block raises.

    Raises:
        InputError: If the name is taken and `overwrite` is false.

    Example:
        >>> with output_folder(tempfile.mkdtemp() + "/run") as folder:
        ...     _ = (folder / "a.txt").write_text("a")
    """
    target = Path(path)
    refuse_existing(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        _set_aside(target, overwrite)
        folder.chmod(0o755)
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_file(
    path: str | os.PathLike[str], content: bytes, overwrite: bool = False
) -> Path | None:
    """Writes a file whole or not at all.

    Args:
        path: The file.
        content: Its bytes.
        overwrite: Whether a file of that name may exist: it is renamed aside, as a folder is.

    Returns:
        The new name of the old file, if there was one.

    Raises:
        InputError: If the name is taken and `overwrite` is false, or cannot be that of a file.

    Example:
        >>> write_file(tempfile.mkdtemp() + "/a.txt", b"a")
    """
    return write_files({path: content}, overwrite)[0]


def write_files(
    contents: Mapping[str | os.PathLike[str], bytes], overwrite: bool = False
) -> list[Path | None]:
    """Writes files that belong together: all of them whole, or none.

    Args:
        contents: The bytes by the name of the file.
        overwrite: As for `write_file`.

    Returns:
        For each, the new name of the old file, if there was one.

    Raises:
        InputError: As `write_file`.
    """
    targets = [Path(path) for path in contents]
    for target in targets:
        check_file_name(target)
        refuse_existing(target, overwrite)
        target.parent.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []
    moved: list[tuple[Path, Path]] = []  # from, to: to be moved back if anything fails
    try:
        for target, content in zip(targets, contents.values(), strict=True):
            descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
            written.append(Path(name))
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            os.chmod(name, 0o644)
        asides: list[Path | None] = []
        for target, temporary in zip(targets, list(written), strict=True):
            asides.append(_set_aside(target, overwrite))
            if asides[-1] is not None:
                moved.append((target, asides[-1]))
            os.rename(temporary, target)
            moved.append((temporary, target))
    except BaseException:
        for before, after in reversed(moved):
            os.replace(after, before)
        for temporary in written:
            temporary.unlink(missing_ok=True)
        raise
    return asides


def check_file_name(path: str | os.PathLike[str]) -> None:
    """Refuses what cannot be the name of a file to be written.

    Args:
        path: The name.

    Raises:
        InputError: If it is empty, that of a folder, or lies in what is no folder.

    Example:
        >>> check_file_name("new/model.tflite")
    """
    valid = isinstance(path, str | os.PathLike) and "\0" not in os.fspath(path)
    if not valid or Path(path).name in ("", ".", "..") or Path(path).is_dir():
        raise InputError(f"The output must be the name of a file. Received: {path!r}")
    above = next(folder for folder in Path(path).absolute().parents if os.path.lexists(folder))
    if not above.is_dir():
        raise InputError(f"The output must lie in a folder. Received: {path}; {above} is none")


def _set_aside(target: Path, overwrite: bool) -> Path | None:
    refuse_existing(target, overwrite)
    if not os.path.lexists(target):
        return None
    return target.rename(free_name(target))


def free_name(target: Path) -> Path:
    """The first of `NAME.1`, `NAME.2`, ... that is free.

    Args:
        target: A path that is taken.

    Returns:
        The path that it would be renamed to.

    Example:
        >>> free_name(Path("no_such_folder")).name
        'no_such_folder.1'
    """
    number = 1
    while os.path.lexists(target.with_name(f"{target.name}.{number}")):
        number += 1
    return target.with_name(f"{target.name}.{number}")
