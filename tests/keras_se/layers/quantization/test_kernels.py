import keras
import numpy as np
import pytest
import scipy.stats

from keras_se.errors import InputError
from keras_se.layers import (
    FakeQuantize,
    QuantizeAware,
    QuantizeAwareActivation,
    QuantizeAwareAffine,
    QuantizeAwareMerge,
    QuantizeAwarePooling,
    QuantizeAwareSEBlock,
    SEBlock,
)
from keras_se.layers.quantization.activation import (
    ACTIVATIONS,
    activation_name,
    decollapse_bias,
)
from keras_se.layers.quantization.kernels import quantized_kernel

layers = keras.layers
BIAS = {"bias_initializer": keras.initializers.RandomNormal(stddev=0.5)}
MAPS = (2, 5, 5, 4)
SEQUENCES = (2, 9, 4)
KERNELS = {
    "dense": layers.Dense(3, **BIAS),
    "dense without bias": layers.Dense(3, use_bias=False),
    "dense with relu": layers.Dense(3, activation="relu", **BIAS),
    "conv": layers.Conv2D(3, 3, strides=2, padding="same", **BIAS),
    "dilated": layers.Conv2D(3, 2, dilation_rate=2, **BIAS),
    "grouped": layers.Conv2D(4, 3, groups=2, **BIAS),
    "depthwise": layers.DepthwiseConv2D(3, depth_multiplier=2, **BIAS),
    "transposed": layers.Conv2DTranspose(3, 3, strides=2, **BIAS),
    "einsum": layers.EinsumDense("abcd,def->abcef", (5, 5, 3, 2), bias_axes="ef", **BIAS),
    "in time": layers.Conv1D(3, 3, padding="same", activation="relu", **BIAS),
    "causal": layers.Conv1D(3, 3, strides=2, padding="causal", **BIAS),
    "causal and dilated": layers.Conv1D(3, 3, dilation_rate=2, padding="causal", **BIAS),
    "depthwise in time": layers.DepthwiseConv1D(3, **BIAS),
    "transposed in time": layers.Conv1DTranspose(3, 3, strides=2, **BIAS),
}


def rounded_kernel(kernel, axis):
    scale = np.abs(kernel).max(axis=axis, keepdims=True) / 127
    return np.round(kernel / np.where(scale == 0, 1, scale)) * scale


def values(x):
    return keras.ops.convert_to_numpy(x)


def test_kernels_have_a_scale_for_each_channel():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype("float32")
    kernel *= np.float32(10.0) ** np.arange(5)
    kernel[..., 2] = 0.0
    found = values(quantized_kernel(kernel, (0, 1, 2)))
    np.testing.assert_allclose(found, rounded_kernel(kernel, (0, 1, 2)), rtol=1e-5)
    assert max(len(np.unique(found[..., n])) for n in range(5)) <= 255


def test_a_factor_for_each_channel_does_not_change_the_integers():
    """So BatchNormalization may be folded into the kernel before or after it is rounded."""
    rng = np.random.default_rng(0)
    kernel, factor = rng.normal(size=(3, 3, 4, 5)), rng.uniform(0.1, 9.0, 5) * [1, -1, 1, -1, 1]
    kernel, factor = kernel.astype("float32"), factor.astype("float32")
    folded = values(quantized_kernel(kernel * factor, (0, 1, 2)))
    np.testing.assert_allclose(folded, values(quantized_kernel(kernel, (0, 1, 2))) * factor, 1e-4)


@pytest.mark.parametrize("name", KERNELS)
def test_outputs_are_those_of_a_layer_with_rounded_weights(name):
    layer = KERNELS[name]
    shape = SEQUENCES if "1D" in type(layer).__name__ else MAPS
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    wrapped = QuantizeAware(type(layer).from_config(layer.get_config()))
    found = values(wrapped(x))
    plain = wrapped.plain()
    plain.build(shape)
    kernel, *bias = wrapped.layer.get_weights()
    # The axes that are not those of the output channels.
    axes = tuple(range(kernel.ndim - 1))
    if "depthwise" in name:
        axes = axes[:-1]
    elif "transposed" in name:
        axes = (*axes[:-1], kernel.ndim - 1)
    elif name == "einsum":
        axes = (0,)
    plain.set_weights([rounded_kernel(kernel, axes), *bias])
    np.testing.assert_allclose(found, values(plain(x)), atol=2e-5)
    assert wrapped.compute_output_shape(shape) == found.shape


