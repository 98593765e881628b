"""A small classifier with two SE sites, whose gates move, and data that it was not trained on."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers

from keras_se import SEBlock


@dataclass
class Task:
    x: np.ndarray
    y: np.ndarray
    x_test: np.ndarray


def build_classifier(gate: str = "sigmoid") -> keras.Model:
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=0.5)
    x = inputs = keras.Input((12, 12, 3))
    for filters in (8, 16):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
        block = SEBlock(2, gate=gate, kernel_initializer=wide, bias_initializer="ones")
        x = block(x)
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


def fit(model, task, epochs=2, **settings):
    model.compile(
        keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    )
    model.fit(task.x, task.y, epochs=epochs, verbose=0, **settings)
    return model


@pytest.fixture(scope="session")
def build():
    return build_classifier


@pytest.fixture
def fitted():
    return fit
