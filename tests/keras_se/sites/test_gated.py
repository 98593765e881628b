"""Float gates of a site for other feature maps."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_se import SEBlock
from keras_se.graph.trace import trace
from keras_se.sites.gated import gated_sites

MAPS = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")


class Own(layers.Layer):
    """Hands its mask on."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.inner = layers.Dense(4)

    def call(self, inputs):
        return self.inner(inputs) * 2.0


class Positive(layers.Layer):
    """Makes a mask."""

    def call(self, inputs):
        return inputs + 0.0

    def compute_mask(self, inputs, previous_mask):
        return ops.any(ops.greater(inputs, 0.0), axis=-1)


def inner(x, **mask):
    inputs = keras.Input((6, 4))
    return keras.Model(inputs, block(inputs), name="inner")(x, **mask)


def block(x):
    return SEBlock(2)(x)


def inline(x):
    g = layers.GlobalAveragePooling1D(keepdims=True)(x)
    return x * layers.Dense(4, "sigmoid")(layers.Dense(2, "relu")(g))


def without_mask(x):
    g = ops.mean(x, axis=1, keepdims=True)
    return x * layers.Dense(4, "sigmoid")(layers.Dense(2, "relu")(g))


# Keras warns that a nested model drops the mask, and hands it on all the same.
@pytest.mark.filterwarnings("ignore:Layer .inner. .* was passed an input with a mask")
@pytest.mark.parametrize(
    ("build", "is_masked"),
    {
        "plain": (lambda x, m: block(layers.Dense(4)(x)), False),
        "Masking": (lambda x, m: block(layers.Dense(4)(layers.Masking()(x))), True),
        "lost": (lambda x, m: block(layers.Masking()(x) + 1.0), False),
        "one of two": (lambda x, m: block(layers.Add()([layers.Masking()(x), x])), True),
        "own": (lambda x, m: block(Own()(layers.Masking()(x))), True),
        "own plain": (lambda x, m: block(Own()(x)), False),
        "own mask": (lambda x, m: block(Positive()(x)), True),
        "argument": (lambda x, m: SEBlock(2)(x, mask=m), True),
        "by position": (lambda x, m: block(SEBlock(2)(x, m)), True),
        "nested": (lambda x, m: inner(layers.Masking()(x)), True),
        "nested argument": (lambda x, m: inner(x, mask=m), True),
        "nested plain": (lambda x, m: inner(x), False),
        "inline": (lambda x, m: inline(layers.Masking()(x)), True),
        "inline plain": (lambda x, m: inline(x), False),
        "inline without mask": (lambda x, m: without_mask(layers.Masking()(x)), False),
    }.values(),
)
def test_gates_under_a_mask_are_unknown_for_maps_alone(build, is_masked):
    inputs = [keras.Input((6, 4)), keras.Input((6,), dtype="bool")]
    model = keras.Model(inputs, build(*inputs))
    for site in gated_sites(trace(model, "test")):
        gates = site.replay(MAPS)
        assert (gates is None) == is_masked
        assert is_masked or gates.shape == (2, 4)


@pytest.mark.parametrize("mask_zero", [True, False])
def test_embedded_tokens(mask_zero):
    inputs = keras.Input((6,), dtype="int32")
    model = keras.Model(inputs, block(layers.Embedding(9, 4, mask_zero=mask_zero)(inputs)))
    (site,) = gated_sites(trace(model, "test"))
    assert (site.replay(MAPS) is None) == mask_zero
