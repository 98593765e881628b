import keras
import numpy as np
import pytest

from keras_se.errors import InputError
from keras_se.layers import squeezes


@pytest.mark.parametrize(("name", "reference"), [("avg", np.mean), ("max", np.max)])
@pytest.mark.parametrize("axis", [(1, 2), (2, 3)])
def test_squeeze_reduces_and_keeps_the_axes(name, reference, axis):
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype("float32")
    y = keras.ops.convert_to_numpy(squeezes.get(name)(x, axis))
    np.testing.assert_allclose(y, reference(x, axis=axis, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("identifier", ["median", None, 3])
def test_unknown_squeeze(identifier):
    with pytest.raises(InputError, match=r"squeeze must be one of \['avg', 'max'\]\. Received: sq"):
        squeezes.get(identifier)