def test_between_the_kernels_of_a_separable_convolution_there_is_a_range():
    wrapped = QuantizeAware(layers.SeparableConv2D(3, 3, **BIAS))
    x = np.random.default_rng(0).normal(size=MAPS).astype("float32")
    wrapped.build(MAPS)
    wrapped.between.high.assign(0.5)
    depthwise, pointwise, bias = wrapped.layer.get_weights()
    middle = layers.DepthwiseConv2D(3, use_bias=False)
    middle.build(MAPS)
    middle.set_weights([rounded_kernel(depthwise, (0, 1))])
    low, high = float(wrapped.between.low), float(wrapped.between.high)
    inside = values(FakeQuantize((low, high))(middle(x)))
    expected = inside @ rounded_kernel(pointwise, (0, 1, 2))[0, 0] + bias
    np.testing.assert_allclose(values(wrapped(x)), expected, atol=1e-5)


def test_kernels_are_trained_in_float():
    wrapped = QuantizeAware(layers.Dense(2, use_bias=False))
    model = keras.Sequential([keras.Input((3,)), wrapped])
    before = values(wrapped.layer.kernel)
    model.compile(keras.optimizers.SGD(1e-3), lambda y, p: keras.ops.sum(p, axis=-1))
    model.train_on_batch(np.ones((1, 3), "float32"), np.zeros((1, 2)))
    np.testing.assert_allclose(values(wrapped.layer.kernel), before - 1e-3, atol=1e-7)


FLOAT = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "one_plus_tanh": lambda x: 1 + np.tanh(x),
    "hard_sigmoid": lambda x: np.clip(x + 3, 0, 6) / 6,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "softmax": lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "softmax_gate": lambda x: x.shape[-1] * np.exp(x) / np.exp(x).sum(-1, keepdims=True),
    "gelu": lambda x: x * scipy.stats.norm.cdf(x),
    "leaky_relu": lambda x: np.where(x < 0, 0.2 * x, x),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_within_some_steps_of_the_float_ones(name):
    x = np.random.default_rng(0).uniform(-5.5, 5.5, (40, 6)).astype("float32")
    layer = QuantizeAwareActivation(name)
    found, exact = values(layer(x)), FLOAT[name](x)
    after = ACTIVATIONS[name].after or (-6.0, 6.0)
    step = (after[1] - after[0]) / 255
    assert np.abs(found - np.clip(exact, *after)).max() < 0.06 + step
    assert np.abs(found / step - np.round(found / step)).max() < 1e-3
    assert layer.compute_output_shape(x.shape) == x.shape
    again = QuantizeAwareActivation.from_config(layer.get_config())
    np.testing.assert_array_equal(values(again(x)), found)


def test_probabilities_at_the_end_are_not_rounded_and_their_logits_are():
    x = np.random.default_rng(0).normal(size=(4, 10)).astype("float32")
    last = QuantizeAwareActivation("softmax", is_last=True)
    rounded = values(FakeQuantize((-6.0, 6.0))(x))
    np.testing.assert_allclose(values(last(x)), FLOAT["softmax"](rounded), atol=1e-6)
    taken = QuantizeAwareActivation("softmax", takes_sums=False, is_last=True)
    np.testing.assert_allclose(values(taken(x)), FLOAT["softmax"](x), atol=1e-6)


def test_the_values_of_a_bias_differ():
    found = values(decollapse_bias(keras.ops.full((64,), 1000.0), 64))
    assert len(np.unique(found)) > 60
    np.testing.assert_allclose(found, 1000.0, rtol=1e-4)


AFFINE = {
    "rescaling": layers.Rescaling(1 / 127.5, offset=-1.0),
    "by channel": layers.Rescaling([1.0, 2.0, 3.0, 4.0]),
    "normalization": layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[1.0, 4.0, 0.0, 9.0]),
    "batch": layers.BatchNormalization(),
    "plain batch": layers.BatchNormalization(center=False, scale=False),
}


