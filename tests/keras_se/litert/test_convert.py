import hashlib
import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from keras_se import GraphSEBlock, SEBlock, find_sites, read_gates, to_tflite
from keras_se.errors import InputError
from keras_se.litert.convert import ConversionWarning
from keras_se.litert.formats import FORMATS
from keras_se.litert.graph.flatbuffer import TFLiteModel
from keras_se.litert.graph.sites import gate_nodes, operator_names
from keras_se.litert.runtime import load, predict

GATES = ("sigmoid", "hard_sigmoid", "one_plus_tanh")  # of the networks
LOWERING = {
    "sigmoid": ("CONV_2D", "CONV_2D", "LOGISTIC", "MUL"),
    "hard_sigmoid": ("CONV_2D", "CONV_2D", "MUL", "MUL"),
    "one_plus_tanh": ("CONV_2D", "CONV_2D", "TANH", "ADD", "MUL"),
    "tanh": ("CONV_2D", "CONV_2D", "TANH", "MUL"),
    "relu": ("CONV_2D", "CONV_2D", "MUL"),  # the second convolution has it fused
}
SQUEEZES = {"avg": "MEAN", "max": "REDUCE_MAX"}


def blocks(squeezes):
    """A block for each gate and squeeze, side by side."""
    inputs = keras.Input((8, 8, 16))
    pairs = [(gate, squeeze) for gate in LOWERING for squeeze in squeezes]
    return keras.Model(inputs, [SEBlock(4, gate=g, squeeze=s)(inputs) for g, s in pairs])


@pytest.mark.parametrize("file_format", ["float32", "int8"])
def test_canonical_lowering(file_format):
    """Five operations, six for one_plus_tanh, and none beside them."""
    x = np.random.default_rng(0).normal(size=(100, 8, 8, 16))
    tflite = to_tflite(blocks(SQUEEZES), file_format, x)
    nodes = gate_nodes(tflite)
    expected = [(pool, *rest) for pool in SQUEEZES.values() for rest in LOWERING.values()]
    assert sorted(node.operators for node in nodes) == sorted(expected)
    # One pooling of each kind serves all blocks on this map.
    assert {p for node in nodes for p in node.positions} == set(range(len(operator_names(tflite))))


def test_lowering_with_a_dynamic_batch():
    import tensorflow as tf

    model = blocks(["avg"])
    weights = [v.numpy() for v in model.trainable_variables]

    @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 16), tf.float32)])
    def infer(x):
        return model.stateless_call(weights, [], x, training=False)[0]

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [infer.get_concrete_function()], tf.Module()
    )
    found = [node.operators for node in gate_nodes(converter.convert())]
    assert sorted(found) == sorted(("MEAN", *rest) for rest in LOWERING.values())


@pytest.mark.parametrize("shape", [(10, 16), (4, 4, 4, 16)])
def test_other_ranks_add_two_reshapes(shape):
    model = keras.Sequential([keras.Input(shape), SEBlock(4)])
    tflite = to_tflite(model, "float32")
    assert sorted(operator_names(tflite)) == sorted(
        ["MEAN", *LOWERING["sigmoid"], "RESHAPE", "RESHAPE"]
    )
    assert [node.site.gate for node in gate_nodes(tflite)] == ["sigmoid"]


def test_nothing_is_printed(capfd):
    """In a process of its own, where the converter, the delegate and Keras start afresh."""
    to_tflite(RELU, "weight_only")
    assert capfd.readouterr() == ("", "")
    process = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "", "")


# TensorFlow talks when it is loaded and when it makes its first variable; this is not about that.
QUIET = """
import os
stderr = os.dup(2)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
import keras, numpy as np
from keras_se import SEBlock, to_tflite
model = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Conv2D(4, 3), SEBlock(2)])
os.dup2(stderr, 2)
x = np.random.default_rng(0).normal(size=(100, 8, 8, 4))
to_tflite(model, "int8", x)
"""


