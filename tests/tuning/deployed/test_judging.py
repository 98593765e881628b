"""One candidate as a file: what is measured, what is out, and what is no fault."""

import errno

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_se import SEBlock, to_tflite
from keras_se.errors import InputError, MissingExtraError
from tuning.data.trial_data import TrialData
from tuning.deployed import judging
from tuning.deployed.judging import judge
from tuning.deployed.metric import compare
from tuning.deployed.samples import file_samples
from tuning.trials.combination import make_combination
from tuning.trials.job import Job

layers = keras.layers
RNG = np.random.default_rng(0)
X = (RNG.random((200, 8, 8, 3)) * RNG.random((200, 1, 1, 1))).astype("float32")
Y = (X.mean(axis=(1, 2, 3)) > 0.25).astype("int64")


def compiled(model, loss="mse", **arguments):
    model.compile("adam", loss, run_eagerly=True, **arguments)
    return model


def classifier(hp=None, shape=(8, 8, 3), has_se=True, kind=keras.Model):
    x = inputs = keras.Input(shape)
    x = layers.Conv2D(8, 3, activation="relu")(x)
    if has_se:
        wide = keras.initializers.RandomNormal(stddev=3.0, seed=1)
        x = SEBlock(2, kernel_initializer=wide, bias_initializer=wide)(x)
    outputs = layers.Dense(2, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    return compiled(kind(inputs, outputs), "sparse_categorical_crossentropy", metrics=["accuracy"])


def without_se(hp):
    return classifier(has_se=False)


def of_any_size(hp):
    return classifier(shape=(None, None, 3))


def spatial(hp):
    inputs = keras.Input((8, 8, 3, 1))
    x = SEBlock(2)(layers.Conv3D(4, (3, 3, 1), activation="relu")(inputs))
    return compiled(keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling3D()(x))))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.block, self.head = SEBlock(1), layers.Dense(1)

    def call(self, x):
        return self.head(keras.ops.mean(self.block(x), axis=(1, 2)))


def subclassed(hp):
    return compiled(Subclassed())


def no_more(hp):
    raise SystemExit("no network today")


def judged(builder, tmp_path, data=None, file_format="int8", metric="val_loss"):
    data = data or TrialData((X[:120], Y[:120]), (X[120:], Y[120:]))
    job = Job(builder, data, None, metric, "min", epochs=1)
    (tmp_path / "weights").mkdir(exist_ok=True)
    candidate = make_combination({"a": 1})
    samples = file_samples(job, 0, file_format)
    return judge(job, candidate, 0, file_format, samples, tmp_path, "print")


def test_a_network_without_se_has_nothing_to_survive(tmp_path):
    record = judged(without_se, tmp_path, metric="val_accuracy")
    assert (record.passed, record.verdict, record.work_kept) == (True, "nothing to survive", None)
    assert record.metric == pytest.approx(record.reference, abs=0.05)
    assert (record.fingerprint, record.format, record.seed, record.samples) == (
        "print",
        "int8",
        0,
        80,
    )


def test_sizes_that_a_model_leaves_open_are_those_of_the_data(tmp_path):
    record = judged(of_any_size, tmp_path)
    assert record.verdict == "the gates survive"
    assert record.metric == pytest.approx(record.reference, rel=0.05)


@pytest.mark.parametrize(
    ("builder", "reason"),
    [
        (subclassed, "to_tflite needs a model with known inputs: wrap a subclassed one"),
        (no_more, "SystemExit: no network today"),
    ],
)
def test_what_cannot_be_converted_is_out(tmp_path, builder, reason):
    record = judged(builder, tmp_path)
    assert (record.passed, record.completed, record.sha256) == (False, False, "")
    assert record.reason.startswith(reason)


def test_three_axes_are_judged(tmp_path):
    shaped = [(x[..., None], y) for x, y in ((X[:120], Y[:120]), (X[120:], Y[120:]))]
    record = judged(spatial, tmp_path, TrialData(*shaped))
    assert (record.passed, record.verdict) == (True, "the gates survive")


def test_a_file_that_computes_something_else_is_out_without_gates(tmp_path, monkeypatch):
    def broken(model, *arguments, **options):
        other = keras.models.clone_model(model)
        other.set_weights([-10.0 * w for w in model.get_weights()])
        return convert(other, *arguments, **options)

    convert = judging.to_tflite
    monkeypatch.setattr(judging, "to_tflite", broken)
    record = judged(without_se, tmp_path)
    assert (record.passed, record.verdict) == (False, "nothing to survive")
    assert record.reason.startswith("the outputs are off by ")
    assert record.error > 1.0


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), MissingExtraError("litert")])
def test_a_full_disk_or_a_missing_extra_is_no_verdict(tmp_path, monkeypatch, error):
    def fails(*arguments, **options):
        raise error

    monkeypatch.setattr(judging, "to_tflite", fails)
    with pytest.raises(type(error)):
        judged(without_se, tmp_path)


