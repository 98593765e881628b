import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from keras import ops

from keras_se import SEBlock, read_gates, to_tflite
from keras_se.errors import InputError
from keras_se.litert import gates
from keras_se.litert.gates import file_gates
from keras_se.litert.graph.flatbuffer import packed, unpacked
from keras_se.litert.graph.sites import main_nodes

GATES = ("sigmoid", "hard_sigmoid", "one_plus_tanh")


@pytest.mark.parametrize("gate", GATES)
def test_gates_are_those_of_the_model(networks, files, images, gate):
    expected = read_gates(networks[gate], images[:40])
    for name, tolerance in (("float32", 1e-6), ("int8", 0.05)):
        found = file_gates(files[gate, name], images[:40])
        assert list(found) == list(expected)
        for site, values in found.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, expected[site], atol=tolerance)


def test_int8_gates_are_codes_of_their_step(files, images):
    for values in file_gates(files["sigmoid", "int8"], images[:16]).values():
        codes = values * 256
        np.testing.assert_allclose(codes, np.round(codes), atol=1e-4)
        assert values.max() <= 255 / 256


def test_gates_of_sequences():
    model = keras.Sequential([keras.Input((8, 6)), SEBlock(2, gate="hard_sigmoid")])
    x = np.random.default_rng(0).normal(size=(4, 8, 6)).astype("float32")
    found = file_gates(to_tflite(model, "float32"), x)["se_1"]
    np.testing.assert_allclose(found, read_gates(model, x)["se_1"], atol=1e-6)


def test_no_site_no_gates(images):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    assert file_gates(to_tflite(model, "float32"), images[:2]) == {}


@pytest.mark.filterwarnings("ignore:Warning. Enabling")
@pytest.mark.parametrize("name", ["float32", "int8"])
def test_gates_are_the_tensors_that_an_interpreter_keeps(files, images, name):
    tflite = files["one_plus_tanh", name]
    kept = Interpreter(model_content=tflite, experimental_preserve_all_tensors=True)
    kept.allocate_tensors()
    details = {d["index"]: d for d in kept.get_tensor_details()}
    (given,) = kept.get_input_details()
    scale, zero = given["quantization"]
    for n in range(4):
        x = images[n : n + 1]
        codes = np.clip(np.round(x / np.float32(scale)) + zero, -128, 127) if scale else x
        kept.set_tensor(given["index"], codes.astype(given["dtype"]))
        kept.invoke()
        for node in main_nodes(tflite):
            step, zero_point = details[node.gate_tensor]["quantization"]
            values = kept.get_tensor(node.gate_tensor).astype("float32")
            expected = (values - zero_point) * np.float32(step) if step else values
            found = file_gates(tflite, x)[node.site.name]
            np.testing.assert_allclose(found, expected.reshape(1, -1), atol=1e-6)


def test_a_float_output_may_round_as_its_inputs_do():
    """Layer normalization written out: the twin's kernels round the output another way."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 16))
    pooled = keras.layers.GlobalAveragePooling2D()(SEBlock(4)(inputs))
    x = keras.layers.Dense(128)(pooled)
    d = x - ops.mean(x, -1, keepdims=True)
    x = d * ops.rsqrt(ops.mean(d * d, -1, keepdims=True) + 1e-5)
    model = keras.Model(inputs, keras.layers.Dense(1, activation="sigmoid")(ops.relu(x)))
    data = 3 * np.random.default_rng(0).normal(size=(64, 8, 8, 16)).astype("float32")
    found = file_gates(to_tflite(model, "float32"), data)["se_1"]
    np.testing.assert_allclose(found, read_gates(model, data)["se_1"], atol=1e-6)


@pytest.mark.parametrize("change", [-1.0, 1.001])
def test_a_file_that_computes_something_else_when_watched_is_refused(
    files, images, monkeypatch, change
):
    tflite, with_outputs = files["sigmoid", "float32"], gates.with_outputs
    model = unpacked(tflite)
    weights = max((b for b in model.buffers if b.data is not None), key=lambda b: len(b.data))
    weights.data = (np.float32(change) * np.frombuffer(bytes(weights.data), "float32")).view(
        "uint8"
    )
    other = packed(model)
    monkeypatch.setattr(gates, "with_outputs", lambda file, tensors: with_outputs(other, tensors))
    with pytest.raises(
        InputError, match=r"must not change what a file computes\. Received: a file"
    ):
        file_gates(tflite, images[:1])