def test_an_int8_file_is_integer_throughout(files):
    tflite = files["sigmoid", "int8"]
    interpreter = load(tflite)
    for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert details["dtype"] is np.int8
    assert not {"QUANTIZE", "DEQUANTIZE"} & set(operator_names(tflite))


def test_the_model_is_left_as_it_was_and_bytes_are_the_same_again(networks, images, files):
    model = networks["sigmoid"]
    weights, config = model.get_weights(), model.get_config()
    assert to_tflite(model, "int8", images[100:]) == files["sigmoid", "int8"]
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
OPEN = [keras.Input((None, 3)), keras.Input((None, 3))]


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (RELU, {}, r"needs calibration data: .* \(samples, 8, 8, 3\)\. Received: calibration=Non"),
        (RELU, {"calibration": np.ones((5, 8, 8, 1))}, r"the shape \(samples, 8, 8, 3\)\. Rec"),
        (RELU, {"calibration": np.ones((0, 8, 8, 3))}, r"Received: shape \(0, 8, 8, 3\)"),
        (RELU, {"calibration": [["a"]]}, "must be an array of numbers"),
        (RELU, {"calibration": [[1], [1, 2]]}, "calibration must be an array of numbers"),
        (RELU, {"calibration": np.full((5, 8, 8, 3), np.nan)}, "finite. Received: 960 values"),
        ("model", {}, "needs a built keras.Model.* Received: str"),
        (keras.Sequential([SEBlock()]), {}, "needs a built keras.Model"),
        (
            keras.Sequential([keras.Input((None, 8, 3)), SEBlock()]),
            {},
            r"of known size: give input_shape,.* with input shape \(None, None, 8, 3\)",
        ),
        (
            keras.Model(OPEN, keras.layers.Concatenate()(OPEN)),
            {},
            r"of known size: use fixed Inputs\. .* with input shape \(None, None, 3\)",
        ),
        (RELU, {"input_shape": (4, 4, 3)}, r"fit the input of the model, \(8, 8, 3\)\. .*=\(4, 4"),
        (RELU, {"input_shape": (8, None, 3)}, r"such as \(224, 224, 3\)\. .*=\(8, None, 3\)"),
        (RELU, {"input_shape": "8,8,3"}, r"such as \(224, 224, 3\)\. .*='8,8,3'"),
        (
            keras.Model(OPEN, keras.layers.Concatenate()(OPEN)),
            {"input_shape": (8, 3)},
            "for models with one input. Received: model .* with 2 inputs",
        ),
    ],
)
def test_refusals(model, arguments, message):
    with pytest.raises(InputError, match=message):
        to_tflite(model, **arguments)


def fully_convolutional(size, policy="float32"):
    keras.config.set_dtype_policy(policy)
    try:
        keras.utils.set_random_seed(0)
        stack = [keras.layers.Conv2D(8, 3, name="conv"), SEBlock(2, name="se")]
        head = [keras.layers.GlobalAveragePooling2D(name="pool"), keras.layers.Dense(3, name="d")]
        inputs = keras.Input((*size, 3), name="image")
        return keras.Sequential([inputs, *stack, *head], name="model")
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("file_format", ["float32", "int8"])
def test_an_input_shape_for_open_sizes(file_format, images):
    """The file is that of the model with fixed inputs, byte for byte."""
    model, fixed = fully_convolutional((None, None)), fully_convolutional((8, 8))
    tflite = to_tflite(model, file_format, images, input_shape=(8, 8, 3))
    assert tflite == to_tflite(fixed, file_format, images)
    assert tflite == to_tflite(fixed, file_format, images, input_shape=(8, 8, 3))
    assert model.inputs[0].shape == (None, None, None, 3)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float16", "float64"])
