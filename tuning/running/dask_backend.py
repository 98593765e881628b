"""Trials on the workers of a Dask cluster."""

import itertools
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from distributed import Client, KilledWorker
from distributed.comm import CommClosedError

from keras_se.errors import InputError, reason
from tuning.slots.dask import SENT, SlotsPlugin, run_on_worker
from tuning.slots.host import Limits
from tuning.slots.parcel import Parcel
from tuning.slots.slot import Ended
from tuning.trials.perform import Epochs

_LOOK = 5.0  # seconds between two looks at the number of workers


class DaskBackend:
    """Runs trials in slots beside Dask workers, to each of which the job goes once."""

    def __init__(self, parcel: Parcel, limits: Limits, client: Client) -> None:
        self._parcel, self._limits, self._client = parcel, limits, client
        with self._scheduler():
            client.register_plugin(SlotsPlugin())
        self._sent: Any = None
        self._numbers = itertools.count()  # what was lost is sent under another key
        self._looked, self._capacity = -_LOOK, 1

    @property
    def capacity(self) -> int:
        """Number of threads of all workers; at least 1, which waits for workers."""
        if time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            with self._scheduler():
                self._capacity = max(1, sum(self._client.nthreads().values()))
        return self._capacity

    @contextmanager
    def _scheduler(self) -> Iterator[None]:
        """Says that the scheduler is gone, whatever Dask raises of it, and whichever call does."""
        try:
            yield
        except (CancelledError, OSError, RuntimeError) as error:
            if self._client.status == "running" and not isinstance(error, CommClosedError):
                raise
            raise InputError(
                "The scheduler of a search must stay; with a new Client the same call goes on from "
                f"the records. Received: {reason(error)}"
            ) from error

    def submit(self, run: Any) -> Any:
        """Starts a trial."""
        with self._scheduler():
            return self._submit(run)

    def _submit(self, run: Any) -> Any:
        if self._sent is None or self._sent.status != "finished":
            self._client.wait_for_workers(1)
            # To all: what lies on one worker is lost with it.
            key = f"{SENT}{self._parcel.id}-{next(self._numbers)}"
            self._sent = self._client.scatter({key: self._parcel}, broadcast=True)[key]
        arguments = self._sent, pickle.dumps(run), self._limits
        return self._client.submit(run_on_worker, *arguments, pure=False)

    def result(self, future: Any) -> Any:
        """Returns the pickled outcome, or an `Ended`."""
        try:
            with self._scheduler():
                return future.result()
        except KilledWorker as error:
            return Ended("fatal", reason(error))
        except CancelledError as error:  # the job was lost with the workers that had it
            return Ended("lost", reason(error))

    def epochs(self, key: str) -> Epochs:
        """Returns nothing: it may be on any machine."""
        return Epochs()
