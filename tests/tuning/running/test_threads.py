import ast
import os
import subprocess
import sys

import keras
import pytest

from keras_se.errors import InputError
from tuning.running import threads
from tuning.running.threads import devices, threads_here

CORES = os.cpu_count() or 1


def of_process(code, **variables):
    """What a fresh interpreter prints that has not computed yet."""
    removed = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
    environment = {k: v for k, v in os.environ.items() if k not in removed}
    lines = "import keras, tensorflow as tf\nfrom tuning.running.threads import threads_here\n"
    run = subprocess.run(
        [sys.executable, "-c", lines + code],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return ast.literal_eval(run.stdout.strip())


READ = (
    "(tf.config.threading.get_intra_op_parallelism_threads(),"
    " tf.config.threading.get_inter_op_parallelism_threads())"
)


def test_this_process_is_set_before_it_computes_and_not_afterwards():
    code = (
        f"found = [threads_here(1, None, None), threads_here(1, 1, 7), {READ}]\n"
        "found += [threads_here(1, *n) for n in ((None, 3), (5, None), (None, None))]\n"
        "keras.ops.ones(3) + 1\n"
        f"found += [threads_here(1, *n) for n in ((2, None), (None, 2), (5, 2))] + [{READ}]\n"
        "print(found)"
    )
    # The number of the environment counts until another one is set.
    found = of_process(code, TF_NUM_INTRAOP_THREADS="3")
    assert found == [3, 1, (1, 1), 3, 5, 5, 5, 5, 5, (5, 5)]


def test_of_several_processes():
    assert threads_here(2, None, None) == max(1, CORES // 2)
    assert threads_here(10 * CORES, None, None) == 1
    assert threads_here(2, 3, None) == threads_here(2, 3, 5) == 3
    assert threads_here(2, None, 5) == 5


def test_of_another_backend(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    assert threads_here(1, 3, None) == CORES
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "2")
    assert threads_here(1, 3, None) == 2
    assert devices() == ()


def test_too_few():
    with pytest.raises(InputError, match=r"threads must be at least 1. Received: threads=0"):
        threads_here(2, 0, None)


@pytest.mark.parametrize(
    ("visible", "found", "names"),
    [
        (None, 0, ()),
        (None, 2, ("0", "1")),
        ("", 0, ()),
        ("-1", 0, ()),
        ("3", 1, ("3",)),
        ("2,0", 2, ("2", "0")),
        ("2, 0", 2, ("2", "0")),
        ("2,-1,0", 1, ("2",)),
        ("GPU-8932f937,GPU-1c4b", 2, ("GPU-8932f937", "GPU-1c4b")),
        ("0,7", 1, ("0",)),
    ],
)
def test_devices(monkeypatch, visible, found, names):
    monkeypatch.setattr(threads, "_gpus", lambda: found)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert devices() == names


def test_the_devices_of_tensorflow(monkeypatch):
    import tensorflow as tf

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind] * 3)
    assert devices() == ("0", "1", "2")
