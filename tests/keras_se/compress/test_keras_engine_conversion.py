"""From a quantize-aware model to its file: integer, delegated, with the gates of the model."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, read_gates, to_tflite, verify
from keras_se.compress.keras_engine import quantize_natively
from keras_se.errors import InputError
from keras_se.litert.delegation import delegation
from keras_se.litert.graph.sites import float_operators, operator_names
from keras_se.litert.runtime import load, predict

layers = keras.layers
GATES = {
    "sigmoid": ("LOGISTIC",),
    "hard_sigmoid": ("MUL",),
    "one_plus_tanh": ("TANH", "ADD"),
    "tanh": ("TANH",),
    "relu": (),
}
STEPS = {"one_plus_tanh": 1 / 128, "tanh": 1 / 128}


def wide(**arguments):
    return SEBlock(
        4,
        kernel_initializer=keras.initializers.RandomNormal(stddev=1.0, seed=3),
        bias_initializer=keras.initializers.RandomNormal(stddev=0.3, seed=4),
        **arguments,
    )


def converted(model, x):
    aware = quantize_natively(model, x)
    return aware, to_tflite(aware)


def is_integer_and_delegated(tflite):
    found = delegation(tflite)
    assert found.partitions == 1
    assert all(found.delegated), found
    assert float_operators(tflite) == []
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operator_names(tflite))
    interpreter = load(tflite)
    for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert details["dtype"] is np.int8
    return True


def steps_off(aware, tflite, x, steps=255):
    """How far the outputs of the file are from the model's, in steps of their range."""
    expected = aware.predict(x, verbose=0)
    step = (expected.max() - min(expected.min(), 0)) / steps
    return np.abs(predict(tflite, x) - expected) / step


@pytest.mark.parametrize("squeeze", ["avg", "max"])
@pytest.mark.parametrize("gate", GATES)
def test_gates_of_the_file_are_those_of_the_model(gate, squeeze, images):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    aware, tflite = converted(keras.Model(inputs, wide(gate=gate, squeeze=squeeze)(x)), images)
    pool = {"avg": "MEAN", "max": "REDUCE_MAX"}[squeeze]
    expected = ("CONV_2D", pool, "CONV_2D", "CONV_2D", *GATES[gate], "MUL")
    assert tuple(operator_names(tflite)) == expected
    assert is_integer_and_delegated(tflite)
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
    "raw subtract": branches(lambda pair: pair[0] - pair[1]),
    "concatenate": branches(layers.Concatenate()),
    "preactivation": preactivation,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_what_the_file_computes(name, images):
    inputs = keras.Input((8, 8, 3))
    aware, tflite = converted(keras.Model(inputs, NETWORKS[name](inputs)), images)
    assert is_integer_and_delegated(tflite)
    off = steps_off(aware, tflite, images[:64])
    assert np.quantile(off, 0.99) < 1.6
    assert off.mean() < 0.5


def test_a_constant_bias_is_that_of_every_channel(images):
    """The converter gives a constant vector the scale of its first channel throughout."""
    inputs = keras.Input((8, 8, 3))
    bias = keras.initializers.Constant(5.0)
    outputs = layers.Conv2D(16, 3, bias_initializer=bias)(inputs)
    aware, tflite = converted(keras.Model(inputs, outputs), images)
    assert steps_off(aware, tflite, images[:64]).max() < 1.6


def test_after_training_the_gates_have_survived(images):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, activation="relu"),
            wide(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    aware = quantize_natively(model, images[:100])
    aware.compile(keras.optimizers.Adam(3e-3), "mse", jit_compile=False)
    aware.fit(images, images.mean(axis=(1, 2)), epochs=2, verbose=0)
    tflite = to_tflite(aware)
    assert is_integer_and_delegated(tflite)
    report = verify(model, tflite, images[100:], reference=aware, stress=())
    assert report.passed
    assert report.sites["se_1"].r2 > 0.99
    assert 0.5 < report.sites["se_1"].spread_kept < 2.0
    # A block that training has made steady is rejected, however well the file follows it.
    block = next(layer for layer in aware.layers if isinstance(layer, SEBlock))
    block.w2.assign(0.01 * block.w2)
    report = verify(model, to_tflite(aware), images[100:], reference=aware, stress=())
    assert not report.passed
    assert report.sites["se_1"].blame == "training"


def test_probabilities_at_the_end(images):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Flatten(), layers.Dense(10, activation="softmax")]
    )
    aware, tflite = converted(model, images)
    assert operator_names(tflite) == ["RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]
    assert np.abs(predict(tflite, images) - aware.predict(images, verbose=0)).max() < 2 / 256


def test_types_of_inputs_and_outputs_and_a_recipe(images, tmp_path):
    aware = quantize_natively(keras.Sequential([keras.Input((8, 8, 3)), wide()]), images)
    path = tmp_path / "model.tflite"
    tflite = to_tflite(aware, input_type="uint8", output_type="float32", path=path)
    interpreter = load(tflite)
    assert interpreter.get_input_details()[0]["dtype"] is np.uint8
    assert interpreter.get_output_details()[0]["dtype"] is np.float32
    assert path.read_bytes() == tflite
    assert to_tflite(aware, "int8", images) == to_tflite(aware)  # it has its ranges already
    assert '"calibration": null' in (tmp_path / "model.recipe.json").read_text()


def test_refused(images):
    model = keras.Sequential([keras.Input((8, 8, 3)), wide()])
    aware = quantize_natively(model, images)
    for arguments in ({"format": "float32"}, {"format": "int16x8"}, {"keep_float": ["se_1"]}):
        with pytest.raises(InputError, match=r"int8 throughout; .* strip it first\. Received: for"):
            to_tflite(aware, **arguments)
    longer = keras.Sequential([*aware.layers, layers.Conv2D(2, 1), layers.ELU()])
    longer.build((None, 8, 8, 3))
    with pytest.raises(InputError, match=r"must be quantize-aware, too\. Received: .*\['"):
        to_tflite(longer)


def test_a_range_that_has_shrunk_to_nothing_is_refused(images):
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3, activation="relu")])
    aware = quantize_natively(model, images)
    aware.layers[-1].high.assign(1e-9)
    with pytest.raises(InputError, match=r"somewhere not zero: .*Received: .* zero: \['"):
        to_tflite(aware)
