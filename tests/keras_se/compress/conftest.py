"""Small networks with SE sites whose gates move, quantize-aware ones, and data to train on."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers

from keras_se import SEBlock
from keras_se.compress import cluster, prune, quantize_aware, strip
from keras_se.graph.models import sublayers


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray


def build_classifier(gates=("sigmoid", "sigmoid")) -> keras.Model:
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=0.5)
    x = inputs = keras.Input((12, 12, 3))
    for filters, gate in zip((8, 16), gates, strict=True):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
        x = SEBlock(2, gate=gate, kernel_initializer=wide, bias_initializer="ones")(x)
    x = layers.Add()([x, layers.DepthwiseConv2D(3, padding="same")(x)])
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(4)(x))
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


@pytest.fixture(scope="session")
def classifier() -> keras.Model:
    return build_classifier()


@pytest.fixture(scope="session")
def task() -> Task:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(264, 12, 12, 3)) * rng.uniform(0.3, 2.0, (264, 1, 1, 3))
    x = x.astype("float32")
    y = np.digitize(np.abs(x).mean(axis=(1, 2, 3)), [0.7, 0.9, 1.1])
    return Task(x[:200], y[:200], x[200:])


def fit(model, task, epochs=1, **settings):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Tracing a graph takes longer than the few steps of one epoch.
    model.compile(keras.optimizers.Adam(1e-3), loss, run_eagerly=epochs == 1)
    model.fit(task.x, task.y, epochs=epochs, verbose=0, **settings)
    return model


@pytest.fixture(scope="session")
def build():
    return build_classifier


@pytest.fixture(scope="session")
def fitted():
    return fit


@pytest.fixture(scope="session")
def pruned(classifier, task):
    """The classifier after pruning by half, not stripped."""
    return fit(prune(classifier, 0.5), task)


@pytest.fixture(scope="session")
def sparse_and_clustered(task):
    """A smaller one after pruning and clustering, stripped: zeros, up to 4 values in a kernel."""
    keras.utils.set_random_seed(0)
    block = SEBlock(2, bias_initializer="ones")
    stack = [layers.Conv2D(8, 3), block, layers.GlobalAveragePooling2D(), layers.Dense(4)]
    sparse = strip(fit(prune(keras.Sequential([keras.Input((12, 12, 3)), *stack]), 0.5), task))
    return strip(fit(cluster(sparse, 4, preserve_sparsity=True), task))


WIDE = {
    "kernel_initializer": keras.initializers.RandomNormal(stddev=1.0, seed=1),
    "bias_initializer": keras.initializers.RandomNormal(stddev=0.3, seed=2),
}


@pytest.fixture(scope="session")
def wide():
    """Builds blocks whose gates move."""
    return lambda gate: SEBlock(1, gate=gate, **WIDE)


def with_trained_statistics(model):
    """Statistics and scales of BatchNormalization as after training, some of them negative."""
    rng = np.random.default_rng(0)
    for layer in sublayers(model):
        if isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = (w.shape for w in layer.get_weights())
            scales = [rng.uniform(0.5, 1.5, s) * rng.choice([-1, 1], s) for s in (gamma, beta)]
            layer.set_weights([*scales, *(rng.uniform(0.2, 1.0, s) for s in (mean, variance))])
    return model


@pytest.fixture(scope="session")
def trained_statistics():
    return with_trained_statistics


@pytest.fixture(scope="session")
def residual():
    """A convolution with all that is fused to it, SE, a sum with its ReLU, and a classifier."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    x = layers.ReLU()(layers.Add()([x, SEBlock(2, **WIDE)(y)]))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return with_trained_statistics(keras.Model(inputs, layers.Dense(10)(x)))


@pytest.fixture(scope="session")
def aware(residual, images):
    """The residual network, quantize-aware by Keras itself; tests leave it as it is."""
    return quantize_aware(residual, images)


@pytest.fixture(scope="session")
def rounded():
    """Rounding to the 256 values of a range that includes zero."""

    def rounded(x, low, high):
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        scale = (high - low) / 255
        zero = np.clip(np.round(-low / scale), 0, 255)
        return (np.clip(np.floor(x / scale + zero + 0.5), 0, 255) - zero) * scale

    return rounded