def two_of_each():
    inputs = {"a": keras.Input((4,), name="a"), "b": keras.Input((4,), name="b")}
    first = layers.Dense(3, name="first")(inputs["a"])
    second = layers.Dense(1, name="second")(layers.Concatenate()([first, inputs["b"]]))
    return keras.Model(inputs, {"one": first, "two": second})


def test_metrics_are_those_of_evaluate():
    model = two_of_each()
    compiled(
        model,
        {"one": "mse", "two": "mae"},
        metrics={"one": ["mae"], "two": [keras.metrics.RootMeanSquaredError(name="rmse")]},
    )
    x = {name: RNG.normal(size=(70, 4)).astype("float32") for name in "ab"}
    y = {"one": RNG.normal(size=(70, 3)), "two": RNG.normal(size=(70, 1))}
    tflite = to_tflite(model, "float32")
    expected = model.evaluate(x, y, verbose=0, return_dict=True)
    for name, value in expected.items():
        found = compare(model, tflite, (x, y), f"val_{name}")
        assert found.reference == pytest.approx(value, rel=1e-4)
        assert found.file == pytest.approx(value, rel=1e-3)
    assert compare(model, tflite, (x, y), "val_unknown").file is None
    # Each sample counts as `fit` counts it; penalties of weights do not.
    weight = {"one": RNG.random(70), "two": RNG.random(70)}
    weighted = model.evaluate(x, y, sample_weight=weight, verbose=0, return_dict=True)["loss"]
    assert compare(model, tflite, (x, y, weight), "val_loss").file == pytest.approx(weighted, 1e-3)


def test_a_model_that_is_not_compiled_tells_no_metric():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    x = RNG.normal(size=(40, 4)).astype("float32")
    found = compare(model, to_tflite(model, "float32"), (x, x[:, :2]), "val_loss")
    assert (found.reference, found.file) == (None, None)
    assert found.outcome.error < 1e-3


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 4

    def __getitem__(self, n):
        rows = slice(40 * n, 40 * n + 40)
        return X[rows], Y[rows]


def dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(30)


@pytest.mark.parametrize(
    "train", [(X[:120], Y[:120]), dataset(X[:120], Y[:120]), lambda: dataset(X[:120], Y[:120])]
)
@pytest.mark.parametrize(
    "validation",
    [(X[40:], Y[40:]), dataset(X[40:], Y[40:]), lambda: (X[40:], Y[40:]), Batches()],
    ids=["arrays", "dataset", "function", "PyDataset"],
)
def test_samples_of_any_data(train, validation):
    job = Job(without_se, TrialData(train, validation), None, "val_loss", "min", epochs=1)
    samples = file_samples(job, 0, "int8")
    assert samples.calibration.shape == (120, 8, 8, 3)
    x, y, *_ = samples.validation
    assert x.shape == (160, 8, 8, 3)
    np.testing.assert_array_equal(y, (x.mean(axis=(1, 2, 3)) > 0.25))
    # 80 of the 160 are training samples, which have calibrated the file.
    known = {row.tobytes() for row in X[:120]}
    held_out = [row.tobytes() for row in samples.held_out]
    assert not known & set(held_out)
    assert len(held_out) == len(set(held_out)) == sum(r.tobytes() not in known for r in x)
    # A format without calibration may be judged on all.
    assert len(file_samples(job, 0, "float16").held_out) == 160


def test_samples_are_bounded_and_spread():
    x = np.arange(5000.0).reshape(-1, 1)
    endless = dataset(x + 0.5, x).repeat()
    job = Job(without_se, TrialData((x, x), endless), None, "val_loss", "min", epochs=1)
    samples = file_samples(job, 0, "int8")
    assert samples.calibration[[0, -1], 0].tolist() == [0.0, 4999.0]
    assert len(samples.calibration) == 300
    assert samples.validation[0][:, 0].tolist() == (np.arange(2000) + 0.5).tolist()
    assert len(samples.held_out) == 256


def ragged():
    rows = tf.ragged.constant([[1.0], [1.0, 2.0]] * 20)
    return tf.data.Dataset.from_tensor_slices((rows, np.zeros(40))).batch(4)


def broken():
    raise OSError("no such bucket")


@pytest.mark.parametrize(
    ("validation", "said"), [(ragged, "IndexError: "), (broken, "OSError: no such bucket")]
)
def test_data_that_are_no_arrays_are_refused(validation, said):
    job = Job(without_se, TrialData((X, Y), validation), None, "val_loss", "min", epochs=1)
    with pytest.raises(
        InputError, match=f"data that can be loaded, .*Received: data that give {said}"
    ):
        file_samples(job, 0, "float16")


def test_no_validation_samples_are_refused():
    empty = dataset(X, Y).take(0)
    job = Job(without_se, TrialData((X, Y), empty), None, "val_loss", "min", epochs=1)
    with pytest.raises(InputError, match=r"at least 32 validation samples .*Received: 0"):
        file_samples(job, 0, "int8")
