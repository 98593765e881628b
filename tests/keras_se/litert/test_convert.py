import keras
import numpy as np
import pytest

from keras_se import SEBlock, read_gates, to_tflite
from keras_se.errors import InputError
from keras_se.litert.graph import gate_nodes, operator_names
from keras_se.litert.runtime import load, predict

LOWERING = {
    "sigmoid": ("CONV_2D", "CONV_2D", "LOGISTIC", "MUL"),
    "hard_sigmoid": ("CONV_2D", "CONV_2D", "MUL", "MUL"),
    "one_plus_tanh": ("CONV_2D", "CONV_2D", "TANH", "ADD", "MUL"),
    "tanh": ("CONV_2D", "CONV_2D", "TANH", "MUL"),
    "relu": ("CONV_2D", "CONV_2D", "MUL"),  # the second convolution has it fused
}
SQUEEZES = {"avg": "MEAN", "max": "REDUCE_MAX"}


@pytest.mark.parametrize("file_format", ["float32", "int8"])
@pytest.mark.parametrize("squeeze", SQUEEZES)
@pytest.mark.parametrize("gate", LOWERING)
def test_canonical_lowering(gate, squeeze, file_format):
    """Five operations, six for one_plus_tanh, and none beside them."""
    model = keras.Sequential([keras.Input((8, 8, 16)), SEBlock(4, gate=gate, squeeze=squeeze)])
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 16))
    tflite = to_tflite(model, file_format, x)
    expected = (SQUEEZES[squeeze], *LOWERING[gate])
    assert tuple(operator_names(tflite)) == expected
    assert gate_nodes(tflite)[0].operators == expected


@pytest.mark.parametrize("gate", LOWERING)
def test_lowering_with_a_dynamic_batch(gate):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((8, 8, 16)), SEBlock(4, gate=gate)])
    weights = [v.numpy() for v in model.trainable_variables]

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 16), tf.float32)])
    def infer(x):
        return model.stateless_call(weights, [], x, training=False)[0]

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [infer.get_concrete_function()], tf.Module()
    )
    assert tuple(operator_names(converter.convert())) == ("MEAN", *LOWERING[gate])


@pytest.mark.parametrize("shape", [(10, 16), (4, 4, 4, 16)])
def test_other_ranks_add_two_reshapes(shape):
    model = keras.Sequential([keras.Input(shape), SEBlock(4)])
    names = operator_names(to_tflite(model, "float32"))
    assert sorted(names) == sorted(["MEAN", *LOWERING["sigmoid"], "RESHAPE", "RESHAPE"])
    assert [node.site.gate for node in gate_nodes(to_tflite(model, "float32"))] == ["sigmoid"]


def test_float32_outputs_equal_keras(networks, images):
    for model in networks.values():
        expected = model.predict(images[:8], verbose=0)
        np.testing.assert_allclose(
            predict(to_tflite(model, "float32"), images[:8]), expected, atol=1e-5
        )


def test_int8_outputs_follow_keras_and_the_file_is_integer_throughout(networks, images):
    for model in networks.values():
        tflite = to_tflite(model, "int8", images[100:])
        interpreter = load(tflite)
        for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
            assert details["dtype"] is np.int8
        assert not {"QUANTIZE", "DEQUANTIZE"} & set(operator_names(tflite))
        expected = model.predict(images[:64], verbose=0)
        error = predict(tflite, images[:64]) - expected
        assert np.sqrt((error**2).mean()) < 0.05 * expected.std()


def test_the_model_is_left_as_it_was(networks, images):
    model = networks["sigmoid"]
    weights, config = model.get_weights(), model.get_config()
    to_tflite(model, "int8", images)
    assert model.get_config() == config
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_batch_normalization_and_dropout_are_in_inference_mode():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            keras.layers.Conv2D(8, 3),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.5),
            SEBlock(2),
        ]
    )
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(
        predict(to_tflite(model, "float32"), x), model.predict(x, verbose=0), atol=1e-5
    )


