"""SE that squeezes only the positions under a mask, in a model and in its file."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_se import SEBlock, find_sites, read_gates, to_tflite
from keras_se.layers.squeezes import SQUEEZES
from keras_se.litert.graph.sites import file_sites
from keras_se.litert.runtime import predict

STEPS, C, WIDTH = 12, 8, 4
SELF = [("se_1", C, WIDTH, "sigmoid", "self")]
CROSS = [("cross_1", C, WIDTH, "sigmoid", "cross")]


def figures(sites):
    return [(site.name, site.channels, site.width, site.gate, site.kind) for site in sites]


def randomized(model):
    """A model whose gates differ between samples."""
    rng = np.random.default_rng(0)
    for variable in model.trainable_variables:
        scale = 1.2 / np.sqrt(variable.shape[0]) if len(variable.shape) > 1 else 0.1
        variable.assign(rng.normal(scale=scale, size=variable.shape))
    return model


def kept(samples, steps=STEPS, seed=0):
    """Masks of sequences of different lengths, one step at least."""
    lengths = np.random.default_rng(seed).integers(1, steps + 1, size=samples)
    return np.arange(steps) < lengths[:, None]


def padded(samples, seed=0):
    values = np.random.default_rng(seed).normal(size=(samples, STEPS, 6))
    return (values * kept(samples, seed=seed)[..., None]).astype("float32")


def dense(g):
    return layers.Dense(C, "sigmoid")(layers.Dense(WIDTH, "relu")(g))


def total(x):
    return ops.sum(x, 1, keepdims=True)


def mean(x, m):
    return total(x * m) / total(m)


def not_zero(x):
    return ops.cast(ops.any(ops.not_equal(x, 0.0), axis=-1, keepdims=True), "float32")


def pooled(x, m):
    return layers.GlobalAveragePooling1D(keepdims=True)(x, mask=m)


def deviation(x, m):
    return ops.sqrt(ops.maximum(mean(ops.square(x - mean(x, m)), m), 1e-6))


def summed(x, m):
    return ops.einsum("bt,btc->bc", m, x)[:, None] / total(m)[..., None]


def multiplied(x, m):
    return ops.matmul(m[:, None], x) / total(m)[..., None]


def before(lengths):
    return ops.cast(ops.greater(lengths, np.arange(STEPS)[None]), "float32")[..., None]


def softmax(x):
    return ops.softmax(layers.Dense(1)(x), axis=1)


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("file_format", ["float32", "float16", "dynamic", "int8"])
def test_blocks_under_the_mask_of_keras(squeeze, file_format):
    inputs = keras.Input((STEPS, 6))
    x = layers.Dense(C, "relu")(layers.Masking()(inputs))
    model = randomized(keras.Model(inputs, SEBlock(2, squeeze=squeeze)(x)))
    calibration = padded(128, seed=1) if file_format == "int8" else None
    tflite = to_tflite(model, file_format, calibration, check_range=False)
    assert figures(find_sites(tflite)) == figures(find_sites(model)) == SELF
    x = padded(32, seed=2)
    wanted, found = (read_gates(read, x)["se_1"] for read in (model, tflite))
    assert wanted.std(axis=0).mean() > 0.03
    if file_format == "float32":
        np.testing.assert_allclose(found, wanted, atol=1e-5)
    # int8 gates have steps of 1/256.
    assert np.sqrt(((found - wanted) ** 2).mean()) < 4 / 256


@pytest.mark.parametrize("squeeze", ["max", "avg_max"])
def test_what_the_maximum_leaves_out_takes_no_range_of_an_int8_map(squeeze):
    """With -inf there, the outputs were off by .066 of their spread, without a mask by .024."""
    inputs = keras.Input((STEPS, 6))
    x = SEBlock(2, squeeze=squeeze)(layers.Dense(C)(layers.Masking()(inputs)))
    model = randomized(keras.Model(inputs, x))
    tflite = to_tflite(model, "int8", padded(128, seed=1), check_range=False)
    x = padded(32, seed=2)
    outputs = model.predict(x, verbose=0)
    difference = predict(tflite, x) - outputs
    assert np.sqrt((difference**2).mean()) < 0.04 * outputs.std()


def test_embedded_tokens():
    inputs = keras.Input((STEPS,), dtype="int32")
    embedded = layers.Embedding(20, C, mask_zero=True)(inputs)
    model = randomized(keras.Model(inputs, SEBlock(2)(embedded)))
    tflite = to_tflite(model, "float32")
    assert figures(find_sites(tflite)) == SELF
    ids = (np.random.default_rng(0).integers(1, 20, size=(8, STEPS)) * kept(8)).astype("int32")
    wanted, found = (read_gates(read, ids)["se_1"] for read in (model, tflite))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize(
    ("shape", "masked", "data_format"),
    [
        ((6, C), (6,), "channels_last"),
        ((6, 5, C), (6,), "channels_last"),
        ((6, 5, C), (6, 5), "channels_last"),
        ((C, 6, 5), (6, 5), "channels_first"),
        ((6, 5, 3, C), (6, 5), "channels_last"),
    ],
)
def test_explicit_masks(shape, masked, data_format, squeeze):
    inputs, mask = keras.Input(shape), keras.Input(masked, dtype="bool")
    block = SEBlock(2, squeeze=squeeze, data_format=data_format)
    model = randomized(keras.Model([inputs, mask], block(ops.relu(inputs), mask=mask)))
    tflite = to_tflite(model, "float32")
    assert figures(find_sites(tflite)) == SELF
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, *shape)).astype("float32")
    m = rng.integers(2, size=(8, *masked)).astype(bool)
    m[0] = False  # where the squeeze is 0
    wanted = read_gates(model, [x, m])["se_1"]
    np.testing.assert_allclose(
        read_gates(tflite, {"input_0": x, "input_1": m})["se_1"], wanted, atol=1e-5
    )


@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("batch", [4, None])
def test_any_batch(batch, squeeze):
    """As the plain converter writes it."""
    inputs = keras.Input((STEPS, 6))
    x = layers.Dense(C)(layers.Masking()(inputs))
    model = keras.Model(inputs, SEBlock(2, squeeze=squeeze)(x))
    signature = [tf.TensorSpec((batch, STEPS, 6), tf.float32)]
    concrete = tf.function(lambda x: model(x), input_signature=signature).get_concrete_function()
    tflite = tf.lite.TFLiteConverter.from_concrete_functions([concrete], model).convert()
    assert figures(file_sites(tflite)) == SELF


# The squeeze of a map under a mask, and the shape and type of the mask if it is an input.
FLOATS, BOOLEANS, LENGTHS = ((STEPS,), "float32"), ((STEPS,), "bool"), ((1,), "int32")
SPELLINGS = {
    "zeros of the input": (mean, None),
    "pooling of Keras": (pooled, BOOLEANS),
    "floats": (lambda x, m: mean(x, m[..., None]), FLOATS),
    "floats with an axis": (mean, ((STEPS, 1), "float32")),
    "booleans": (lambda x, m: mean(x, ops.cast(m, "float32")[..., None]), BOOLEANS),
    "lengths": (lambda x, n: mean(x, before(n)), LENGTHS),
    "by the lengths": (
        lambda x, n: total(x * before(n)) / ops.cast(n, "float32")[:, None],
        LENGTHS,
    ),
    "one at least": (
        lambda x, m: total(x * m[..., None]) / ops.maximum(total(m), 1.0)[..., None],
        FLOATS,
    ),
    "inverse of the number": (lambda x, m: total(x * m) * (1.0 / (total(m) + 1e-6)), None),
    "without the number": (lambda x, m: ops.mean(x * m, 1, keepdims=True), None),
    "maximum": (
        lambda x, m: ops.max(ops.where(m[..., None], x, -1e9), 1, keepdims=True),
        BOOLEANS,
    ),
    "zeros elsewhere": (
        lambda x, m: mean(ops.where(m[..., None] > 0.0, x, ops.zeros_like(x)), m[..., None]),
        FLOATS,
    ),
    "lowered maximum": (lambda x, m: ops.max(x - 1e9 * (1.0 - m), 1, keepdims=True), None),
    "minimum": (lambda x, m: ops.min(ops.where(m > 0.0, x, 1e9), 1, keepdims=True), None),
    "deviation": (deviation, None),
    "einsum": (summed, FLOATS),
    "matrix product": (multiplied, FLOATS),
}


def spelled(squeeze, mask, product):
    """A model, and its arguments with and without the names of the file."""
    inputs = keras.Input((STEPS, 6))
    given = [inputs] if mask is None else [inputs, keras.Input(mask[0], dtype=mask[1])]
    x = layers.Dense(C)(inputs)
    m = not_zero(inputs) if mask is None else given[1]
    model = randomized(keras.Model(given, product(x, dense(squeeze(x, m)))))
    arrays = [padded(8)]
    if mask == LENGTHS:
        arrays.append(kept(8).sum(axis=1, keepdims=True).astype("int32"))
    elif mask is not None:
        arrays.append(kept(8).astype(mask[1]).reshape(8, *mask[0]))
    named = {f"input_{n}": array for n, array in enumerate(arrays)}
    return model, arrays, named if mask else arrays[0]


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings(name):
    model, arrays, named = spelled(*SPELLINGS[name], ops.multiply)
    tflite = to_tflite(model, "float32")
    assert figures(find_sites(tflite)) == figures(find_sites(model)) == SELF
    wanted = read_gates(model, arrays)["se_1"]
    np.testing.assert_allclose(read_gates(tflite, named)["se_1"], wanted, atol=1e-5)


@pytest.mark.parametrize("name", ["booleans", "maximum", "zeros of the input"])
def test_another_map_under_a_mask(name):
    model, arrays, named = spelled(*SPELLINGS[name], lambda x, g: layers.Dense(C)(x) * g)
    tflite = to_tflite(model, "float32")
    assert figures(find_sites(tflite)) == figures(find_sites(model)) == CROSS
    wanted = read_gates(model, arrays)["cross_1"]
    np.testing.assert_allclose(read_gates(tflite, named)["cross_1"], wanted, atol=1e-5)


def test_the_gates_are_those_of_numpy():
    """The mean over the steps under the mask, whatever is in the others."""
    model, arrays, named = spelled(*SPELLINGS["floats"], ops.multiply)
    arrays[0] = named["input_0"] = np.where(arrays[0] == 0.0, 9.0, arrays[0]).astype("float32")
    (kernel, bias), first, second = (
        layer.get_weights() for layer in model.layers if isinstance(layer, layers.Dense)
    )
    x = arrays[0] @ kernel + bias
    g = np.stack([row[keep].mean(axis=0) for row, keep in zip(x, arrays[1] > 0, strict=True)])
    h = np.maximum(g @ first[0] + first[1], 0.0) @ second[0] + second[1]
    found = read_gates(to_tflite(model, "float32"), named)["se_1"]
    np.testing.assert_allclose(found, 1.0 / (1.0 + np.exp(-h)), atol=1e-5)


# Products with the gates, and what both finders say of them.
VECTOR, SINGLE = ((C,), "float32"), ((1,), "float32")
OTHERS = {
    "FiLM": (lambda x, m: x * dense(m)[:, None], VECTOR, []),
    "FiLM of the squeeze": (lambda x, m: x * dense(total(x) * m[:, None]), VECTOR, []),
    "scaled gates": (lambda x, m: x * (dense(total(x)) * m[..., None]), SINGLE, []),
    "scaled bottleneck": (
        lambda x, m: (
            x * layers.Dense(C, "sigmoid")(layers.Dense(WIDTH, "relu")(total(x)) * m[..., None])
        ),
        SINGLE,
        [],
    ),
    "mask of the squeeze": (lambda x, m: x * dense(total(x) * m[..., None]), FLOATS, []),
    "response normalization": (
        lambda x, m: x * (total(x * x * m) / ops.mean(total(x * x * m), -1, keepdims=True)),
        None,
        [],
    ),
    "layer normalization": (lambda x, m: layers.LayerNormalization()(x * m), None, []),
    "attention": (lambda x, m: layers.MultiHeadAttention(2, 4)(x, x), None, []),
    "attention by a product": (
        lambda x, m: x * dense(ops.matmul(ops.transpose(softmax(x), (0, 2, 1)), x)),
        None,
        [],
    ),
    # The sum is one of another map, the weighted one.
    "attention by a sum": (lambda x, m: x * dense(total(x * softmax(x))), None, CROSS),
    "masked attention": (
        lambda x, m: x * dense(total(x * ops.softmax(layers.Dense(1)(x) - 1e9 * (1.0 - m), 1))),
        None,
        CROSS,
    ),
    "attention of an input": (
        lambda x, m: x * dense(total(x * ops.softmax(m, axis=1)[..., None])),
        FLOATS,
        CROSS,
    ),
    "mean of channels": (
        lambda x, m: x * dense(total(x * ops.mean(x, -1, keepdims=True))),
        None,
        CROSS,
    ),
    "mean of another map": (
        lambda x, m: x * dense(total(x * ops.mean(m, -1, keepdims=True))),
        ((STEPS, 6), "float32"),
        CROSS,
    ),
    "weights of channels": (lambda x, m: x * dense(total(x * m[:, None])), VECTOR, CROSS),
    "booleans of channels": (
        lambda x, m: x * dense(total(ops.where(m, x, 0.0))),
        ((STEPS, C), "bool"),
        CROSS,
    ),
    "positive values": (lambda x, m: x * dense(total(ops.where(x > 0.0, x, 0.0))), None, CROSS),
    "clipped values": (lambda x, m: x * dense(total(ops.maximum(x, 0.5))), None, CROSS),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_masked_squeeze(name):
    product, mask, wanted = OTHERS[name]
    inputs = keras.Input((STEPS, 6))
    given = [inputs] if mask is None else [inputs, keras.Input(mask[0], dtype=mask[1])]
    m = not_zero(inputs) if mask is None else given[1]
    model = keras.Model(given, product(layers.Dense(C)(inputs), m))
    assert figures(find_sites(model)) == wanted
    assert figures(find_sites(to_tflite(model, "float32"))) == wanted


@pytest.mark.filterwarnings("ignore:Layer .* does not support masking")
def test_a_convolution_drops_the_mask():
    inputs = keras.Input((STEPS, 6))
    conv, block = layers.Conv1D(C, 3, padding="same"), SEBlock(2)
    x = conv(layers.Masking()(inputs))
    model = randomized(keras.Model(inputs, block(x)))
    maps = keras.Model(inputs, x).predict(padded(8), verbose=0)
    found = read_gates(model, padded(8))["se_1"]
    np.testing.assert_allclose(found, block.gates(maps), atol=1e-6)
    assert np.abs(found - block.gates(maps, kept(8))).max() > 0.01
