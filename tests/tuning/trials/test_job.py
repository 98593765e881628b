import json
import pickle

import keras
import numpy as np
import pytest

from keras_se.errors import InputError
from tuning.data.fingerprint import hash_of_arrays
from tuning.data.trial_data import TrialData
from tuning.space import SESpace
from tuning.trials.job import Job

DATA = TrialData("json:loads", "json:loads")


def job(**arguments):
    settings = {"space": SESpace(), "metric": "val_loss", "direction": "min", "epochs": 1}
    return Job("json:dumps", DATA, **settings, **arguments)


def test_a_portable_job_holds_what_its_names_stand_for(tmp_path):
    x, y = np.arange(40.0).reshape(10, 4), np.arange(10) % 2
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_val=x[:5], y_val=y[:5])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.save(tmp_path / "model.keras")
    given = Job(
        str(tmp_path / "model.keras"),
        TrialData(str(tmp_path / "data.npz"), None),
        SESpace(),
        "val_loss",
        "min",
        epochs=1,
        compile="json:dumps",
        fit={"callbacks": "json:loads", "class_weight": {0: 1.0}},
    )
    portable = given.portable()
    assert (portable.compile, portable.fit["callbacks"]) == (json.dumps, json.loads)
    assert np.array_equal(portable.model.get_weights()[0], model.get_weights()[0])
    for part, other in zip(portable.data.load(0), given.data.load(0), strict=True):
        assert hash_of_arrays(part) == hash_of_arrays(other)


def test_what_a_job_has_made_does_not_travel():
    made = job()
    assert made.hypermodel is made.hypermodel
    assert "hypermodel" not in pickle.loads(pickle.dumps(made)).__dict__


def test_the_arguments_that_a_search_sets():
    with pytest.raises(InputError, match=r"fit must hold further .*, without x, y.*\['x'\]"):
        job(fit={"x": 1})