@pytest.mark.parametrize("name", AFFINE)
def test_scale_and_offset_are_those_of_the_layer(name):
    layer = AFFINE[name]
    wrapped = QuantizeAwareAffine(layer)
    wrapped.build(MAPS)
    rng = np.random.default_rng(0)
    layer.set_weights([rng.uniform(0.5, 2.0, w.shape) for w in layer.get_weights()])
    x = rng.normal(size=MAPS).astype("float32")
    np.testing.assert_allclose(values(wrapped(x)), values(layer(x)), rtol=1e-4, atol=2e-5)
    in_training = values(wrapped(x, training=True))
    np.testing.assert_allclose(in_training, values(layer(x, training=True)), rtol=1e-4, atol=2e-5)


RANGES = {
    "sigmoid": (0.0, 255 / 256),
    "hard_sigmoid": (0.0, 1.0),
    "one_plus_tanh": (0.0, 1 + 127 / 128),
    "tanh": (-1.0, 127 / 128),
    "relu": (-6.0, 6.0),
}


@pytest.mark.parametrize("gate", RANGES)
@pytest.mark.parametrize("squeeze", ["avg", "max", "avg_max"])
@pytest.mark.parametrize("rows", [6, 4])  # that a mask keeps, of six
def test_a_block_computes_what_numpy_does(gate, squeeze, rows, rounded):
    wide = keras.initializers.RandomNormal(stddev=0.5, seed=0)
    block = QuantizeAwareSEBlock(
        2, gate=gate, squeeze=squeeze, kernel_initializer=wide, bias_initializer=wide
    )
    x = np.random.default_rng(0).uniform(0, 1.5, (9, 6, 6, 8)).astype("float32")
    mask = None if rows == 6 else np.tile(np.arange(6) < rows, (9, 1))
    outputs, gates = map(values, block(x, mask=mask, return_gates=True))

    w1, b1, w2, b2 = block.excitation()
    mean, largest = x.mean(axis=(1, 2)), x[:, :rows].max(axis=(1, 2))
    if mask is not None:
        mean = rounded(x[:, :rows].sum(axis=(1, 2)) / 36, -6, 6) / rounded(rows / 6, 0, 1)
    mean = rounded(mean, -6, 6)
    half = rounded(0.5 * rounded(mean + largest, -6, 6), -6, 6)
    pooled = {"avg": mean, "max": largest, "avg_max": half}[squeeze]
    hidden = rounded(np.maximum(pooled @ rounded_kernel(w1, 0) + b1, 0), -6, 6)
    logits = hidden @ rounded_kernel(w2, 0) + b2
    if gate not in ("relu", "hard_sigmoid"):
        logits = rounded(logits, -6, 6)
    low, high = RANGES[gate]
    expected = rounded(FLOAT[gate](logits), low, high)
    assert np.abs(gates - expected).max() < 1.01 * (high - low) / 255  # a tie may fall either way
    assert (np.abs(gates - expected) < 1e-5).mean() > 0.95
    np.testing.assert_allclose(outputs, rounded(x * gates[:, None, None], -6, 6), atol=0.05)
    np.testing.assert_array_equal(gates, block.gates(x, mask))


