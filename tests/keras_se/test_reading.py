import numpy as np
import pytest

import keras_se
from keras_se.errors import InputError


def test_models_and_files_are_read_alike(networks, images, tmp_path):
    model = networks["one_plus_tanh"]
    path = tmp_path / "model.tflite"
    path.write_bytes(keras_se.to_tflite(model, "float32"))
    figures = [(s.name, s.channels, s.width, s.gate) for s in keras_se.find_sites(model)]
    assert figures == [(s.name, s.channels, s.width, s.gate) for s in keras_se.find_sites(path)]
    expected = keras_se.read_gates(model, images[:5])
    for source in (path, str(path), path.read_bytes()):
        for name, values in keras_se.read_gates(source, images[:5]).items():
            np.testing.assert_allclose(values, expected[name], atol=1e-6)


@pytest.mark.parametrize("batch_size", [-1, 0, 1.5, True, None])
def test_the_size_of_a_batch(batch_size, networks, images):
    message = f"must be a whole number of at least 1. Received: batch_size={batch_size}"
    with pytest.raises(InputError, match=message):
        keras_se.read_gates(networks["sigmoid"], images[:2], batch_size=batch_size)


@pytest.mark.parametrize("function", [keras_se.find_sites, lambda m: keras_se.read_gates(m, [])])
def test_anything_else_is_refused(function):
    with pytest.raises(InputError, match=r"or the path of a TFLite file\. Received: int"):
        function(42)
