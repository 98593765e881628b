"""Runs trials in slots of the machine where it is called: from threads here, or in a worker."""

import os
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import util
from pathlib import Path

from tuning.slots.parcel import Parcel
from tuning.slots.scratch import scratch_folder
from tuning.slots.slot import Ended, Slot
from tuning.slots.watchdog import watchdog


@dataclass(frozen=True)
class Limits:
    """What a slot may use.

    Attributes:
        threads: Number of threads.
        timeout: Seconds of a trial.
    """

    threads: int = 1
    timeout: float | None = None


class Host:
    """The slots of this process: as many as there are calls at a time."""

    def __init__(self, devices: Sequence[str] = ()) -> None:
        self._devices = devices
        self._slots: list[Slot] = []
        self._free: list[Slot] = []
        self._forgotten: set[str] = set()
        self._lock, self._closed = threading.Lock(), False
        self._stack = ExitStack()
        self._folder: Path = self._stack.enter_context(scratch_folder())
        self._stack.enter_context(watchdog(self._folder))

    def run(
        self, parcel: Parcel, run: bytes, limits: Limits, wanted: Callable[[], bool] = lambda: True
    ) -> bytes | Ended:
        """Performs a run of a job in a free slot."""
        with self._lock:
            place = parcel.unpack(self._folder)
            slot = next((s for s in self._free if s.threads == limits.threads), None)
            if slot is None:
                slot = self._new(limits.threads)
            else:
                self._free.remove(slot)
        try:
            return slot.call(place, run, limits.timeout, lambda: not self._closed and wanted())
        finally:
            with self._lock:
                self._free.append(slot)
                forgotten = parcel.id in self._forgotten
            if forgotten:
                self.forget(parcel.id)

    def _new(self, threads: int) -> Slot:
        number = len(self._slots)
        device = self._devices[number % len(self._devices)] if self._devices else None
        self._slots.append(Slot(self._folder / f"slot{number}", threads, device))
        return self._slots[-1]

    def scratches(self) -> Iterator[Path]:
        """Yields the folders in which the slots keep temporary files."""
        return (slot.scratch for slot in list(self._slots))

    def forget(self, id: str) -> None:
        """Removes a parcel, and ends the processes that wait for further calls."""
        with self._lock:
            self._forgotten.add(id)  # a trial may still be ending
            for slot in self._free:
                slot.close()
            shutil.rmtree(self._folder / id, ignore_errors=True)

    def close(self) -> None:
        """Kills what runs."""
        self._closed = True
        for slot in self._slots:
            slot.close()
        self._stack.close()


_lock = threading.Lock()
_host: Host | None = None


def run_here(
    parcel: Parcel, run: bytes, limits: Limits, wanted: Callable[[], bool] = lambda: True
) -> bytes | Ended:
    """Performs a run of a job on the machine of an executor's worker."""
    global _host
    with _lock:
        if _host is None:
            listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
            _host = Host([name for name in listed if name])
            # Not `atexit`, which processes of multiprocessing do not heed.
            util.Finalize(None, close_here, exitpriority=100)
    return _host.run(parcel, run, limits, wanted)


def forget_here(id: str) -> None:
    """Removes a parcel from the machine of an executor's worker."""
    if _host is not None:
        _host.forget(id)


def close_here() -> None:
    """Kills what runs in this process's slots."""
    global _host
    with _lock:
        if _host is not None:
            _host.close()
        _host = None
