"""Where trials run: in this process, in slots of this machine, or on an executor's workers."""

import os
import pickle
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, Self

from keras_se.errors import InputError, import_extra, reason
from tuning.running.settings import SearchSettings
from tuning.running.threads import devices
from tuning.slots.host import Host, Limits, run_here
from tuning.slots.parcel import pack
from tuning.slots.scratch import scratch_folder
from tuning.slots.slot import Ended
from tuning.trials.disk import is_full_disk
from tuning.trials.job import Job
from tuning.trials.perform import Run, perform


class Backend(Protocol):
    """What a `Runner` needs. `submit` gives a future, `result` what came of it."""

    @property
    def capacity(self) -> int:
        """Number of trials at a time."""

    def submit(self, run: Run) -> Any:
        """Starts a trial; returns a future with `add_done_callback` and `cancel`."""

    def result(self, future: Any) -> Any:
        """Returns the `Outcome` of a future that is done, its pickle, or an `Ended`."""


class InlineBackend:
    """Runs each trial in this process when it is submitted."""

    capacity = 1

    def __init__(self, job: Job) -> None:
        self._job = job
        self._scratch = scratch_folder()

    def submit(self, run: Run) -> "Future[Any]":
        """Runs a trial to its end."""
        future: Future[Any] = Future()
        try:
            future.set_result(perform(self._job, run, self._folder))
        except Exception as error:
            if not is_full_disk(error):
                raise
            future.set_result(Ended("disk", f"{type(error).__name__}: {error}"))
        return future

    def result(self, future: "Future[Any]") -> Any:
        """Returns the outcome."""
        return future.result()

    def __enter__(self) -> Self:
        self._folder: Path = self._scratch.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._scratch.__exit__(*exception)


class SlotBackend:
    """Runs trials in slots of this machine."""

    def __init__(
        self,
        job: Job,
        limits: Limits,
        modules: Sequence[str],
        workers: int,
        devices: Sequence[str] = (),
    ) -> None:
        if devices and workers > len(devices):
            raise InputError(
                "Each worker needs a GPU of its own; with CUDA_VISIBLE_DEVICES= there is none. "
                f"Received: workers={workers}, with {len(devices)} GPUs"
            )
        self.capacity = workers
        self._parcel, self._limits, self._devices = pack(job, modules), limits, devices

    def submit(self, run: Run) -> "Future[Any]":
        """Starts a trial in a free slot."""
        return self._threads.submit(self._host.run, self._parcel, pickle.dumps(run), self._limits)

    def result(self, future: "Future[Any]") -> Any:
        """Returns the pickled outcome, or an `Ended`."""
        return future.result()

    def __enter__(self) -> Self:
        self._host = Host(self._devices)
        self._threads = ThreadPoolExecutor(self.capacity)
        return self

    def __exit__(self, *exception: Any) -> None:
        self._host.close()
        self._threads.shutdown()


class ExecutorBackend:
    """Runs trials in slots beside the workers of any executor; the job goes with each trial."""

    def __init__(self, job: Job, limits: Limits, executor: Executor) -> None:
        self.capacity = int(getattr(executor, "_max_workers", os.cpu_count() or 1))
        self._parcel, self._limits, self._executor = pack(job, alone=True), limits, executor

    def submit(self, run: Run) -> Any:
        """Starts a trial."""
        return self._alive(
            self._executor.submit, run_here, self._parcel, pickle.dumps(run), self._limits
        )

    def result(self, future: Any) -> Any:
        """Returns the pickled outcome, or an `Ended`."""
        return self._alive(future.result)

    def _alive(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:  # broken, or shut down
            raise InputError(
                "The executor of a search must stay; the same call goes on from the records. "
                f"Received: {type(error).__name__}: {reason(error)}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: Any) -> None:
        pass


def open_backend(
    job: Job, settings: SearchSettings, workers: Any
) -> AbstractContextManager[Backend]:
    """Returns the backend of a search, to be entered."""
    if workers == 1:
        return InlineBackend(job)
    if not (isinstance(workers, int | Executor) or hasattr(workers, "scatter")):
        raise InputError(
            "workers must be a number, a dask.distributed.Client or a concurrent.futures.Executor. "
            f"Received: workers={workers!r}"
        )
    limits = Limits(settings.threads or 1, settings.timeout)
    if isinstance(workers, int):
        return SlotBackend(job.portable(), limits, settings.modules, workers, devices())
    if isinstance(workers, Executor):
        return ExecutorBackend(job.portable(), limits, workers)
    import_extra("distributed", "dask")
    from tuning.running.dask_backend import DaskBackend

    return DaskBackend(job.portable(), limits, workers)