def test_other_precisions_are_converted_in_float32(policy, images, twins):
    model, plain = fully_convolutional((8, 8), policy), fully_convolutional((8, 8))
    plain.set_weights([w.numpy().astype("float32") for w in model.weights])
    tflite = to_tflite(model, "float32")
    (warning,) = twins
    assert str(warning.message) == (
        f"to_tflite takes the float32 twin of model 'model', which computes in {policy}."
    )
    assert warning.filename == __file__
    assert tflite == to_tflite(plain, "float32")
    outputs = keras.ops.convert_to_numpy(keras.ops.cast(model(images[:8]), "float32"))
    tolerance = 0.02 if "bfloat16" in policy else 0.002
    np.testing.assert_allclose(predict(tflite, images[:8]), outputs, rtol=0, atol=tolerance)
    assert model.layers[0].compute_dtype == policy.removeprefix("mixed_")


def test_both_at_once_and_the_recipe(tmp_path, twins):
    model = fully_convolutional((None, None), "mixed_float16")
    tflite = to_tflite(model, "float32", input_shape=[8, 8, 3], path=tmp_path / "m.tflite")
    plain = fully_convolutional((8, 8))
    plain.set_weights(model.get_weights())
    assert tflite == to_tflite(plain, "float32")
    recipe = json.loads((tmp_path / "m.recipe.json").read_text())
    assert recipe["options"]["input_shape"] == [8, 8, 3]
    assert len(twins) == 1


def test_int8_refuses_loops_and_takes_them_unrolled():
    """The calibrator of the converter would end the process."""
    x = np.random.default_rng(0).normal(size=(100, 6, 4)).astype("float32")
    for unroll in (False, True):
        recurrent = keras.layers.GRU(3, unroll=unroll)
        model = keras.Sequential([keras.Input((6, 4)), SEBlock(2), recurrent])
        if unroll:
            assert len(gate_nodes(to_tflite(model, "int8", x))) == 1
        else:
            with pytest.raises(InputError, match=r"supports no loops: .* unroll=True\. Rec"):
                to_tflite(model, "int8", x)


def test_a_dead_bottleneck_is_named(images):
    """Such a file fails in the default delegate; loading several of them ends the process."""
    dead = SEBlock(1, bias_initializer=keras.initializers.Constant(-50.0), name="dead")
    for file_format in ("int8", "int16x8"):
        with pytest.raises(InputError, match=r"of each SE site.* only zeros at se_1, whose"):
            to_tflite(built(dead), file_format, images)
    assert to_tflite(built(dead), "float32", images)


def test_a_dead_activation_elsewhere_is_found_in_the_file(images):
    dead = keras.layers.Conv2D(4, 1, activation="relu", bias_initializer="zeros")
    model = built(dead, keras.layers.Conv2D(2, 1))
    dead.bias.assign(np.full(4, -50.0))
    with pytest.raises(
        InputError, match=r"Every activation must be .*not zero.* only zeros in \['"
    ):
        to_tflite(model, "int8", images)


def test_an_operation_without_a_builtin_is_refused_by_name():
    with pytest.raises(InputError, match=r"built-in .* only.* which needs Cholesky, MatrixD"):
        to_tflite(built(Unsupported()), "float32")


def test_gates_of_a_block_with_one_hidden_unit(images):
    """The converter must not fold the bottleneck of one unit into something else."""
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, [SEBlock(width=1, gate=gate)(inputs) for gate in LOWERING])
    tflite = to_tflite(model, "float32")
    kinds = {source: {s.gate: s.name for s in find_sites(source)} for source in (model, tflite)}
    gates, found = read_gates(model, images[:8]), read_gates(tflite, images[:8])
    for gate in LOWERING:
        np.testing.assert_allclose(found[kinds[tflite][gate]], gates[kinds[model][gate]], atol=1e-6)


RELATIVE_ERROR = {  # rms over the spread of the outputs; weights of 11 bits and of 8, codes of 8
    "float32": 1e-6,
    "float16": 2e-3,
    "dynamic": 0.05,
    "weight_only": 0.02,
    "int8": 0.05,
    "int16x8": 0.02,
}


