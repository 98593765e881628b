"""Checks of calibration data, each shown to refuse and to let pass."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, to_tflite
from keras_se.errors import InputError
from keras_se.litert.calibration import calibration_warnings, check_range, observe
from keras_se.litert.convert import ConversionWarning

RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(0, 255, size=(200, 8, 8, 3)).astype("float32")


def network(nested=False):
    """Trained far enough that its BatchNormalization remembers the range of the images."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Conv2D(8, 3, name="conv"),
        keras.layers.BatchNormalization(momentum=0.5, name="norm"),
        keras.layers.ReLU(),
        SEBlock(2, name="se"),
        keras.layers.GlobalAveragePooling2D(name="pool"),
    ]
    if nested:
        inner = keras.Sequential([keras.Input((8, 8, 3)), *layers], name="inner")
        layers = [inner]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, keras.layers.Dense(2)])
    model.compile("sgd", "mse", jit_compile=False)
    model.optimizer.learning_rate = 0.0
    model.fit(IMAGES, np.zeros((200, 2)), epochs=3, verbose=0)
    return model


@pytest.fixture(scope="module")
def trained():
    return network()


@pytest.mark.parametrize("nested", [False, True])
def test_the_ratio_is_that_of_the_variances(nested):
    model = network(nested)
    layers = model.get_layer("inner") if nested else model
    features = keras.Model(layers.inputs[0], layers.get_layer("norm").input)(IMAGES).numpy()
    expected = features.var(axis=(0, 1, 2)) / layers.get_layer("norm").moving_variance.numpy()
    observed = observe(model, [IMAGES])
    np.testing.assert_allclose(observed.variance_ratios, expected, rtol=1e-3)
    assert observed.variance_ratio == pytest.approx(np.median(expected), rel=1e-3)
    assert 0.9 < observed.variance_ratio < 1.1


def test_bottlenecks_and_sums_are_those_of_the_blocks(trained):
    norm = keras.Model(trained.inputs[0], trained.layers[2].output)(IMAGES).numpy()
    block = trained.get_layer("se")
    w1, b1, _, _ = block.excitation()
    hidden = np.maximum(norm.mean(axis=(1, 2)) @ w1 + b1, 0)
    observed = observe(trained, [IMAGES])
    assert observed.bottlenecks == {"se_1": pytest.approx(hidden.max(), rel=1e-4)}
    assert observed.sums["se_1"] == pytest.approx(np.abs(norm).sum(axis=(1, 2)).max(), rel=1e-4)
    assert set(observed.sums) == {"se_1", "pool"}


def test_bottlenecks_under_a_mask_by_hand():
    """Not under that of the map, which a softmax under a mask of its own has here."""
    x = np.random.default_rng(0).normal(size=(32, 6, 4)).astype("float32")
    mask = np.arange(6) < 2
    inputs = keras.Input((6, 4))
    shares = keras.layers.Softmax()(inputs, mask=np.ones((1, 1, 4), "bool"))
    block = SEBlock(1, bias_initializer="ones", name="se")
    kept = keras.ops.logical_and(keras.ops.isfinite(inputs[..., 0]), mask)
    model = keras.Model(inputs, block(shares, mask=kept))
    w1, b1, _, _ = block.excitation()
    shares = np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)
    hidden = np.maximum(shares[:, mask].mean(axis=1) @ w1 + b1, 0)
    assert observe(model, [x]).bottlenecks["se_1"] == pytest.approx(hidden.max(), rel=1e-4)


RANGE = r"must have the range of the training data.* Received: a median ratio of \d"


def test_data_of_another_range_are_refused(trained):
    check_range(observe(trained, [IMAGES]))
    for factor in (0.1, 0.4, 2.0, 10.0):
        with pytest.raises(InputError, match=RANGE):
            check_range(observe(trained, [factor * IMAGES]))


