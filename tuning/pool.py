"""Trials in child processes, without pickling and without a main guard.

`multiprocessing` imports the script that uses it once more in each child, so that a script without
`if __name__ == "__main__":` starts itself over and over. Here a child imports only the function
that it calls, and gets its argument as JSON.

On POSIX, children are forked from a small server, `tuning.fork_server`, that has imported Keras and
done nothing else; on Windows, and where each child has a GPU of its own, every child is a fresh
interpreter, which imports Keras again.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tuning.fork_server import ForkServer
from tuning.refusals import input_error
from tuning.spawning import Spawner, search_path

_TAIL_LINES = 20
_TAIL_BYTES = 1 << 14


@dataclass(frozen=True)
class Exit:
    """How a child process ended.

    Attributes:
        key: As given to `start`.
        code: Exit code: 0 when the target returned, 1 when it raised, that of a `SystemExit`, or
            minus the number of the signal that killed it. -9 also when the server of the children
            died, with which they all end.
        timed_out: Whether it was killed because its time was over.
        tail: The last 20 lines that it wrote into its log.
    """

    key: str
    code: int
    timed_out: bool
    tail: str


class ProcessPool:
    """Runs one function in child processes, a few at a time; nothing reaches the terminal.

    Children end with their parent, however it ends. They see its search path and its working
    directory, and the environment that it had at the first `start` (at their own `start` where
    each is a fresh interpreter). What is registered to run at exit does not run in them.

    Args:
        slots: How many children run at a time.
        target: Function to call, "package.module:function". Its module is imported in the child.
        threads: Threads of a child, as the environment variables of TensorFlow, OpenMP, OpenBLAS
            and MKL.
        timeout: Seconds that a child may run before it is killed; None is for ever.
        devices: GPUs, as `CUDA_VISIBLE_DEVICES` names them. A child sees one, alone.
        start_method: "fork", or "spawn" for a fresh interpreter each time. Forked where that
            exists and no devices are given.
        preload: Libraries to import before the fork. They must not compute while imported.

    Raises:
        InputError: If an argument breaks a rule.

    Example:
        >>> import tempfile
        >>> log = Path(tempfile.mkdtemp()) / "first.log"
        >>> with ProcessPool(1, "json:dumps", threads=1, preload=()) as pool:
        ...     pool.start("first", {"ratio": 4}, log)
        ...     pool.wait()
        [Exit(key='first', code=0, timed_out=False, tail='')]
    """

    def __init__(
        self,
        slots: int,
        target: str,
        *,
        threads: int,
        timeout: float | None = None,
        devices: Sequence[str] = (),
        start_method: str | None = None,
        preload: Sequence[str] = ("keras", "keras_tuner", "keras_se"),
    ) -> None:
        can_fork = hasattr(os, "fork") and not devices
        method = start_method or ("fork" if can_fork else "spawn")
        _check_target(target)
        _check_numbers(slots, threads, timeout)
        _check_method(method, can_fork)
        _check_devices(devices, slots)
        self._slots, self._target, self._timeout = slots, target, timeout
        self._starter = (
            ForkServer(threads, preload) if method == "fork" else Spawner(threads, devices)
        )
        self._logs: dict[str, tuple[Path, int]] = {}

    @property
    def busy(self) -> int:
        """Children that `wait` has not returned yet."""
        return len(self._logs)

    @property
    def free(self) -> int:
        """Children that may be started now."""
        return self._slots - self.busy

    def start(self, key: str, payload: Mapping[str, Any], log: Path) -> None:
        """Starts a child; the first one waits for nothing, though the server may still import.

        Args:
            key: Name of the child, which no running one has.
            payload: Argument of the target, of what JSON knows.
            log: File to which its standard output and error are appended.

        Raises:
            InputError: If the payload is not JSON, the key is taken, or no slot is free.
        """
        _check_payload(payload)
        if key in self._logs or not self.free:
            raise input_error(
                "A child needs a key of its own and a free slot. "
                f"Received: key={key!r}, while {sorted(self._logs)} run in {self._slots} slots"
            )
        with open(log, "ab") as file:
            place = Path(log).absolute(), file.tell()
        request = {"key": key, "log": str(place[0]), "timeout": self._timeout}
        call = {"target": self._target, "payload": dict(payload)}
        view = {"path": search_path(), "directory": os.getcwd()}
        self._starter.start(request | call | view)
        self._logs[key] = place

    def wait(self) -> list[Exit]:
        """Blocks until a child has ended.

        Returns:
            The children that have ended since the last call; none if none was running.
        """
        ended = self._starter.wait() if self._logs else []
        return [Exit(*fate, _tail(*self._logs.pop(fate[0]))) for fate in ended]

    def close(self) -> None:
        """Kills all children, and ends the server; a later `start` would make a new one."""
        self._starter.close()
        self._logs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _tail(log: Path, start: int) -> str:
    """The last lines from `start` on: what stood before in the file is another child's."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])


def _check_target(target: str) -> None:
    if not re.fullmatch(r"\w+(\.\w+)*:\w+", target):
        raise input_error(f"target must be 'package.module:function'. Received: target={target!r}")


def _check_numbers(slots: int, threads: int, timeout: float | None) -> None:
    if slots < 1 or threads < 1 or (timeout is not None and not timeout > 0):
        raise input_error(
            "slots and threads must be at least 1, and timeout above 0. "
            f"Received: slots={slots!r}, threads={threads!r}, timeout={timeout!r}"
        )


def _check_method(method: str, can_fork: bool) -> None:
    if method != "spawn" and (method != "fork" or not can_fork):
        raise input_error(
            "start_method must be 'spawn', or 'fork' on POSIX without devices. "
            f"Received: start_method={method!r}"
        )


def _check_devices(devices: Sequence[str], slots: int) -> None:
    if devices and not slots <= len(set(devices)) == len(devices):
        raise input_error(
            "Each slot needs a device of its own. "
            f"Received: slots={slots!r}, devices={tuple(devices)!r}"
        )


def _check_payload(payload: Any) -> None:
    try:
        json.dumps(dict(payload))
    except (TypeError, ValueError) as error:
        raise input_error(
            f"payload must hold only what JSON knows. Received: {payload!r}, which gives: {error}"
        ) from error