def test_uint8_calibration_is_taken_as_numbers(networks, images):
    pixels = (images * 255).astype("uint8")
    tflite = to_tflite(networks["sigmoid"], "int8", pixels)
    scale, _ = load(tflite).get_input_details()[0]["quantization"]
    assert scale == pytest.approx(pixels.max() / 255, rel=0.01)


class Unsupported(keras.layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.linalg.logdet(tf.linalg.matmul(x, x, transpose_b=True) + tf.eye(8))


def built(*layers):
    return keras.Sequential([keras.Input((8, 8, 3)), *layers])


RELU = built(keras.layers.ReLU())


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (RELU, {"format": "int4"}, r"format must be one of \['float32', 'int8'\]\. Received: fo"),
        (RELU, {}, r"needs calibration data: .* \(samples, 8, 8, 3\)\. Received: calibration=Non"),
        (RELU, {"calibration": np.ones((5, 8, 8, 1))}, r"the shape \(samples, 8, 8, 3\)\. Rec"),
        (RELU, {"calibration": np.ones((0, 8, 8, 3))}, r"Received: shape \(0, 8, 8, 3\)"),
        (RELU, {"calibration": [["a"]]}, "must be an array of numbers"),
        (RELU, {"calibration": [[1], [1, 2]]}, "calibration must be an array of numbers"),
        (RELU, {"calibration": np.full((5, 8, 8, 3), np.nan)}, "finite. Received: 960 values"),
        ("model", {}, "takes a built keras.Model.* Received: str"),
        (keras.Sequential([SEBlock()]), {}, "takes a built keras.Model"),
        (
            keras.Sequential([keras.Input((None, 8, 3)), SEBlock()]),
            {},
            r"input of known size.* with input shape \(None, None, 8, 3\)",
        ),
    ],
)  # fmt: skip
def test_refusals(model, arguments, message):
    with pytest.raises(InputError, match=message):
        to_tflite(model, **arguments)


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_other_precisions_are_refused_with_the_reason(policy):
    model = built(keras.layers.Conv2D(4, 3, dtype=policy, name="conv"))
    with pytest.raises(InputError, match=r"compute in float32: .* Received: layer 'conv' of model"):
        to_tflite(model, "float32")


def test_int8_refuses_loops_and_takes_them_unrolled():
    """The calibrator of the converter would end the process."""
    x = np.random.default_rng(0).normal(size=(20, 6, 4)).astype("float32")
    for unroll in (False, True):
        recurrent = keras.layers.GRU(3, unroll=unroll)
        model = keras.Sequential([keras.Input((6, 4)), SEBlock(2), recurrent])
        if unroll:
            assert len(gate_nodes(to_tflite(model, "int8", x))) == 1
        else:
            with pytest.raises(InputError, match=r"without loops: .* unroll=True\. Rec"):
                to_tflite(model, "int8", x)


def test_a_dead_bottleneck_is_named(images):
    """Such a file fails in the default delegate; loading several of them ends the process."""
    dead = SEBlock(1, bias_initializer=keras.initializers.Constant(-50.0))
    with pytest.raises(InputError, match=r"somewhere not zero\. Received: .* zero: \['"):
        to_tflite(built(dead), "int8", images)


def test_two_inputs_are_refused():
    a, b = keras.Input((2,)), keras.Input((2,))
    with pytest.raises(InputError, match=r"a model with one input.* with 2 known inputs"):
        to_tflite(keras.Model([a, b], keras.layers.Add()([a, b])), "float32")


def test_an_operation_without_a_builtin_is_refused_by_name():
    with pytest.raises(InputError, match=r"built-in .* only.* has none for Cholesky, MatrixD"):
        to_tflite(built(Unsupported()), "float32")


def test_gates_of_a_block_with_one_hidden_unit(images):
    """The converter must not fold the bottleneck of one unit into something else."""
    for gate in LOWERING:
        model = keras.Sequential([keras.Input((8, 8, 3)), SEBlock(width=1, gate=gate)])
        tflite = to_tflite(model, "float32")
        gates = read_gates(model, images[:8])["se_1"]
        np.testing.assert_allclose(read_gates(tflite, images[:8])["se_1"], gates, atol=1e-6)