def test_the_range_matters_in_integers_unless_told_otherwise(trained):
    for file_format in ("int8", "int16x8"):
        with pytest.raises(InputError, match=RANGE):
            to_tflite(trained, file_format, 0.1 * IMAGES)
    assert to_tflite(trained, "int8", 0.1 * IMAGES, check_range=False)
    assert to_tflite(trained, "float32", 0.1 * IMAGES)


@pytest.mark.parametrize("normalization", [False, True])
def test_without_trained_statistics_the_range_is_not_checked(normalization):
    layers = [keras.layers.BatchNormalization()] if normalization else []
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, SEBlock(1)])
    observed = observe(model, [0.01 * IMAGES])
    assert observed.variance_ratio is None
    check_range(observed)


def test_few_samples_are_warned_of(trained):
    with pytest.warns(ConversionWarning, match=r"at least 100 samples.* Received: 99") as caught:
        to_tflite(trained, "int8", IMAGES[:99])
    assert caught[0].filename == __file__
    observed = observe(trained, [IMAGES])
    assert list(calibration_warnings(observed, 100, is_integer=True)) == []
    assert list(calibration_warnings(observed, 5, is_integer=False)) == []


def test_sums_beyond_float16_are_warned_of():
    """By what the samples reach, not by the largest value everywhere."""
    model = keras.Sequential([keras.Input((32, 32, 3)), SEBlock(1, name="se")])
    x = np.zeros((4, 32, 32, 3), "float32")
    x[1, ..., 2] = 70.0  # 71,680 over the map
    with pytest.warns(ConversionWarning, match=r"largest float16, 65504.*'se_1': '7.17e"):
        to_tflite(model, "float16", x)
    assert list(calibration_warnings(observe(model, [x]), 4, is_integer=False)) != []
    x[1] = 0.0
    x[1, 0, 0] = 60000.0
    assert list(calibration_warnings(observe(model, [x]), 4, is_integer=False)) == []


def test_a_maximum_sums_nothing():
    model = keras.Sequential([keras.Input((32, 32, 3)), SEBlock(1, squeeze="max")])
    assert observe(model, [np.full((1, 32, 32, 3), 100.0, "float32")]).sums == {}


def test_bottlenecks_that_are_written_out_are_observed():
    inputs = keras.Input((8, 8, 4))
    gates = keras.layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    gates = keras.layers.Dense(2, activation="relu", name="w1")(gates)
    gates = keras.layers.Dense(4, activation="sigmoid")(gates)
    model = keras.Model(inputs, inputs * gates)
    model.get_layer("w1").bias.assign(np.full(2, -1e6))
    with pytest.raises(InputError, match=r"Received: only zeros at se_1, whose"):
        to_tflite(model, "int8", RNG.normal(size=(100, 8, 8, 4)))


def test_masked_blocks_are_observed_under_their_mask():
    inputs = keras.Input((6, 4))
    block = SEBlock(2, name="se")
    model = keras.Model(inputs, block(keras.layers.Masking()(inputs)))
    x = RNG.normal(size=(20, 6, 4)).astype("float32")
    x[:, 3:] = 0.0
    w1, b1, _, _ = block.excitation()
    hidden = np.maximum(x[:, :3].mean(axis=1) @ w1 + b1, 0)
    assert observe(model, [x]).bottlenecks["se_1"] == pytest.approx(hidden.max(), rel=1e-5)


def test_a_model_with_nothing_to_look_at():
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.ReLU()])
    observed = observe(model, [IMAGES])
    assert (observed.variance_ratio, observed.bottlenecks, observed.sums) == (None, {}, {})


def test_a_functional_model_with_a_call_of_its_own_is_observed():
    class OwnCall(keras.Model):
        def call(self, inputs, training=None, mask=None):
            return super().call(inputs, training=training, mask=mask)

    inputs = keras.Input((4, 4, 3))
    model = OwnCall(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(inputs))
    observed = observe(model, [np.ones((2, 4, 4, 3), "float32")])
    assert observed.finite
    assert observed.sums == {"pool": 16.0}
