"""Models inside models: found, put in, taken out and adopted as in one graph."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, adopt, candidates, cost, find_sites, insert, read_gates, remove
from keras_se.errors import InputError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(3, 8, 8, 3)).astype("float32")
PAIRS = (("one_plus_tanh", {}), ("sigmoid", {}), ("one_plus_tanh", {"where": ["conv_1"]}))


def unit(name="inner", conv=None):
    """A residual unit as a model."""
    inputs = keras.Input((None, None, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv_1")(inputs)
    conv = conv or keras.layers.Conv2D(4, 3, padding="same", name="conv_2")
    return keras.Model(inputs, inputs + conv(x), name=name)


def chain():
    return keras.Sequential(
        [
            *(keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="stem"), unit()),
            *(keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)),
        ]
    )


def graph():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, name="stem")(inputs)
    return keras.Model(inputs, unit()(x, training=False))


def deep():
    inner = unit()
    outer = keras.Sequential([keras.Input((6, 6, 4)), inner], name="outer")
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, outer(keras.layers.Conv2D(4, 3)(inputs)))


def randomized(model):
    model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("build", "name"), [(chain, "inner/se_1"), (graph, "inner/se_1"), (deep, "outer/inner/se_1")]
)
@pytest.mark.parametrize(("gate", "where"), PAIRS)
def test_blocks_go_into_nested_models_and_come_out(build, name, gate, where):
    model = randomized(build())
    assert [c.name for c in candidates(model, **where)] == [name]
    new = insert(model, 2, gate=gate, **where)
    assert type(new) is type(model)
    assert [site.name for site in find_sites(new)] == [name]
    assert list(read_gates(new, X)) == [name]
    np.testing.assert_array_equal(new(X), model(X))
    changed = insert(model, 2, identity_init=False, bias_initializer="ones", **where)
    assert np.abs(changed(X) - model(X)).max() > 1e-3
    back = remove(new)
    np.testing.assert_array_equal(back(X), model(X))
    for old, now in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def test_a_plan_names_nested_sites_and_keeps_the_rest():
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, unit("b")(unit("a")(unit("c")(inputs))))
    assert [c.name for c in candidates(model)] == ["c/se_1", "a/se_1", "b/se_1"]
    new = insert(model, plan={"a/se_1": {"ratio": 2}})
    assert [(s.name, s.width) for s in find_sites(new)] == [("a/se_1", 2)]
    with pytest.raises(InputError, match=r"among \['c/se_1', 'a/se_1', 'b/se_1'\]"):
        insert(model, plan={"se_1": {}})


def test_a_nested_model_called_twice_has_one_block_and_two_sites():
    inner, inputs = unit(), keras.Input((8, 8, 4))
    model = randomized(keras.Model(inputs, inner(inner(inputs))))
    new = insert(model, 2)
    assert len(candidates(model)) == 1
    assert [s.name for s in find_sites(new)] == ["inner/se_1", "inner/se_2"]
    assert [s.parameters for s in cost(new).sites] == [22, 0]
    x = RNG.normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_array_equal(new(x), model(x))
    np.testing.assert_array_equal(remove(new)(x), model(x))


def test_a_model_nested_in_two_ways_is_copied_once():
    inner, inputs = unit(), keras.Input((8, 8, 4))
    outer = keras.Sequential([keras.Input((8, 8, 4)), inner], name="outer")
    model = randomized(keras.Model(inputs, outer(inner(inputs))))
    new = insert(model, 2)
    assert len(new.weights) == len(model.weights) + 4
    x = RNG.normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_array_equal(new(x), model(x))


def test_a_layer_shared_by_two_models_stays_shared_and_is_not_doubled():
    conv = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    inputs = keras.Input((8, 8, 4))
    model = randomized(keras.Model(inputs, conv(unit(conv=conv)(inputs))))
    new = insert(model, 2)
    assert len(new.weights) == len(model.weights) + 4
    with pytest.raises(InputError, match=r"Received: site inner/se_1 after 'shared'"):
        insert(model, 2, gate="sigmoid")


def test_flags_of_nested_models_are_kept():
    model = chain()
    model.get_layer("inner").trainable = False
    model.get_layer("inner").get_layer("conv_2").trainable = True
    new = insert(model, 2)
    inner = new.get_layer("inner")
    assert not inner.trainable
    assert [layer.trainable for layer in inner.layers if layer.weights] == [False, True, False]
    assert isinstance([layer for layer in inner.layers if layer.weights][-1], SEBlock)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_nested_models_of_another_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = chain()
    finally:
        keras.config.set_dtype_policy("float32")
    new = insert(randomized(model), 2)
    assert new.compute_dtype == model.compute_dtype
    np.testing.assert_array_equal(*(keras.ops.cast(m(X), "float32") for m in (new, model)))


def test_nested_written_out_se_is_adopted():
    inputs = keras.Input((8, 8, 4))
    gates = keras.layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    gates = keras.layers.Dense(2, activation="relu", name="w1")(gates)
    gates = keras.layers.Dense(4, activation="sigmoid", name="w2")(gates)
    inner = keras.Model(inputs, inputs * gates, name="inner")
    model = randomized(keras.Sequential([keras.Input((8, 8, 4)), inner]))
    (site,) = find_sites(model)
    assert (site.name, site.source) == ("inner/se_1", "inline")
    new = adopt(model)
    (site,) = find_sites(new)
    assert (site.name, site.source) == ("inner/se_1", "SEBlock")
    x = RNG.normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_allclose(new(x), model(x), rtol=1e-6, atol=1e-6)
