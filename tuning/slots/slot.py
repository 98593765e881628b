"""A slot: one process that runs one call after the other, and is replaced when it dies."""

import os
import re
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from loky import BrokenProcessPool, ProcessPoolExecutor
from loky.backend.context import LokyContext

from tuning.slots import inside
from tuning.slots.watchdog import kill_group
from tuning.trials.disk import is_full_disk

_COUNTS = (
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
)
_RECYCLE = 25  # trials, after which a new process takes over: TensorFlow's memory grows with each
_IDLE = 60.0  # seconds after which a process without work ends
_GRACE = 2.0  # seconds in which a trial may end by itself after its timeout
_TRIES = 3  # of a process to start and to load the job
_TAIL_LINES, _TAIL_BYTES = 20, 1 << 14

Kind = Literal["died", "timeout", "raised", "disk", "setup", "stopped", "lost", "fatal"]


@dataclass(frozen=True)
class Ended:
    """How a call ended that did not return.

    Attributes:
        kind: `"died"`: its process ended; `"timeout"`; `"raised"`; `"disk"`: a disk is full;
            `"setup"`: the job could not be loaded; `"stopped"`: nobody wants its result; `"lost"`:
            its machine went away; `"fatal"`: several machines went away while they ran it.
        said: The error, or how the process ended and its last lines.
    """

    kind: Kind
    said: str = ""


class Slot:
    """Runs calls in a process of its own, with its threads and its device."""

    def __init__(self, folder: Path, threads: int, device: str | None) -> None:
        self.threads, self.scratch = threads, folder / "tmp"
        self._folder, self._log, self._group = folder, folder / "log", folder.with_suffix(".pid")
        self._environment = {
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3"),
            **dict.fromkeys(_COUNTS, str(threads)),
            "TMPDIR": str(self.scratch),
            # Else loky starts a new process after each trial that leaves 300 MB, as most would.
            "LOKY_MAX_MEMORY_LEAK_SIZE": "1e15",
        }
        if device is not None:
            self._environment["CUDA_VISIBLE_DEVICES"] = device
            self._environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
        self._executor: Any = None
        self._calls = 0

    def call(
        self, place: str, run: bytes, timeout: float | None, wanted: Callable[[], bool]
    ) -> bytes | Ended:
        """Performs a run of the job at `place`, while its result is wanted."""
        if self._calls >= _RECYCLE:
            self.close()
        for _ in range(_TRIES):
            loaded = self._result((inside.load, place), None, wanted)
            if not isinstance(loaded, Ended) or loaded.kind != "died":
                break
        if isinstance(loaded, Ended):
            return replace(loaded, kind="setup") if loaded.kind in ("died", "raised") else loaded
        self._calls += 1
        os.truncate(self._log, 0)  # the last lines must be of this trial
        return self._result((inside.work, place, run), timeout, wanted)

    def _opened(self) -> Any:
        if self._executor is None:
            self.scratch.mkdir(parents=True, exist_ok=True)
            self._calls = 0
            self._executor = ProcessPoolExecutor(
                1,
                timeout=_IDLE,
                # Not `loky.get_context`: what joblib's own copy of loky changes changes it, too.
                context=LokyContext(),
                initializer=inside.begin,
                initargs=(os.getpid(), str(self._log), str(self._group)),
                env=self._environment,
            )
        return self._executor

    def _result(
        self, call: tuple[Any, ...], timeout: float | None, wanted: Callable[[], bool]
    ) -> Any:
        try:
            future = self._opened().submit(*call)
        except RuntimeError as error:  # its process died while it was idle, or `close` ended it
            return self._ended(error, wanted)
        if _is_done(future, timeout, wanted):
            # What the trial raised may be an interrupt or an exit, which is not ours.
            raised = future.exception()
            return future.result() if raised is None else self._ended(raised, wanted)
        self.close()
        return Ended("timeout" if wanted() else "stopped")

    def _ended(self, error: BaseException, wanted: Callable[[], bool]) -> Ended:
        if not wanted():  # closed by another thread
            return Ended("stopped")
        if isinstance(error, BrokenProcessPool):
            said = self._last_words(str(error))
            self.close()
            return Ended("died", said)
        kind: Kind = "disk" if is_full_disk(error) else "raised"
        return Ended(kind, f"{type(error).__name__}: {error}")

    def _last_words(self, error: str) -> str:
        code = re.search(r"\{(.*)\}", error)
        how = f"its process ended with {code[1]}" if code else "its process ended"
        with open(self._log, "ab+") as file:
            file.seek(max(0, file.tell() - _TAIL_BYTES))
            # The cut can fall inside a multibyte character.
            lines = file.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        return f"{how}; it printed last: {' | '.join(lines)}" if lines else how

    def close(self) -> None:
        """Kills the process, what it started, and its temporary files."""
        executor, self._executor = self._executor, None
        if executor is not None:
            kill_group(self._group)
            executor.shutdown(wait=True, kill_workers=True)
        shutil.rmtree(self._folder, ignore_errors=True)


def _is_done(future: "Future[Any]", timeout: float | None, wanted: Callable[[], bool]) -> bool:
    """Waits until a call ends; returns false when its time is over or nobody wants it."""
    limit = float("inf") if timeout is None else time.monotonic() + timeout + _GRACE
    while wanted() and (left := limit - time.monotonic()) > 0:
        with suppress(TimeoutError):
            future.exception(min(left, 1.0))
            return True
    return future.done()
