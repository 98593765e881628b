"""SE as people write it: found by what it computes, in models as in the files made of them."""

import collections

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_se import adopt, cost, find_sites, read_gates, to_tflite
from keras_se.errors import InputError, SiteWarning

RNG = np.random.default_rng(0)
C, WIDTH = 8, 3
X = RNG.normal(size=(4, 6, 6, C)).astype("float32")


def pooled(x):
    return layers.GlobalAveragePooling2D(keepdims=True)(x)


def dense(g, activation="relu", gate="sigmoid", between=lambda h: h):
    return layers.Dense(C, gate)(between(layers.Dense(WIDTH, activation)(g)))


def einsum(g, units, activation):
    return layers.EinsumDense("bhwc,cd->bhwd", (1, 1, units), activation=activation, bias_axes="d")(
        g
    )


def deviation(x):
    return ops.sqrt(ops.mean(ops.square(x - ops.mean(x, (1, 2), keepdims=True)), (1, 2)))


def with_shared_matrices(x):
    first, second = layers.Dense(WIDTH, "relu"), layers.Dense(C)
    squeezes = pooled(x), layers.GlobalMaxPooling2D(keepdims=True)(x)
    return ops.sigmoid(sum(second(first(g)) for g in squeezes))


def normalized(g):
    g = layers.Conv2D(WIDTH, 1, use_bias=False)(g)
    g = layers.ReLU()(layers.BatchNormalization()(g))
    return layers.Activation("sigmoid")(layers.BatchNormalization()(layers.Conv2D(C, 1)(g)))


@keras.saving.register_keras_serializable("tests")
class RawOperations(layers.Layer):
    """SE of operations and weights of its own; gives the gates."""

    def build(self, shape):
        self.w1 = self.add_weight(shape=(C, WIDTH), name="w1")
        self.w2 = self.add_weight(shape=(WIDTH, C), name="w2")

    def call(self, x):
        g = ops.matmul(ops.mean(x, axis=(1, 2)), self.w1)
        g = ops.sigmoid(ops.matmul(ops.relu(g), self.w2))
        return ops.reshape(g, (ops.shape(x)[0], 1, 1, C))


class Excite(layers.Layer):
    """Only the excitation, between two vectors."""

    def __init__(self):
        super().__init__()
        self.first, self.second = layers.Dense(WIDTH, "relu"), layers.Dense(C, "sigmoid")

    def call(self, g):
        return self.second(self.first(g))


class Transposed(layers.Layer):
    """A layout, as a layer without weights."""

    def call(self, x):
        return ops.transpose(x, (0, 2, 1, 3))


def nested(x):
    parts = [keras.Input((6, 6, C)), layers.GlobalAveragePooling2D(keepdims=True)]
    parts += [layers.Dense(WIDTH, "relu"), layers.Dense(C, "sigmoid")]
    return keras.Sequential(parts)(x)


def expand(g):
    return layers.Lambda(lambda t: ops.expand_dims(ops.expand_dims(t, 1), 1))(g)


def shifted_relu6(v):
    return ops.relu6(v + 3.0) / 6.0