@pytest.mark.parametrize(
    ("gate", "file_format"),
    [
        *(("sigmoid", name) for name in FORMATS),
        *((gate, name) for gate in GATES[1:] for name in ("float32", "int8")),
    ],
)
def test_outputs_follow_keras(networks, images, files, gate, file_format):
    expected = networks[gate].predict(images[:64], verbose=0)
    error = predict(files[gate, file_format], images[:64]) - expected
    assert np.sqrt((error**2).mean()) < RELATIVE_ERROR[file_format] * expected.std()
    if file_format != "float32":
        assert np.abs(error).max() > 0  # it is another format


@pytest.mark.parametrize("file_format", FORMATS)
def test_two_threads_compute_the_same(images, files, file_format):
    outputs = []
    for threads in (1, 2):
        interpreter = Interpreter(model_content=files["sigmoid", file_format], num_threads=threads)
        interpreter.allocate_tensors()
        details = interpreter.get_input_details()[0]
        for image in images[:8]:
            scale, zero = details["quantization"]
            x = image if scale == 0 else np.clip(np.round(image / scale) + zero, -32768, 32767)
            x = np.clip(x, -128, 127) if details["dtype"] is np.int8 else x
            interpreter.set_tensor(details["index"], x[None].astype(details["dtype"]))
            interpreter.invoke()
            output = interpreter.get_output_details()[0]
            outputs.append(interpreter.get_tensor(output["index"])[0])
    np.testing.assert_array_equal(outputs[:8], outputs[8:])


def stored(tflite):
    """The bytes without the digests of the calibration samples."""
    return len(tflite) - len(TFLiteModel(tflite).metadata[b"keras_se"])


def test_what_is_stored(files):
    """Weights in the type of the format; sizes in the order of their bits."""
    sizes = {name: stored(files["sigmoid", name]) for name in FORMATS}
    assert sizes["int8"] < sizes["float16"] < sizes["float32"]
    assert sizes["weight_only"] < sizes["float32"]
    types = {name: weight_types(files["sigmoid", name]) for name in FORMATS}
    assert types["float32"] == {np.float32}
    assert types["float16"] == {np.float16}
    assert np.int8 in types["weight_only"]
    assert types["int8"] == {np.int8}
    assert np.int8 in types["int16x8"]  # beside room that its kernels allocate


def weight_types(tflite):
    """The types of the constant tensors with more than one axis and more than 64 numbers."""
    interpreter = load(tflite)
    made = {int(i) for d in interpreter._get_ops_details() for i in d["outputs"]}
    made |= {d["index"] for d in interpreter.get_input_details()}
    return {
        d["dtype"]
        for d in interpreter.get_tensor_details()
        if d["index"] not in made and len(d["shape"]) > 1 and np.prod(d["shape"]) > 64
    }


@pytest.mark.parametrize(
    ("file_format", "types"), [("int8", ("uint8", "float32")), ("int16x8", ("float32",))]
)
def test_types_of_inputs_and_outputs(networks, images, files, file_format, types):
    expected = predict(files["sigmoid", file_format], images[:8])
    for kind in types:
        arguments = {"input_type": kind, "output_type": kind}
        tflite = to_tflite(networks["sigmoid"], file_format, images[100:], **arguments)
        interpreter = load(tflite)
        for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
            assert details["dtype"] is getattr(np, kind)
        np.testing.assert_allclose(predict(tflite, images[:8]), expected, atol=1e-6)


def several():
    image, gain = keras.Input((8, 8, 3), name="z image"), keras.Input((2,), name="gain")
    x = SEBlock(2)(keras.layers.Conv2D(8, 3, activation="relu")(image))
    x = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(x), gain])
    outputs = [keras.layers.Dense(2)(x), keras.layers.Dense(3)(x)]
    return keras.Model([image, gain], outputs)


