import dataclasses

import keras
import numpy as np
import pytest

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


def test_another_tensor_in_place_of_the_gates_is_refused(files, images, monkeypatch):
    """The gates of one site, said to be those of another map."""
    tflite = files["sigmoid", "float32"]
    first, second = main_nodes(tflite)
    wrong = dataclasses.replace(first, product_tensor=first.feature_tensor)
    monkeypatch.setattr(gates, "main_nodes", lambda content, kinds: [wrong, second])
    with pytest.raises(InputError, match=r"times its feature map\. Received: site se_1 with a dif"):
        file_gates(tflite, images[:1])


def test_a_file_that_computes_something_else_when_watched_is_refused(files, images, monkeypatch):
    tflite, load = files["sigmoid", "float32"], gates.load
    model = unpacked(tflite)
    weights = max((b for b in model.buffers if b.data is not None), key=lambda b: len(b.data))
    weights.data = (-np.frombuffer(bytes(weights.data), "float32")).view("uint8")
    other = packed(model)
    monkeypatch.setattr(
        gates, "load", lambda content, **kept: load(content if kept else other, **kept)
    )
    with pytest.raises(
        InputError, match=r"must not change what a file computes\. Received: a file"
    ):
        file_gates(tflite, images[:1])
