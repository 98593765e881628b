"""GateHistory beside Keras's own callbacks."""

import csv

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_se import SEBlock, read_gates
from keras_se.callbacks import GateHistory
from keras_se.compress import prune, quantize_aware
from keras_se.errors import InputError

X = np.random.default_rng(0).normal(size=(48, 6, 6, 3)).astype("float32")
Y = np.arange(48) % 3
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network(*middle):
    keras.utils.set_random_seed(0)
    parts = [layers.Conv2D(8, 3, activation="relu"), *middle, layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((6, 6, 3)), *parts, layers.Dense(3)])
    model.compile("adam", LOSS, run_eagerly=True)
    return model


def test_the_last_epoch_has_the_statistics_of_the_trained_gates(tmp_path):
    model = network(SEBlock(2), layers.Dropout(0.5), SEBlock(4))
    gates = GateHistory(X[:20], tau=0.5)
    log = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    stopping = keras.callbacks.EarlyStopping("se_2/spread", mode="max", patience=5)
    history = model.fit(X, Y, epochs=3, callbacks=[gates, log, stopping], verbose=0).history
    assert {len(values) for values in history.values()} == {3}
    for name, values in read_gates(model, X[:20]).items():
        spread = np.sqrt(values.astype("float64").var(axis=0).mean())
        assert history[f"{name}/mean"][-1] == pytest.approx(values.mean(), abs=1e-6)
        assert history[f"{name}/spread"][-1] == pytest.approx(spread, abs=1e-6)
        assert history[f"{name}/suppressed"][-1] == (values.mean(axis=0) < 0.5).sum()
        assert gates.statistics[-1][name].spread == history[f"{name}/spread"][-1]
    assert len(set(history["se_1/spread"])) == 3
    rows = list(csv.DictReader((tmp_path / "log.csv").read_text().splitlines()))
    assert float(rows[2]["se_2/spread"]) == history["se_2/spread"][2]


def test_tensorboard_plots_them(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = keras.callbacks.TensorBoard(tmp_path)
    history = network(SEBlock(2)).fit(X, Y, epochs=2, verbose=0, callbacks=[GateHistory(X), board])
    events = EventAccumulator(str(tmp_path / "train"))
    events.Reload()
    found = events.Tensors("epoch_se_1/spread")
    assert [event.step for event in found] == [0, 1]
    values = [tf.make_ndarray(event.tensor_proto).item() for event in found]
    assert values == pytest.approx(history.history["se_1/spread"])


def test_every_second_epoch_and_a_second_fit():
    model, gates = network(SEBlock(2)), GateHistory(X, every=2)
    for _ in range(2):
        history = model.fit(X, Y, epochs=5, callbacks=[gates], verbose=0).history
        assert len(history["se_1/mean"]) == len(gates.statistics) == 2


@pytest.mark.parametrize("every", [0, True, 1.5])
def test_wrong_arguments(every):
    with pytest.raises(InputError, match="every must be an integer of at least 1"):
        GateHistory(X, every=every)


def test_models_in_training_with_compression():
    for aware in (quantize_aware(network(SEBlock(2)), X), prune(network(SEBlock(2)))):
        aware.compile("adam", LOSS, run_eagerly=True)
        gates = GateHistory(X)
        aware.fit(X, Y, epochs=2, callbacks=[gates], verbose=0)
        own = read_gates(aware, X)["se_1"]
        assert gates.statistics[-1]["se_1"].mean == pytest.approx(own.mean(), abs=1e-6)


def test_a_model_without_sites():
    with pytest.raises(
        InputError, match=r"needs a model with SE sites\. Received: model '.*' with"
    ):
        network().fit(X, Y, callbacks=[GateHistory(X)], verbose=0)