@pytest.mark.parametrize("file_format", ["weight_only", "int8", "int16x8"])
def test_several_inputs_and_outputs(images, file_format):
    model = several()
    x = [images, np.random.default_rng(0).normal(size=(300, 2)).astype("float32")]
    tflite = to_tflite(model, file_format, x)
    named = {"z_image": x[0][:16], "gain": x[1][:16]}
    expected = model.predict([part[:16] for part in x], verbose=0)
    outputs = predict(tflite, named)
    assert list(outputs) == ["output_0", "output_1"]
    for values, wanted in zip(outputs.values(), expected, strict=True):
        assert np.sqrt(((values - wanted) ** 2).mean()) < 0.05 * wanted.std()
    if file_format == "int8":
        assert to_tflite(model, file_format, {"z image": x[0], "gain": x[1]}) == tflite
    gates = read_gates(tflite, named)["se_1"]
    wanted = read_gates(model, [part[:16] for part in x])["se_1"]
    np.testing.assert_allclose(gates, wanted, atol=0.02)


def test_tokens():
    """Integers go in as they are, and what is masked is not squeezed."""
    inputs = keras.Input((12,), dtype="int32")
    x = SEBlock(2)(keras.layers.Embedding(20, 8, mask_zero=True)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling1D()(x)))
    x = np.random.default_rng(0).integers(0, 20, size=(100, 12)).astype("int32")
    expected = model.predict(x, verbose=0)
    for name, tolerance in (("float32", 1e-6), ("int8", 0.1)):
        tflite = to_tflite(model, name, x)
        assert load(tflite).get_input_details()[0]["dtype"] is np.int32
        error = predict(tflite, x) - expected
        assert np.sqrt((error**2).mean()) < tolerance * expected.std()
    with pytest.raises(InputError, match=r"integers for an input of int32\. Received: fractions"):
        to_tflite(model, "int8", x / 2)
    with pytest.raises(
        InputError, match=r"format='int16x8' supports operations only that TFLite has in"
    ):
        to_tflite(model, "int16x8", x)


@pytest.mark.parametrize("file_format", ["int8", "int16x8"])
def test_recurrent_layers_after_gated_sequences(file_format):
    inputs = keras.Input((6, 4))
    x = SEBlock(2)(keras.layers.Conv1D(8, 3, activation="relu")(inputs))
    model = keras.Model(inputs, keras.layers.LSTM(3, unroll=True)(x))
    x = np.random.default_rng(0).normal(size=(100, 6, 4)).astype("float32")
    expected = model.predict(x, verbose=0)
    error = predict(to_tflite(model, file_format, x), x) - expected
    assert np.sqrt((error**2).mean()) < 0.15 * expected.std()


def test_se_that_is_written_out_in_a_nested_model(images):
    inputs = keras.Input((8, 8, 4))
    gates = keras.layers.GlobalAveragePooling2D(keepdims=True)(inputs)
    gates = keras.layers.Conv2D(2, 1, activation="relu")(gates)
    gates = keras.layers.Conv2D(4, 1, activation="hard_sigmoid")(gates)
    inner = keras.Model(inputs, inputs * gates)
    model = built(keras.layers.Conv2D(4, 3, padding="same"), inner, keras.layers.Flatten())
    tflite = to_tflite(model, "float32")
    assert len(gate_nodes(tflite)) == 1
    expected = model.predict(images[:4], verbose=0)
    np.testing.assert_allclose(predict(tflite, images[:4]), expected, atol=1e-5)


def test_a_hard_swish_is_no_16_bit_operation(images):
    block = SEBlock(2, bias_initializer="ones")
    model = built(keras.layers.Conv2D(4, 3, activation="hard_silu"), block)
    assert to_tflite(model, "int8", images)
    with pytest.raises(InputError, match=r"format='int16x8' .* the converter says: .*HARD_SWISH"):
        to_tflite(model, "int16x8", images)


def test_inputs_of_one_name_are_refused():
    a, b = keras.Input((2,), name="a b"), keras.Input((2,), name="a_b")
    model = keras.Model([a, b], keras.layers.Add()([a, b]))
    with pytest.raises(InputError, match=r"input names that differ.* \['a b', 'a_b'\]"):
        to_tflite(model, "float32")


