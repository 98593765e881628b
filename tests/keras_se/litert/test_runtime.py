import keras
import numpy as np
import pytest

from keras_se import read_gates, to_tflite
from keras_se.errors import InputError
from keras_se.isolation import check_runs
from keras_se.litert.gates import file_gates
from keras_se.litert.graph.flatbuffer import packed, unpacked
from keras_se.litert.runtime import Runner, file_input_shapes, load, predict


def test_inputs_beyond_the_range_are_clipped_as_on_a_device(files, images):
    tflite = files["sigmoid", "int8"]
    top = np.full((1, 8, 8, 3), images.max(), "float32")
    np.testing.assert_array_equal(predict(tflite, top), predict(tflite, 100 * top))


def test_mutated_files_run_or_are_refused(files, images):
    """Whatever the runtime is led into, an `InputError` comes of it."""
    tflite = files["one_plus_tanh", "float32"]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(30):
        mutated = bytearray(tflite)
        for position in rng.integers(8, len(tflite), size=3):
            mutated[position] = rng.integers(256)
        try:
            check_runs([bytes(mutated)])  # a crash would take this process along
            file_gates(bytes(mutated), images[:1])
        except InputError:
            refused += 1
    assert 0 < refused < 30


def test_nan_is_refused(files):
    with pytest.raises(InputError, match=r"x must be finite\. Received: 192 values"):
        file_gates(files["sigmoid", "float32"], np.full((1, 8, 8, 3), np.nan))


@pytest.mark.parametrize("x", [np.ones((2, 4, 4, 3)), np.ones((0, 8, 8, 3)), np.ones(3)])
def test_inputs_that_do_not_fit(files, x):
    with pytest.raises(InputError, match=r"x must have the shape \(samples, 8, 8, 3\)"):
        file_gates(files["sigmoid", "float32"], x)


def test_a_file_with_two_inputs_takes_them_by_name():
    import tensorflow as tf

    spec = tf.TensorSpec((1, 2), tf.float32)
    subtract = tf.function(lambda b, a: b - a, input_signature=[spec, spec])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [subtract.get_concrete_function()], tf.Module()
    )
    tflite = converter.convert()
    x = {"a": np.ones((3, 2)), "b": np.full((3, 2), 5.0)}
    np.testing.assert_array_equal(predict(tflite, x), np.full((3, 2), 4.0))
    assert file_input_shapes(tflite) == {"a": (2,), "b": (2,)}
    for wrong in (np.ones((2, 2)), {"a": x["a"]}, {**x, "c": x["a"]}):
        with pytest.raises(
            InputError, match=r"a dictionary with the inputs of the file, \['a', 'b'"
        ):
            predict(tflite, wrong)
    with pytest.raises(
        InputError, match=r"same number of samples for each input\. Received: \{'a': 1, 'b': 3\}"
    ):
        predict(tflite, {"a": x["a"][:1], "b": x["b"]})


def test_what_the_runtime_refuses(files):
    tflite = files["sigmoid", "float32"]
    with pytest.raises(InputError, match=r"must load in the LiteRT runtime\. Received: 2000 bytes"):
        load(tflite[:2000])


def test_a_file_for_several_samples_takes_any_number(networks, images):
    """A batch of four runs seven samples in two steps, the second one filled up."""
    tflite = fixed_batch(networks["sigmoid"], 4)
    np.testing.assert_allclose(
        predict(tflite, images[:7]), networks["sigmoid"](images[:7]), atol=1e-5
    )
    expected = read_gates(networks["sigmoid"], images[:7])
    for name, gates in file_gates(tflite, images[:7]).items():
        np.testing.assert_allclose(gates, expected[name], atol=1e-5)


def fixed_batch(model, size):
    import tensorflow as tf

    spec = tf.TensorSpec((size, *model.inputs[0].shape[1:]), tf.float32)
    call = tf.function(lambda x: model(x, training=False), input_signature=[spec])
    return tf.lite.TFLiteConverter.from_concrete_functions([call.get_concrete_function()]).convert()


def test_many_outputs_come_in_the_order_of_the_model(images):
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, [keras.layers.Dense(2)(x) for _ in range(12)])
    # `to_tflite` would warn of outputs that are far from those of the model.
    found = predict(to_tflite(model, "int8", images[100:]), images[:50])
    assert list(found) == [f"output_{n}" for n in range(12)]
    for values, wanted in zip(found.values(), model.predict(images[:50], verbose=0), strict=True):
        np.testing.assert_allclose(values, wanted, atol=0.03)


def test_a_file_without_outputs(files):
    model = unpacked(files["sigmoid", "float32"])
    model.subgraphs[0].outputs, model.signatureDefs = [], []
    with pytest.raises(InputError, match=r"must have an output\. Received: \d+ bytes"):
        Runner(packed(model))
