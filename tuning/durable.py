"""Files that are there whole or not at all, whatever kills the process; and where it may be killed.

Each write has a name. The environment variable `KERAS_SE_FAULT` set to `NAME.before`,
`NAME.between` or `NAME.after`, with `:N` behind it for the Nth time, kills the process there with
signal 9: what a search must survive is tested by doing it.
"""

import collections
import os
import signal
from pathlib import Path

WRITES = ("job", "fingerprint", "attempt", "weights", "record", "result")
FAULT_POINTS = (
    *(f"{name}.{when}" for name in WRITES for when in ("before", "between", "after")),
    "curve.after",
    *("trial.opened", "trial.measured", "trial.ended"),
)
_VARIABLE = "KERAS_SE_FAULT"
_passed: collections.Counter[str] = collections.Counter()


def fault_point(name: str) -> None:
    """Kills the process here if the environment says so; otherwise does nothing.

    Args:
        name: One of `FAULT_POINTS`.

    Example:
        >>> fault_point("record.before")
    """
    wanted = os.environ.get(_VARIABLE)
    if wanted is None:
        return
    _passed[name] += 1
    where, _, count = wanted.partition(":")
    if where == name and _passed[name] == int(count or 1):
        os.kill(os.getpid(), signal.SIGKILL)


def write_durably(path: Path, content: bytes, name: str) -> None:
    """Writes or replaces a file of a search; a reader sees the old content or the new one.

    Args:
        path: The file; its folder exists.
        content: Its bytes.
        name: One of `WRITES`.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp(), "a.json")
        >>> write_durably(path, b"1", "record")
        >>> path.read_bytes()
        b'1'
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fault_point(f"{name}.before")
    try:
        temporary.write_bytes(content)
        settle(temporary, path, name)
    except BaseException:  # a full disk, or Ctrl-C
        temporary.unlink(missing_ok=True)
        raise


def settle(temporary: Path, path: Path, name: str) -> None:
    """Gives a file that is written its name, in place of what had it.

    The content is on the disk before the name is: not even a power failure leaves half of it.

    Args:
        temporary: The file, in the folder of `path`.
        path: Its name.
        name: One of `WRITES`.
    """
    _synchronize(temporary)
    fault_point(f"{name}.between")
    os.replace(temporary, path)
    _synchronize(path.parent)
    fault_point(f"{name}.after")


def _synchronize(path: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there, nor a file synchronized for reading
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