def test_a_file_and_its_recipe_are_written(tmp_path):
    path, recipe = tmp_path / "new" / "model.tflite", tmp_path / "new" / "model.recipe.json"
    tflite = to_tflite(RELU, "float32", path=path)
    assert path.read_bytes() == tflite
    assert json.loads(recipe.read_text())["sha256"] == hashlib.sha256(tflite).hexdigest()
    with pytest.raises(InputError, match=r"must not exist yet.*/model\.tflite, which ex"):
        to_tflite(RELU, "float32", path=path)
    path.unlink()
    with pytest.raises(InputError, match=r"must not exist yet.*/model\.recipe\.json, which ex"):
        to_tflite(RELU, "float32", path=path)
    to_tflite(RELU, "float32", path=path, overwrite=True)
    assert (tmp_path / "new" / "model.recipe.json.1").exists()


def test_an_interruption_leaves_the_old_pair_together(tmp_path, monkeypatch):
    """After the file, before its recipe; see test_files for each other place."""
    path = tmp_path / "m.tflite"
    to_tflite(RELU, "float32", path=path)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    replace, places = os.replace, ["m.recipe.json"]

    def interrupted(source, target):
        if target.name in places:
            places.clear()
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        to_tflite(built(keras.layers.Conv2D(2, 3)), "float32", path=path, overwrite=True)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_scale_that_ends_the_process_is_met_in_a_process_of_its_own():
    """Of one position there is no deviation: the delegate aborts on the scale of nothing."""
    block = SEBlock(2, squeeze="std", bias_initializer="ones")
    model = keras.Sequential([keras.Input((1, 1, 8)), block])
    x = np.random.default_rng(0).normal(size=(100, 1, 1, 8))
    with pytest.raises(
        InputError, match=r"must load in the LiteRT runtime and run once\. .* ended with signal 6"
    ):
        to_tflite(model, "int8", x)


def test_activations_that_overflow_are_refused(images):
    model = built(keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.Constant(1e30)))
    with pytest.raises(InputError, match="must give finite outputs"):
        to_tflite(model, "int8", 1e9 * images)


def test_a_model_that_cannot_be_computed():
    inputs = keras.Input((8, 8, 3))
    pooled = keras.layers.AdaptiveAveragePooling2D(1)(inputs)
    message = (
        r"to_tflite needs a model that TensorFlow can compute .* Received: model 'wrong', for "
        r"which it raises: Negative dimension size caused by subtracting 9 from 8"
    )
    with pytest.raises(InputError, match=message):
        to_tflite(keras.Model(inputs, pooled, name="wrong"), "float32")


def test_weights_that_are_not_finite_are_named():
    model = built(keras.layers.Conv2D(4, 3, name="conv"))
    model.get_layer("conv").bias.assign([np.nan, 0.0, 0.0, 0.0])
    with pytest.raises(InputError, match=r"NaN or infinity in '.*conv/bias'"):
        to_tflite(model, "float32")


