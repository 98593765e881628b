"""What a trial counts of its model, and how far a running trial is, by what it has written."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, cost
from tuning.data.trial_data import TrialData
from tuning.trials.combination import make_combination
from tuning.trials.job import Job
from tuning.trials.perform import Epochs, Run, epochs_of, perform

FIRST, SECOND = b'{"epoch": 1, "score": 0.5}\n', b'{"epoch": 2, "score": null}\n'
X, Y = np.ones((8, 6, 6, 1), "float32"), np.arange(8) % 2


@pytest.mark.parametrize(
    ("written", "epochs"),
    [
        (b"", Epochs(0)),
        (FIRST, Epochs(1, 0.5)),
        (FIRST + SECOND, Epochs(2)),
        (FIRST + SECOND[:9], Epochs(1, 0.5)),  # just being written
    ],
)
def test_epochs_so_far(tmp_path, written, epochs):
    curves = tmp_path / "b" / "tmp1" / "curves"
    curves.mkdir(parents=True)
    (curves / "key.jsonl").write_bytes(written)
    assert epochs_of([tmp_path / "a", tmp_path / "b"], "key") == epochs
    assert epochs_of([tmp_path / "b"], "other") == Epochs(0)


def layers(last):
    return [
        keras.layers.Conv2D(4, 3),
        SEBlock(2),
        keras.layers.GlobalAveragePooling2D(),
        last,
        keras.layers.Dense(1),
    ]


def network(size, last):
    return keras.Sequential([*([keras.Input(size)] if size else []), *layers(last)])


@pytest.mark.parametrize("size", [(6, 6, 1), (None, None, 1), None], ids=["fixed", "open", "late"])
def test_operations_are_counted_for_a_sample_of_the_data(size):
    def build(hp):
        model = network(size, keras.layers.ReLU())
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    record = trial(build)
    assert record.flops == cost(network((6, 6, 1), keras.layers.ReLU())).flops
    assert record.parameters == network((6, 6, 1), keras.layers.ReLU()).count_params()


def test_operations_that_are_not_all_known_are_not_told():
    def build(hp):
        model = network((6, 6, 1), keras.layers.LayerNormalization())
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    record = trial(build)
    assert (record.status, record.flops) == ("completed", None)


def trial(build):
    job = Job(build, TrialData((X, Y), (X, Y)), None, "val_loss", "min", 1)
    return perform(job, Run(make_combination({}), 0)).record
