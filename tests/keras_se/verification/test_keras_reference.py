"""Gates put into a Keras model, against what its own gates and other gates must give."""

import re

import keras
import numpy as np
import pytest
from keras import ops

from keras_se import SEBlock, adopt, read_gates
from keras_se.verification.keras_reference import KerasReference

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 8, 8, 4)).astype("float32")
SAMPLES = {"inputs": X}


@pytest.fixture(scope="module")
def network():
    """Blocks of all kinds: shared, with a shift, channels first, gates as outputs, written out."""
    keras.utils.set_random_seed(0)
    inputs, wide = keras.Input((8, 8, 4)), keras.initializers.RandomNormal(stddev=2.0)
    shared = SEBlock(2, kernel_initializer=wide, name="shared")
    x = shared(keras.layers.ReLU()(shared(inputs)))
    shift = SEBlock(2, shift=True, kernel_initializer=wide, name="shift")
    x = shift(x)
    shift.b_shift.assign(np.arange(4.0))
    x, gates = SEBlock(2, kernel_initializer=wide)(x, return_gates=True)
    x = SEBlock(4, data_format="channels_first", kernel_initializer=wide)(x)
    own = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    own = keras.layers.Dense(2, activation="relu", kernel_initializer=wide)(own)
    x = x * keras.layers.Dense(4, activation="sigmoid", kernel_initializer=wide)(own)
    inner = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2, kernel_initializer=wide)])
    return keras.Model(inputs, [inner(x), gates])


def test_own_gates_give_the_models_outputs_and_others_change_them(network):
    reference, expected = KerasReference(network), network.predict(X, verbose=0)
    own, outputs = reference.read(SAMPLES)
    for name, gates in read_gates(network, X).items():
        np.testing.assert_allclose(own[name], gates, atol=1e-6)
    assert len(own) == 7
    for given in ({}, own):
        found = reference.outputs(SAMPLES, given)
        for values, wanted, same in zip(found, expected, outputs, strict=True):
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(values, same, rtol=1e-5, atol=1e-5)
    for name in own:
        other = reference.outputs(SAMPLES, {name: own[name] + 0.5})[0]
        assert np.abs(other - expected[0]).max() > 1e-3


def test_written_out_and_adopted_alike():
    inputs = keras.Input((8, 8, 4))
    gates = keras.layers.GlobalMaxPooling2D(keepdims=True)(inputs)
    gates = keras.layers.Conv2D(2, 1, activation="silu")(gates)
    model = keras.Model(inputs, inputs * keras.layers.Conv2D(4, 1, activation="sigmoid")(gates))
    chosen = {"se_1": RNG.random((20, 4))}
    for judged in (model, adopt(model)):
        (outputs,) = KerasReference(judged).outputs(SAMPLES, chosen)
        np.testing.assert_allclose(outputs, X * chosen["se_1"][:, None, None], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:verify takes the float32 twin")
def test_nested_models_that_change_their_inputs():
    inner = keras.Model(i := keras.Input((8, 8, 4)), SEBlock(2)(i), name="inner")
    inputs = keras.Input((8, 8, 4), dtype="float64")
    chosen = {"inner/se_1": RNG.random((20, 4))}
    (outputs,) = KerasReference(keras.Model(inputs, inner(inputs))).outputs(SAMPLES, chosen)
    np.testing.assert_allclose(outputs, X * chosen["inner/se_1"][:, None, None], rtol=1e-5)


def coming_names():
    """The names that Keras will give next to an input and to raw operations, two of each."""
    x = keras.Input((8, 8, 4))
    made = [x * x, x[0], x + x, ops.reshape(x, (-1, 256)), ops.cast(x, "int32")]
    made += [ops.where(x, x, x), ops.isnan(x), ops.mean(x)]
    names = [operation.name for operation in keras.Model(x, made).operations]
    assert len(names) == 9
    for name in names:
        kind, number = re.fullmatch(r"(\D+?)_?(\d*)", name).groups()
        yield from (f"{kind}_{int(number or 0) + n}" for n in (1, 2))


def test_layers_with_the_names_that_keras_would_give_next():
    """As in networks that were loaded from a file, whose operations have names."""
    names = list(coming_names())
    inputs = x = keras.Input((8, 8, 4), name=next(n for n in names if "input" in n))
    for name in names:
        if "input" not in name:
            x = keras.layers.Activation("linear", name=name)(x)
    gates = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    gates = keras.layers.Conv2D(2, 1, activation="relu")(gates)
    gates = keras.layers.Conv2D(4, 1, activation="sigmoid")(gates)
    model = keras.Model(inputs, SEBlock(2)(keras.layers.Multiply(name="product")([x, gates])))
    own, _ = KerasReference(model).read(SAMPLES)
    for name, values in read_gates(model, X).items():
        np.testing.assert_allclose(own[name], values, atol=1e-6)
