"""quantize_aware in Keras: what the model computes, and the file that it becomes."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, read_gates, to_tflite, verify
from keras_se.compress import quantize_aware, strip
from keras_se.compress.quantization import ENGINES
from keras_se.errors import InputError
from keras_se.layers import FakeQuantize, QuantizeAware, QuantizeAwareSEBlock
from keras_se.litert.convert import ConversionWarning
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.graph.sites import float_operators, operator_names
from keras_se.litert.runtime import load, predict

layers = keras.layers
WIDE = {
    "kernel_initializer": keras.initializers.RandomNormal(stddev=1.0, seed=3),
    "bias_initializer": keras.initializers.RandomNormal(stddev=0.3, seed=4),
}


@pytest.fixture
def wide_networks():
    """A layer of each kind that has ranges of its own."""
    return built(
        layers.Rescaling(2.0),
        layers.SeparableConv2D(8, 3, activation="relu"),
        layers.Conv2D(8, 3, activation="silu"),
        SEBlock(2, gate="hard_sigmoid", squeeze="avg_max", shift=True, bias_initializer="ones"),
        layers.Activation("hard_silu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    )


def built(*parts, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *parts])


def test_values_and_ranges_are_those_of_numpy(images, rounded, trained_statistics):
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 1, use_bias=False)
    norm = layers.BatchNormalization()
    model = trained_statistics(keras.Model(inputs, layers.ReLU()(norm(conv(inputs)))))
    found = keras.ops.convert_to_numpy(quantize_aware(model, images)(images))

    (kernel,) = conv.get_weights()
    gamma, beta, mean, variance = norm.get_weights()
    factor = gamma / np.sqrt(variance + norm.epsilon)
    folded = kernel[0, 0] * factor  # as the converter folds it
    scale = np.abs(folded).max(axis=0) / 127
    folded = np.round(folded / scale) * scale

    def outputs(x):
        return np.maximum(x @ folded + beta - mean * factor, 0)

    x = rounded(images, images.min(), images.max())
    expected = rounded(outputs(x), 0.0, outputs(images).max())
    step = outputs(images).max() / 255
    assert np.abs(found - expected).max() < 1.01 * step  # a tie may fall either way
    assert (np.abs(found - expected) < step / 100).mean() > 0.999


def test_the_model_is_left_as_it_was(residual, aware):
    assert aware.layers[2].layer.kernel is not residual.layers[1].kernel
    assert not any(isinstance(layer, FakeQuantize) for layer in residual.layers)


def test_files_load_without_custom_objects(aware, images, tmp_path):
    aware.save(tmp_path / "aware.keras")
    again = keras.saving.load_model(tmp_path / "aware.keras")
    expected = aware.predict(images[:64], verbose=0)
    np.testing.assert_array_equal(again.predict(images[:64], verbose=0), expected)


def test_training_learns_and_moves_ranges(residual, images):
    weights, config = residual.get_weights(), residual.get_config()
    aware = quantize_aware(residual, images)
    target = images.mean(axis=(1, 2)) @ np.random.default_rng(0).normal(size=(3, 10))
    aware.compile(keras.optimizers.Adam(0.003), "mse", jit_compile=False)
    before = aware.layers[-1].high.numpy()
    losses = aware.fit(images, target, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    assert aware.layers[-1].high.numpy() != before
    plain = strip(aware)
    for layer in aware.layers:
        if isinstance(layer, QuantizeAware):
            new = plain.get_layer(layer.name).get_weights()
            keras.tree.map_structure(np.testing.assert_array_equal, layer.layer.get_weights(), new)
        elif isinstance(layer, QuantizeAwareSEBlock):
            new = plain.get_layer(layer.name).excitation()
            keras.tree.map_structure(np.testing.assert_array_equal, layer.excitation(), new)
    outputs = plain.predict(images, verbose=0)
    error = outputs - aware.predict(images, verbose=0)
    assert np.sqrt((error**2).mean()) < 0.05 * outputs.std()
    assert residual.get_config() == config
    keras.tree.map_structure(np.testing.assert_array_equal, weights, residual.get_weights())


@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_and_open_sizes(engine, half_network, networks, images, twins):
    """The file computes what that of the network in float32 with fixed inputs does."""
    aware = quantize_aware(half_network, images, engine=engine, input_shape=(8, 8, 3))
    tflite = to_tflite(aware)
    same = to_tflite(quantize_aware(networks["sigmoid"], images, engine=engine))
    np.testing.assert_array_equal(predict(tflite, images[:64]), predict(same, images[:64]))
    arguments = {"trained": aware, "input_shape": (8, 8, 3)}
    assert verify(half_network, tflite, images[:64], **arguments).passed
    assert [str(w.message).partition(" of ")[0] for w in twins] == [
        f"{name} takes the float32 twin" for name in ("quantize_aware", "verify")
    ]
    assert {w.filename for w in twins} == {__file__}
    with pytest.raises(
        InputError, match=r"^quantize_aware needs .* of known size: give input_shape"
    ):
        quantize_aware(half_network, images, engine=engine)
    with pytest.raises(InputError, match=r"fit the input of the model, \(8, 8, 3\)"):
        to_tflite(aware, input_shape=(9, 9, 3))


def test_a_policy_of_half_precision_does_not_reach_the_ranges(images, wide_networks, tmp_path):
    aware = quantize_aware(wide_networks, images)
    aware.save(tmp_path / "aware.keras")
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        again = keras.saving.load_model(tmp_path / "aware.keras")
        for one in (quantize_aware(wide_networks, images), again):
            one.compile("adam", "mse", run_eagerly=True)
            few = images[:32]
            one.fit(few, one.predict(few, verbose=0), verbose=0)
            assert {v.dtype for v in one.weights} == {"float32"}
    finally:
        keras.config.set_dtype_policy(before)


def test_frozen_layers_stay_frozen(images):
    model = built(layers.Conv2D(4, 3), layers.ReLU())
    model.layers[0].trainable = False
    aware = quantize_aware(model, images)
    wrapped = next(layer for layer in aware.layers if isinstance(layer, QuantizeAware))
    assert not wrapped.trainable_variables
    assert not strip(aware).layers[0].trainable


def test_inline_se_becomes_a_block(images):
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu")(x)
    g = layers.GlobalAveragePooling2D(keepdims=True)(x)
    g = layers.Conv2D(2, 1, activation="silu", **WIDE)(g)
    g = layers.Conv2D(8, 1, activation="sigmoid", **WIDE)(g)
    model = keras.Model(inputs, x * g)
    plain = strip(quantize_aware(model, images))
    assert [type(layer).__name__ for layer in plain.layers] == ["InputLayer", "Conv2D", "SEBlock"]
    np.testing.assert_allclose(
        plain.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5
    )


def test_several_inputs_by_name(images):
    left, right = (keras.Input((8, 8, 3), name=name) for name in ("left", "right"))
    model = keras.Model({"left": left, "right": right}, layers.Subtract()([left, right]))
    aware = quantize_aware(model, {"left": images, "right": 3 * images[::-1]})
    ranges = {layer.name: layer for layer in aware.layers if isinstance(layer, FakeQuantize)}
    assert float(ranges["left_range"].high) == images.max()
    assert float(ranges["right_range"].high) == np.float32(3) * images.max()


class Subclassed(keras.Model):
    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (Subclassed, {}, r"^quantize_aware .*functional .*Sequential.*Received: Subclassed$"),
        (lambda: built(layers.Dense(2)), {"engine": "torch"}, "engine must be one of .*'torch'"),
        (lambda: built(layers.Dense(2)), {"preserve": "all"}, "preserve must be one of .*'all'"),
        (
            lambda: built(layers.Dense(2)),
            {"preserve": "both"},
            r"'both' need engine='tfmot'\. .*engine='keras'$",
        ),
        (
            lambda: built(layers.Dense(2, kernel_initializer="zeros"), layers.ReLU()),
            {"preserve": "sparsity"},
            r"needs a pruned model: .*Received: model 'sequential.*', no kernel of which has zeros",
        ),
        (lambda: built(layers.Dense(2)), {"calibration": None}, r"Received: calibration=None$"),
        (
            lambda: built(layers.Dense(2)),
            {"calibration": np.zeros((4, 8, 8, 1))},
            r"calibration must have the shape \(samples, 8, 8, 3\)",
        ),
        (
            lambda: built(SEBlock(1, kernel_initializer="zeros")),
            {},
            r"bottleneck of each SE site",
        ),
        (
            lambda: built(
                layers.Conv2D(2, 1, kernel_initializer=keras.initializers.Constant(3e38))
            ),
            {"calibration": np.full((4, 8, 8, 3), 9.0)},
            r"Received: .*NaN or infini",
        ),
        (
            lambda: built(layers.Conv2D(2, 1, kernel_initializer="zeros")),
            {},
            r"every activation nonzero somewhere\. Received: .*empty: \['.*conv2d.*_range'\]$",
        ),
    ],
)
def test_refused(build, arguments, message, images):
    with pytest.raises(InputError, match=message):
        quantize_aware(build(), **{"calibration": images[:40], **arguments})


# The file of a quantize-aware model.

GATES = [
    ("sigmoid", "avg", ("LOGISTIC",)),
    ("hard_sigmoid", "max", ("MUL",)),
    ("one_plus_tanh", "avg", ("TANH", "ADD")),
    ("tanh", "max", ("TANH",)),
    ("relu", "avg", ()),
]
STEPS = {"one_plus_tanh": 1 / 128, "tanh": 1 / 128}


def check_integer_and_delegated(tflite):
    found = delegation(tflite)
    assert found.partitions == 1
    assert all(found.delegated), found
    assert float_operators(tflite) == []
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operator_names(tflite))
    interpreter = load(tflite)
    for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert details["dtype"] is np.int8


@pytest.mark.parametrize(("gate", "squeeze", "operators"), GATES)
def test_gates_of_the_file_are_those_of_the_model(gate, squeeze, operators, images):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    model = keras.Model(inputs, SEBlock(4, gate=gate, squeeze=squeeze, **WIDE)(x))
    aware = quantize_aware(model, images)
    tflite = to_tflite(aware)
    pool = {"avg": "MEAN", "max": "REDUCE_MAX"}[squeeze]
    expected = ("CONV_2D", pool, "CONV_2D", "CONV_2D", *operators, "MUL")
    assert tuple(operator_names(tflite)) == expected
    check_integer_and_delegated(tflite)
    (own,), (shipped,) = (read_gates(source, images).values() for source in (aware, tflite))
    r2 = 1 - ((shipped - own) ** 2).sum() / ((own - own.mean(axis=0)) ** 2).sum()
    assert r2 > 0.99
    step = STEPS.get(gate, own.max() / 255 if gate == "relu" else 1 / 256)
    assert np.quantile(np.abs(shipped - own) / step, 0.99) <= 2


def after_a_convolution(*parts):
    return lambda x: keras.Sequential(parts)(layers.Conv2D(4, 3, padding="same")(x))


def branches(merge):
    def build(x):
        a, b = (layers.Conv2D(4, 3, activation="relu")(x) for _ in range(2))
        return layers.ReLU()(merge([a, b]))

    return build


def preactivation(x):
    """BatchNormalization and ReLU on tensors that others take, too."""
    y = layers.Conv2D(3, 3, padding="same")(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.Add()([x, y])
    return layers.Conv2D(4, 3)(layers.ReLU()(x)) + layers.Conv2D(4, 3)(x)


NETWORKS = {
    "separable": after_a_convolution(
        layers.SeparableConv2D(6, 3, use_bias=False), layers.BatchNormalization(), layers.ReLU(6)
    ),
    "depthwise": after_a_convolution(
        layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2), layers.BatchNormalization()
    ),
    "silu": after_a_convolution(layers.BatchNormalization(), layers.Activation("silu")),
    "hard_silu": after_a_convolution(layers.Conv2D(4, 1, activation="hard_silu")),
    "hard_sigmoid": after_a_convolution(layers.Conv2D(4, 1, activation="hard_sigmoid")),
    "pooled": after_a_convolution(
        layers.MaxPooling2D(2), layers.ZeroPadding2D(), layers.Cropping2D(((1, 0), (0, 1)))
    ),
    "dense": after_a_convolution(
        layers.Flatten(), layers.Dense(6), layers.BatchNormalization(), layers.ReLU()
    ),
    "rescaled": lambda x: layers.Conv2D(4, 3)(layers.Rescaling(1 / 0.3, offset=-0.5)(x)),
    "add": branches(layers.Add()),
    "multiply": branches(layers.Multiply()),
    "raw_subtract": branches(lambda pair: pair[0] - pair[1]),
    "concatenate": branches(layers.Concatenate()),
    "preactivation": preactivation,
    # The converter gives a constant vector the scale of its first channel throughout.
    "constant_bias": layers.Conv2D(16, 3, bias_initializer=keras.initializers.Constant(5.0)),
}


def test_what_the_file_computes(images):
    """How far its outputs are from the model's, in steps of their range; one output a network."""
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, {name: network(inputs) for name, network in NETWORKS.items()})
    aware = quantize_aware(model, images)
    tflite = to_tflite(aware)
    check_integer_and_delegated(tflite)
    expected, given = aware.predict(images[:64], verbose=0), predict(tflite, images[:64])
    assert set(given) == set(NETWORKS)
    for name, values in expected.items():
        off = np.abs(given[name] - values) / ((values.max() - min(values.min(), 0)) / 255)
        assert np.quantile(off, 0.99) < 1.6, name
        assert off.mean() < 0.5, name
        assert name != "constant_bias" or off.max() < 1.6


