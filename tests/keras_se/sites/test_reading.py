import gc
import re
import weakref

import keras
import numpy as np
import pytest

from keras_se import SEBlock
from keras_se.errors import InputError, SiteWarning
from keras_se.sites.reading import model_gates, model_sites

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 8, 8, 4)).astype("float32")


def conv(name):
    return keras.layers.Conv2D(4, 3, padding="same", name=name)


@pytest.fixture(scope="module")
def branched():
    """Parallel branches, a shared block, a raw operation, gates as outputs, a nested model."""
    inputs = keras.Input((8, 8, 4), name="image")
    shared = SEBlock(2, name="shared")
    left = shared(conv("left")(inputs))
    right = SEBlock(4, gate="one_plus_tanh", name="right_se")(conv("right")(inputs))
    x = keras.layers.Concatenate()([right, left])
    x = conv("merge")(x)
    x = shared(x + 3.0)
    x, gates = SEBlock(2, name="own")(x, return_gates=True)
    inner = keras.Sequential([keras.Input((8, 8, 4)), conv("c"), SEBlock(2, name="in")])
    inner.name = "inner"
    return keras.Model(inputs, [inner(x), gates])


def test_sites_of_a_sequential_model():
    model = keras.Sequential([keras.Input((8, 8, 4)), conv("c"), SEBlock(2), SEBlock(4)])
    sites = model_sites(model)
    assert [(s.name, s.channels, s.width, s.gate) for s in sites] == [
        ("se_1", 4, 2, "sigmoid"),
        ("se_2", 4, 1, "sigmoid"),
    ]
    assert sites[0].after == "c"
    assert sites[1].after == sites[0].layer == model.layers[1].name


def test_sites_of_a_branched_model(branched):
    sites = {site.name: site for site in model_sites(branched)}
    assert set(sites) == {"se_1", "se_2", "se_3", "se_4", "inner/se_1"}
    assert {sites[f"se_{n}"].layer for n in (1, 2)} == {"shared", "right_se"}
    assert (sites["se_3"].layer, sites["se_4"].layer) == ("shared", "own")
    assert sites["se_4"].after == "shared"
    assert sites["inner/se_1"].after == "c"


def test_gates_are_the_blocks_own(branched):
    sites, gates = model_sites(branched), model_gates(branched, X, batch_size=2)
    assert {name: values.shape for name, values in gates.items()} == {
        site.name: (5, 4) for site in sites
    }
    np.testing.assert_allclose(gates["se_4"], branched.predict(X, verbose=0)[1], atol=1e-6)
    left = next(site.name for site in sites if site.after == "left")
    features = keras.Model(branched.input, branched.get_layer("left").output)(X)
    expected = branched.get_layer("shared").gates(features)
    np.testing.assert_allclose(gates[left], expected, atol=1e-6)


def test_reading_changes_nothing(branched):
    config, weights = branched.get_config(), branched.get_weights()
    output = branched.get_layer("right_se").output
    model_gates(branched, X)
    assert branched.get_config() == config
    assert branched.get_layer("right_se").output is output  # still called once
    for old, new in zip(weights, branched.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_gates_follow_the_weights():
    model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
    before = model_gates(model, X)["se_1"]
    model.layers[0].b2.assign(np.full(4, 3.0))
    assert (model_gates(model, X)["se_1"] > before + 0.1).all()


def test_a_longer_model_is_read_anew():
    model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
    assert len(model_sites(model)) == 1
    model.add(SEBlock(2))
    assert len(model_sites(model)) == 2


def test_datasets_are_read_too():
    import tensorflow as tf

    model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
    dataset = tf.data.Dataset.from_tensor_slices(X).batch(2)
    np.testing.assert_allclose(
        model_gates(model, dataset)["se_1"], model_gates(model, X)["se_1"], atol=1e-6
    )


def test_generators_are_read_batch_by_batch():
    """Memory is bounded: no batch but the present one is held."""
    model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
    x = RNG.normal(size=(40, 8, 8, 4)).astype("float32")
    alive, most = weakref.WeakSet(), 0

    class Batch(np.ndarray):
        """An array that can be counted."""

        __hash__ = object.__hash__

    def batches():
        nonlocal most
        for start in range(0, len(x), 10):
            batch = x[start : start + 10].copy().view(Batch)
            alive.add(batch)
            most = max(most, len(alive))
            yield batch if start < 20 else (batch, np.zeros(10))  # with targets, too
            del batch
            gc.collect()

    gates = model_gates(model, batches())["se_1"]
    np.testing.assert_allclose(gates, model_gates(model, x)["se_1"], atol=1e-6)
    assert most <= 2


def test_generators_are_checked():
    model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
    with pytest.raises(InputError, match=r"must have the shape .* Received: x of shape \(2, 8, 8"):
        model_gates(model, iter([X, X[:2, ..., :3]]))
    with pytest.raises(InputError, match="Received: an iterator without any"):
        model_gates(model, iter([]))


def test_no_site():
    model = keras.Sequential([keras.Input((8, 8, 4)), conv("c")])
    assert model_sites(model) == []
    assert model_gates(model, X) == {}


@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (8, 8, 4), (0, 8, 8, 4)])
def test_inputs_that_do_not_fit(shape):
    model = keras.Sequential([keras.Input((None, 8, 4)), SEBlock(2)], name="m")
    rule = r"shape \(samples, None, 8, 4\) of model 'm'\. Received: x of shape "
    with pytest.raises(InputError, match=rule + re.escape(str(shape))):
        model_gates(model, np.zeros(shape, "float32"))


