"""Number of threads and GPUs of each trial. Results depend on the number of threads."""

import contextlib
import itertools
import os

import keras

from keras_se.errors import InputError


def threads_here(workers: int | None, asked: int | None, began_with: int | None) -> int:
    """Returns the number of threads per trial and sets it in this process if possible."""
    if asked is not None and asked < 1:
        raise InputError(f"threads must be at least 1. Received: threads={asked!r}")
    cores = os.cpu_count() or 1
    wanted = asked or began_with
    if workers is None:  # an executor's, on machines of their own
        return wanted or 1
    # Child processes read the number from their environment when they start.
    if workers > 1:
        return wanted or max(1, cores // workers)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if wanted is not None:
            # TensorFlow fixes its threads at the first operation, and raises from then on.
            with contextlib.suppress(RuntimeError):
                tf.config.threading.set_intra_op_parallelism_threads(wanted)
                tf.config.threading.set_inter_op_parallelism_threads(wanted)
        # 0 means that TensorFlow decides.
        if threads := tf.config.threading.get_intra_op_parallelism_threads():
            return int(threads)
    return int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0) or cores


def devices() -> tuple[str, ...]:
    """Returns the GPUs for trials, named as in `CUDA_VISIBLE_DEVICES`; empty on the CPU."""
    found = _gpus()
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    # CUDA ignores all devices after the first negative number.
    visible = list(itertools.takewhile(lambda name: name and name[0] != "-", listed))
    return tuple(visible if len(visible) == found else map(str, range(found)))


def _gpus() -> int:
    if keras.backend.backend() != "tensorflow":
        return 0
    import tensorflow as tf

    return len(tf.config.list_physical_devices("GPU"))
