import keras
import numpy as np
import pytest

from keras_se.errors import InputError
from keras_se.layers import FakeQuantize
from keras_se.layers.quantization.fake_quantize import is_quantize_aware


@pytest.mark.parametrize("ends", [(0.0, 255 / 256), (-1.0, 127 / 128), (0.0, 6.0), (-1.3, 2.9)])
def test_values_are_those_of_numpy(ends, rounded):
    x = np.linspace(ends[0] - 1.0, ends[1] + 1.0, 1237, dtype="float32").reshape(1, -1)
    found = keras.ops.convert_to_numpy(FakeQuantize(ends)(x))
    np.testing.assert_allclose(found, rounded(x, *ends), atol=2e-6)
    assert len(np.unique(found)) == 256


@pytest.mark.parametrize(("ends", "step"), [((0.0, 255 / 256), 256), ((-1.0, 127 / 128), 128)])
def test_the_codes_of_sigmoid_and_tanh_are_exact(ends, step):
    found = keras.ops.convert_to_numpy(FakeQuantize(ends)(np.linspace(-2, 2, 999)[None]))
    np.testing.assert_array_equal(found * step, np.round(found * step))
    assert found.min() == ends[0]
    assert found.max() == ends[1]


def test_observed_ranges_are_the_extremes_with_zero(rounded):
    layer = FakeQuantize()
    layer.build((None, 2))
    layer.observe()
    for batch in ([[3.0, 1.0]], [[2.0, 5.0]]):
        np.testing.assert_array_equal(layer(np.array(batch, "float32")), batch)
    layer.observing = False
    assert (float(layer.low), float(layer.high)) == (0.0, 5.0)
    x = np.array([[-1.0, 2.3456]], "float32")
    np.testing.assert_allclose(layer(x), rounded(x, 0.0, 5.0), atol=1e-6)


def test_in_training_the_range_follows_the_batches():
    layer = FakeQuantize(momentum=0.75)
    x = np.array([[-2.0, 10.0]], "float32")
    layer(x)
    assert (float(layer.low), float(layer.high)) == (-6.0, 6.0)
    layer(x, training=True)  # widens at once, narrows by a quarter
    assert (float(layer.low), float(layer.high)) == (-5.0, 10.0)
    layer(np.zeros((1, 2), "float32"), training=True)  # dead: the range stays
    assert (float(layer.low), float(layer.high)) == (-5.0, 10.0)
    layer.trainable = False
    layer(x, training=True)
    assert (float(layer.low), float(layer.high)) == (-5.0, 10.0)


def test_the_gradient_passes_where_nothing_is_clipped():
    dense = keras.layers.Dense(3, use_bias=False, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((1,)), dense, FakeQuantize((0.0, 2.0))])
    model.compile(keras.optimizers.SGD(1.0), lambda y, p: keras.ops.sum(p, axis=-1))
    for value, expected in ((1.0, 0.0), (5.0, 1.0), (-1.0, 1.0)):  # inside, above, below
        dense.kernel.assign(np.ones((1, 3)))
        model.train_on_batch(np.array([[value]], "float32"), np.zeros((1, 3)))
        np.testing.assert_array_equal(dense.kernel, np.full((1, 3), expected))


def test_files_keep_the_range(tmp_path):
    layer = FakeQuantize(momentum=0.5)
    model = keras.Sequential([keras.Input((2,)), layer, FakeQuantize((0.0, 1.0))])
    layer.high.assign(3.0)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    x = np.array([[0.3, 4.0]], "float32")
    np.testing.assert_array_equal(again(x), model(x))
    assert again.layers[0].get_config() == layer.get_config()
    assert again.layers[1].fixed == (0.0, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fixed": (1.0, 2.0)}, r"include zero\. Received: fixed=\(1.0, 2.0\)"),
        ({"momentum": 1.0}, r"at least 0 and below 1\. Received: momentum=1.0"),
        ({"momentum": -0.1}, r"at least 0 and below 1\. Received: momentum=-0.1"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        FakeQuantize(**arguments)


def test_is_quantize_aware_looks_into_nested_models():
    inner = keras.Sequential([keras.Input((2,)), FakeQuantize()])
    assert is_quantize_aware(keras.Sequential([keras.Input((2,)), inner]))
    assert not is_quantize_aware(keras.Sequential([keras.Input((2,)), keras.layers.ReLU()]))