# The gates of a map, and what else is known: a site of two matrices with a sigmoid otherwise.
GATES = {
    "kept dimensions": lambda x: dense(pooled(x)),
    "mean": lambda x: dense(ops.mean(x, axis=[1, 2], keepdims=True)),
    "mean of means": lambda x: dense(ops.mean(ops.mean(x, 1, keepdims=True), 2, keepdims=True)),
    "sum by size": lambda x: dense(ops.sum(x, axis=(1, 2), keepdims=True) / 36.0),
    "maximum": lambda x: dense(ops.max(x, axis=[1, 2], keepdims=True)),
    "deviation": lambda x: dense(deviation(x)[:, None, None]),
    "mean and maximum": lambda x: dense(
        0.5 * (pooled(x) + layers.GlobalMaxPooling2D(keepdims=True)(x))
    ),
    "window": lambda x: dense(layers.AveragePooling2D(6)(x)),
    "PReLU": lambda x: dense(pooled(x), None, between=layers.PReLU(name="prelu")),
    "Dropout": lambda x: dense(pooled(x), between=layers.Dropout(0.1)),
    "normalized": lambda x: normalized(pooled(x)),
    "normalized after": lambda x: dense(pooled(x), between=layers.BatchNormalization()),
    "convolutions": lambda x: layers.Conv2D(C, 1, activation="sigmoid")(
        layers.Conv2D(WIDTH, 1, activation="gelu")(pooled(x))
    ),
    "padded convolutions": lambda x: layers.Conv2D(C, 3, padding="same", activation="sigmoid")(
        layers.Conv2D(WIDTH, 3, padding="same", activation="silu")(pooled(x))
    ),
    "groups": lambda x: layers.Conv2D(C, 1, groups=2, activation="sigmoid")(
        layers.Conv2D(4, 1, groups=2, activation="relu")(pooled(x))
    ),
    "EinsumDense": lambda x: einsum(einsum(pooled(x), WIDTH, "relu"), C, "sigmoid"),
    "Lambda": lambda x: expand(dense(layers.GlobalAveragePooling2D()(x))),
    "Reshape": lambda x: layers.Reshape((1, 1, C))(dense(layers.GlobalAveragePooling2D()(x))),
    "repeated": lambda x: layers.UpSampling2D(6)(dense(pooled(x))),
    "nested": nested,
    "raw": lambda x: RawOperations()(x),
    "own excitation": lambda x: Excite()(pooled(x)),
    "own layout": lambda x: dense(pooled(Transposed()(x))),
    "shared matrices": with_shared_matrices,
    "no activation": lambda x: dense(pooled(x), None),
    "one matrix": lambda x: layers.Conv2D(C, 1, activation="sigmoid")(pooled(x)),
    "hard": lambda x: shifted_relu6(dense(pooled(x), gate=None)),
    "hard, steeper": lambda x: ops.clip(0.3 * dense(pooled(x), gate=None) + 0.5, 0.0, 1.0),
    "one plus tanh": lambda x: 1.0 + ops.tanh(dense(pooled(x), gate=None)),
    "by tanh": lambda x: 0.5 * (1.0 + ops.tanh(0.5 * dense(pooled(x), gate=None))),
    "softmax": lambda x: C * dense(pooled(x), gate="softmax"),
    "unknown": lambda x: dense(pooled(x), gate="softsign"),
}
GATE = {
    "hard": "hard_sigmoid",
    "hard, steeper": "hard_sigmoid",
    "one plus tanh": "one_plus_tanh",
    "softmax": "softmax",
    "unknown": "unknown",
}
NOT_ADOPTED = {
    "PReLU": "it is not two affine maps with a known activation and gate",
    "shared matrices": "it has several squeezes",
    "one matrix": "it has one matrix, and an SEBlock has two",
    "unknown": "its gate is none that SEBlock knows",
}


def randomized(model):
    for variable in model.variables:
        if "seed" not in variable.path:
            is_variance = "variance" in variable.path
            values = RNG.uniform(0.5, 1.5, variable.shape) if is_variance else None
            variable.assign(RNG.normal(size=variable.shape) if values is None else values)
    return model


def expected(name):
    form = "one_matrix" if name == "one matrix" else "two_matrices"
    width = {"one matrix": C, "groups": 4}.get(name, WIDTH)
    return C, width, GATE.get(name, "sigmoid"), "self", form


def facts(site):
    return site.channels, site.width, site.gate, site.kind, site.form


@pytest.mark.parametrize("name", GATES)
def test_spellings(name):
    inputs = keras.Input((6, 6, C))
    x = layers.Conv2D(C, 1, name="conv")(inputs)
    gates = GATES[name](x)
    model = randomized(keras.Model(inputs, x * gates))
    (site,) = find_sites(model)
    assert (site.name, site.after, *facts(site)) == ("se_1", "conv", *expected(name))
    # The gates as a plain model of Keras computes them.
    plain = np.asarray(keras.Model(inputs, gates)(X, training=False))[:, 0, 0]
    np.testing.assert_allclose(read_gates(model, X)["se_1"], plain, atol=1e-6)
    (priced,) = cost(model).sites
    weights = sum(v.shape.num_elements() for v in model.variables if "seed" not in v.path)
    if name != "raw":
        assert priced.parameters == weights - model.get_layer("conv").count_params()
    if name in NOT_ADOPTED:
        with pytest.raises(InputError, match=f"se_1: {NOT_ADOPTED[name]}"):
            adopt(model)
    else:
        wanted = np.asarray(model(X, training=False))
        found = np.asarray(adopt(model)(X, training=False))
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())


