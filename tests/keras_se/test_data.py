import pickle
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_se.data import load_images, load_inputs, spaced
from keras_se.errors import InputError

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


@pytest.fixture
def returning(monkeypatch):
    """The reference of a function that returns a value, or that is itself given."""

    def name(returned):
        function = returned if callable(returned) else lambda: returned
        monkeypatch.setattr("keras_se.data.images", function, raising=False)
        return "keras_se.data:images"

    return name


def test_images_to_train_and_to_test(npz):
    path = npz(x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2].astype("uint8"))
    (x, y), (x_test, y_test) = load_images(path)
    assert (x.shape, x.dtype, y.dtype) == ((6, 4, 4, 1), "float32", "int64")
    np.testing.assert_array_equal(x[..., 0], X)
    np.testing.assert_array_equal(x_test, x[:2])
    np.testing.assert_array_equal(y_test, [0, 1])


def test_images_of_one_part(npz):
    (x, _), test = load_images(npz(x=np.stack([X] * 3, axis=-1), y=Y))
    assert (x.shape, test) == ((6, 4, 4, 3), None)


def dataset(x=X, y=Y):
    return tf.data.Dataset.from_tensor_slices((x, y))


@pytest.mark.parametrize(
    ("returned", "tested"),
    [
        ((X, Y), 0),
        ({"x": X, "y": Y}, 0),
        (dataset, 0),
        (lambda: dataset().batch(4), 0),
        ((X, Y, X[:2], Y[:2]), 2),
        (((X, Y), (X[:2], Y[:2])), 2),
        (lambda: (dataset(), dataset(X[:2], Y[:2])), 2),
    ],
)
def test_functions(returning, returned, tested):
    (x, y), test = load_images(returning(returned))
    np.testing.assert_array_equal(x[..., 0], X)
    np.testing.assert_array_equal(y, Y)
    assert tested == (0 if test is None else len(test[0]))


def test_a_function_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "of_images.py").write_text("def images(): return [[[1]]] * 3, [0, 1, 2]")
    monkeypatch.syspath_prepend(tmp_path)
    assert load_images("of_images:images")[0][0].shape == (3, 1, 1, 1)
    (tmp_path / "broken_module.py").write_text("raise SystemExit")
    for source in ("broken_module:f", "no_such_module:f", "keras_se.data:no_such_function"):
        with pytest.raises(InputError, match=r"Data given as .* must be importable"):
            load_images(source)


@pytest.mark.parametrize(
    "y", [Y[:, None], Y[:, None].astype("uint8"), np.eye(3)[Y], Y.astype("f4"), Y[:, None] * 1.0]
)
def test_labels_in_a_column_one_hot_and_floats(npz, y):
    (_, labels), _ = load_images(npz(x=X, y=y))
    np.testing.assert_array_equal(labels, Y)
    assert labels.dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": Y[:5]}, r"x and y must be arrays of one length .*\(6, 4, 4\) .* \(5,\)"),
        ({"x": X[:0], "y": Y[:0]}, "x and y must be arrays of one length of at least 1"),
        (
            {"x": np.where(X == 5, np.nan, X), "y": Y},
            r"must be finite\. Received: 1 values",
        ),
        ({"x": X[:, 0], "y": Y}, r"x must hold images of shape .* Received: shape \(6, 4\)"),
        (
            {"x": X.astype("complex64"), "y": Y},
            "must be an array of numbers.* dtype complex64",
        ),
        ({"x": X, "y": Y + 0.5}, r"y must hold one integer label .* dtype float64"),
        ({"x": X, "y": -Y}, r"label of at least 0 .* lowest -2 from"),
        ({"x": X, "y": np.ones((6, 3))}, r"one integer label .* shape \(6, 3\)"),
        ({"x": X}, "x and y must be given together. Received: x alone, from"),
        ({"images": X}, r"Data must hold arrays x_train.* Received: \['images'\]"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :3], "y_test": Y}, r"images of one shape\. "),
    ],
)
def test_wrong_images(npz, arrays, message):
    with pytest.raises(InputError, match=message):
        load_images(npz(**arrays))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((X, Y, Y), "must return arrays x_train.* two tf.data.Datasets. Received: 3 values"),
        (lambda: dataset().take(0), "must hold pairs .* Received: 0 elements"),
        (lambda: tf.data.Dataset.from_tensor_slices(X), "not all of them pairs"),
        (lambda: dataset().repeat(), r"must be finite: use take\(n\). Received: an infinite"),
        (lambda: mixed_sizes(), "must yield its elements|examples of one shape"),
        (
            lambda: {"x": [[1], [1, 2]], "y": [0, 1]},
            "must be an array of numbers. Received",
        ),
        (lambda: {1: X, "y": Y}, "x and y must be given together. Received: y alone"),
        (lambda: {1: X}, r"Received: \['1'\]"),
        (lambda: 1 / 0, "without arguments. .* which raises ZeroDivisionError: division by zero"),
        (lambda: sys.exit(0), "which raises SystemExit: 0"),
    ],
)
def test_functions_that_return_something_else(returning, returned, message):
    with pytest.raises(InputError, match=message):
        load_images(returning(returned))


