"""Padded sequences end to end: SE that averages the steps of each sequence only."""

import warnings

import keras
import numpy as np
import pytest

from keras_se import SEBlock, find_sites, to_tflite, verify

CLASSES, STEPS, CHANNELS = 9, 25, 12  # as of JapaneseVowels


def sequences(count, seed):
    """Sines of other frequencies and strengths, zero from their lengths on."""
    rng = np.random.default_rng(seed)
    t, lengths = np.arange(STEPS)[None, :, None], rng.integers(7, STEPS + 1, count)
    x = rng.uniform(0.3, 2.0, (count, 1, CHANNELS)) * np.sin(
        rng.uniform(0.1, 1.2, (count, 1, CHANNELS)) * t
    )
    x[np.arange(STEPS) >= lengths[:, None]] = 0.0
    return x.astype("float32")


def network(masked=True):
    """Keras says that the mask ends at its convolution; this library does not say it again."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Layer '.*' .* was passed an input with a mask")
        return built(masked)


def built(masked):
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=1.0)
    inputs = keras.Input((STEPS, CHANNELS))
    mask = keras.layers.Masking().compute_mask(inputs) if masked else None
    x = inputs
    for number, filters in enumerate((8, 16)):
        x = keras.layers.Conv1D(filters, 3, padding="same", activation="relu")(x)
        block = SEBlock(2, kernel_initializer=wide, name=f"se_{number}")
        x = block(x, mask=mask)
    x = keras.layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, keras.layers.Dense(CLASSES)(x))


@pytest.fixture(scope="module")
def model():
    return network()


def test_masked_gates_survive(model):
    x, calibration = sequences(100, 0), sequences(200, 1)
    float32 = to_tflite(model, "float32")
    for name in ("float32", "float16", "dynamic", "int8"):
        tflite = to_tflite(model, name, calibration)
        assert len(find_sites(tflite)) == 2
        for reference in (model, float32):
            report = verify(reference, tflite, x)
            assert report.passed, str(report)
            assert all(site.r2 > 0.95 and site.spread > 3 for site in report.sites.values())


def test_masked_sites_in_float(model):
    tflite = to_tflite(model, "int8", sequences(200, 1), keep_float=["se_1", "se_2"])
    report = verify(model, tflite, sequences(100, 0))
    assert report.passed
    assert [site.quantized for site in report.sites.values()] == [False, False]


def test_no_to_a_squeeze_over_the_padding(model):
    """The same weights in a network that forgets the mask: its gates are others."""
    forgetful = network(masked=False)
    forgetful.set_weights(model.get_weights())
    report = verify(model, to_tflite(forgetful, "float32"), sequences(100, 0))
    assert not report.passed
    assert all(site.failed for site in report.sites.values())
