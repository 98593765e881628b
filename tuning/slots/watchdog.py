"""Ends the slots of a process that has died, even by `kill -9`. Run as a script: no other module.

A slot holds a lock on a file with the id of its process group. The system releases the lock when
the slot dies, so that an id that was given to another process since is not taken for its own.
"""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def hold_group(file: Path) -> None:
    """Makes this process a group of its own, which `kill_group` finds while it lives."""
    os.setpgid(0, 0)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_TRUNC)  # open as long as it lives
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.write(descriptor, str(os.getpid()).encode())


def kill_group(file: Path) -> None:
    """Kills the group of a slot, also processes that its trial started."""
    with suppress(FileNotFoundError), file.open() as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with suppress(ProcessLookupError, ValueError):  # it is just ending, or beginning
                os.killpg(int(opened.read()), signal.SIGKILL)


@contextmanager
def watchdog(folder: Path) -> Iterator[None]:
    """Kills the groups of the files in `folder` if this process dies inside."""
    # A thread in the slot could do the same, but not while C code holds the GIL.
    process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
        [sys.executable, "-IS", __file__, str(os.getpid()), str(folder)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C in the terminal must not end it
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _watch(parent: int, folder: Path) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    for file in folder.glob("*.pid"):
        kill_group(file)


if __name__ == "__main__":
    _watch(int(sys.argv[1]), Path(sys.argv[2]))
