"""Parcels are opened in a fresh process, which cannot import what this file defines."""

import importlib
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_se.errors import InputError
from tuning.slots import parcel
from tuning.slots.parcel import Parcel, opened, pack

LARGE = np.arange(2**19, dtype="float32").reshape(2, -1)
SMALL = np.arange(3)


class Own(keras.layers.Layer):
    def __init__(self, activation=None, **settings):
        super().__init__(**settings)
        self.activation = activation

    def call(self, x):
        return 2 * x

    def get_config(self):
        return super().get_config()


def own_loss(y, p):
    return keras.ops.mean(keras.ops.square(y - p))


def own_activation(x):
    return x + 1


def model():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(2, activation=own_activation), Own()]
    made = keras.Sequential([keras.Input((3,)), *layers, keras.layers.Lambda(lambda x: x - 1)])
    made.compile("sgd", own_loss)
    return made


# What a fresh process does with the job: each part checks itself there.
CHECK = """
import sys
sys.path.insert(0, {path!r})
from tuning.slots.parcel import opened
assert "keras" not in sys.modules
"""


def run_elsewhere(job, folder, **further):
    return run_with(pack(job, alone=True, **further).unpack(folder), "opened({place!r})()", folder)


def run_with(place, check, folder):
    code = (CHECK + check).format(path=sys.path[0], place=place)
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": "numpy"},  # loaded in no time
        capture_output=True,
        text=True,
    )


def test_functions_models_and_arrays_of_one_job(tmp_path):
    live, x = model(), np.ones((4, 3), "float32")
    expected, loss = live.predict(x, verbose=0), live.evaluate(x, x[:, :2], verbose=0)
    parts = {"large": LARGE, "again": LARGE, "small": SMALL, "fortran": np.asfortranarray(LARGE)}

    def check():
        import numpy as np

        assert np.allclose(live.predict(x, verbose=0), expected)
        assert np.isclose(live.evaluate(x, x[:, :2], verbose=0), loss)
        assert live.layers[1].__class__.__name__ == "Own"
        assert parts["large"] is parts["again"]
        assert np.array_equal(parts["large"], parts["fortran"])
        assert parts["fortran"].flags.f_contiguous
        parts["large"][0, 0] = 7  # a copy of its own
        assert parts["small"].tolist() == [0, 1, 2]

    found = run_elsewhere(check, tmp_path)
    assert found.returncode == 0, found.stderr
    assert len(list(tmp_path.glob("*/*.bin"))) == 2
    assert np.fromfile(next(tmp_path.glob("*/0.bin")), "float32")[0] == 0


def test_these_checks_can_fail(tmp_path):
    def check():
        raise AssertionError("no")

    assert "AssertionError: no" in run_elsewhere(check, tmp_path).stderr


@pytest.mark.parametrize("module", ["__main__", __name__])
def test_what_a_script_or_a_module_of_the_user_has_registered_is_registered(
    tmp_path, monkeypatch, module
):
    @keras.saving.register_keras_serializable("mine")
    class Registered(keras.layers.Layer):
        pass

    monkeypatch.setattr(Registered, "__module__", module)

    def check():
        import keras

        assert keras.saving.get_registered_object("mine>Registered") is Registered
        assert keras.saving.get_registered_name(Registered) == "mine>Registered"

    try:
        found = run_elsewhere(check, tmp_path)
        assert found.returncode == 0, found.stderr
    finally:
        keras.saving.get_custom_objects().pop("mine>Registered")


def test_what_a_module_has_registered_that_is_elsewhere_is_no_hindrance(tmp_path, monkeypatch):
    code = "import keras\n@keras.saving.register_keras_serializable()\ndef away(): pass"
    (folder := tmp_path / "elsewhere").mkdir()
    (folder / "away.py").write_text(code)
    with monkeypatch.context() as scope:
        scope.syspath_prepend(folder)
        module = importlib.import_module("away")
    try:
        place = pack("a job").unpack(tmp_path)
        assert run_with(place, "assert opened({place!r}) == 'a job'", tmp_path).returncode == 0
        needs = pack(module.away).unpack(tmp_path)
        found = run_with(needs, "opened({place!r})", tmp_path)
        assert "ModuleNotFoundError: No module named 'away'" in found.stderr
    finally:
        keras.saving.get_custom_objects().pop("Custom>away")
        del sys.modules["away"]


def test_modules_are_imported_first(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "opened_first.py").write_text("import sys; sys.was_imported = True")
    opened(pack("a job", ["opened_first"]).unpack(tmp_path))
    assert sys.was_imported
    del sys.was_imported


def test_a_process_loads_a_job_once(tmp_path):
    place = pack([SMALL]).unpack(tmp_path)
    assert opened(place) is opened(place)
    other = pack([SMALL]).unpack(tmp_path)
    assert other != place
    assert opened(other) is not opened(place)


def test_threads_unpack_one_place(tmp_path):
    sent = pack([LARGE])
    with ThreadPoolExecutor(8) as threads:
        places = set(threads.map(lambda _: sent.unpack(tmp_path), range(8)))
    assert len(places) == 1
    assert np.array_equal(opened(places.pop())[0], LARGE)


@pytest.mark.parametrize("protocol", [4, 5])
def test_a_parcel_is_pickled_by_executors(protocol):
    sent = pack([LARGE])
    got = pickle.loads(pickle.dumps(sent, protocol=protocol))
    assert isinstance(got, Parcel)
    assert [bytes(b) for b in got.buffers] == [LARGE.tobytes()]
    buffers = []
    if protocol == 5:  # as Dask does it
        text = pickle.dumps(sent, protocol=5, buffer_callback=buffers.append)
        assert len(text) < 10_000
        assert len(buffers) == 1


@pytest.mark.parametrize(
    ("job", "message"),
    [
        (
            lambda: tf.data.Dataset.from_tensor_slices(SMALL),
            r"does not travel .*: give a function that returns it\. Received: <_TensorSliceDataset",
        ),
        (threading.Lock, r"cloudpickle must take .*Received: TypeError: cannot pickle '_thread"),
    ],
)
def test_what_does_not_travel(job, message):
    with pytest.raises(InputError, match=message):
        pack([job()])


def test_modules_of_the_user_are_told_from_installed_ones():
    names = {module.__name__ for module in parcel._own_modules()}
    assert __name__ in names
    assert not {n.partition(".")[0] for n in names} & {"keras", "numpy", "json", "tuning", "pytest"}