def test_the_file_of_a_model_has_the_same_sites():
    inputs = keras.Input((6, 6, C))
    outputs, names = [], [name for name in GATES if name not in ("unknown", "softmax")]
    for name in names:
        # Maps of their own: the converter merges what is equal.
        x = layers.Conv2D(C, 1)(inputs)
        outputs.append(x * GATES[name](x))
    model = randomized(keras.Model(inputs, outputs))
    wanted = collections.Counter(map(expected, names))
    assert collections.Counter(map(facts, find_sites(model))) == wanted
    assert collections.Counter(map(facts, find_sites(to_tflite(model, "float32")))) == wanted


def test_a_pooling_that_the_converter_does_not_take():
    inputs = keras.Input((6, 6, C))
    gates = dense(layers.AdaptiveAveragePooling2D(1)(inputs))
    (site,) = find_sites(keras.Model(inputs, inputs * gates))
    assert facts(site) == expected("mean")


@pytest.mark.parametrize("rank", [3, 4, 5])
@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
@pytest.mark.parametrize("kept", [False, True])
def test_ranks_and_data_formats(rank, data_format, kept):
    spatial = (5, 6, 7)[: rank - 2]
    is_last = data_format == "channels_last"
    inputs = keras.Input((*spatial, C) if is_last else (C, *spatial))
    pool = getattr(layers, f"GlobalAveragePooling{rank - 2}D")
    g = dense(pool(data_format=data_format)(inputs))
    if kept or not is_last:
        ones = (1,) * len(spatial)
        g = layers.Reshape((*ones, C) if is_last else (C, *ones))(g)
    model = randomized(keras.Model(inputs, layers.Multiply()([g, inputs])))
    (site,) = find_sites(model)
    assert facts(site) == expected("mean")
    x = RNG.normal(size=(3, *inputs.shape[1:])).astype("float32")
    wanted = np.asarray(model(x))
    assert read_gates(model, x)["se_1"].shape == (3, C)
    np.testing.assert_allclose(adopt(model)(x), wanted, atol=1e-6 * np.abs(wanted).max())


def test_channels_first_by_a_permutation():
    inputs = keras.Input((C, 6, 6))
    g = layers.GlobalAveragePooling2D(data_format="channels_first")(inputs)
    g = layers.Permute((3, 1, 2))(dense(layers.Reshape((1, 1, C))(g)))
    model = randomized(keras.Model(inputs, layers.Multiply()([inputs, g])))
    (site,) = find_sites(model)
    assert facts(site) == expected("mean")
    x = np.moveaxis(X, -1, 1)
    np.testing.assert_allclose(adopt(model)(x), model(x), atol=1e-5)


def test_one_factor_of_three():
    inputs = keras.Input((6, 6, C))
    spatial = layers.Conv2D(1, 3, padding="same", activation="sigmoid")(inputs)
    model = keras.Model(inputs, layers.Multiply()([spatial, dense(pooled(inputs)), inputs]))
    (site,) = find_sites(model)
    assert facts(site) == expected("mean")
    with pytest.raises(InputError, match="its product has more than two factors"):
        adopt(model)


def group_response(x):
    norm = ops.sqrt(ops.sum(x * x, axis=(1, 2), keepdims=True))
    return norm / (ops.mean(norm, axis=-1, keepdims=True) + 1e-6)


def channel_convolution(x):
    g = ops.reshape(layers.GlobalAveragePooling2D()(x), (-1, C, 1))
    g = layers.Conv1D(1, 3, padding="same", use_bias=False)(g)
    return ops.sigmoid(ops.reshape(g, (-1, 1, 1, C)))


