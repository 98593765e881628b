"""Inline sites that share weights keep sharing them as blocks, or stay as they are."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_se import SEBlock, adopt, find_sites, read_gates
from keras_se.errors import InputError, SiteWarning

RNG = np.random.default_rng(0)
TIED = "the model uses its weights elsewhere, too, and an SEBlock has weights of its own"
C, WIDTH = 8, 4
EXCITATION = C * WIDTH + WIDTH + WIDTH * C + C


class SE(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.reduce, self.expand = dense()

    def build(self, shape):
        self.reduce.build((None, 1, 1, C))
        self.expand.build((None, 1, 1, WIDTH))

    def compute_output_shape(self, shape):
        return shape

    def call(self, x):
        return x * self.expand(self.reduce(ops.mean(x, (1, 2), keepdims=True)))


def model_of(function, shape=(6, 6, C)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


def dense(gate="sigmoid"):
    return layers.Dense(WIDTH, "relu"), layers.Dense(C, gate)


def gated(x, reduce, expand):
    return x * expand(reduce(layers.GlobalAveragePooling2D(keepdims=True)(x)))


def two_calls():
    parts = dense()
    return model_of(lambda x: gated(layers.Conv2D(C, 1)(gated(x, *parts)), *parts))


def two_calls_of_a_layer():
    se = SE()
    return model_of(lambda x: se(layers.Conv2D(C, 1)(se(x))))


def two_calls_in_a_nested_model():
    inner = two_calls()
    return model_of(lambda x: inner(inner(x)))


def five_frames():
    inner = model_of(lambda x: gated(x, *dense()))
    return model_of(layers.TimeDistributed(inner), (5, 6, 6, C))


def five_frames_of_a_layer():
    return model_of(layers.TimeDistributed(SE()), (5, 6, 6, C))


@pytest.mark.parametrize(
    ("build", "sites"),
    [
        (two_calls, 2),
        (two_calls_of_a_layer, 2),
        (two_calls_in_a_nested_model, 4),
        (five_frames, 5),
        (five_frames_of_a_layer, 5),
    ],
)
def test_sites_of_the_same_layers_share_one_block(build, sites):
    model = build()
    model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    new = adopt(model)
    assert len(find_sites(new)) == sites
    assert new.count_params() == model.count_params()
    holder = next((layer for layer in new.layers if isinstance(layer, keras.Model)), new)
    assert sum(isinstance(layer, SEBlock) for layer in holder.layers) == 1
    x = RNG.normal(size=(3, *model.input_shape[1:])).astype("float32")
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-5)
    # The names of sites lose those of layers that were opened.
    gates, adopted = (list(read_gates(m, x).values()) for m in (model, new))
    np.testing.assert_allclose(adopted, gates, atol=1e-6)


def one_matrix_shared():
    reduce, expand = dense()
    return model_of(lambda x: gated(gated(x, reduce, expand), reduce, dense()[1]))


def another_gate():
    reduce, expand = dense(None)

    def gates(x):
        return expand(reduce(layers.GlobalAveragePooling2D(keepdims=True)(x)))

    def computed(x):
        x = x * ops.sigmoid(gates(x))
        return x * (1.0 + ops.tanh(gates(x)))

    return model_of(computed)


def another_squeeze():
    parts = dense()

    def computed(x):
        x = gated(x, *parts)
        reduce, expand = parts
        return x * expand(reduce(layers.GlobalMaxPooling2D(keepdims=True)(x)))

    return model_of(computed)


def inside_and_outside():
    parts = dense()
    inner = model_of(lambda x: gated(x, *parts))
    return model_of(lambda x: gated(inner(x), *parts))


def used_on_positions():
    reduce, expand = dense()
    return model_of(lambda x: gated(x, reduce, expand) + expand(reduce(x)))


def gates_given_out():
    def computed(x):
        reduce, expand = dense()
        gates = expand(reduce(layers.GlobalAveragePooling2D(keepdims=True)(x)))
        return [x * gates, gates]

    return model_of(computed)


@pytest.mark.parametrize(
    "build",
    [
        one_matrix_shared,
        another_gate,
        another_squeeze,
        inside_and_outside,
        used_on_positions,
        gates_given_out,
    ],
)
def test_sites_whose_weights_are_used_elsewhere_stay(build):
    with pytest.raises(InputError, match=re.escape(f"se_1: {TIED}")):
        adopt(build())


def test_the_others_are_adopted_and_the_reason_is_said():
    reduce, expand = dense()

    def computed(x):
        x = gated(x, reduce, expand) + expand(reduce(x))
        return gated(x, *dense())

    model = model_of(computed)
    with pytest.warns(SiteWarning, match=re.escape(f"leaves the site 'se_1' as it is: {TIED}.")):
        new = adopt(model)
    assert [site.source for site in find_sites(new)] == ["inline", "SEBlock"]
    assert new.count_params() == model.count_params() == 2 * EXCITATION


def test_equal_weights_of_two_layers_are_not_shared():
    one, other = dense(), dense()
    model = model_of(lambda x: gated(gated(x, *one), *other))
    for layer, twin in zip(one, other, strict=True):
        twin.set_weights(layer.get_weights())
    assert sum(isinstance(layer, SEBlock) for layer in adopt(model).layers) == 2


def test_what_is_trained_in_one_frame_is_trained_in_all():
    new = adopt(five_frames())
    new.compile("sgd", "mse", run_eagerly=True)
    x = RNG.normal(size=(4, 5, 6, 6, C)).astype("float32")
    new.fit(x, 0.0 * x, verbose=0)
    np.testing.assert_allclose(new(x)[:, 0], new(x[:, [0] * 5])[:, 4], atol=1e-6)