def test_after_training_the_gates_have_survived(images):
    model = built(
        layers.Conv2D(16, 3, activation="relu"),
        SEBlock(4, **WIDE),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3),
    )
    aware = quantize_aware(model, images[:100])
    aware.compile(keras.optimizers.Adam(3e-3), "mse", jit_compile=False)
    aware.fit(images, images.mean(axis=(1, 2)), epochs=2, verbose=0)
    tflite = to_tflite(aware)
    check_integer_and_delegated(tflite)
    report = verify(model, tflite, images[100:], trained=aware)
    assert report.passed
    assert report.sites["se_1"].r2 > 0.99
    assert report.sites["se_1"].spread_kept > 0.5
    # A block that training has made steady is rejected, however well the file follows it.
    block = next(layer for layer in aware.layers if isinstance(layer, SEBlock))
    block.w2.assign(0.01 * block.w2)
    report = verify(model, to_tflite(aware), images[100:], trained=aware)
    assert not report.passed
    assert report.sites["se_1"].blame == "training"


def test_probabilities_at_the_end(images):
    model = built(layers.Flatten(), layers.Dense(10, activation="softmax"))
    aware = quantize_aware(model, images)
    tflite = to_tflite(aware)
    assert operator_names(tflite) == ["RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]
    assert np.abs(predict(tflite, images) - aware.predict(images, verbose=0)).max() < 2 / 256


def test_types_of_inputs_and_outputs_a_recipe_and_other_formats(images, tmp_path):
    aware = quantize_aware(built(SEBlock(4, **WIDE)), images)
    path = tmp_path / "model.tflite"
    tflite = to_tflite(aware, input_type="uint8", output_type="float32", path=path)
    interpreter = load(tflite)
    assert interpreter.get_input_details()[0]["dtype"] is np.uint8
    assert interpreter.get_output_details()[0]["dtype"] is np.float32
    assert path.read_bytes() == tflite
    given, own = to_tflite(aware, "int8", images), to_tflite(aware)
    # It has its ranges already; only the digests of the samples differ.
    np.testing.assert_array_equal(predict(given, images[:16]), predict(own, images[:16]))
    assert '"calibration": null' in (tmp_path / "model.recipe.json").read_text()
    for arguments in ({"format": "float32"}, {"format": "int16x8"}, {"keep_float": ["se_1"]}):
        with pytest.raises(InputError, match=r"strip it first\. Received: for"):
            to_tflite(aware, **arguments)
    longer = keras.Sequential([*aware.layers, layers.Conv2D(2, 1), layers.ELU()])
    longer.build((None, 8, 8, 3))
    with pytest.warns(ConversionWarning, match=r"operators: \['CONV_2D', 'ELU'\]$"):
        tflite = to_tflite(longer)
    # But for ties, which may fall either way.
    off = np.abs(predict(tflite, images) - longer.predict(images, verbose=0))
    assert np.quantile(off, 0.999) < 1e-5


def test_a_range_that_has_shrunk_to_nothing_is_refused(images):
    model = built(layers.Conv2D(4, 3, activation="relu"))
    aware = quantize_aware(model, images)
    aware.layers[-1].high.assign(1e-9)
    with pytest.raises(InputError, match=r"not zero.*Received: .*\['"):
        to_tflite(aware)
