"""The walk over a model: every call of every level, and outputs equal to the model's own."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_se.errors import InputError
from keras_se.graph.inputs import fresh_inputs
from keras_se.graph.replay import outlined
from keras_se.graph.trace import Graph
from keras_se.graph.visits import Visit, changes_inputs, site_names, walk

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 8, 8, 4)).astype("float32")


def met(model):
    """The paths and names of all calls."""
    graph, calls = Graph(model), []

    def look(visit):
        calls.append((visit.place, f"{visit.path}{visit.layer.name}"))
        return visit.outputs()

    walk(graph, graph.inputs, look, stand_in=outlined)
    places = [place for place, _ in calls]
    assert places == sorted(set(places))
    return [name for _, name in calls]


def again(model):
    """A second model from a walk over the first."""
    inputs = fresh_inputs(model)
    return keras.Model(inputs, walk(Graph(model), inputs, Visit.outputs))


def branched():
    inputs = keras.Input((8, 8, 4))
    shared = layers.Conv2D(4, 3, padding="same", name="shared")
    x = shared(layers.ReLU(name="relu")(shared(inputs)))
    return keras.Model(inputs, [x + inputs, layers.GlobalAveragePooling2D(name="pool")(x)])


def twice_nested():
    """A model in a model in a model, behind other layers, the inner one called twice."""
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(4, 1, name="conv")], name="inner"
    )
    i = keras.Input((8, 8, 4))
    outer = keras.Model(i, inner(layers.ReLU(name="relu")(inner(i))), name="outer")
    inputs = keras.Input((8, 8, 4))
    x = outer(layers.Rescaling(2.0, name="rescaling")(inputs))
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="pool")(x))


def named():
    """Dictionaries in and out, and a nested model that is called by keyword."""
    i = {"a": keras.Input((8, 8, 4), name="a"), "b": keras.Input((8, 8, 4), name="b")}
    inner = keras.Model(i, {"sum": i["a"] + 2.0 * i["b"]}, name="inner")
    inputs = keras.Input((8, 8, 4))
    flipped = layers.ReLU(name="relu")(inputs)
    return keras.Model(inputs, inner(inputs={"a": inputs, "b": flipped}))


def adapted():
    """Nested models for which Keras changes the precision and the rank of the input."""
    i, j = keras.Input((8, 8, 4)), keras.Input((8, 8, 4, 1))
    one = keras.Model(i, layers.ReLU()(i), name="one")
    other = keras.Model(j, layers.Reshape((8, 8, 4))(j) * 2.0, name="other")
    inputs = keras.Input((8, 8, 4), dtype="float64")
    return keras.Model(inputs, other(one(inputs)))


def test_every_call_of_every_level_in_order():
    assert met(branched())[:3] == ["shared", "relu", "shared"]
    assert met(twice_nested()) == [
        "rescaling",
        "outer/inner/conv",
        "outer/relu",
        "outer/inner/conv",
        "pool",
    ]


@pytest.mark.parametrize("build", [branched, twice_nested, named, adapted])
def test_a_walk_computes_what_the_model_computes(build):
    model = build()
    expected, given = model(X), again(model)(X)
    assert keras.tree.map_structure(np.shape, given) == keras.tree.map_structure(np.shape, expected)
    keras.tree.map_structure(np.testing.assert_array_equal, given, expected)


def test_a_walk_leaves_the_model_alone():
    model = branched()
    before, config = model.get_weights(), model.get_config()
    again(model)
    assert model.get_config() == config
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_mode_of_a_nested_call_reaches_its_layers():
    noise = layers.GaussianNoise(1.0, seed=0)
    inner = keras.Sequential([keras.Input((8, 8, 4)), noise], name="inner")
    inputs = keras.Input((8, 8, 4))
    for training in (False, True):
        called = inner(inputs, training=training)
        model = again(keras.Model(inputs, called))
        # An explicit mode holds, whatever the mode of the outer call.
        assert np.array_equal(model(X, training=not training), X) is not training
    model = again(keras.Model(inputs, inner(inputs)))
    assert np.array_equal(model(X, training=False), X)
    assert not np.array_equal(model(X, training=True), X)


@pytest.mark.filterwarnings("ignore:Layer 'inner':UserWarning")  # Keras drops the output's mask
@pytest.mark.parametrize("explicit", [False, True])
def test_masks_reach_the_layers_of_nested_models(explicit):
    i = keras.Input((5, 3))
    inner = keras.Model(i, layers.GlobalAveragePooling1D()(i), name="inner")
    inputs = keras.Input((5, 3))
    if explicit:
        mask = keras.ops.any(keras.ops.not_equal(inputs, 0.0), axis=-1)
        model = keras.Model(inputs, inner(inputs, mask=mask))
    else:
        model = keras.Model(inputs, inner(layers.Masking()(inputs)))
    x = RNG.normal(size=(2, 5, 3)).astype("float32")
    x[:, 3:] = 0.0
    np.testing.assert_allclose(model(x), x[:, :3].mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(again(model)(x), model(x))


def test_changes_of_inputs_are_seen():
    changes = {}

    def enter(visit):
        changes[visit.layer.name] = changes_inputs(visit)
        return visit.args[0]

    for build in (adapted, twice_nested):
        graph = Graph(build())
        walk(graph, graph.inputs, lambda v: v.recorded.returned, enter=enter)
    assert changes == {"one": True, "other": True, "outer": False, "inner": False}


def test_tensors_of_any_kind_can_walk():
    graph = Graph(twice_nested())
    given = walk(graph, X, Visit.outputs, stand_in=lambda layer: layer)
    np.testing.assert_array_equal(given, graph.model(X))


def test_values_of_recorded_tensors():
    graph, relu = Graph(branched()), []

    def look(visit):
        if visit.layer.name == "relu":
            relu.append(visit)
        return visit.outputs()

    walk(graph, X, look, stand_in=lambda layer: layer)
    (visit,) = relu
    recorded = graph.tensors[visit.recorded.inputs[0]]
    np.testing.assert_array_equal(visit.value(recorded), visit.args[0])
    assert visit.value("no tensor") == "no tensor"


def test_nested_models_as_single_calls():
    graph, names = Graph(twice_nested()), []

    def look(visit):
        names.append(visit.layer.name)
        return visit.outputs()

    walk(graph, X, look, stand_in=lambda layer: layer, is_deep=False)
    assert names == ["rescaling", "outer", "pool"]


def test_a_nested_model_takes_one_tensor_for_each_input():
    graph = Graph(named())

    def enter_with_less(visit):
        from keras_se.graph.visits import entered

        return entered(visit.__class__(**{**vars(visit), "kwargs": {"inputs": visit.args}}))

    with pytest.raises(InputError, match=r"Received: 0 tensors for the 2 inputs of 'inner'"):
        walk(graph, graph.inputs, Visit.outputs, stand_in=outlined, enter=enter_with_less)


def test_names_of_sites():
    assert list(site_names(["", "a/b/", "", "a/b/", "a/"])) == [
        "se_1",
        "a/b/se_1",
        "se_2",
        "a/b/se_2",
        "a/se_1",
    ]
