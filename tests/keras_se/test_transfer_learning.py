"""Input, augmentation, Rescaling, a nested backbone and a head: every stage takes it."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_se import SEBlock, find_sites, insert, read_gates, to_tflite, verify
from keras_se.compress import quantize_aware
from keras_se.litert.formats import FORMATS

RNG = np.random.default_rng(0)
SHAPE = (12, 12, 3)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def images(count):
    return (RNG.uniform(size=(count, *SHAPE)) * RNG.uniform(0.2, 1.0, (count, 1, 1, 3))).astype(
        "float32"
    )


X, HELD_OUT, Y = images(128), images(64), RNG.integers(0, 3, 128)


def augmentation():
    return [
        layers.RandomFlip("horizontal", seed=1),
        layers.RandomBrightness(0.2, value_range=(0.0, 1.0), seed=2),
        layers.RandomRotation(0.1, seed=3),
    ]


def wide(ratio=2):
    return SEBlock(ratio, kernel_initializer=keras.initializers.RandomNormal(stddev=1.5, seed=4))


def backbone(with_se=True, kind=keras.Model):
    parts = [layers.Conv2D(8, 3, use_bias=False), layers.BatchNormalization(momentum=0.5)]
    parts += [layers.ReLU(), *([wide()] if with_se else []), layers.Conv2D(8, 3)]
    if kind is keras.Sequential:
        return keras.Sequential([keras.Input(SHAPE), *parts], name="backbone")
    return keras.Model(*chained(parts), name="backbone")


def chained(parts):
    x = inputs = keras.Input(SHAPE)
    for part in parts:
        x = part(x)
    return inputs, x


def with_head(inputs, x):
    return keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))


def functional(*parts):
    return with_head(*chained(parts))


def twice_nested():
    outer = keras.Model(*chained([layers.Rescaling(0.5), backbone()]), name="outer")
    return functional(keras.Sequential(augmentation()), layers.Rescaling(2.0), outer)


def shared():
    inputs, x = chained(augmentation())
    network = backbone()
    parts = [network(layers.Rescaling(scale)(x)) for scale in (0.5, 2.0)]
    return with_head(inputs, layers.Concatenate()(parts))


def sequential():
    parts = [*augmentation(), layers.Rescaling(2.0), backbone(kind=keras.Sequential)]
    pool, dense = layers.GlobalAveragePooling2D(), layers.Dense(3)
    return keras.Sequential([keras.Input(SHAPE), *parts, pool, dense])


def frozen():
    inputs, x = chained([*augmentation(), layers.Rescaling(2.0)])
    network = backbone()
    network.trainable = False
    return with_head(inputs, layers.Dropout(0.2)(network(x, training=False)))


SHAPES = {
    "direct": lambda: functional(backbone()),
    "behind one": lambda: functional(layers.Rescaling(2.0), backbone()),
    "behind several": lambda: functional(*augmentation(), layers.Rescaling(2.0), backbone()),
    "twice nested": twice_nested,
    "shared": shared,
    "Sequential": sequential,
    "frozen": frozen,
}


def trained(model):
    model.compile("adam", LOSS, run_eagerly=True)  # few steps: tracing would take longer
    model.fit(X, Y, epochs=2, verbose=0)
    return model


def judged(model, tflite, **arguments):
    return verify(model, tflite, HELD_OUT, **arguments)


@pytest.mark.parametrize("name", SHAPES)
def test_gates_and_files(name):
    model = trained(SHAPES[name]())
    copies = np.repeat(HELD_OUT[:1], 64, axis=0)
    for gates in read_gates(model, copies).values():
        assert gates.std(axis=0).max() <= 1e-6  # augmentation and dropout are idle
    assert judged(model, to_tflite(model, "float32")).passed
    tflite = to_tflite(model, "int8", X)
    assert list(judged(model, tflite).sites) == [site.name for site in find_sites(model)]


@pytest.mark.parametrize("name", ["behind several", "Sequential"])
def test_gates_are_those_of_the_images_as_they_are(name):
    model = trained(SHAPES[name]())
    (found,) = read_gates(model, HELD_OUT).values()
    network = model.get_layer("backbone")
    block = next(layer for layer in network.layers if isinstance(layer, SEBlock))
    features = keras.Model(network.inputs[0], block.input)(2.0 * HELD_OUT)
    np.testing.assert_allclose(found, block.gates(features), atol=1e-5)


def test_an_explicit_mode_is_kept():
    inputs = keras.Input(SHAPE)
    noisy = layers.Dropout(0.5, seed=1)(inputs, training=True)
    copies = np.repeat(HELD_OUT[:1], 64, axis=0)
    (gates,) = read_gates(keras.Model(inputs, wide(1)(noisy)), copies).values()
    assert gates.std(axis=0).max() > 1e-3


@pytest.mark.parametrize("kind", [keras.Model, keras.Sequential])
def test_every_stage(kind):
    """The recipe of the README."""
    parts = [*augmentation(), layers.Rescaling(2.0), backbone(False, kind)]
    plain = functional(*parts)
    model = insert(plain, ratio=2)
    np.testing.assert_array_equal(model(HELD_OUT, training=False), plain(HELD_OUT, training=False))
    blocks = [x for x in model.get_layer("backbone").layers if isinstance(x, SEBlock)]
    for block in blocks:
        block.w2.assign(RNG.normal(size=block.w2.shape))
    trained(model)
    assert list(read_gates(model, HELD_OUT)) == ["backbone/se_1", "backbone/se_2"]
    for name in FORMATS if kind is keras.Model else ("int8",):
        assert judged(model, to_tflite(model, name, X)).samples == 64
    aware = trained(quantize_aware(model, X, engine="keras" if kind is keras.Model else "tfmot"))
    report = judged(model, to_tflite(aware), trained=aware)
    assert list(report.sites) == ["backbone/se_1", "backbone/se_2"]
    assert all(site.r2 > 0.9 for site in report.sites.values())
