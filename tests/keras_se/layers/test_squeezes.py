import keras
import numpy as np
import pytest
from arrays import arrays

from keras_se.errors import InputError
from keras_se.layers import registration, squeezes

RNG = np.random.default_rng(0)
REFERENCES = {
    "avg": np.mean,
    "max": np.max,
    "avg_max": lambda x, **kw: (np.mean(x, **kw) + np.max(x, **kw)) / 2,
    "std": np.std,
}


def squeezed(name, x, axis, **mask):
    return keras.ops.convert_to_numpy(squeezes.get(name)(x, axis, **mask))


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("axis", [(1, 2), (2, 3), (1,)])
def test_squeeze_reduces_and_keeps_the_axes(name, axis):
    x = RNG.normal(size=(2, 3, 4, 5)).astype("float32")
    expected = REFERENCES[name](x, axis=axis, keepdims=True)
    np.testing.assert_allclose(squeezed(name, x, axis), expected, atol=1e-6)


def test_every_squeeze_has_a_test():
    assert set(squeezes.SQUEEZES) == set(REFERENCES)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("padding", [np.nan, np.inf, -np.inf, 9.0, -9.0])
def test_only_positions_under_the_mask_count(name, padding):
    x = RNG.normal(size=(4, 6, 3)).astype("float32")
    lengths = [1, 3, 6, 0]
    mask = np.arange(6)[None, :] < np.array(lengths)[:, None]
    x[~mask] = padding  # nothing of it may be seen
    y = squeezed(name, x, (1,), mask=mask[..., None])
    for row, length in enumerate(lengths):
        valid = x[row : row + 1, :length]
        expected = REFERENCES[name](valid, axis=1, keepdims=True) if length else np.zeros((1, 1, 3))
        np.testing.assert_allclose(y[row : row + 1], expected, atol=1e-6)


def test_the_standard_deviation_of_an_even_map_has_a_finite_slope():
    """The slope of a square root is infinite at 0, and times 0 it would be NaN."""
    std = keras.layers.Lambda(lambda t: squeezes.std(t, (1,)))
    dense = keras.layers.Dense(3, kernel_initializer="ones")
    model = keras.Sequential([keras.Input((4, 3)), dense, std])
    model.compile("sgd", "mse", jit_compile=False)
    model.train_on_batch(np.ones((2, 4, 3)), np.ones((2, 1, 3)))
    assert np.isfinite(model.get_weights()[0]).all()
    np.testing.assert_allclose(arrays(model(np.ones((1, 4, 3)))), 0.0, atol=2e-7)


def test_the_standard_deviation_of_a_far_off_level():
    """A mean of squares minus a squared mean would lose everything here."""
    x = (1e4 + RNG.normal(size=(1, 500, 2))).astype("float32")
    expected = x.astype("float64").std(axis=1, keepdims=True)
    np.testing.assert_allclose(squeezed("std", x, (1,)), expected, rtol=1e-3)


@keras.saving.register_keras_serializable(package="test_squeezes")
def first(x, axis):
    return x[:, :1]


def test_a_registered_function_serves():
    assert squeezes.standardize(first) is squeezes.get(first) is first
    assert squeezes.get(registration.serialize(first)) is first
    assert not squeezes.takes_mask(first)
    assert all(squeezes.takes_mask(squeeze) for squeeze in squeezes.SQUEEZES.values())


def test_a_named_function_is_its_name():
    assert squeezes.standardize(squeezes.std) == "std"


def test_a_callable_must_be_registered():
    with pytest.raises(InputError, match=r"A callable squeeze must be registered .*Received: sq"):
        squeezes.get(lambda x, axis: x)


@pytest.mark.parametrize("identifier", ["median", None])
def test_unknown_squeeze(identifier):
    with pytest.raises(InputError, match=r"squeeze must be one of \['avg', 'avg_max', 'max', 's"):
        squeezes.get(identifier)
