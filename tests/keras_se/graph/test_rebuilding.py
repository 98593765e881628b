"""Models inside models: found, put in, taken out and adopted as in one graph."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, adopt, candidates, cost, find_sites, insert, read_gates, remove
from keras_se.errors import InputError, SiteWarning

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
    with pytest.raises(InputError, match=r"of \['c/se_1', 'a/se_1', 'b/se_1'\]"):
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
    with pytest.warns(SiteWarning, match=r"do not train: \['inner'\]"):
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


@keras.saving.register_keras_serializable(package="test_rebuilding")
class Net(keras.Model):
    """A functional model of a class of its own, with a weight beside its layers."""

    def __init__(self, filters=4, **kwargs):
        inputs = keras.Input((8, 8, 4))
        super().__init__(inputs, keras.layers.Conv2D(filters, 3, padding="same")(inputs), **kwargs)
        self.filters = filters
        self.temperature = self.add_weight(shape=(), name="temperature")

    def get_config(self):
        return {"filters": self.filters, "name": self.name}


def on_volumes(layer):
    inputs = keras.Input((2, 8, 8, 4))
    return keras.Model(
        inputs, keras.layers.Conv3D(4, 2)(keras.layers.TimeDistributed(layer)(inputs))
    )


def normalization():
    layer = keras.layers.Normalization()
    layer.adapt(5 * RNG.normal(size=(16, 8, 8, 4)) + 3)
    return layer


@pytest.mark.parametrize(
    "layer",
    [normalization, lambda: keras.Sequential([keras.Input((8, 8, 4)), normalization()])],
    ids=["bare", "in a model"],
)
def test_statistics_inside_of_wrappers_are_carried_over(layer):
    model = on_volumes(layer())
    x = RNG.normal(size=(2, 2, 8, 8, 4)).astype("float32")
    new = insert(model, 2)
    np.testing.assert_array_equal(new(x), model(x))
    np.testing.assert_array_equal(remove(new)(x), model(x))


def test_compilation_plays_no_part():
    """Keras's own cloning compiles anew, which fails on losses that are not registered."""

    def loss(y_true, y_pred):
        return keras.ops.mean((y_true - y_pred) ** 2)

    model = chain()
    model.compile("adam", loss)
    model.get_layer("inner").compile("adam", loss)
    new = insert(model, 2)
    assert not new.compiled
    assert len(find_sites(new)) == len(cost(new).sites) == len(read_gates(new, X)) == 1
    np.testing.assert_array_equal(remove(new)(X), model(X))


def test_models_of_a_class_of_their_own_keep_it_without_edits():
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="c")(Net(name="net")(inputs)))
    new = insert(model, 2, where=["c"])
    assert type(new.get_layer("net")) is Net
    assert len(new.weights) == len(model.weights) + 4
    both = insert(model, 2)
    x = RNG.normal(size=(2, 8, 8, 4)).astype("float32")
    assert [site.name for site in find_sites(both)] == ["net/se_1", "se_1"]
    np.testing.assert_array_equal(both(x), model(x))


@keras.saving.register_keras_serializable(package="test_rebuilding")
class Pair(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = keras.layers.Conv2D(4, 3, padding="same", name="first")
        self.second = keras.layers.Conv2D(4, 3, padding="same", name="second")

    def call(self, x):
        return self.second(self.first(x))


def test_flags_inside_of_subclassed_layers_are_kept():
    inputs, pair = keras.Input((8, 8, 4)), Pair()
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(pair(inputs)))
    pair.first.trainable = False
    assert len(insert(model, 2).trainable_weights) == len(model.trainable_weights) + 4


def test_a_layer_shared_with_the_inside_of_another_stays_shared():
    conv = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    a, b = keras.Input((2, 8, 8, 4)), keras.Input((8, 8, 4))
    wrapper = keras.layers.TimeDistributed(conv, name="wrapper")
    new = insert(keras.Model([a, b], [wrapper(a), conv(b)]), 2)
    shared = [new.get_layer("shared"), new.get_layer("wrapper").layer]
    assert shared[0] is shared[1] is not conv


@keras.saving.register_keras_serializable(package="test_rebuilding")
class Fuse(keras.layers.Layer):
    def call(self, x, training=None):
        return keras.ops.concatenate(x, -1)

    def compute_output_spec(self, x, training=None):
        return keras.KerasTensor((*x[0].shape[:-1], 8), dtype="float32")


