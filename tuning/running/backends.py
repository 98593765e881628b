"""Where trials run: in this process, in slots of this machine, or on an executor's workers."""

import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from keras_se.errors import InputError, import_extra, reason
from tuning.running.settings import SearchSettings
from tuning.running.threads import devices
from tuning.slots.host import Host, Limits, run_here
from tuning.slots.parcel import Parcel, pack
from tuning.slots.scratch import scratch_folder
from tuning.slots.slot import Ended
from tuning.trials.disk import is_full_disk
from tuning.trials.job import Job
from tuning.trials.perform import Epochs, epochs_of


class Call(Protocol):
    """What runs on a backend: it is pickled, and gives something that can be pickled."""

    def perform(self, job: Job, scratch: Path | None = None) -> Any:
        """Does it, on any machine."""


class Backend(Protocol):
    """What a `Runner` needs. `submit` gives a future, `result` what came of it."""

    @property
    def capacity(self) -> int:
        """Number of trials at a time."""

    def submit(self, run: Call) -> Any:
        """Starts a trial; returns a future with `add_done_callback` and `cancel`."""

    def result(self, future: Any) -> Any:
        """Returns the `Outcome` of a future that is done, its pickle, or an `Ended`."""

    def epochs(self, key: str) -> Epochs:
        """Returns how far a run is; called from another thread."""


class InlineBackend:
    """Runs each trial in this process when it is submitted."""

    capacity = 1

    def __init__(self, job: Job, scratch: Path) -> None:
        self._job, self._scratch = job, scratch

    def submit(self, run: Call) -> "Future[Any]":
        """Runs a trial to its end."""
        future: Future[Any] = Future()
        try:
            future.set_result(run.perform(self._job, self._scratch))
        except Exception as error:
            if not is_full_disk(error):
                raise
            future.set_result(Ended("disk", f"{type(error).__name__}: {error}"))
        return future

    def result(self, future: "Future[Any]") -> Any:
        """Returns the outcome."""
        return future.result()

    def epochs(self, key: str) -> Epochs:
        """Returns how far a run is."""
        return epochs_of([self._scratch], key)


class ExecutorBackend:
    """Runs trials by a function that an executor calls, which finds a slot for each."""

    def __init__(
        self,
        parcel: Parcel,
        limits: Limits,
        executor: Executor,
        function: Any,
        capacity: int,
        scratches: Callable[[], Iterable[Path]] = tuple,
    ) -> None:
        self.capacity, self._scratches = capacity, scratches
        self._executor, self._function = executor, function
        self._parcel, self._limits = parcel, limits

    def submit(self, run: Call) -> Any:
        """Starts a trial."""
        call = self._function, self._parcel, pickle.dumps(run), self._limits
        return self._alive(self._executor.submit, *call)

    def result(self, future: Any) -> Any:
        """Returns the pickled outcome, or an `Ended`."""
        return self._alive(future.result)

    def epochs(self, key: str) -> Epochs:
        """Returns how far a run is, where it is on this machine."""
        return epochs_of(self._scratches(), key)

    def _alive(self, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except RuntimeError as error:  # broken, or shut down
            raise InputError(
                "The executor of a search must stay; the same call goes on from the records. "
                f"Received: {type(error).__name__}: {reason(error)}"
            ) from error


def unpickled(found: Any) -> Any:
    """Returns what a call gave, which comes as bytes from a process that was given the call."""
    return pickle.loads(found) if isinstance(found, bytes) else found  # noqa: S301


def not_loaded(found: Ended) -> InputError:
    """Returns the error for a job that a process could not load."""
    return InputError(
        "The processes of workers must be able to load the job. Received: one in which that "
        f"failed: {found.said}"
    )


@contextmanager
def open_slots(
    job: Job, settings: SearchSettings, number: int, gpus: Sequence[str] = ()
) -> Iterator[ExecutorBackend]:
    """Yields processes of this machine. Refuses jobs that cannot travel to them."""
    parcel = pack(job.portable(), settings.modules)
    limits = Limits(settings.threads or 1, settings.timeout)
    with ThreadPoolExecutor(number) as threads, closing(Host(gpus)) as host:
        yield ExecutorBackend(parcel, limits, threads, host.run, number, host.scratches)


@contextmanager
def open_backend(job: Job, settings: SearchSettings, workers: Any) -> Iterator[Backend]:
    """Yields the backend of a search. Refuses jobs that cannot travel to their workers."""
    limits = Limits(settings.threads or 1, settings.timeout)
    if workers == 1:
        with scratch_folder() as scratch:
            yield InlineBackend(job, scratch)
    elif isinstance(workers, int):
        gpus = devices()
        if gpus and workers > len(gpus):
            raise InputError(
                "Each worker needs a GPU of its own; with CUDA_VISIBLE_DEVICES= there is none. "
                f"Received: workers={workers}, with {len(gpus)} GPUs"
            )
        with open_slots(job, settings, workers, gpus) as slots:
            yield slots
    elif isinstance(workers, Executor):
        parcel = pack(job.portable(), alone=True)
        # No executor says how many workers it has.
        yield ExecutorBackend(parcel, limits, workers, run_here, os.cpu_count() or 1)
    elif hasattr(workers, "scatter"):
        import_extra("distributed", "dask")
        from tuning.running.dask_backend import DaskBackend

        yield DaskBackend(pack(job.portable(), alone=True), limits, workers)
    else:
        raise InputError(
            "workers must be a number, a dask.distributed.Client or a concurrent.futures.Executor. "
            f"Received: workers={workers!r}"
        )
