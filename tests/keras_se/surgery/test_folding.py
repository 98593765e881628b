"""Sites as constants: the outputs are those of the constants, whoever takes them up."""

import collections

import keras
import numpy as np
import pytest
from keras import layers

import keras_se
from keras_se import SEBlock
from keras_se.graph.trace import trace
from keras_se.sites.gated import search
from keras_se.surgery.folding import Constant, why_kept, with_constants

RNG = np.random.default_rng(0)
C = 6
POSITIVE = RNG.uniform(0.2, 1.5, C).astype("float32")
SIGNED = POSITIVE * np.float32([1, -1, 0, 1, -1, 1])


def folded(model, gates):
    graph = trace(model, "fold")
    return with_constants(graph, search(graph), gates)


def reasons(model):
    return why_kept(search(trace(model, "fold")))


def randomize(model):
    for variable in model.weights:
        is_scale = any(part in variable.path for part in ("variance", "gamma"))
        values = (
            RNG.uniform(0.5, 1.5, variable.shape) if is_scale else RNG.normal(size=variable.shape)
        )
        variable.assign(values * (1.0 if len(variable.shape) < 2 else variable.shape[-2] ** -0.5))
    return model


def close(found, expected):
    found, expected = map(keras.ops.convert_to_numpy, (found, expected))
    np.testing.assert_allclose(found, expected, atol=3e-6 * np.abs(expected).max())


