import dataclasses
import itertools
import json
import math
import time
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_se.errors import InputError
from tuning.trials.best_epoch import BestEpoch, weight_penalty

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 4)).astype("float32"), RNG.integers(0, 3, 40)
X_VAL, Y_VAL = RNG.normal(size=(16, 4)).astype("float32"), RNG.integers(0, 3, 16)


def network(rate=0.3, regularizer="l2"):
    keras.utils.set_random_seed(1)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(5, activation="tanh", kernel_regularizer=regularizer),
        keras.layers.BatchNormalization(momentum=0.5),
        keras.layers.Dense(3, activation="softmax", bias_regularizer=regularizer),
    ]
    model = keras.Sequential(layers)
    model.compile(
        keras.optimizers.SGD(rate),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy", keras.metrics.SparseCategoricalCrossentropy(name="ce")],
        jit_compile=False,
    )
    return model


def fitted(watches, model, epochs=6):
    """The history of a training; validation in batches that do not divide the data."""
    return model.fit(
        X,
        Y,
        batch_size=8,
        epochs=epochs,
        verbose=0,
        callbacks=watches,
        validation_data=(X_VAL, Y_VAL),
        validation_batch_size=5,
    ).history


def forward(weights, x):
    """The network in NumPy, in float64."""
    w_1, b_1, gamma, beta, mean, variance, w_2, b_2 = (w.astype("float64") for w in weights)
    hidden = np.tanh(x @ w_1 + b_1)
    z = (gamma * (hidden - mean) / np.sqrt(variance + 1e-3) + beta) @ w_2 + b_2
    exponents = np.exp(z - z.max(-1, keepdims=True))
    return exponents / exponents.sum(-1, keepdims=True)


def cross_entropy(weights):
    return -np.log(forward(weights, X_VAL)[np.arange(len(Y_VAL)), Y_VAL]).mean()


def penalty(weights):
    return 0.01 * (np.square(weights[0]).sum() + np.square(weights[7]).sum())


class Weights(keras.callbacks.Callback):
    """What the weights were after each epoch."""

    def on_train_begin(self, logs=None):
        self.epochs = []

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append([w.copy() for w in self.model.get_weights()])


def lines(path):
    return [json.loads(line, parse_constant=pytest.fail) for line in path.read_text().splitlines()]


@dataclasses.dataclass
class Training:
    """One training, watched for several metrics at once."""

    model: keras.Model
    history: dict
    weights: list
    watches: dict
    folder: Path


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder, weights, model = tmp_path_factory.mktemp("curves"), Weights(), network()
    pairs = [*itertools.product(["val_loss", "val_accuracy"], ["min", "max"])]
    pairs += [("val_ce", "min"), ("val_auc", "max")]
    (folder / "val_loss-min.jsonl").write_text("of an attempt that was cut off")
    watches = {pair: BestEpoch(*pair, folder / f"{'-'.join(pair)}.jsonl", 3600) for pair in pairs}
    assert (folder / "val_loss-min.jsonl").read_text() == ""
    history = fitted([weights, *watches.values()], model)
    return Training(model, history, weights.epochs, watches, folder)


def test_the_best_epoch_and_its_weights_are_kept(training):
    values = {
        "val_loss": [cross_entropy(w) for w in training.weights],
        "val_accuracy": [(forward(w, X_VAL).argmax(-1) == Y_VAL).mean() for w in training.weights],
    }
    best_epochs = set()
    for (metric, direction), watch in training.watches.items():
        if metric not in values:
            continue
        scores = values[metric]
        best = int(np.argmin(scores) if direction == "min" else np.argmax(scores))
        assert watch.epoch == best + 1
        assert watch.score == watch.outcome() == pytest.approx(scores[best], rel=2e-6)
        for kept, expected in zip(watch.weights, training.weights[best], strict=True):
            np.testing.assert_array_equal(kept, expected)
        assert watch.logs == {name: values[best] for name, values in training.history.items()}
        best_epochs.add(watch.epoch)
    assert len(best_epochs - {6}) > 1  # and not the last one


def test_the_penalties_of_regularizers_are_taken_off(training):
    """With the kept weights: the cross entropy alone, where Keras's log has the penalty in it."""
    watch = training.watches["val_loss", "min"]
    assert watch.score == pytest.approx(cross_entropy(watch.weights), rel=2e-6)
    added = watch.logs["val_loss"] - watch.score
    assert added == pytest.approx(penalty(watch.weights), rel=1e-4)
    assert added > 1e-3


def test_a_penalty_may_change_which_epoch_is_the_best(tmp_path):
    """Weights that shrink make Keras's log fall, while the error does what it likes."""
    watch = BestEpoch("val_loss", "min", tmp_path / "a.jsonl")
    model = network(regularizer=keras.regularizers.L2(3.0), rate=0.02)
    history = fitted([watch], model)["val_loss"]
    scores = [line["score"] for line in lines(tmp_path / "a.jsonl")]
    assert watch.epoch == np.argmin(scores) + 1 != np.argmin(history) + 1


def test_other_metrics_hold_no_penalty(training):
    watch = training.watches["val_ce", "min"]
    assert watch.score == watch.logs["val_ce"]
    assert watch.score == pytest.approx(cross_entropy(watch.weights), rel=2e-6)


