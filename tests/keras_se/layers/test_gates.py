"""Each fact of the table of gates is measured on the function itself."""

import keras
import numpy as np
import pytest

from keras_se.errors import InputError
from keras_se.layers import gates

GRID = np.linspace(-12.0, 12.0, 240_001)  # a step of 1e-4, 0 and ±3 among the points
REFERENCES = {
    "sigmoid": lambda v: 1.0 / (1.0 + np.exp(-v)),
    "hard_sigmoid": lambda v: np.clip(v + 3.0, 0.0, 6.0) / 6.0,
    "one_plus_tanh": lambda v: 1.0 + np.tanh(v),
}


def values(gate, v):
    return keras.ops.convert_to_numpy(gate.function(keras.ops.convert_to_tensor(v, "float64")))


@pytest.mark.parametrize("gate", gates.GATES.values(), ids=lambda gate: gate.name)
class TestFacts:
    def test_function(self, gate):
        np.testing.assert_allclose(values(gate, GRID), REFERENCES[gate.name](GRID), atol=1e-7)

    def test_range(self, gate):
        y = values(gate, np.array([-40.0, 40.0]))
        np.testing.assert_allclose(y, [gate.low, gate.high], atol=1e-12)
        assert np.all(np.diff(values(gate, GRID)) >= 0)

    def test_largest_slope(self, gate):
        slopes = np.diff(values(gate, GRID)) / np.diff(GRID)
        assert slopes.max() == pytest.approx(gate.slope, rel=1e-4)

    def test_inverse(self, gate):
        inside = np.linspace(gate.low, gate.high, 52)[1:-1]
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

    def test_code(self, gate):
        assert gate.low < gate.ceiling <= gate.high
        assert (gate.ceiling / gate.step) == int(gate.ceiling / gate.step)


def test_one_plus_tanh_is_a_stretched_sigmoid():
    np.testing.assert_allclose(
        values(gates.get("one_plus_tanh"), GRID),
        2.0 * values(gates.get("sigmoid"), 2.0 * GRID),
        atol=1e-12,
    )


@pytest.mark.parametrize("identifier", ["softmin", None, len])
def test_unknown_gate(identifier):
    with pytest.raises(InputError, match=r"gate must be one of \['hard_sigmoid', 'one_plus_tanh',"):
        gates.get(identifier)