def two_inputs():
    a, b = keras.Input((8, 8, 4), name="a"), keras.Input((8, 8, 4), name="b")
    return keras.Model([a, b], SEBlock(2)(a + b))


def one_input():
    inputs = keras.Input((8, 8, 4), name="a")
    return keras.Model(inputs, SEBlock(2)(inputs))


@pytest.mark.parametrize(
    ("build", "x", "message"),
    [
        (two_inputs, [X * np.nan, X], "x must be finite"),
        (two_inputs, iter([[X * np.nan, X]]), "x must be finite"),
        (one_input, keras.ops.convert_to_tensor(X * np.nan), "x must be finite"),
        (
            one_input,
            keras.ops.convert_to_tensor(X[..., :2]),
            r"Received: x of shape \(5, 8, 8, 2\)",
        ),
        (one_input, [X, X], "x must be inputs of model 'functional.*'"),
        (one_input, {"z": X}, "x must be inputs of model 'functional.*'"),
        (one_input, iter(["a"]), "x must be inputs of model 'functional.*'"),
        (one_input, iter([()]), "x must be inputs of model 'functional.*'"),
        (one_input, None, "arrays, a dataset, or a generator of batches. Received: x=None"),
        (two_inputs, [None, None], r"or a generator of batches\. Received: x=\[None, None\]"),
        (one_input, 3, r"or a generator of batches\. Received: x=3"),
        (one_input, X.tolist(), r"or a generator of batches\. Received: x=\[\[\[\["),
        (two_inputs, [X, X[:2]], r"one number of samples\. Received: \[5, 2\] for model 'func"),
        (two_inputs, {"a": X, "b": X[:2]}, r"one number of samples\. Received: \[5, 2\] for"),
        (two_inputs, iter([[X, X[:2]]]), r"one number of samples\. Received: \[5, 2\] for"),
    ],
)
def test_inputs_that_cannot_be_computed_with(build, x, message):
    with pytest.raises(InputError, match=message):
        model_gates(build(), x)


@pytest.mark.parametrize("policy", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_must_be_finite(policy, value):
    """A fused ReLU of TensorFlow swallows NaN: the gates looked plausible."""
    conv = keras.layers.Conv2D(4, 1, activation="relu", dtype=policy, name="c")
    model = keras.Sequential([keras.Input((8, 8, 4)), conv, SEBlock(2)], name="m")
    conv.kernel.assign(np.full((1, 1, 4, 4), value))
    with pytest.raises(
        InputError, match=r"read_gates needs finite weights\. .* in '.*c/kernel' of model 'm'"
    ):
        model_gates(model, X)


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Subclassed(), "needs a functional or Sequential Keras model.* Received: Subclassed"),
        ("model", "Received: str"),
        (keras.Sequential([SEBlock(2)]), "needs a built model.* not built"),
    ],
)
def test_refusals(model, message):
    with pytest.raises(InputError, match=message):
        model_sites(model)


def test_gates_follow_statistics_that_are_adapted_later():
    """A traced function holds on to them; it must not be used again."""
    normalization = keras.layers.Normalization()
    normalization.adapt(X)
    wide = keras.initializers.RandomNormal(stddev=2.0)
    block = SEBlock(1, kernel_initializer=wide)
    model = keras.Sequential([keras.Input((8, 8, 4)), normalization, block])
    before = model_gates(model, X)["se_1"]
    normalization.adapt(5 * X + 3)
    after = model_gates(model, X)["se_1"]
    np.testing.assert_allclose(after, block.gates(normalization(X)), atol=1e-6)
    assert np.abs(after - before).max() > 0.01


def test_a_nested_model_that_grows_is_read_anew():
    inner = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)], name="inner")
    model = keras.Sequential([keras.Input((8, 8, 4)), inner])
    assert len(model_sites(model)) == 1
    inner.add(SEBlock(2))
    assert len(model_sites(model)) == 2


