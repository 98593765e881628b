"""SE that is written out: found, read, and turned into blocks, with the same outputs."""

import functools

import keras
import numpy as np
import pytest

import keras_se
from keras_se import SEBlock, adopt, find_sites, read_gates
from keras_se.errors import InputError, SiteWarning

RNG = np.random.default_rng(0)
# `benchmarks/networks.py adopt` runs all of keras.applications that hold SE.
NETWORKS = {"MobileNetV3Small": (9, "hard_sigmoid"), "EfficientNetB0": (16, "sigmoid")}


@functools.cache
def network(name):
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(32, 32, 3), classes=10, classifier_activation=None)
    for layer in model.layers:
        for variable in [] if isinstance(layer, keras.layers.Normalization) else layer.weights:
            shape = variable.shape
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
            values = (
                RNG.uniform(0.5, 1.5, shape)
                if len(shape) < 2
                else RNG.normal(size=shape) * np.sqrt(2 / fan_in)
            )
            variable.assign(values)
    x = (RNG.uniform(0, 255, size=(2, 32, 32, 3)) / 100).astype("float32")
    return model, x


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_keras_applications(name):
    model, x = network(name)
    count, gate = NETWORKS[name]
    sites = find_sites(model)
    assert len(sites) == count
    assert {site.gate for site in sites} == {gate}
    new = adopt(model)
    found = find_sites(new)
    assert [(s.name, s.after, s.channels, s.width, s.gate) for s in found] == [
        (s.name, s.after, s.channels, s.width, s.gate) for s in sites
    ]
    assert sum(isinstance(layer, SEBlock) for layer in new.layers) == count
    assert new.count_params() == model.count_params()
    expected = keras.ops.convert_to_numpy(model(x, training=False))
    outputs = keras.ops.convert_to_numpy(new(x, training=False))
    np.testing.assert_allclose(outputs, expected, atol=1e-6 * np.abs(expected).max())
    gates, adopted = read_gates(model, x), read_gates(new, x)
    for site in sites:
        np.testing.assert_allclose(gates[site.name], adopted[site.name], atol=1e-5)
    assert len(keras_se.cost(new).sites) == count