def mixed_sizes():
    def generate():
        for size in (4, 5):
            yield np.ones((size, size)), 0

    return tf.data.Dataset.from_generator(
        generate, output_signature=(tf.TensorSpec((None, None)), tf.TensorSpec((), tf.int32))
    )


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_files_that_are_no_archives_of_arrays(npz, tmp_path):
    with pytest.raises(InputError, match=r"existing \.npz file or package\.module:function\. Rec"):
        load_images("nowhere.npz")
    with pytest.raises(InputError, match="without pickled objects"):
        load_images(npz(x=np.array([Bomb()], dtype=object), y=Y))
    (tmp_path / "bare.npz").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="without pickled objects"):
        load_images(str(tmp_path / "bare.npz"))
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(InputError, match=r"no zip archive, as np\.savez"):
        load_images(str(tmp_path / "one.npy"))
    content = (tmp_path / npz(x=X, y=Y)).read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 5):
        (tmp_path / "cut.npz").write_bytes(content[:length])
        with pytest.raises(InputError, match="cannot be read"):
            load_images(str(tmp_path / "cut.npz"))


@pytest.mark.parametrize("name", ["x", "image"])
def test_which_part_is_taken(npz, name):
    arrays = {f"{name}_train": X, f"{name}_test": X[:2], "y_test": Y[:2]}
    x, labels = load_inputs(npz(**arrays), ONE)
    assert (x.shape, x.dtype) == ((2, 4, 4, 1), "float32")
    np.testing.assert_array_equal(labels, [0, 1])
    x, labels = load_inputs(npz(**arrays), ONE, held_out=False)
    assert (len(x), labels) == (6, None)
    np.testing.assert_array_equal(load_inputs(npz(**{name: X}), ONE)[0][..., 0], X)


def test_the_test_part_is_never_for_calibration(npz):
    with pytest.raises(InputError, match=r"Data must hold x or image, or .* _train behind"):
        load_inputs(npz(x_test=X), ONE, held_out=False)


def test_the_model_says_what_three_axes_are(npz):
    assert load_inputs(npz(x=X), {"sequence": (4, 4)})[0].shape == (6, 4, 4)
    assert load_inputs(npz(x=X), {"sequence": (None, 4)})[0].shape == (6, 4, 4)
    assert load_inputs(npz(x=X), ONE)[0].shape == (6, 4, 4, 1)


def test_several_inputs_go_by_name(npz):
    inputs, labels = load_inputs(npz(image=X, gain=np.ones((6, 2)), y=Y), TWO)
    shapes = {name: x.shape for name, x in inputs.items()}
    assert shapes == {"image": (6, 4, 4, 1), "gain": (6, 2)}
    assert len(labels) == 6


@pytest.mark.parametrize(
    ("arrays", "shapes", "message"),
    [
        ({"images": X}, ONE, r"hold x or image, .* _test or _train .* Received: \['images'\]"),
        ({"image": X}, TWO, r"Data must hold image and gain, or"),
        ({"image_test": X, "gain": X}, TWO, r"Data must hold image and gain, or"),
        ({"image": X, "gain": np.ones((5, 2))}, TWO, r"one number of samples.*'image': 6, 'gain'"),
        ({"x": X[:0]}, ONE, r"one number of samples, above 0\. Received: \{'image': 0\}"),
        ({"x": X}, {"image": (4, 5, 1)}, r"x must have the shape \(samples, 4, 5, 1\) .* \(6, 4"),
        ({"x": X[0]}, ONE, r"x must have the shape .* Received: shape \(4, 4\)"),
        ({"t": np.float32(3)}, {"t": ()}, r"t must have the shape \(samples, \).* shape \(\)"),
        ({"x": np.where(X == 5, np.nan, X)}, ONE, r"x of .* must be finite\. Received: 1 values"),
        ({"x": X, "y": Y[:5]}, ONE, r"x and y must have the same length.* 6 samples and 5 labels"),
        ({"x": X, "y": Y / 2}, ONE, r"y must hold one integer label .* dtype float64"),
        ({"x": X, "y": np.full(6, np.inf)}, ONE, r"y must hold one integer label .* dtype float64"),
        ({"x": X, "y": Y.astype("U1")}, ONE, r"Names of classes become labels by \[names\.index\("),
    ],
)
def test_wrong_inputs(npz, arrays, shapes, message):
    with pytest.raises(InputError, match=message):
        load_inputs(npz(**arrays), shapes)


def test_labels_that_are_no_array(returning):
    source = returning({"x": X, "y": [[0], [1, 2]]})
    with pytest.raises(InputError, match=r"y must be an array of labels\. Received: setting an"):
        load_inputs(source, ONE)


def test_an_input_called_y_is_no_label(npz):
    x, labels = load_inputs(npz(x=np.ones((6, 2)), y=np.ones((6, 3))), {"x": (2,), "y": (3,)})
    assert labels is None
    assert x["y"].shape == (6, 3)


def test_a_mask_stays_boolean(npz):
    """What takes it may refuse it: only the model knows where booleans are numbers."""
    inputs, _ = load_inputs(npz(image=X, gain=np.ones((6, 2), "bool")), TWO)
    assert {name: x.dtype.name for name, x in inputs.items()} == {
        "image": "float32",
        "gain": "bool",
    }


def test_samples_may_be_scalars(npz):
    assert load_inputs(npz(t=np.ones(4)), {"t": ()})[0].shape == (4,)


def test_spaced_samples_are_of_all_classes():
    """The arrays of users may lie in classes, of which the first samples are one."""
    x, y = np.arange(1000.0)[:, None], np.repeat(np.arange(10), 100)
    inputs, labels = spaced(({"a": x, "b": 2 * x}, y), 25)
    assert np.bincount(labels).tolist() == [3, 2] * 5
    np.testing.assert_array_equal(inputs["b"], 2 * inputs["a"])
    np.testing.assert_array_equal(labels, y[inputs["a"].astype(int)[:, 0]])
    assert spaced(y, 1000) is y
