import keras
import numpy as np
import pytest

from keras_se.errors import InputError
from keras_se.layers import DivisiveNormalization

RNG = np.random.default_rng(0)


def values(gate, v):
    return keras.ops.convert_to_numpy(gate(keras.ops.convert_to_tensor(v, "float64")))


@pytest.mark.parametrize("constants", [{}, {"gamma": 3.0, "sigma": 0.3, "n": 1.5}])
def test_the_normalization_equation(constants):
    gate = DivisiveNormalization(**constants)
    v = RNG.normal(size=(4, 1, 1, 7))
    drive = np.log1p(np.exp(v)) ** gate.n
    expected = gate.gamma * drive / (gate.sigma**gate.n + drive.mean(axis=-1, keepdims=True))
    np.testing.assert_allclose(values(gate, v), expected, atol=1e-12)


def test_channels_inhibit_each_other():
    gate = DivisiveNormalization()
    v = np.zeros((1, 5))
    more = v.copy()
    more[0, 0] = 3.0
    assert (values(gate, more)[0, 1:] < values(gate, v)[0, 1:]).all()
    assert values(gate, more)[0, 0] > values(gate, v)[0, 0]


def test_the_mean_gate_is_bounded_by_gamma():
    v = 20 * RNG.normal(size=(100, 9))
    assert values(DivisiveNormalization(gamma=1.7), v).mean(axis=-1).max() < 1.7


def test_at_the_semi_saturation_constant_a_uniform_pool_has_half_of_gamma():
    sigma = 0.8
    v = np.full((1, 4), np.log(np.expm1(sigma)))  # softplus(v) = sigma
    np.testing.assert_allclose(values(DivisiveNormalization(2.0, sigma), v), 1.0, atol=1e-12)


@pytest.mark.parametrize("constants", [{"gamma": 0}, {"sigma": -1.0}, {"n": 0.5}])
def test_refusals(constants):
    with pytest.raises(InputError, match=r"must be above 0 and n at least 1\. Received: gamma="):
        DivisiveNormalization(**constants)


def test_half_precision_does_not_overflow():
    v = keras.ops.convert_to_tensor(np.array([[300.0, 300.0, 1.0, 1.0]]), "float16")
    gates = keras.ops.convert_to_numpy(DivisiveNormalization()(v))
    assert gates.dtype == "float16"
    assert np.isfinite(gates).all()
