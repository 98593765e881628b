"""Threads and GPUs of trials: part of what a result depends on."""

import itertools
import os
from typing import Any

import keras

from keras_se.errors import InputError

_VARIABLE = "TF_NUM_INTRAOP_THREADS"


def threads_here(workers: int, asked: int | None, began_with: int | None) -> int:
    """The number of threads that each trial computes with.

    Args:
        workers: Number of processes at a time; 1 for this process.
        asked: What the user wants, if anything.
        began_with: What the search has had so far, if it is not new.

    Returns:
        The number. This process is set to it where that is still possible.

    Raises:
        InputError: If the number asked for is below 1.

    Example:
        >>> threads_here(2, 3, None)
        3
    """
    if asked is not None and asked < 1:
        raise InputError(f"threads must be at least 1. Received: threads={asked!r}")
    cores = os.cpu_count() or 1
    wanted = asked or began_with
    if workers > 1:
        return wanted or max(1, cores // workers)
    if wanted is not None and _set_threads(wanted):
        return wanted
    return _threads() or cores


def devices() -> tuple[str, ...]:
    """The GPUs that trials may take, one for each at a time.

    Returns:
        Their names as `CUDA_VISIBLE_DEVICES` has them; empty on the CPU.
    """
    found = _gpus()
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    visible = list(itertools.takewhile(lambda name: name and name[0] != "-", listed))
    names = visible if len(visible) == found else [str(number) for number in range(found)]
    return tuple(names)


def _gpus() -> int:
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def _threads() -> int:
    """0 where nothing was said."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        said: Any = tf.config.threading.get_intra_op_parallelism_threads()
        if said:
            return int(said)
    return int(os.environ.get(_VARIABLE) or 0)


def _set_threads(number: int) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(number)
        tf.config.threading.set_inter_op_parallelism_threads(number)
    except RuntimeError:  # TensorFlow has begun to compute
        return False
    return True