CONV = layers.Conv2D
RELU = layers.ReLU
KERNEL = {"kernel_size": 3, "padding": "same"}
# Layers before and after the site, the gates, and who takes them up: the index of a layer.
CASES = {
    "convolution": ([CONV(C, 3)], [], SIGNED, "before", [0]),
    "with ReLU inside": ([CONV(C, 3, activation="relu")], [], POSITIVE, "before", [0]),
    "negative gates": ([CONV(C, 3, activation="relu")], [CONV(3, 1)], SIGNED, "after", [1]),
    "dense": ([layers.Dense(C)], [], SIGNED, "before", [0]),
    "depthwise": ([layers.DepthwiseConv2D(3, depth_multiplier=2)], [], SIGNED, "before", [0]),
    "separable": ([layers.SeparableConv2D(C, 3)], [], SIGNED, "before", [0]),
    "transposed": ([layers.Conv2DTranspose(C, **KERNEL)], [], SIGNED, "before", [0]),
    "grouped": ([CONV(C, 3, groups=3)], [], SIGNED, "before", [0]),
    "normalization": ([CONV(C, 3), layers.BatchNormalization()], [], SIGNED, "before", [1]),
    "layer normalization": ([CONV(C, 3), layers.LayerNormalization()], [], SIGNED, "before", [1]),
    "no gamma": (
        [CONV(C, 3), layers.BatchNormalization(scale=False)],
        [CONV(3, 1)],
        SIGNED,
        "after",
        [2],
    ),
    "normalized over all": (
        [CONV(C, 3), layers.LayerNormalization(axis=(1, 2, 3))],
        [],
        SIGNED,
        "multiplication",
        [],
    ),
    "through ReLU and pooling": (
        [CONV(C, 3, use_bias=False), RELU(), layers.MaxPooling2D()],
        [],
        POSITIVE,
        "before",
        [0],
    ),
    "not through ReLU6": ([CONV(C, 3), RELU(6.0)], [CONV(3, 1)], POSITIVE, "after", [2]),
    "not through GELU": ([CONV(C, 3, activation="gelu")], [], POSITIVE, "multiplication", []),
    "depthwise after": ([RELU(6.0)], [layers.DepthwiseConv2D(3)], SIGNED, "after", [1]),
    "separable after": ([RELU(6.0)], [layers.SeparableConv2D(4, 3)], SIGNED, "after", [1]),
    "transposed after": (
        [RELU(6.0)],
        [layers.Conv2DTranspose(4, **KERNEL)],
        SIGNED,
        "after",
        [1],
    ),
    "grouped after": ([RELU(6.0)], [CONV(C, 3, groups=3)], SIGNED, "multiplication", []),
    "pooled after": (
        [RELU(6.0)],
        [layers.GlobalMaxPooling2D(), layers.Dropout(0.5), layers.Dense(3, activation="tanh")],
        POSITIVE,
        "after",
        [3],
    ),
    "flattened after": (
        [RELU(6.0)],
        [layers.Flatten(), layers.Dense(3)],
        POSITIVE,
        "multiplication",
        [],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_who_takes_a_constant_up(case):
    before, after, gates, how, takers = CASES[case]
    parts = [type(layer).from_config(layer.get_config()) for layer in (*before, *after)]
    before, after = parts[: len(before)], parts[len(before) :]
    channels = C // 2 if case == "depthwise" else C
    model = keras.Sequential([keras.Input((8, 8, channels)), *before, SEBlock(2), *after])
    randomize(model)
    weights = [variable.numpy() for variable in model.weights]
    new, became = folded(model, {"se_1": gates})
    x = RNG.normal(size=(4, 8, 8, channels)).astype("float32")
    expected = x
    for layer in before:
        expected = layer(expected)
    expected = expected * gates
    for layer in after:
        expected = layer(expected)
    close(new(x), expected)
    names = tuple(parts[n].name for n in takers) or (f"{model.layers[len(before)].name}_constant",)
    assert became == {"se_1": Constant(how, names)}
    assert isinstance(new, keras.Sequential)
    left = [layer.name for layer in parts] if takers else [layer.name for layer in new.layers]
    assert [layer.name for layer in new.layers] == left
    for variable, value in zip(model.weights, weights, strict=True):
        np.testing.assert_array_equal(variable, value)
    again = type(new).from_config(new.get_config())
    again.set_weights(new.get_weights())
    close(again(x), expected)


def alive(name):
    """A network of keras.applications, random weights, and its sites with constant gates set."""
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(32, 32, 3), classes=5, classifier_activation=None)
    for layer in model.layers:
        is_depthwise = isinstance(layer, layers.DepthwiseConv2D)
        for variable in [] if isinstance(layer, layers.Normalization) else layer.weights:
            shape = variable.shape
            fan_in = np.prod(shape[:2] if is_depthwise else shape[:-1])
            is_vector = len(shape) < 2
            values = RNG.uniform(0.5, 1.5, shape) if is_vector else RNG.normal(size=shape)
            variable.assign(values * (1.0 if is_vector else np.sqrt(2 / fan_in)))
    graph = trace(model, "fold")
    gates = {}
    for part in search(graph).sites:
        gates[part.site.name] = gate = RNG.uniform(0.2, 0.9, part.site.channels).astype("float32")
        last = part.source.matrices[-1].layer
        last.kernel.assign(np.zeros(last.kernel.shape))
        is_hard = part.site.gate == "hard_sigmoid"
        last.bias.assign(6 * gate - 3 if is_hard else np.log(gate / (1 - gate)))
    return model, gates


@pytest.mark.parametrize(("name", "sites"), [("MobileNetV3Small", 9), ("EfficientNetB0", 16)])
def test_networks_of_keras_applications(name, sites):
    model, gates = alive(name)
    assert len(gates) == sites
    new, became = folded(model, gates)
    assert {constant.how for constant in became.values()} <= {"before", "after"}
    assert keras_se.find_sites(new) == []
    x = (RNG.uniform(0, 255, size=(2, 32, 32, 3))).astype("float32")
    close(new(x, training=False), model(x, training=False))
    takers = collections.Counter(name for constant in became.values() for name in constant.layers)
    assert set(takers.values()) == {1}
    for layer in new.layers:
        if layer.name not in takers:
            for old, own in zip(model.get_layer(layer.name).weights, layer.weights, strict=True):
                np.testing.assert_array_equal(old, own)
    sums = {layer.name: sum(map(np.size, layer.get_weights())) for layer in model.layers}
    assert new.count_params() == sum(sums[layer.name] for layer in new.layers)
    assert len(new.layers) <= len(model.layers) - 5 * sites


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_multiplications_of_any_rank(rank, data_format):
    shape = [4] * (rank - 2)
    axis = -1 if data_format == "channels_last" else 1
    shape.insert(len(shape) if axis == -1 else 0, C)
    model = keras.Sequential([keras.Input(shape), layers.Activation("gelu")])
    model.add(SEBlock(2, data_format=data_format))
    new, became = folded(model, {"se_1": SIGNED})
    assert became["se_1"].how == "multiplication"
    x = RNG.normal(size=(2, *shape)).astype("float32")
    expected = np.moveaxis(np.moveaxis(model.layers[0](x), axis, -1) * SIGNED, -1, axis)
    close(new(x), expected)


def by_hand(x, reduction=2, **arguments):
    g = layers.GlobalAveragePooling2D(keepdims=True)(x)
    g = layers.Dense(reduction, activation="relu")(g)
    return layers.Dense(x.shape[-1], activation="sigmoid", **arguments)(g)


def test_several_layers_after_a_site_take_it_up_or_none_of_them():
    inputs = keras.Input((8, 8, C))
    x = layers.Activation("gelu")(inputs)
    x = x * by_hand(x)
    one, two = layers.Conv2D(4, 1, name="one")(x), layers.ReLU()(x)
    two = layers.Conv2D(4, 3, padding="same", name="two")(two)
    model = randomize(keras.Model(inputs, one + two))
    x = RNG.normal(size=(2, 8, 8, C)).astype("float32")
    gelu = keras.activations.gelu(x) * POSITIVE
    expected = model.get_layer("one")(gelu) + model.get_layer("two")(keras.ops.relu(gelu))
    new, became = folded(model, {"se_1": POSITIVE})
    assert (became["se_1"].how, sorted(became["se_1"].layers)) == ("after", ["one", "two"])
    close(new(x), expected)
    shown = keras.Model(inputs, [*model.outputs, model.get_layer("two").input])
    assert folded(shown, {"se_1": POSITIVE})[1]["se_1"].how == "multiplication"


def test_weights_that_others_use_are_left_alone():
    inputs = keras.Input((8, 8, C))
    conv = layers.Conv2D(C, 3, padding="same")
    model = randomize(keras.Model(inputs, SEBlock(2)(conv(conv(inputs)))))
    x = RNG.normal(size=(2, 8, 8, C)).astype("float32")
    new, became = folded(model, {"se_1": SIGNED})
    assert became["se_1"].how == "multiplication"
    close(new(x), conv(conv(x)) * SIGNED)
    wrapped = layers.TimeDistributed(conv)(keras.ops.expand_dims(inputs, 1))
    x = SEBlock(2)(conv(inputs)) + wrapped[:, 0]
    assert folded(keras.Model(inputs, x), {"se_1": SIGNED})[1]["se_1"].how == "multiplication"


def test_half_precision_keeps_its_dtypes():
    inputs = keras.Input((8, 8, C))
    conv = layers.Conv2D(C, 3, dtype="mixed_float16")
    x = SEBlock(2, dtype="mixed_float16")(layers.Activation("gelu", dtype="float16")(conv(inputs)))
    model = randomize(keras.Model(inputs, layers.Conv2D(3, 1, dtype="mixed_float16")(x)))
    new, became = folded(model, {"se_1": SIGNED})
    assert became["se_1"].how == "after"
    assert [layer.dtype_policy.name for layer in new.layers[1:]] == [
        "mixed_float16",
        "float16",
        "mixed_float16",
    ]
    x = RNG.normal(size=(2, 8, 8, C)).astype("float32")
    last = model.layers[-1]
    gelu = keras.activations.gelu(conv(x))
    expected = np.asarray(last(gelu * SIGNED.astype("float16")), "float32")
    np.testing.assert_allclose(np.asarray(new(x), "float32"), expected, atol=0.02)
    alone = keras.Model(inputs, SEBlock(2, dtype="mixed_float16")(gelu_of(inputs)))
    new, _ = folded(alone, {"se_1": SIGNED})
    assert new.outputs[0].dtype == "float16"


def gelu_of(x):
    return layers.Activation("gelu", dtype="mixed_float16")(x)


@keras.saving.register_keras_serializable("test_folding")
class Block(layers.Layer):
    """A convolution with SE, as people write them."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(C, 3, padding="same")
        self.down = layers.Dense(2, activation="relu")
        self.up = layers.Dense(C, activation="sigmoid")

    def call(self, x):
        x = self.conv(x)
        g = keras.ops.mean(x, axis=(1, 2), keepdims=True)
        return x * self.up(self.down(g))


def test_sites_in_nested_models_and_in_layers_of_the_users():
    inputs = keras.Input((8, 8, C))
    inner = keras.Sequential(
        [keras.Input((8, 8, C)), layers.Conv2D(C, 1), SEBlock(2)], name="inner"
    )
    block = Block(name="block")
    model = randomize(keras.Model(inputs, block(inner(inputs))))
    new, became = folded(model, {"inner/se_1": SIGNED, "block/se_1": POSITIVE})
    assert {name: site.how for name, site in became.items()} == dict.fromkeys(became, "before")
    x = RNG.normal(size=(2, 8, 8, C)).astype("float32")
    close(new(x), block.conv(inner.layers[0](x) * SIGNED) * POSITIVE)
    assert [layer.name for layer in new.layers[1:]] == ["inner", block.conv.name]
    one, _ = folded(model, {"inner/se_1": SIGNED})
    assert isinstance(one.get_layer("block"), Block)


def test_spellings():
    """eSE, a cross site, and a product of three factors."""
    inputs = keras.Input((8, 8, C))
    g = layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    one_matrix = layers.Multiply()([inputs, layers.Conv2D(C, 1, activation="sigmoid")(g)])
    small = layers.AveragePooling2D(2)(layers.Conv2D(4, 1)(inputs))
    cross = layers.Conv2D(C, 1, name="mapped")(inputs)
    cross = cross * layers.Dense(C, activation="sigmoid")(
        layers.GlobalAveragePooling2D(keepdims=True)(small)
    )
    spatial = layers.Conv2D(1, 1, activation="sigmoid", name="spatial")(inputs)
    three = layers.Multiply()([inputs, by_hand(inputs), spatial])
    model = randomize(keras.Model(inputs, [one_matrix, cross, three]))
    sites = {(site.kind, site.form): site.name for site in keras_se.find_sites(model)}
    names = [sites["self", "one_matrix"], "cross_1", sites["self", "two_matrices"]]
    gates = {name: RNG.normal(size=C).astype("float32") for name in names}
    new, became = folded(model, gates)
    x = RNG.normal(size=(2, 8, 8, C)).astype("float32")
    found = new(x)
    close(found[0], x * gates[names[0]])
    close(found[1], model.get_layer("mapped")(x) * gates[names[1]])
    close(found[2], x * gates[names[2]] * np.asarray(model.get_layer("spatial")(x)))
    assert became["cross_1"] == Constant("before", ("mapped",))
    rest = keras_se.find_sites(folded(model, {names[0]: POSITIVE})[0])
    assert sorted((site.kind, site.form) for site in rest) == [
        ("cross", "one_matrix"),
        ("self", "two_matrices"),
    ]


def test_a_site_that_only_another_one_reads():
    inputs = keras.Input((8, 8, C))
    other = SEBlock(2)(layers.Conv2D(C, 3)(inputs))
    g = layers.Dense(C, activation="sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(other))
    model = keras.Model(inputs, layers.ReLU(6.0)(inputs) * g)
    new, became = folded(model, {"se_1": POSITIVE, "cross_1": SIGNED})
    assert became["se_1"] == Constant("dropped", ())
    assert [type(layer).__name__ for layer in new.layers[1:]] == ["ReLU", "Rescaling"]


def test_what_cannot_be_a_constant():
    inputs = keras.Input((8, 8, C))
    inner = keras.Sequential([keras.Input((8, 8, C)), SEBlock(2)], name="inner")
    y, gates = SEBlock(2)(inputs, return_gates=True)
    x = inner(inner(SEBlock(2, shift=True)(y)))
    found = reasons(keras.Model(inputs, [x, gates]))
    called = "it is inside a model that is called more than once, with other gates in each call"
    assert found == {
        "se_1": "the model uses its gates",
        "se_2": "it has a shift beside the gate, which varies, too",
        "inner/se_1": called,
        "inner/se_2": called,
    }

    class Weighed(Block):
        def build(self, shape):
            self.scale = self.add_weight(shape=(), initializer="ones")

        def call(self, x):
            return self.scale * super().call(x)

    closed = "it is inside the layer 'weighed', which has weights of its own"
    assert reasons(keras.Model(inputs, Weighed(name="weighed")(inputs))) == {"weighed/se_1": closed}