def test_an_unbuilt_sequential_model_is_refused():
    a, b = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
    fuse = keras.Sequential([Fuse(), keras.layers.Conv2D(4, 3)], name="fuse")
    model = keras.Model([a, b], keras.layers.Conv2D(4, 3)(fuse([a, b])))
    with pytest.raises(InputError, match=r"on several tensors\. Received: 'fuse'"):
        insert(model, 2)
    assert find_sites(model) == []


def test_data_formats_inside_of_nested_models():
    first = {"padding": "same", "data_format": "channels_first"}
    j = keras.Input((4, 8, 9))
    inner = keras.Model(j, j + keras.layers.Conv2D(4, 3, **first)(j), name="inner")
    inputs = keras.Input((3, 8, 9))
    model = keras.Model(inputs, inner(keras.layers.Conv2D(4, 1, **first)(inputs)))
    for arguments in (("standard",), ("pre",), ("identity",), ("standard", ["inner"])):
        (candidate,) = candidates(model, *arguments)
        assert (candidate.channels, candidate.data_format) == (4, "channels_first")


def test_nested_models_called_by_keyword_and_with_named_outputs():
    j = keras.Input((8, 8, 4))
    inner = keras.Model(j, {"features": keras.layers.Conv2D(4, 3)(j)}, name="inner")
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, inner(inputs=inputs))
    x = RNG.normal(size=(2, 8, 8, 4)).astype("float32")
    for where, name in ((None, "inner/se_1"), (["inner"], "se_1")):
        new = insert(model, 2, where=where)
        assert [site.name for site in find_sites(new)] == list(read_gates(new, x)) == [name]
        np.testing.assert_array_equal(new(x)["features"], model(x)["features"])


def test_cost_of_nested_models_of_open_sizes():
    a, b = keras.Input((None, None, 4)), keras.Input((None, None, 4))
    inner = keras.Model([a, b], keras.layers.Conv2D(4, 3)(a + b), name="inner")
    inputs = keras.Input((8, 8, 4))
    assert cost(keras.Model(inputs, inner([inputs, inputs]))).macs == 36 * 4 * 9 * 4


@keras.saving.register_keras_serializable(package="test_rebuilding")
class Scale(keras.layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones")

    def call(self, x):
        return x * self.scale


def test_half_precision_of_raw_operations_is_kept():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        inputs = keras.Input((8, 8, 4))
        x = Scale()(inputs)
        model = keras.Model(inputs, keras.layers.Conv2D(4, 3, padding="same")(x) + x)
    finally:
        keras.config.set_dtype_policy("float32")
    for placement in ("standard", "pre", "post", "identity"):
        assert insert(model, 2, placement=placement).output.dtype == model.output.dtype


def test_names_of_blocks_must_differ():
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, unit("a")(keras.layers.Conv2D(4, 3)(inputs)))
    plan = {"se_1": {"name": "b"}, "a/se_1": {"name": "b"}}
    insert(model, where="conv", plan=plan)  # of different models
    with pytest.raises(InputError, match=r"its own name\. Received: name='b'"):
        insert(model, where="conv", plan={"a/se_1": {"name": "b"}, "a/se_2": {"name": "b"}})
    with pytest.raises(InputError, match=r"must not hold a slash\. Received: name='a/b'"):
        insert(model, where="conv", plan={"se_1": {"name": "a/b"}})


def test_blocks_inside_other_layers_stay():
    inputs = keras.Input((2, 8, 8, 4))
    x = keras.layers.TimeDistributed(SEBlock(2, name="se"), name="wrapper")(inputs)
    new = insert(keras.Model(inputs, keras.layers.Conv3D(4, 1)(x)), 2)
    assert [site.name for site in find_sites(new)] == ["wrapper/se_1", "wrapper/se_2", "se_1"]


def test_a_sequential_model_is_edited_as_a_graph_and_stays_one():
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv"), SEBlock(2, name="se")]
    )
    new = insert(remove(model), 2)
    assert isinstance(new, keras.Sequential)
    assert [layer.name for layer in new.layers] == ["conv", "se_1"]
    # What Keras says of its layers is of this very model.
    features = keras.Model(new.inputs[0], new.get_layer("conv").output)
    np.testing.assert_array_equal(features(X), new.layers[0](X))
