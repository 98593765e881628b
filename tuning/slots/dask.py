"""Trials on workers of Dask: each runs in a slot beside the worker, which so outlives it."""

import multiprocessing
from typing import Any

from distributed import get_worker
from distributed.diagnostics.plugin import WorkerPlugin

from tuning.slots.host import Limits, close_here, forget_here, run_here
from tuning.slots.parcel import Parcel
from tuning.slots.slot import Ended

SENT = "keras-se-"  # before the id of a parcel, in the key of what the scheduler holds


class SlotsPlugin(WorkerPlugin):
    """Ends the slots of a Dask worker with it, or with the search; they would outlive both."""

    name = "keras-se-slots"

    def transition(self, key: Any, start: str, finish: str, **further: Any) -> None:
        """Ends the slots of a job that the scheduler has released, as when its client died."""
        if start == "memory" and str(key).startswith(SENT):
            forget_here(str(key).removeprefix(SENT).partition("-")[0])

    def teardown(self, worker: Any) -> None:
        """Kills what runs."""
        close_here()


def run_on_worker(parcel: Parcel, run: bytes, limits: Limits) -> bytes | Ended:
    """Performs a run of a job, while the scheduler wants its result."""
    # Dask's nanny watches over the worker, which Python therefore allows no processes.
    multiprocessing.current_process().daemon = False
    worker = get_worker()
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    return run_here(parcel, run, limits, wanted)
