"""Searches with other executors, of trials that need no training."""

import concurrent.futures
import errno
import os
import signal
import sys

import keras
import keras_tuner
import numpy as np
import pytest

import tuning
from keras_se.errors import InputError, MissingExtraError
from tuning.running import backends

PART = np.zeros((8, 4), "float32"), np.zeros((8, 2), "float32")


class Own(keras_tuner.HyperModel):
    """Of a local process, or killing the one that it is in."""

    def __init__(self, fault=None):
        super().__init__()
        self.fault = fault

    def build(self, hp):
        hp.Choice("units", [1, 2])
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    def fit(self, hp, model, *arguments, **further):
        if self.fault is not None:
            raise self.fault
        return float(hp.get("units"))


def run(folder, workers, **given):
    return tuning.search(
        Own(**given),
        PART,
        PART,
        epochs=1,
        seeds=1,
        fresh_seeds=0,
        threads=1,
        workers=workers,
        directory=folder,
    )


def test_any_executor(tmp_path):
    with concurrent.futures.ProcessPoolExecutor(1) as executor:
        result = run(tmp_path / "a", executor)
        assert [record.score for record in result.records] == [1.0, 2.0]
        assert run(tmp_path / "a", executor) == result  # from the records


def test_an_executor_that_has_ended(tmp_path):
    executor = concurrent.futures.ProcessPoolExecutor(1)
    process = executor.submit(os.getpid).result()
    os.kill(process, signal.SIGKILL)
    with pytest.raises(InputError, match=r"executor of a search must stay; .*BrokenProcessPool"):
        run(tmp_path / "a", executor)
    executor.shutdown()


@pytest.mark.parametrize(
    "fault",
    [
        OSError(errno.ENOSPC, "full"),
        OSError(errno.EDQUOT, "quota"),
        ValueError("No space left on device"),
    ],
)
def test_a_full_disk_fails_no_trial(tmp_path, fault):
    with pytest.raises(InputError, match=r"must have room .*the same call goes on\. Received: uni"):
        run(tmp_path / "a", 1, fault=fault)
    assert list((tmp_path / "a" / "records").iterdir()) == []


def test_other_errors_of_the_system_do(tmp_path):
    with pytest.raises(tuning.NoCandidateError, match="PermissionError"):
        run(tmp_path / "a", 1, fault=PermissionError(errno.EACCES, "no"))


def test_without_distributed_the_extra_is_named(tmp_path, monkeypatch):
    class Client:
        scatter = None

    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtraError, match=r"`distributed`.* pip install 'keras-se\[dask\]'"):
        run(tmp_path / "a", Client())
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("workers", "message"),
    [
        ("two", r"workers must be a number, .*Received: workers='two'$"),
        (2, r"workers=2, with 1 GPUs"),
    ],
)
def test_workers_that_cannot_be(tmp_path, monkeypatch, workers, message):
    monkeypatch.setattr(backends, "devices", lambda: ("0",))
    with pytest.raises(InputError, match=message):
        run(tmp_path / "a", workers)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("package", ["loky", "cloudpickle"])
def test_without_the_extra_it_is_named(monkeypatch, package):
    for name in list(sys.modules):
        if name.startswith(("tuning.slots.", "tuning.running.", "tuning.searching")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"`{package}`.* install 'keras-se\[tuning\]'"):
        _ = tuning.search