def split_attention(x):
    other = layers.Conv2D(C, 3, padding="same")(x)
    g = layers.Dense(2 * C)(layers.Dense(WIDTH, "relu")(pooled(x + other)))
    shares = ops.softmax(ops.reshape(g, (-1, 2, C)), axis=1)
    return x * shares[:, 0][:, None, None] + other * shares[:, 1][:, None, None]


NO_SITES = {
    "hard-swish": lambda x: x * ops.relu6(x + 3.0) / 6.0,
    "local gate": lambda x: x * layers.Conv2D(C, 1, activation="sigmoid")(x),
    "layer normalization": lambda x: layers.LayerNormalization()(x),
    "group normalization": lambda x: layers.GroupNormalization(2)(x),
    "raw normalization": lambda x: x * ops.rsqrt(ops.var(x, (1, 2), keepdims=True) + 1e-3),
    "response normalization": lambda x: x * group_response(x),
    "channel convolution": lambda x: x * channel_convolution(x),
    "split attention": split_attention,
    "attention": lambda x: layers.MultiHeadAttention(2, 4)(x, x),
    "flattened": lambda x: x * layers.Reshape((1, 1, C))(dense(layers.Flatten()(x))),
    "swish": lambda x: x * dense(pooled(x), gate="silu"),
    "a constant": lambda x: x * np.ones((1, 1, 1, C), "float32"),
    **{f"of position {n}": lambda x, n=n: x * dense(x[:, n : n + 1, n : n + 1]) for n in range(6)},
    "taken": lambda x: x * dense(ops.take(ops.take(x, [3], axis=1), [3], axis=2)),
    "of other values": lambda x: x * (2.0 * ops.ones_like(x) * dense(pooled(x))),
    "mixture of experts": lambda x: mixture(x, -1),
    "mixture on another axis": lambda x: mixture(x, 1),
}


def mixture(x, axis):
    shares = layers.Dense(3, "softmax")(layers.GlobalAveragePooling2D()(x))
    experts = ops.stack([layers.Conv2D(C, 3)(x) for _ in range(3)], axis)
    shape = (-1, 1, 1, 1, 3) if axis == -1 else (-1, 3, 1, 1, 1)
    return ops.sum(experts * ops.reshape(shares, shape), axis)


@pytest.mark.parametrize("name", NO_SITES)
def test_what_is_no_site(name):
    inputs = keras.Input((6, 6, C))
    model = keras.Model(inputs, NO_SITES[name](layers.Conv2D(C, 1)(inputs)))
    assert find_sites(model) == []
    assert find_sites(to_tflite(model, "float32")) == []


def vector(x):
    return dense(layers.GlobalAveragePooling2D()(x))


def part(x):
    return x[..., :4]


def flat(x):
    return ops.reshape(x, (-1, 36, C))


def summed(y):
    return [ops.sum(y, -1), y]


def mean_and_maximum(x, join, axis):
    both = join([ops.mean(x, (1, 2)), ops.max(x, (1, 2))])
    return expand(dense(ops.mean(both, axis)))


