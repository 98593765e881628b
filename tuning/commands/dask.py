"""Connects the command `search` to a Dask cluster."""

import os
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
    is_file = scheduler.endswith(".json")
    try:
        if is_file and not os.path.isfile(scheduler):
            raise FileNotFoundError("there is no such file")  # Dask would wait for it for ever
        client = distributed.Client(**{"scheduler_file" if is_file else "address": scheduler})
    except (OSError, ValueError, TypeError, KeyError) as error:  # the last two: another file
        raise InputError(
            "--dask takes tcp://HOST:PORT of a running Dask scheduler, or the .json file that its "
            f"option --scheduler-file wrote. Received: {scheduler!r}, which gives: "
            f"{reason(error)}"
        ) from error
    with client:
        yield client
