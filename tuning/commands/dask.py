"""Connects the command `search` to a Dask cluster."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from keras_se.errors import InputError, import_extra, reason


@contextmanager
def connected(scheduler: str | None, workers: int) -> Iterator[Any]:
    """Yields a client of a scheduler, given by its address or its file, or else `workers`."""
    if scheduler is None:
        yield workers
        return
    distributed: Any = import_extra("distributed", "dask")
    where = {"scheduler_file" if scheduler.endswith(".json") else "address": scheduler}
    try:
        client = distributed.Client(**where)
    except (OSError, ValueError, TypeError, KeyError) as error:  # the last two: another file
        raise InputError(
            "--dask takes tcp://HOST:PORT of a running Dask scheduler, or the .json file that its "
            f"option --scheduler-file wrote. Received: {scheduler!r}, which gives: "
            f"{reason(error)}"
        ) from error
    with client:
        yield client