SELF, CROSS = [("se_1", "self")], [("cross_1", "cross")]
POOL = layers.GlobalAveragePooling2D(keepdims=True)  # called on several maps
# What a map becomes, and the sites that its model and its file have alike.
ALIKE = {
    "repeated twice": (
        lambda x: x * ops.repeat(ops.repeat(dense(pooled(x)), 6, axis=1), 6, axis=2),
        SELF,
    ),
    "repeated on one axis": (
        lambda x: x * layers.Reshape((6, 6, C))(layers.RepeatVector(36)(vector(x))),
        SELF,
    ),
    "repeated values": (  # where a position has values of several channels
        lambda x: x * ops.reshape(ops.repeat(vector(x), 36, axis=1), (-1, 6, 6, C)),
        [],
    ),
    "tiled": (lambda x: x * ops.tile(dense(pooled(x)), (1, 6, 6, 1)), SELF),
    "resized": (lambda x: x * ops.image.resize(dense(pooled(x)), (6, 6)), SELF),
    "times ones": (lambda x: x * (ops.ones_like(x) * dense(pooled(x))), SELF),
    "plus zeros": (lambda x: x * (ops.zeros_like(x) + dense(pooled(x))), SELF),
    "times a constant": (lambda x: x * (ops.ones((6, 6, 1)) * dense(pooled(x))), SELF),
    "slices": (lambda x: part(x) * layers.Dense(4, "sigmoid")(POOL(part(x))), SELF),
    "activations": (lambda x: ops.relu(x) * dense(POOL(ops.relu(x))), SELF),
    "layers": (lambda x: layers.ReLU()(x) * dense(pooled(layers.ReLU()(x))), SELF),
    "reshapes": (lambda x: flat(x) * dense(ops.mean(flat(x), 1, keepdims=True)), SELF),
    "summed and used": (lambda x: summed(x * dense(pooled(x))), SELF),
    "logsumexp": (lambda x: x * dense(ops.logsumexp(x, (1, 2), keepdims=True)), SELF),
    "moments": (lambda x: x * dense(ops.moments(x, (1, 2), keepdims=True)[1]), SELF),
    "stacked": (lambda x: x * mean_and_maximum(x, lambda v: ops.stack(v, 1), 1), SELF),
    "concatenated": (
        lambda x: x * mean_and_maximum(x, lambda v: ops.concatenate([t[:, None] for t in v], 1), 1),
        SELF,
    ),
    "axis by axis": (lambda x: x * dense(pooled(layers.AveragePooling2D((6, 1))(x))), SELF),
    "mean of maxima": (
        lambda x: x * dense(ops.mean(ops.max(x, 1, keepdims=True), 2, keepdims=True)),
        CROSS,
    ),
    "windows": (lambda x: x * dense(pooled(layers.MaxPooling2D(2)(x))), CROSS),
}


@pytest.mark.parametrize("name", ALIKE)
def test_a_model_and_its_file_are_alike(name):
    function, expected = ALIKE[name]
    inputs = keras.Input((6, 6, C))
    model = randomized(keras.Model(inputs, function(layers.Conv2D(C, 1)(inputs))))
    found, tflite = find_sites(model), to_tflite(model, "float32")
    assert [(site.name, site.kind) for site in found] == expected
    assert list(map(facts, find_sites(tflite))) == list(map(facts, found))
    for name, gates in read_gates(model, X).items():
        np.testing.assert_allclose(read_gates(tflite, X)[name], gates, atol=1e-4)


def test_modulation_by_another_map_is_no_site():
    inputs, other = keras.Input((6, 6, C)), keras.Input((6, 6, C))
    conv = layers.Conv2D(C, 3, padding="same")  # of both
    film = keras.Model([inputs, other], conv(inputs) * dense(pooled(conv(other))))
    assert find_sites(film) == find_sites(to_tflite(film, "float32")) == []
    # A map of both is one of the same computation.
    both = keras.Model([inputs, other], (conv(inputs) + other) * dense(pooled(conv(other))))
    (site,), (in_file,) = find_sites(both), find_sites(to_tflite(both, "float32"))
    assert site.kind == "cross"
    assert facts(site) == facts(in_file)


def test_modulation_by_another_input_is_no_site():
    inputs, other = keras.Input((6, 6, C)), keras.Input((5,))
    film = layers.Reshape((1, 1, C))(dense(other))
    assert find_sites(keras.Model([inputs, other], inputs * film)) == []
    both = layers.Concatenate()([layers.GlobalAveragePooling2D()(inputs), other])
    conditioned = layers.Reshape((1, 1, C))(dense(both))
    assert find_sites(keras.Model([inputs, other], inputs * conditioned)) == []


def test_another_map_is_squeezed():
    inputs = keras.Input((6, 6, C))
    x = layers.Conv2D(C, 3, padding="same")(inputs)
    y = x * dense(pooled(inputs))
    y = y * dense(pooled(y))
    model = randomized(keras.Model(inputs, y))
    cross, own = find_sites(model)
    assert (cross.name, cross.kind, own.name, own.kind) == ("cross_1", "cross", "se_1", "self")
    found = find_sites(to_tflite(model, "float32"))
    assert sorted(map(facts, found)) == sorted(map(facts, (cross, own)))
    gates = read_gates(model, X)
    assert {name: g.shape for name, g in gates.items()} == {"cross_1": (4, C), "se_1": (4, C)}
    with pytest.warns(SiteWarning, match="'cross_1' as it is: it squeezes another map"):
        np.testing.assert_allclose(adopt(model)(X), model(X), rtol=1e-4, atol=1e-4)


