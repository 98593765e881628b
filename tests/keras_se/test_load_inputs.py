import keras
import numpy as np
import pytest

from keras_se.data import load_inputs
from keras_se.errors import InputError
from keras_se.graph.inputs import input_shapes

X = np.arange(6 * 4 * 4, dtype="uint8").reshape(6, 4, 4)
Y = np.array([0, 1, 2, 0, 1, 2])
ONE = {"image": (4, 4, 1)}
TWO = {"image": (4, 4, 1), "gain": (2,)}


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write


@pytest.mark.parametrize("name", ["x", "image"])
def test_which_part_is_taken(npz, name):
    arrays = {f"{name}_train": X, f"{name}_test": X[:2], "y_test": Y[:2]}
    held_out = load_inputs(npz(**arrays), ONE)
    assert (held_out.x.shape, held_out.x.dtype, held_out.samples) == ((2, 4, 4, 1), "float32", 2)
    np.testing.assert_array_equal(held_out.labels, [0, 1])
    training = load_inputs(npz(**arrays), ONE, held_out=False)
    assert (len(training.x), training.labels) == (6, None)
    np.testing.assert_array_equal(load_inputs(npz(**{name: X}), ONE).x[..., 0], X)


def test_the_test_part_is_never_for_calibration(npz):
    with pytest.raises(InputError, match=r"Data must hold x or image, or .* _train behind"):
        load_inputs(npz(x_test=X), ONE, held_out=False)


def test_the_model_says_what_three_axes_are(npz):
    assert load_inputs(npz(x=X), {"sequence": (4, 4)}).x.shape == (6, 4, 4)
    assert load_inputs(npz(x=X), {"sequence": (None, 4)}).x.shape == (6, 4, 4)
    assert load_inputs(npz(x=X), ONE).x.shape == (6, 4, 4, 1)


def test_several_inputs_go_by_name(npz):
    loaded = load_inputs(npz(image=X, gain=np.ones((6, 2)), y=Y), TWO)
    assert {name: x.shape for name, x in loaded.x.items()} == {
        "image": (6, 4, 4, 1),
        "gain": (6, 2),
    }
    assert loaded.samples == len(loaded.labels) == 6


@pytest.mark.parametrize(
    ("arrays", "shapes", "message"),
    [
        (
            {"images": X},
            ONE,
            r"Data must hold x or image, .* _test or _train .* Received: \['images'\]",
        ),
        ({"image": X}, TWO, r"Data must hold image and gain, or"),
        ({"image_test": X, "gain": X}, TWO, r"Data must hold image and gain, or"),
        ({"image": X, "gain": np.ones((5, 2))}, TWO, r"one number of samples.*'image': 6, 'gain'"),
        ({"x": X[:0]}, ONE, r"one number of samples, above 0\. Received: \{'image': 0\}"),
        (
            {"x": X},
            {"image": (4, 5, 1)},
            r"x must have the shape \(samples, 4, 5, 1\) .* \(6, 4",
        ),
        ({"x": X[0]}, ONE, r"x must have the shape .* Received: shape \(4, 4\)"),
        ({"x": np.where(X == 5, np.nan, X)}, ONE, r"x must be finite\. Received: 1 values"),
        ({"x": X, "y": Y[:5]}, ONE, r"x and y must have the same length.* 6 images and 5 labels"),
        ({"x": X, "y": Y / 2}, ONE, r"y must hold one integer label .* dtype float64"),
    ],
)
def test_bad_arrays(npz, arrays, shapes, message):
    with pytest.raises(InputError, match=message):
        load_inputs(npz(**arrays), shapes)


def test_the_names_are_those_that_the_model_takes():
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    joined = keras.layers.Concatenate()([a, b])
    assert input_shapes(keras.Model([a, b], joined)) == {"a": (4,), "b": (2,)}
    model = keras.Model({"b": b, "a": a}, joined)
    shapes = input_shapes(model)
    assert shapes == {"a": (4,), "b": (2,)}
    model({name: np.zeros((1, *shape)) for name, shape in shapes.items()})


def test_an_input_called_y_is_no_label(npz):
    loaded = load_inputs(npz(x=np.ones((6, 2)), y=np.ones((6, 3))), {"x": (2,), "y": (3,)})
    assert loaded.labels is None
    assert loaded.x["y"].shape == (6, 3)


def test_scalars_need_an_axis_of_samples(npz):
    with pytest.raises(InputError, match=r"t must have the shape \(samples, \).* shape \(\)"):
        load_inputs(npz(t=np.float32(3)), {"t": ()})
    assert load_inputs(npz(t=np.ones(4)), {"t": ()}).x.shape == (4,)


def test_nested_inputs_are_refused():
    a, b = keras.Input((4,), name="a"), keras.Input((2,), name="b")
    model = keras.Model({"a": a, "q": {"b": b}}, keras.layers.Concatenate()([a, b]))
    with pytest.raises(InputError, match=r"must not nest them.* with inputs \['a', 'q'\]"):
        input_shapes(model)


def test_a_model_that_is_not_built_is_refused():
    with pytest.raises(InputError, match="takes built models"):
        input_shapes(keras.Sequential([keras.layers.Dense(2)]))
