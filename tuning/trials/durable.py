"""Atomic writes that survive a kill or a power failure, with points to test it.

`KERAS_SE_FAULT=NAME.before`, `NAME.between` or `NAME.after`, with `:N` for the Nth time, kills the
process there with signal 9.
"""

import collections
import os
import signal
from pathlib import Path

WRITES = ("job", "fingerprint", "attempt", "weights", "record", "result")
FAULT_POINTS = (
    *(f"{name}.{when}" for name in WRITES for when in ("before", "between", "after")),
    "curve.after",
    "trial.opened",
    "trial.measured",
    "trial.ended",
)
_VARIABLE = "KERAS_SE_FAULT"
_passed: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
    """Kills the process if `KERAS_SE_FAULT` names this point."""
    wanted = os.environ.get(_VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    where, _, count = wanted.partition(":")
    if where == name and _passed[name] == int(count or 1):
        # SIGKILL skips `finally` and exit handlers, as a crash does.
        os.kill(os.getpid(), signal.SIGKILL)


def write_durably(path: Path, content: bytes, name: str) -> None:
    """Writes or replaces a file atomically; `name` is one of `WRITES`."""
    # In the same folder, since `os.replace` is atomic only within a file system. The dot and
    # ".tmp" keep it out of globs for records; the process id keeps two writers apart.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fault_point(f"{name}.before")
    try:
        temporary.write_bytes(content)
        settle(temporary, path, name)
    except BaseException:  # also on Ctrl-C
        temporary.unlink(missing_ok=True)
        raise


def settle(temporary: Path, path: Path, name: str) -> None:
    """Moves a written temporary file to its final path, atomically and durably."""
    # Content before name, or a power failure may leave half a file.
    _synchronize(temporary)
    fault_point(f"{name}.between")
    os.replace(temporary, path)
    _synchronize(path.parent)
    fault_point(f"{name}.after")


def _synchronize(path: Path) -> None:
    # Windows opens no folders, and does not sync a file that is open for reading.
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
