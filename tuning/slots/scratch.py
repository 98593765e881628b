"""Temporary folders that go away, also those of processes that were killed."""

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock

_PREFIX = "keras-se-trials-"  # no other temporary folder may have it


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Yields a temporary folder, after removing those whose processes have died."""
    for left in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or just removed by its own process
            _remove_left(left)
    with (
        tempfile.TemporaryDirectory(prefix=_PREFIX, ignore_cleanup_errors=True) as name,
        # The system releases the lock when this process dies, whatever kills it.
        filelock.FileLock(Path(name, ".lock")).acquire(),
    ):
        yield Path(name)


def _remove_left(folder: Path) -> None:
    lock = folder / ".lock"
    if not lock.exists() and time.time() - folder.stat().st_mtime < 60:
        return  # its process is about to lock it
    with suppress(filelock.Timeout), filelock.FileLock(lock, blocking=False).acquire():
        shutil.rmtree(folder, ignore_errors=True)
