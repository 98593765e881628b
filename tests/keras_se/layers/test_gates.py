"""Each fact of the table of gates is measured on the function itself."""

import math

import keras
import numpy as np
import pytest

from keras_se.errors import InputError
from keras_se.layers import DivisiveNormalization, gates, registration

GRID = np.linspace(-12.0, 12.0, 240_001)  # a step of 1e-4, 0 and ±3 among the points
REFERENCES = {
    "sigmoid": lambda v: 1.0 / (1.0 + np.exp(-v)),
    "hard_sigmoid": lambda v: np.clip(v + 3.0, 0.0, 6.0) / 6.0,
    "one_plus_tanh": lambda v: 1.0 + np.tanh(v),
    "tanh": np.tanh,
    "relu": lambda v: np.maximum(v, 0.0),
}
POINTWISE = [gates.GATES[name] for name in REFERENCES]


def values(gate, v):
    return keras.ops.convert_to_numpy(gate.function(keras.ops.convert_to_tensor(v, "float64")))


@pytest.mark.parametrize("gate", POINTWISE, ids=lambda gate: gate.name)
class TestFacts:
    def test_function(self, gate):
        np.testing.assert_allclose(values(gate, GRID), REFERENCES[gate.name](GRID), atol=1e-7)

    def test_range(self, gate):
        y = values(gate, np.array([-1e6, 1e6]))
        assert y[0] == pytest.approx(gate.low, abs=1e-12)
        assert y[1] == pytest.approx(gate.high) if math.isfinite(gate.high) else y[1] >= 1e6
        assert np.all(np.diff(values(gate, GRID)) >= 0)

    def test_largest_slope(self, gate):
        slopes = np.diff(values(gate, GRID)) / np.diff(GRID)
        assert slopes.max() == pytest.approx(gate.slope, rel=1e-4)

    def test_inverse(self, gate):
        inside = np.linspace(gate.low, min(gate.high, 10.0), 52)[1:-1]
        np.testing.assert_allclose(values(gate, gate.inverse(inside)), inside, atol=1e-7)

    def test_one_at(self, gate):
        if gate.one_at is None:
            y = values(gate, GRID)
            at_one = np.flatnonzero(y == 1.0)
            # 1 is reached nowhere, or only where the function is flat to one side.
            assert all(y[i + 1] == y[i] for i in at_one if i + 1 < len(y))
        else:
            y = values(gate, np.array([gate.one_at - 1e-4, gate.one_at, gate.one_at + 1e-4]))
            assert y[1] == 1.0
            assert y[0] < 1.0 < y[2]

    def test_at_rest(self, gate):
        y = values(gate, np.zeros(1)).item()
        # No factor before a gate of 0 can undo it; a gate of 1 needs none.
        assert gate.at_rest == (None if y in (0.0, 1.0) else y)

    def test_code(self, gate):
        assert gate.low < gate.ceiling <= gate.high
        if gate.step is None:
            assert math.isinf(gate.ceiling)
        else:
            assert (gate.ceiling / gate.step) == int(gate.ceiling / gate.step)


class TestSoftmax:
    gate = gates.GATES["softmax"]

    def test_function(self):
        v = np.random.default_rng(0).normal(size=(5, 1, 1, 7))
        expected = 7 * np.exp(v) / np.exp(v).sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(values(self.gate, v), expected, atol=1e-12)

    @pytest.mark.parametrize("jit_compile", [False, True])
    def test_an_indifferent_gate_is_exactly_one(self, xla, jit_compile):
        """41 and 55 are widths for which C · (1/C) is not 1 in float32."""
        for channels in (41, 55):
            inputs = keras.Input((1, 1, channels))
            model = keras.Model(inputs, keras.layers.Lambda(self.gate.function)(inputs))
            model.compile(jit_compile=jit_compile)
            for level in (0.0, -7.3):
                x = np.full((2, 1, 1, channels), level, "float32")
                np.testing.assert_array_equal(model.predict(x, verbose=0), np.ones_like(x))

    def test_range_and_slope(self):
        channels = 8
        v = np.zeros((4001, channels))
        v[:, 0] = np.linspace(-20, 20, 4001)
        y = values(self.gate, v)[:, 0]
        assert y.min() == pytest.approx(0.0, abs=1e-6)
        assert y.max() == pytest.approx(channels, abs=1e-6)
        assert (np.diff(y) / 0.01).max() == pytest.approx(channels / 4, rel=1e-3)

    def test_large_values_do_not_overflow(self):
        assert np.isfinite(values(self.gate, np.array([[1e4, -1e4, 0.0]]))).all()

    def test_inverse(self):
        s = np.array([[0.5, 1.0, 1.5]])
        np.testing.assert_allclose(values(self.gate, self.gate.inverse(s)), s, atol=1e-12)


def test_every_gate_has_a_test_and_a_row_in_the_table():
    assert set(gates.GATES) == {*REFERENCES, "softmax"}
    for name in gates.GATES:
        assert f"\n| {name} |" in gates.__doc__


def test_hard_sigmoid_is_not_the_one_of_keras_2():
    """Keras 2 had clip(0.2 v + 0.5), up to 0.083 away."""
    ours = values(gates.GATES["hard_sigmoid"], GRID)
    assert np.abs(ours - np.clip(0.2 * GRID + 0.5, 0, 1)).max() == pytest.approx(1 / 12, abs=1e-3)
    keras_3 = keras.ops.convert_to_numpy(keras.ops.hard_sigmoid(GRID))
    np.testing.assert_allclose(ours, keras_3, atol=1e-7)


def test_one_plus_tanh_is_a_stretched_sigmoid():
    np.testing.assert_allclose(
        values(gates.get("one_plus_tanh"), GRID),
        2.0 * values(gates.get("sigmoid"), 2.0 * GRID),
        atol=1e-12,
    )


def test_a_named_function_is_its_name():
    assert gates.standardize(gates.tanh) == "tanh"
    assert gates.get(gates.tanh) is gates.GATES["tanh"]


@keras.saving.register_keras_serializable(package="test_gates")
def squared(v):
    return v * v


def test_a_registered_function_serves_by_its_registered_name():
    gate = gates.get(squared)
    assert (gate.name, gate.function, gate.one_at) == ("test_gates>squared", squared, None)
    assert gates.get(registration.serialize(squared)).function is squared


def not_registered(v):
    return v


@pytest.mark.parametrize(
    "function",
    [not_registered, lambda v: v, len, keras.activations.gelu, DivisiveNormalization],
    ids=["function", "lambda", "builtin", "Keras's", "class"],
)
def test_a_callable_must_be_registered(function):
    with pytest.raises(InputError, match=r"A callable gate must be registered .* Received: gate=<"):
        gates.get(function)


@pytest.mark.parametrize("identifier", ["softmin", None])
def test_unknown_gate(identifier):
    with pytest.raises(InputError, match=r"gate must be one of \['hard_sigmoid', 'one_plus_tanh',"):
        gates.get(identifier)