def test_a_squeeze_under_a_mask_is_found_and_left_as_it_is():
    """No mask of an input reaches a block, so that it would compute other gates."""
    inputs, mask = keras.Input((6, 6, C)), keras.Input((6, 6, 1))
    mean = ops.sum(inputs * mask, (1, 2), keepdims=True) / ops.sum(mask, (1, 2), keepdims=True)
    model = randomized(keras.Model([inputs, mask], inputs * dense(mean)))
    (site,) = find_sites(model)
    assert facts(site) == expected("mean")
    with pytest.raises(InputError, match="se_1: its squeeze is none that SEBlock knows"):
        adopt(model)


NEAR_MISSES = {
    "it has 3 matrices, where SE has one or": lambda x: x * dense(layers.Dense(5)(pooled(x))),
    "its squeeze sorts the positions": lambda x: (
        x * dense(ops.median(x, axis=(1, 2), keepdims=True))
    ),
    "its product is an einsum": lambda x: ops.einsum("bhwc,bc->bhwc", x, vector(x)),
    "its product is an einsum; ": lambda x: ops.einsum("bc,bhwc->bhwc", vector(x), x),
    "groups of channels share their gates": lambda x: (
        x * ops.repeat(layers.Dense(4, "sigmoid")(pooled(x)), 2, axis=-1)
    ),
}


@pytest.mark.parametrize("reason", NEAR_MISSES)
def test_a_near_miss_is_named_with_its_reason(reason):
    inputs = keras.Input((6, 6, C))
    model = keras.Model(inputs, NEAR_MISSES[reason](inputs))
    with pytest.warns(SiteWarning, match=rf"\(\w+\) is not taken for SE: {reason}"):
        assert find_sites(model) == []


def test_other_einsums_are_no_products():
    inputs = keras.Input((6, 6, C))
    equations = "bhwc,bc->bhw", "bhwc,bd->bhwcd", "bhwc,bc->bchw"
    outputs = [ops.einsum(equation, inputs, vector(inputs)) for equation in equations]
    assert find_sites(keras.Model(inputs, outputs)) == []


class TensorFlowPooling(layers.Layer):
    """A squeeze that Keras cannot record, and that computes all the same."""

    def call(self, x):
        import tensorflow as tf

        return tf.reduce_mean(x, axis=[1, 2], keepdims=True)


class TensorFlowMatrix(layers.Dense):
    def call(self, x):
        import tensorflow as tf

        return tf.nn.relu(super().call(x))


class TensorFlowSE(layers.Layer):
    def __init__(self):
        super().__init__(name="hidden")
        self.parts = [TensorFlowPooling(), layers.Dense(WIDTH, "relu"), layers.Dense(C, "sigmoid")]

    def call(self, x):
        import tensorflow as tf

        pooling, first, second = self.parts
        return tf.multiply(x, second(first(pooling(x))))


def test_what_keras_cannot_record():
    inputs = keras.Input((6, 6, C))
    model = randomized(keras.Model(inputs, inputs * dense(TensorFlowPooling()(inputs))))
    (site,) = find_sites(model)
    assert facts(site) == expected("mean")
    np.testing.assert_allclose(adopt(model)(X), model(X), atol=1e-5)
    message = r"'hidden' \(TensorFlowSE\) may hold SE: Keras cannot record its call on symbolic"
    with pytest.warns(SiteWarning, match=message):
        assert find_sites(keras.Model(inputs, TensorFlowSE()(inputs))) == []
    g = layers.Dense(C, "sigmoid")(TensorFlowMatrix(WIDTH, name="matrix")(pooled(inputs)))
    with pytest.warns(SiteWarning, match="not taken for SE: keras_se cannot look into 'matrix'"):
        assert find_sites(keras.Model(inputs, inputs * g)) == []


def test_a_layer_that_keras_cannot_record_and_that_cannot_hold_se_is_not_named():
    inputs = keras.Input((6, 6, C))
    assert find_sites(keras.Model(inputs, TensorFlowMatrix(WIDTH)(inputs))) == []
