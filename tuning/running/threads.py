"""Number of threads and GPUs of each trial. Results depend on the number of threads."""

import itertools
import os
from typing import Any

import keras

from keras_se.errors import InputError

_VARIABLE = "TF_NUM_INTRAOP_THREADS"


def threads_here(workers: int, asked: int | None, began_with: int | None) -> int:
    """Returns the number of threads per trial and sets it in this process if possible."""
    if asked is not None and asked < 1:
        raise InputError(f"threads must be at least 1. Received: threads={asked!r}")
    cores = os.cpu_count() or 1
    wanted = asked or began_with
    # Child processes read the number from their environment when they start.
    if workers > 1:
        return wanted or max(1, cores // workers)
    if wanted is not None and _set_threads(wanted):
        return wanted
    return _threads() or cores


def devices() -> tuple[str, ...]:
    """Returns the GPUs for trials, named as in `CUDA_VISIBLE_DEVICES`; empty on the CPU."""
    found = _gpus()
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    # CUDA ignores all devices after the first negative number.
    visible = list(itertools.takewhile(lambda name: name and name[0] != "-", listed))
    names = visible if len(visible) == found else [str(number) for number in range(found)]
    return tuple(names)


def _gpus() -> int:
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))


def _threads() -> int:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        said: Any = tf.config.threading.get_intra_op_parallelism_threads()
        if said:  # 0 means that TensorFlow decides
            return int(said)
    return int(os.environ.get(_VARIABLE) or 0)


def _set_threads(number: int) -> bool:
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(number)
        tf.config.threading.set_inter_op_parallelism_threads(number)
    except RuntimeError:  # TensorFlow fixes its threads at the first operation
        return False
    return True
