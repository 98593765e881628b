"""Files and folders that appear whole or not at all, and never in place of the user's."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from keras_se.errors import InputError


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
    _refuse_existing(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield folder
        if target.exists():
            _refuse_existing(target, overwrite)
            target.rename(_free_name(target))
        folder.chmod(0o755)
        folder.rename(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def write_file(path: str | os.PathLike[str], content: bytes, overwrite: bool = False) -> None:
    """Writes a file whole or not at all.

    Args:
        path: The file.
        content: Its bytes.
        overwrite: Whether a file of that name may be replaced.

    Raises:
        InputError: If the name is taken and `overwrite` is false.

    Example:
        >>> write_file(tempfile.mkdtemp() + "/a.txt", b"a")
    """
    target = Path(path)
    _refuse_existing(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _refuse_existing(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise InputError(
            f"The output must not exist yet, or --overwrite be given. Received: {target}"
        )


def _free_name(target: Path) -> Path:
    number = 1
    while target.with_name(f"{target.name}.{number}").exists():
        number += 1
    return target.with_name(f"{target.name}.{number}")