class Holder(keras.layers.Layer):
    def __init__(self):
        super().__init__(name="holder")
        self.parts = {"se": [SEBlock(2, name="inside")]}

    def call(self, x):
        return self.parts["se"][0](x)

    def compute_output_shape(self, shape):
        return shape


class WithTensorFlow(Holder):
    def call(self, x):
        import tensorflow as tf

        return super().call(tf.nn.relu(x))


def test_a_block_in_another_layer_is_found_and_read():
    model = keras.Sequential([keras.Input((8, 8, 4)), conv("c"), Holder()])
    (site,) = model_sites(model)
    assert (site.name, site.after, site.source) == ("holder/se_1", "c", "SEBlock")
    features = keras.Model(model.inputs[0], model.get_layer("c").output)(X)
    expected = model.get_layer("holder").parts["se"][0].gates(features)
    np.testing.assert_allclose(model_gates(model, X)["holder/se_1"], expected, atol=1e-6)


def test_a_block_that_keras_cannot_show_is_named():
    model = keras.Sequential([keras.Input((8, 8, 4)), WithTensorFlow()])
    message = (
        r"The layer 'holder' \(WithTensorFlow\) may hold SE: it holds 'inside', and Keras cannot "
        "record its call: A KerasTensor cannot be used as input to a TensorFlow function"
    )
    with pytest.warns(SiteWarning, match=message):
        assert model_sites(model) == []


class OwnCall(keras.Sequential):
    def call(self, x, training=None, mask=None):
        return super().call(2.0 * x)


def test_a_model_with_a_call_of_its_own_is_refused():
    model = OwnCall([keras.Input((8, 8, 4)), SEBlock(2)])
    with pytest.raises(InputError, match="Received: OwnCall"):
        model_sites(model)


def test_masks_reach_the_blocks():
    inputs = keras.Input((7,), dtype="int32")
    x = keras.layers.Embedding(10, 6, mask_zero=True)(inputs)
    wide = keras.initializers.RandomNormal(stddev=2.0)
    block = SEBlock(2, kernel_initializer=wide)
    model = keras.Model(inputs, block(x))
    ids = RNG.integers(1, 10, size=(3, 7)) * (np.arange(7) < np.array([[2], [5], [7]]))
    embedded = keras.Model(inputs, x).predict(ids, verbose=0)
    expected = block.gates(embedded, ids > 0)
    np.testing.assert_allclose(model_gates(model, ids)["se_1"], expected, atol=1e-6)


def test_nan_is_refused():
    model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
    with pytest.raises(InputError, match=r"x must be finite\. Received: 1280 values"):
        model_gates(model, np.full((5, 8, 8, 4), np.nan))


def test_tensors_and_settings_among_the_arguments_of_a_call():
    inputs = keras.Input((7, 6))
    attention = keras.layers.MultiHeadAttention(2, 3)
    x = attention(inputs, value=inputs, use_causal_mask=True)
    block = SEBlock(2)
    model = keras.Model(inputs, block(x))
    x = RNG.normal(size=(3, 7, 6)).astype("float32")
    expected = block.gates(attention(x, value=x, use_causal_mask=True))
    np.testing.assert_allclose(model_gates(model, x)["se_1"], expected, atol=1e-6)


def test_blocks_in_nested_functional_models():
    """One call of the nested model for each site, and its gates for what it is given."""
    wide = keras.initializers.RandomNormal(stddev=2.0)
    inner_input = keras.Input((8, 8, 4))
    block = SEBlock(1, kernel_initializer=wide)
    inner = keras.Model(inner_input, block(inner_input) + 1.0, name="inner")
    plain_input = keras.Input((8, 8, 4))
    plain = keras.Model(plain_input, 2.0 * plain_input, name="plain")
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, inner(plain(inner(inputs))))
    assert [site.name for site in model_sites(model)] == ["inner/se_1", "inner/se_2"]
    gates = model_gates(model, X)
    np.testing.assert_allclose(gates["inner/se_1"], block.gates(X), atol=1e-6)
    second = 2.0 * np.asarray(inner(X))
    np.testing.assert_allclose(gates["inner/se_2"], block.gates(second), atol=1e-6)


def test_every_form_of_call_is_understood():
    from keras_se import remove

    x, mask = keras.Input((5, 4)), keras.Input((5,), dtype="bool")
    block = SEBlock(2)
    for model in (
        keras.Model([x, mask], block(x, mask)),
        keras.Model([x, mask], block(inputs=x, mask=mask)),
        keras.Model(x, block(inputs=x)),
    ):
        assert len(model_sites(model)) == 1
        assert model_sites(remove(model)) == []