@pytest.mark.parametrize("keepdims", [False, True])
def test_pooling_under_a_mask_computes_what_numpy_does(keepdims, rounded, tmp_path):
    x = np.random.default_rng(0).uniform(0, 1.5, (3, 8, 4)).astype("float32")
    lengths = np.array([[8], [5], [0]])
    mask = np.arange(8) < lengths
    inputs, given = keras.Input((8, 4)), keras.Input((8,), dtype="bool")
    pool = QuantizeAwarePooling(layers.GlobalAveragePooling1D(keepdims=keepdims))
    keras.Model([inputs, given], pool(inputs, mask=given)).save(tmp_path / "pool.keras")
    again = keras.saving.load_model(tmp_path / "pool.keras")
    share = rounded(lengths / 8, 0, 1)
    mean = rounded((x * mask[..., None]).sum(axis=1) / 8, -6, 6) / np.where(share, share, 1)
    np.testing.assert_allclose(
        again([x, mask]), mean[:, None] if keepdims else mean, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(pool(x), pool.layer(x))


def test_all_loads_without_custom_objects(tmp_path):
    block = QuantizeAwareSEBlock(
        2, activation="silu", gate="softmax", squeeze="avg_max", shift=True, preserves_zeros=True
    )
    x = inputs = keras.Input((6, 6, 4))
    x = QuantizeAware(layers.SeparableConv2D(8, 3, activation="elu"), preserves_zeros=True)(x)
    x = block(QuantizeAwareAffine(layers.BatchNormalization())(x))
    model = keras.Model(inputs, QuantizeAwareMerge(layers.Average())([x, x, x]))
    block.ranges["product"].high.assign(2.0)
    model.layers[-1].between[0].low.assign(-1.0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = np.random.default_rng(0).normal(size=(3, 6, 6, 4)).astype("float32")
    np.testing.assert_array_equal(values(again(x)), values(model(x)))
    plain, config = block.plain(), SEBlock.get_config(block)
    assert type(plain) is SEBlock
    assert {**plain.get_config(), "name": block.name} == config


def on(layer, shape):
    layer.build(shape)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: QuantizeAware(layers.ReLU(name="r")), r"one of \['Dense', .*Received: ReLU 'r'"),
        (
            lambda: QuantizeAwareAffine(layers.Dense(2, name="d")),
            r"one of \['BatchNormalization', .*Received: Dense 'd'",
        ),
        (
            lambda: on(QuantizeAwareAffine(layers.BatchNormalization(1, name="b")), (2, 4, 4, 4)),
            r"of the last axis only.*Received: layer 'b' on \(2, 4, 4, 4\)",
        ),
        (
            lambda: on(
                QuantizeAwareAffine(layers.Rescaling(np.ones((4, 1, 1)), name="s")), (2, 4, 4, 4)
            ),
            r"of the last axis only.*Received: layer 's' on \(2, 4, 4, 4\)",
        ),
        (
            lambda: QuantizeAware(layers.EinsumDense("ab,cb->ac", 4, name="e")),
            r"one of .*Received: EinsumDense 'e'",
        ),
        (
            lambda: QuantizeAwareMerge(layers.Concatenate(name="c")),
            r"one of \['Add', .*Received: Concatenate 'c'",
        ),
    ],
)
def test_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()


MERGES = {
    "add": (layers.Add(), lambda a, b, c, q: q(a + b) + c),
    "multiply": (layers.Multiply(), lambda a, b, c, q: q(a * b) * c),
    "maximum": (layers.Maximum(), lambda a, b, c, q: np.maximum(q(np.maximum(a, b)), c)),
    "average": (layers.Average(), lambda a, b, c, q: q(q(a + b) + c) / 3),
}


@pytest.mark.parametrize("name", MERGES)
def test_several_tensors_are_merged_two_by_two(name, rounded):
    layer, expected = MERGES[name]
    parts = list(np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32"))
    merged = QuantizeAwareMerge(layer)
    found = values(merged(parts))
    np.testing.assert_allclose(found, expected(*parts, lambda x: rounded(x, -6, 6)), atol=1e-5)
    again = QuantizeAwareMerge.from_config(merged.get_config())
    np.testing.assert_array_equal(values(again(parts)), found)
    assert type(merged.plain()) is type(layer)


def test_an_activation_is_known_by_its_values():
    for function, name in (
        (lambda x: x * keras.ops.sigmoid(x), "silu"),
        (lambda x: keras.ops.clip(x / 6.0 + 0.5, 0.0, 1.0), "hard_sigmoid"),
        (lambda x: keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0), None),  # that of Keras 2
        (lambda x: keras.ops.relu(x) + 1e-3, None),
        (lambda x: x[:1], None),
        (lambda x: keras.ops.sort(x), None),  # in order it would be linear
        (keras.activations.elu, None),
        ("relu6", "relu6"),
        ("elu", None),
    ):
        assert activation_name(function) == name