def test_the_weights_stay_while_training_goes_on(training):
    watch = training.watches["val_accuracy", "min"]
    before = [w.copy() for w in watch.weights]
    fitted([], training.model, epochs=1)
    for kept, copied in zip(watch.weights, before, strict=True):
        np.testing.assert_array_equal(kept, copied)
    assert not np.array_equal(training.model.get_weights()[0], before[0])


def test_the_curve(training):
    path, watch = training.folder / "val_loss-min.jsonl", training.watches["val_loss", "min"]
    curve = lines(path)
    assert [line["epoch"] for line in curve] == [1, 2, 3, 4, 5, 6]
    for n, line in enumerate(curve):
        logs = {name: values[n] for name, values in training.history.items()}
        assert line == {**logs, "epoch": n + 1, "score": line["score"]}
    assert curve[watch.epoch - 1]["score"] == watch.score
    assert path.read_bytes().endswith(b"}\n")


def logged(tmp_path, values, metric="val_accuracy", direction="max"):
    """As Keras calls it, with logs that no training gives so easily."""
    watch = BestEpoch(metric, direction, tmp_path / "a.jsonl")
    watch.set_model(network())
    for epoch, value in enumerate(values):
        watch.on_epoch_end(epoch, value if isinstance(value, dict) else {metric: value})
    return watch


@pytest.mark.parametrize(
    ("values", "direction", "epoch"),
    [
        ([0.1, 0.3, 0.2], "max", 2),
        ([0.1, 0.3, 0.2], "min", 1),
        ([0.3, 0.3, 0.1], "max", 1),
        ([0.3, 0.1, 0.1], "min", 2),
        ([math.nan, 0.1, math.inf, 0.2], "max", 4),
        ([-math.inf, 0.2, math.nan, 0.1], "min", 4),
        ([{"loss": 0.1}, {"loss": 0.1, "val_accuracy": 0.3}, {"loss": 0.1}], "max", 2),
        ([0.3, {"loss": math.nan, "val_accuracy": 0.9}], "max", 1),
        ([0.3, {"val_loss": math.inf, "val_accuracy": 0.9}], "max", 1),
        ([{"val_accuracy_4": 0.3, "accuracy_4": 0.9}, {"val_accuracy_4": 0.5}], "max", 2),
    ],
)
def test_epochs_that_count(tmp_path, values, direction, epoch):
    watch = logged(tmp_path, values, direction=direction)
    assert watch.epoch == epoch
    assert watch.outcome() == watch.logs["val_accuracy"]


def test_values_that_are_not_finite_are_null_in_the_curve(tmp_path):
    logged(tmp_path, [math.nan, -math.inf, 0.5])
    assert [line["val_accuracy"] for line in lines(tmp_path / "a.jsonl")] == [None, None, 0.5]
    assert [line["score"] for line in lines(tmp_path / "a.jsonl")] == [None, None, 0.5]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_never_finite(tmp_path, value):
    watch = logged(tmp_path, [value, value])
    assert (watch.score, watch.epoch, watch.weights, watch.logs) == (None, 0, [], {})
    with pytest.raises(FloatingPointError, match="val_accuracy was NaN or infinite in every epoch"):
        watch.outcome()


def test_a_metric_that_is_not_logged(training):
    names = r"\['accuracy', 'ce', 'loss', 'val_accuracy', 'val_ce', 'val_loss'\]"
    message = rf"must be one that Model.fit logs. Received: 'val_auc', with logs {names}"
    with pytest.raises(InputError, match=message):
        training.watches["val_auc", "max"].outcome()


def test_without_any_epoch(tmp_path):
    with pytest.raises(InputError, match=r"Received: 'val_loss', with logs \[\]"):
        BestEpoch("val_loss", "min", tmp_path / "a.jsonl").outcome()


def test_metrics_of_several_values_are_left_out(tmp_path):
    """F1Score has one for each class."""
    values = {"val_f1": np.array([0.1, 0.2]), "val_accuracy": np.float32(0.5)}
    watch = logged(tmp_path, [values])
    assert watch.outcome() == 0.5
    assert watch.names == {"val_accuracy"}


def test_training_that_takes_too_long(training, tmp_path):
    watch = BestEpoch("val_loss", "min", tmp_path / "a.jsonl", seconds=0.05)
    time.sleep(0.06)
    with pytest.raises(TimeoutError, match=r"not done after 0.05 s"):
        fitted([watch], training.model)
    assert (tmp_path / "a.jsonl").read_text() == ""
    with pytest.raises(TimeoutError, match=r"not done after 0.05 s"):
        watch.on_test_batch_end(0)


def test_the_weight_penalty():
    model = network()
    assert weight_penalty(model) == pytest.approx(penalty(model.get_weights()), rel=1e-5)
    assert weight_penalty(model) == pytest.approx(sum(map(float, model.losses)), rel=1e-6)
    outer = keras.Sequential([keras.Input((4,)), model, keras.layers.Dense(1)])
    assert weight_penalty(outer) == pytest.approx(weight_penalty(model), rel=1e-6)
    model.layers[0].trainable = False
    assert weight_penalty(model) == pytest.approx(sum(map(float, model.losses)), rel=1e-6)
    assert weight_penalty(network(regularizer=None)) == 0.0
