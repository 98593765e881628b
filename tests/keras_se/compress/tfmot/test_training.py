import keras
import numpy as np
import pytest
import tf_keras

from keras_se.compress import prune
from keras_se.compress.tfmot.training import convert_object
from keras_se.errors import InputError


@pytest.fixture(scope="module")
def dense():
    hidden = keras.layers.Dense(8, activation="relu")
    return keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(3)])


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 6)).astype("float32"), rng.integers(0, 3, 64)


def test_settings_of_optimizers_losses_and_metrics_are_carried():
    adam = convert_object(keras.optimizers.AdamW(0.02, weight_decay=0.1, beta_1=0.8, clipnorm=2.0))
    assert isinstance(adam, tf_keras.optimizers.AdamW)
    assert (adam.weight_decay, adam.beta_1, adam.clipnorm) == (0.1, 0.8, 2.0)
    assert float(adam.learning_rate) == pytest.approx(0.02)
    decay = keras.optimizers.schedules.CosineDecay(0.1, 10, warmup_target=0.2, warmup_steps=5)
    sgd = convert_object(keras.optimizers.SGD(decay, momentum=0.9, nesterov=True))
    assert sgd.nesterov
    for step in (0, 3, 9):
        assert float(sgd.get_config()["learning_rate"]["config"]["alpha"]) == 0.0
        assert float(convert_object(decay)(step)) == pytest.approx(float(decay(step)))
    y, p = np.array([[0.0, 1.0]]), np.array([[0.2, 3.0]])
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.1, reduction="sum")
    ported = convert_object(loss)
    assert isinstance(ported, tf_keras.losses.BinaryCrossentropy)
    assert float(ported(y, p)) == pytest.approx(float(loss(y, p)))
    metric = convert_object(keras.metrics.TopKCategoricalAccuracy(k=2, name="top"))
    assert (type(metric), metric.name) == (tf_keras.metrics.TopKCategoricalAccuracy, "top")
    assert convert_object("adam") == "adam"


class Own(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_pred), axis=-1)


def test_losses_of_ones_own_are_computed_by_keras(dense, data):
    model = prune(dense)
    model.compile("sgd", Own())
    assert model.evaluate(*data, verbose=0) == pytest.approx(
        float(np.square(dense.predict(data[0], verbose=0)).mean()), rel=1e-4
    )


class OwnSchedule(keras.optimizers.schedules.LearningRateSchedule):
    def __call__(self, step):
        return 0.1

    def get_config(self):
        return {}


class OwnMetric(keras.metrics.Mean):
    pass


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (
            keras.optimizers.Lion(gradient_accumulation_steps=2),
            "settings that tf_keras has.* Received: Lion with gradient_accumulation_steps",
        ),
        (keras.optimizers.Muon(), "metrics that tf_keras has. Received: Muon"),
        (OwnMetric(), "Received: OwnMetric"),
        (keras.optimizers.SGD(OwnSchedule()), "schedules of Keras. Received: OwnSchedule"),
    ],
)
def test_what_tf_keras_does_not_have_is_refused(own, message):
    with pytest.raises(InputError, match=message):
        convert_object(own)


def test_callbacks_of_both_libraries(dense, data, tmp_path):
    seen = []

    class Recorder(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append(("begin", self.params["epochs"]))

        def on_train_batch_end(self, batch, logs=None):
            seen.append(("batch", "loss" in logs))

        def on_epoch_end(self, epoch, logs=None):
            seen.append(("epoch", "val_loss" in logs))
            self.model.stop_training = epoch == 1

    model = prune(dense)
    model.compile(
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
    )
    history = model.fit(
        *data,
        batch_size=32,
        epochs=5,
        verbose=0,
        validation_data=data,
        callbacks=[
            Recorder(),
            keras.callbacks.CSVLogger(tmp_path / "log.csv"),
            keras.callbacks.ReduceLROnPlateau(monitor="loss", min_delta=1e3, patience=1),
            keras.callbacks.EarlyStopping("val_accuracy", restore_best_weights=True),
            tf_keras.callbacks.TerminateOnNaN(),
        ],
    )
    assert seen == [("begin", 5), *2 * [("batch", True), ("batch", True), ("epoch", True)]]
    assert len(history.history["accuracy"]) == 2
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)


def test_a_single_callback_and_none(dense, data):
    model = prune(dense)
    model.compile("sgd", tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(*data, callbacks=keras.callbacks.TerminateOnNaN(), verbose=0)
    model.fit(*data, 32, 1, 0)


@pytest.mark.parametrize("reduction", ["sum", "mean", "sum_over_batch_size"])
def test_reductions(reduction):
    y, p = np.ones((4, 2)), np.zeros((4, 2))
    loss = keras.losses.MeanAbsoluteError(reduction=reduction)
    assert float(convert_object(loss)(y, p)) == float(loss(y, p))
    assert convert_object(keras.losses.MeanAbsoluteError(reduction=None))(y, p).shape == (4,)


def test_evaluate_and_predict_take_callbacks_and_fit_refuses_what_it_cannot_read(dense, data):
    seen = []
    callback = keras.callbacks.LambdaCallback()
    callback.on_test_end = lambda logs=None: seen.append("test")
    callback.on_predict_end = lambda logs=None: seen.append("predict")
    model = prune(dense)
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.evaluate(*data, verbose=0, callbacks=[callback])
    model.predict(data[0], verbose=0, callbacks=callback)
    assert seen == ["test", "predict"]

    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 1

        def __getitem__(self, index):
            return data

    with pytest.raises(InputError, match=r"arrays, a tf.data.Dataset or a generator"):
        model.fit(Batches())
