"""While a compressed model trains, it trains as Keras: noise, augmentation and statistics."""

import functools

import keras
import numpy as np
import pytest
from keras import layers

from keras_se import SEBlock
from keras_se.compress import cluster, prune, quantize_aware

X = np.random.default_rng(0).normal(1.0, size=(64, 8, 8, 3)).astype("float32")
Y = np.arange(64) % 3
FORMS = ("functional", "sequential", "nested")
WAYS = {
    "prune": lambda model: prune(model, 0.0),
    # The kernels before the normalization stay as they are.
    "cluster": lambda model: cluster(model, 4, scope="se"),
    "tfmot": lambda model: quantize_aware(model, X, engine="tfmot"),
    "keras": lambda model: quantize_aware(model, X),
}
IDLE = {
    "dropout": lambda: layers.Dropout(0.7),
    "drop_connect": lambda: layers.Dropout(0.7, noise_shape=(None, 1, 1, 1)),
    "spatial": lambda: layers.SpatialDropout2D(0.7),
    "noise": lambda: layers.GaussianNoise(1.0),
    "augmentation": lambda: layers.RandomTranslation(0.4, 0.4, fill_mode="constant"),
}


def build(form, idle=()):
    keras.utils.set_random_seed(0)
    first = [layers.Conv2D(8, 3), layers.BatchNormalization(momentum=0.5), layers.ReLU()]
    first += [SEBlock(2, bias_initializer="ones"), *(make() for make in idle)]
    last = [layers.GlobalAveragePooling2D(), layers.Dense(3)]
    sequential = keras.Sequential([keras.Input((8, 8, 3)), *first])
    if form == "sequential":
        return keras.Sequential([keras.Input((8, 8, 3)), *first, *last])
    inputs = x = keras.Input((8, 8, 3))
    for layer in ([sequential] if form == "nested" else first) + last:
        x = layer(x)
    return keras.Model(inputs, x)


@functools.cache
def plain(form, epochs, idle=None):
    """The same of the network as it was before it was compressed."""
    return trained(build(form, [IDLE[idle]] if idle else []), epochs)


def trained(model, epochs):
    """The losses of epochs at rate 0, and the moving statistics after the first."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.0), loss, jit_compile=False)
    settings = {"batch_size": 16, "shuffle": False, "verbose": 0}
    losses = model.fit(X, Y, **settings).history["loss"]
    moving = [v for v in model.weights if "moving" in v.name]
    statistics = [v.numpy() for v in moving]
    losses += model.fit(X, Y, epochs=epochs - 1, **settings).history["loss"]
    return losses, statistics


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("way", WAYS)
def test_statistics_move_as_in_keras_and_the_loss_stands_still(way, form):
    compressed = WAYS[way](build(form))
    start = [v.numpy() for v in compressed.weights if "moving" in v.name]
    losses, statistics = trained(compressed, 3)
    is_rounded = way in ("tfmot", "keras")
    assert np.ptp(losses) < (3e-3 if is_rounded else 1e-6)  # the ranges move
    _, wanted = plain(form, 2)
    for before, found, expected in zip(start, statistics, wanted, strict=True):
        assert np.abs(found - before).max() > 0.1
        step = np.abs(expected - before).max()
        tolerance = 0.02 * step if is_rounded else 1e-6
        np.testing.assert_allclose(found, expected, atol=tolerance, rtol=1e-5)


# All three of tf_keras share one bridge, and all forms one walk.
NOISY = [
    *((way, idle) for way in ("prune", "keras") for idle in IDLE),
    ("cluster", "dropout"),
    ("tfmot", "augmentation"),
]


@pytest.mark.parametrize(("way", "idle"), NOISY)
def test_noise_is_on_in_training_and_off_in_inference(way, idle):
    form = FORMS[list(IDLE).index(idle) % 3]
    compressed = WAYS[way](build(form, [IDLE[idle]]))
    spread = np.std(trained(compressed, 12)[0])
    assert 0.3 < spread / np.std(plain(form, 12, idle)[0]) < 3.0
    one, other = (compressed.predict(X, verbose=0) for _ in range(2))
    np.testing.assert_array_equal(one, other)


def test_an_order_to_train_stays_one():
    """Dropout at inference, Monte Carlo, as Keras has it in a call without `training`."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Dropout(0.5)(layers.Conv2D(8, 3)(inputs), training=True)
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    for each in (model, quantize_aware(model, X)):
        one, other = (keras.ops.convert_to_numpy(each(X)) for _ in range(2))
        assert np.abs(one - other).max() > 0.1 * one.std()
