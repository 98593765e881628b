import keras
import numpy as np
import pytest

from keras_se import SEBlock, adopt, read_gates
from keras_se.verification.effect import Injection, measure_effect

RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 8, 8, 4)).astype("float32")


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
    gates, compute = read_gates(network, X), Injection(network)
    assert len(gates) == 7
    expected = network.predict(X, verbose=0)[0]
    np.testing.assert_allclose(compute([X], gates), expected, rtol=1e-5, atol=1e-5)
    for name in gates:
        other = compute([X], {**gates, name: gates[name] + 0.5})
        assert np.abs(other - expected).max() > 1e-3


def test_written_out_and_adopted_alike():
    inputs = keras.Input((8, 8, 4))
    gates = keras.layers.GlobalMaxPooling2D(keepdims=True)(inputs)
    gates = keras.layers.Conv2D(2, 1, activation="silu")(gates)
    model = keras.Model(inputs, inputs * keras.layers.Conv2D(4, 1, activation="sigmoid")(gates))
    chosen = {"se_1": RNG.random((20, 4))}
    for judged in (model, adopt(model)):
        outputs = Injection(judged)([X], chosen)
        np.testing.assert_allclose(outputs, X * chosen["se_1"][:, None, None], rtol=1e-5)


def test_nested_models_that_change_their_inputs():
    inner = keras.Model(i := keras.Input((8, 8, 4)), SEBlock(2)(i), name="inner")
    inputs = keras.Input((8, 8, 4), dtype="float64")
    chosen = {"inner/se_1": RNG.random((20, 4))}
    outputs = Injection(keras.Model(inputs, inner(inputs)))([X], chosen)
    np.testing.assert_allclose(outputs, X * chosen["inner/se_1"][:, None, None], rtol=1e-5)


def test_effects_with_and_without_labels():
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), SEBlock(2), keras.layers.GlobalAveragePooling2D()]
    )
    own = {"se_1": RNG.random((20, 4))}
    own["se_1"][:, 0] = 1.0
    wrong = {"se_1": own["se_1"][:, ::-1]}
    x = 1.0 + 0.1 * np.abs(X)
    labels = (x.mean(axis=(1, 2)) * own["se_1"]).argmax(axis=1)
    effect = measure_effect(model, [x], own, wrong, labels)
    assert (effect.metric, effect.own) == ("accuracy", 1.0)
    assert effect.shipped < 0.5
    without = measure_effect(model, [x], own, own)
    assert (without.metric, without.own, without.shipped) == ("output error", 0.0, 0.0)
    assert without.constant_costs
    assert "with constant ones." in without.sentence
    steady = {"se_1": np.full((20, 4), 0.5)}
    effect = measure_effect(model, [x], steady, steady)
    assert not effect.constant_costs
    assert effect.sentence.endswith("constant gates cost nothing, so SE does nothing here.")
    assert measure_effect(model, [x], own, {}) is None
    assert measure_effect(model, [x], own, {"se_1": np.full((20, 4), np.nan)}) is None


def test_inputs_with_the_names_that_keras_would_give_next():
    inputs = keras.Input((8, 8, 4), name="input_layer")
    model = keras.Model(inputs, SEBlock(2)(inputs))
    keras.backend.clear_session()  # names are counted from the start again
    outputs = Injection(model)([X], read_gates(model, X))
    np.testing.assert_allclose(outputs, model.predict(X, verbose=0), rtol=1e-5, atol=1e-6)
