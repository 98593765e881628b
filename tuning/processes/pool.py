"""Runs trials in child processes, without pickling and without a main guard.

`multiprocessing` imports the calling script again in each child, so a script without
`if __name__ == "__main__":` would start itself over and over. A child here imports only its target
function and receives its argument as JSON.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tuning.choice.errors import input_error
from tuning.processes.fork_server import ForkServer
from tuning.processes.spawning import Spawner, search_path

_TAIL_LINES = 20
_TAIL_BYTES = 1 << 14


@dataclass(frozen=True)
class Exit:
    """How a child process ended.

    Attributes:
        key: As passed to `start`.
        code: Exit code: 0 if the target returned, 1 if it raised, the code of a `SystemExit`, or
            minus the number of the signal that killed it. Also -9 if the server of the children
            died, because they all end with it.
        timed_out: Whether it was killed because its time was over.
        tail: The last 20 lines that it wrote to its log.
    """

    key: str
    code: int
    timed_out: bool
    tail: str


class ProcessPool:
    """Runs one function in child processes, a few at a time, with their output in logs."""

    def __init__(
        self,
        slots: int,
        target: str,
        *,
        threads: int,
        timeout: float | None = None,
        devices: Sequence[str] = (),
        start_method: str | None = None,
        # These must not compute on import: that starts threads, which no fork survives.
        preload: Sequence[str] = ("keras", "keras_tuner", "keras_se"),
    ) -> None:
        # Windows has no fork. A child with a GPU of its own needs a fresh interpreter, while a
        # fork of the server, which has imported Keras, starts much faster.
        can_fork = hasattr(os, "fork") and not devices
        method = start_method or ("fork" if can_fork else "spawn")
        if slots < 1 or threads < 1 or (timeout is not None and not timeout > 0):  # also for NaN
            raise input_error(
                "slots and threads must be at least 1, and timeout above 0. "
                f"Received: slots={slots!r}, threads={threads!r}, timeout={timeout!r}"
            )
        if devices and not slots <= len(set(devices)) == len(devices):
            raise input_error(
                "Each slot needs its own device. "
                f"Received: slots={slots!r}, devices={tuple(devices)!r}"
            )
        self._slots, self._target, self._timeout = slots, target, timeout
        self._starter = (
            ForkServer(threads, preload) if method == "fork" else Spawner(threads, devices)
        )
        self._logs: dict[str, tuple[Path, int]] = {}

    @property
    def busy(self) -> int:
        """Number of children that `wait` has not returned yet."""
        return len(self._logs)

    @property
    def free(self) -> int:
        """Number of children that can start now."""
        return self._slots - self.busy

    def start(self, key: str, payload: Mapping[str, Any], log: Path) -> None:
        """Starts a child whose standard output and error are appended to `log`."""
        if key in self._logs or not self.free:
            raise input_error(
                "start needs a new key and a free slot. "
                f"Received: key={key!r}, while {sorted(self._logs)} run in {self._slots} slots"
            )
        # The log can hold the output of an earlier child, which is no part of the tail.
        with open(log, "ab") as file:
            place = Path(log).absolute(), file.tell()
        request = {"key": key, "log": str(place[0]), "timeout": self._timeout}
        call = {"target": self._target, "payload": dict(payload)}
        # The server keeps the path and directory of its own start; children get the current ones.
        view = {"path": search_path(), "directory": os.getcwd()}
        self._starter.start(request | call | view)
        self._logs[key] = place

    def wait(self) -> list[Exit]:
        """Blocks until a child ends, and returns those that ended since the last call."""
        # With no child the starter would wait forever.
        ended = self._starter.wait() if self._logs else []
        return [Exit(*status, _tail(*self._logs.pop(status[0]))) for status in ended]

    def close(self) -> None:
        """Kills all children and ends the server."""
        self._starter.close()
        self._logs.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _tail(log: Path, start: int) -> str:
    """Returns the last lines of a log that were written from `start` on."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        # The cut can fall inside a multibyte character.
        lines = file.read().decode(errors="replace").splitlines()
    return "\n".join(lines[-_TAIL_LINES:])