def test_a_file_that_computes_something_else_is_warned_of(images):
    """The converter gives the two sides of a reversal different scales."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same")(inputs)
    model = keras.Model(inputs, keras.ops.flip(x, 1) * 2.0 + 1.0)
    with pytest.warns(ConversionWarning, match=r"should compute.* off by \d\.\d+ of th") as caught:
        to_tflite(model, "int8", images)
    assert caught[0].filename == __file__


def test_booleans_as_inputs(images):
    inputs = keras.Input((8, 8, 3), dtype="bool")
    x = keras.layers.Conv2D(4, 3)(keras.ops.cast(inputs, "float32"))
    model = keras.Model(inputs, x)
    mask = images > 0.2
    error = predict(to_tflite(model, "int8", mask), mask[:16]) - model(mask[:16]).numpy()
    assert np.sqrt((error**2).mean()) < 0.05


def test_inputs_in_half_precision_become_float32(twins):
    inputs = keras.Input((8, 8, 3), dtype="float16")
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(inputs))
    tflite = to_tflite(model, "float32")
    assert str(twins[0].message).endswith("which computes in float16.")
    assert load(tflite).get_input_details()[0]["dtype"] is np.float32


def test_what_is_no_graph_has_no_twin():
    inputs = keras.Input((8, 8, 3))
    half = keras.layers.Conv2D(4, 3, dtype="mixed_float16")(inputs)
    with pytest.raises(InputError, match=r"to_tflite needs a functional or Seq.*Received: Doubled"):
        to_tflite(Doubled(inputs, half), "float32")


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(InputError, match=r"needs the TensorFlow backend.* backend 'jax'"):
        to_tflite(RELU, "float32")


@pytest.mark.parametrize("calibration", [iter([1]), "data.npz"])
def test_calibration_that_is_no_array(calibration):
    with pytest.raises(InputError, match=r"calibration must be .*array"):
        to_tflite(RELU, "int8", calibration)


@pytest.mark.parametrize("name", ["", ".", ".tflite", "model.bin", "a\0b.tflite", 3])
def test_names_that_cannot_be_written(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"The output must be the name|must end in \.tflite"):
        to_tflite(RELU, "float32", path=name)
    assert list(tmp_path.iterdir()) == []


def test_folders_and_files_in_the_way(tmp_path):
    (tmp_path / "folder.tflite").mkdir()
    (tmp_path / "file").write_text("")
    for name in ("folder.tflite", "file/m.tflite"):
        with pytest.raises(InputError, match=r"The output must (be the name|lie in a)"):
            to_tflite(RELU, "float32", path=tmp_path / name, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.tflite", "file"}


@keras.saving.register_keras_serializable(package="test_convert")
class Doubled(keras.Model):
    def call(self, x, training=None, mask=None):
        return 2.0 * super().call(x)


def test_a_model_with_a_call_of_its_own_is_converted_and_recorded(images, tmp_path):
    inputs = keras.Input((8, 8, 3))
    model = Doubled(inputs, keras.layers.Conv2D(2, 3)(inputs))
    tflite = to_tflite(model, "float32", path=tmp_path / "m.tflite")
    np.testing.assert_allclose(predict(tflite, images[:4]), model(images[:4]), atol=1e-5)
    assert json.loads((tmp_path / "m.recipe.json").read_text())["sites"] == {}


def test_sites_that_are_not_in_the_model_cannot_stay_in_float(networks, images):
    message = r"each once; model 'functional.*' has \['se_1', 'se_2'\]\. Received: \['se_9'\]"
    with pytest.raises(InputError, match=message):
        to_tflite(networks["sigmoid"], "int8", images[100:], keep_float=["se_9"])


def test_graph_blocks_need_fixed_sizes():
    nodes, segments = keras.Input((4,)), keras.Input((), dtype="int32")
    block = GraphSEBlock(2, name="pooled")
    model = keras.Model([nodes, segments], block((nodes, segments)))
    with pytest.raises(InputError, match=r"takes a union of graphs.*Received: .*\['pooled'\]"):
        to_tflite(model, "float32")


@pytest.mark.filterwarnings("ignore")
def test_a_graph_block_of_fixed_sizes_can_be_exported(tmp_path):
    """As the refusal says; the file computes what the model does."""
    nodes = keras.Input(batch_shape=(6, 4), name="nodes")
    segments = keras.Input(batch_shape=(6,), dtype="int32", name="segments")
    block = GraphSEBlock(2, kernel_initializer="ones")
    model = keras.Model([nodes, segments], block((nodes, segments), num_graphs=2))
    path = str(tmp_path / "graph.tflite")
    signature = [
        keras.InputSpec(shape=(6, 4), dtype="float32"),
        keras.InputSpec(shape=(6,), dtype="int32"),
    ]
    model.export(path, format="litert", verbose=False, input_signature=[signature])
    x, ids = np.arange(24.0, dtype="float32").reshape(6, 4), np.array([0, 0, 0, 1, 1, 1], "int32")
    interpreter = load(path)
    for details in interpreter.get_input_details():
        interpreter.set_tensor(details["index"], x if details["dtype"] is np.float32 else ids)
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(found, model([x, ids]), rtol=1e-5)