def by_hand(form, activation="relu", gate="sigmoid", use_bias=True):
    layers = keras.layers
    x = inputs = keras.Input((6, 6, 8))
    x = layers.Conv2D(8, 3, padding="same", name="conv")(x)
    if form == "dense":
        g = layers.GlobalAveragePooling2D()(x)
        g = layers.Dense(2, activation=activation, use_bias=use_bias)(g)
        g = layers.Dense(8, activation=gate, use_bias=use_bias)(g)
        g = layers.Reshape((1, 1, 8))(g)
        x = layers.Multiply()([x, g])
    elif form == "convolution":
        g = layers.GlobalMaxPooling2D(keepdims=True)(x)
        g = layers.Conv2D(2, 1, use_bias=use_bias)(g)
        g = layers.Activation(activation)(g)
        g = layers.Conv2D(8, 1, use_bias=use_bias)(g)
        x = layers.Activation(gate)(g) * x
    else:
        g = layers.GlobalAveragePooling2D(keepdims=True)(x)
        g = layers.Dense(2, activation=activation, use_bias=use_bias)(g)
        g = layers.Dense(8, use_bias=use_bias)(g)
        x = x * (1.0 + keras.ops.tanh(g))
    model = keras.Model(inputs, layers.Conv2D(3, 1, name="after")(x))
    model.set_weights([RNG.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("form", "arguments", "squeeze", "gate"),
    [
        ("dense", {}, "avg", "sigmoid"),
        ("dense", {"activation": "swish", "gate": "hard_sigmoid"}, "avg", "hard_sigmoid"),
        ("dense", {"use_bias": False}, "avg", "sigmoid"),
        ("convolution", {"activation": "gelu"}, "max", "sigmoid"),
        ("convolution", {"gate": "tanh"}, "max", "tanh"),
        ("operations", {"activation": "elu"}, "avg", "one_plus_tanh"),
    ],
)
def test_forms_that_people_write_by_hand(form, arguments, squeeze, gate):
    model = by_hand(form, **arguments)
    x = RNG.normal(size=(4, 6, 6, 8)).astype("float32")
    (site,) = find_sites(model)
    assert (site.after, site.channels, site.width, site.gate) == ("conv", 8, 2, gate)
    new = adopt(model)
    (block,) = (layer for layer in new.layers if isinstance(layer, SEBlock))
    assert (block.squeeze, block.gate) == (squeeze, gate)
    assert block.use_bias == arguments.get("use_bias", True)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(read_gates(new, x)["se_1"], read_gates(model, x)["se_1"], atol=1e-6)
    assert not any("pooling" in layer.name for layer in new.layers)


def test_adopted_networks_can_be_verified_and_removed():
    model = adopt(by_hand("dense"))
    x = RNG.normal(size=(64, 6, 6, 8)).astype("float32")
    assert keras_se.verify(model, keras_se.to_tflite(model, "float32"), x).passed
    assert find_sites(keras_se.remove(model)) == []


def test_blocks_and_written_out_sites_are_named_in_one_order():
    inner = by_hand("dense")
    x = inputs = keras.Input((6, 6, 8))
    x = SEBlock(2)(x)
    g = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    g = keras.layers.Dense(8, activation="sigmoid")(keras.layers.Dense(4)(g))
    x = SEBlock(4)(x * g)
    inner.name = "inner"
    model = keras.Model(inputs, inner(x))
    assert [(s.name, s.width) for s in find_sites(model)] == [
        ("se_1", 4),
        ("se_2", 4),
        ("se_3", 2),
        ("inner/se_1", 2),
    ]


def test_what_is_no_site():
    layers = keras.layers
    x = inputs = keras.Input((6, 6, 8))
    x = x * layers.Conv2D(8, 1, activation="sigmoid")(layers.Conv2D(4, 1)(x))  # local
    other = layers.GlobalAveragePooling2D(keepdims=True)(layers.Conv2D(8, 1)(inputs))
    x = x * layers.Dense(8)(layers.Dense(2)(other))  # of another map, without a gate
    x = layers.Activation("hard_silu")(x) * 2.0
    model = keras.Model(inputs, x)
    assert find_sites(model) == []
    with pytest.raises(InputError, match=r"with these inline sites: none"):
        adopt(model)


def test_an_unknown_gate_is_found_read_and_named():
    model = by_hand("dense", gate="softsign")
    assert find_sites(model)[0].gate == "unknown"
    assert read_gates(model, RNG.normal(size=(2, 6, 6, 8)))["se_1"].shape == (2, 8)
    with pytest.raises(InputError, match="se_1: its gate is none that SEBlock knows"):
        adopt(model)
    both = keras.Sequential([keras.Input((6, 6, 8)), keras.layers.ReLU()])
    with pytest.raises(InputError, match="with these inline sites: none"):
        adopt(both)


def test_one_of_two_is_adopted_and_the_other_named():
    inputs = keras.Input((6, 6, 8))
    x = inputs
    for gate, name in (("sigmoid", "known"), ("softsign", "strange")):
        g = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
        g = keras.layers.Dense(2, activation="relu")(g)
        x = x * keras.layers.Dense(8, activation=gate, name=name)(g)
    model = keras.Model(inputs, x)
    with pytest.warns(SiteWarning, match="adopt leaves the site 'se_2' as it is: its gate is none"):
        new = adopt(model)
    assert [site.gate for site in find_sites(new)] == ["sigmoid", "unknown"]
    x = RNG.normal(size=(2, 6, 6, 8)).astype("float32")
    np.testing.assert_allclose(new(x), model(x), atol=1e-6)


def test_names_do_not_collide():
    """As they did where a model with blocks was loaded in a fresh process."""
    x = inputs = keras.Input((6, 6, 8))
    for name in ("se_1", "se_block"):
        x = keras.layers.ReLU(name=name)(x)
    g = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    g = keras.layers.Dense(2, activation="relu")(g)
    new = adopt(keras.Model(inputs, x * keras.layers.Dense(8, activation="sigmoid")(g)))
    assert [layer.name for layer in new.layers if isinstance(layer, SEBlock)] == ["se_1_1"]


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_recognized_and_adopted(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = by_hand("dense", gate="hard_sigmoid")
    finally:
        keras.config.set_dtype_policy("float32")
    assert {site.gate for site in find_sites(model)} == {"hard_sigmoid"}
    x = RNG.normal(size=(2, 6, 6, 8)).astype("float32")
    expected = keras.ops.cast(model(x, training=False), "float32")
    outputs = keras.ops.cast(adopt(model)(x, training=False), "float32")
    scale = float(keras.ops.max(keras.ops.abs(expected)))
    np.testing.assert_allclose(outputs, expected, atol=0.02 * scale)
