import pickle
import sys

import numpy as np
import pytest
import tensorflow as tf

from keras_se.data import load_data
from keras_se.errors import InputError

X = np.arange(6 * 4 * 4, dtype="uint8").reshape(6, 4, 4)
Y = np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def npz(tmp_path):
    def write(**arrays):
        path = tmp_path / "data.npz"
        np.savez(path, **arrays)
        return str(path)

    return write


def test_train_and_test(npz):
    data = load_data(npz(x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2].astype("uint8")))
    assert data.x_train.shape == (6, 4, 4, 1)
    assert data.x_train.dtype == "float32"
    assert data.y_train.dtype == "int64"
    np.testing.assert_array_equal(data.x_train[..., 0], X)
    np.testing.assert_array_equal(data.x_held_out, data.x_test)
    np.testing.assert_array_equal(data.y_test, [0, 1])


def test_one_part_only(npz):
    data = load_data(npz(x=np.stack([X] * 3, axis=-1), y=Y))
    assert data.x_train.shape == (6, 4, 4, 3)
    assert data.x_test is None
    assert data.x_held_out is data.x_train


@pytest.mark.parametrize(
    "body",
    [
        "return x, y",
        "return {'x': x, 'y': y}",
        "return tf.data.Dataset.from_tensor_slices((x, y))",
        "return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)",
    ],
)
def test_functions(tmp_path, monkeypatch, request, body):
    module = f"source_{abs(hash(body))}"
    (tmp_path / f"{module}.py").write_text(
        "import numpy as np, tensorflow as tf\n"
        "def images():\n"
        "    x = np.arange(96, dtype='uint8').reshape(6, 4, 4)\n"
        "    y = np.array([0, 1, 2, 0, 1, 2])\n"
        f"    {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = load_data(f"{module}:images")
    np.testing.assert_array_equal(data.x_train[..., 0], X)
    np.testing.assert_array_equal(data.y_train, Y)


@pytest.mark.parametrize(
    "body",
    [
        "return x, y, x[:2], y[:2]",
        "return (x, y), (x[:2], y[:2])",
        "return tuple(tf.data.Dataset.from_tensor_slices(p) for p in ((x, y), (x[:2], y[:2])))",
    ],
)
def test_functions_with_a_test_part(tmp_path, monkeypatch, body):
    module = f"source_{abs(hash(body))}"
    (tmp_path / f"{module}.py").write_text(
        "import numpy as np, tensorflow as tf\n"
        "def images():\n"
        "    x, y = np.ones((6, 4, 4)), np.array([0, 1, 2, 0, 1, 2])\n"
        f"    {body}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = load_data(f"{module}:images")
    assert (len(data.x_train), len(data.x_test), len(data.y_test)) == (6, 2, 2)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X, "y": Y[:5]}, r"x and y must have the same length.*6 images and 5 labels"),
        ({"x": X[:0], "y": Y[:0]}, r"same length, above 0\. Received: 0 images and 0 labels"),
        ({"x": np.where(X == 5, np.nan, X), "y": Y}, r"x must be finite\. Received: 1 values"),
        ({"x": X[0], "y": Y}, r"x must hold images of shape .* Received: shape \(4, 4\)"),
        ({"x": X.astype("complex64"), "y": Y}, r"uint8 or float\. .* dtype complex64"),
        ({"x": X, "y": Y.astype(float)}, r"y must hold one integer label .* dtype float64"),
        ({"x": X, "y": -Y}, r"label of at least 0 .* lowest -2 from"),
        ({"x": X, "y": np.eye(3)[Y]}, r"one integer label .* shape \(6, 3\)"),
        ({"images": X}, r"Data must hold arrays x_train.* Received: \['images'\]"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :3], "y_test": Y}, r"images of one shape\. "),
    ],
)
def test_bad_arrays(npz, arrays, message):
    with pytest.raises(InputError, match=message):
        load_data(npz(**arrays))


def test_missing_file():
    with pytest.raises(InputError, match=r"existing \.npz file or package\.module:function\. Rec"):
        load_data("nowhere.npz")


def test_truncated_file(npz, tmp_path):
    content = (tmp_path / npz(x=X, y=Y)).read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 5):
        path = tmp_path / f"cut{length}.npz"
        path.write_bytes(content[:length])
        with pytest.raises(InputError, match="cannot be read"):
            load_data(str(path))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_are_never_loaded(npz, tmp_path):
    with pytest.raises(InputError, match="without pickled objects"):
        load_data(npz(x=np.array([Bomb()], dtype=object), y=Y))
    bare = tmp_path / "bare.npz"
    bare.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match="without pickled objects"):
        load_data(str(bare))


def test_a_single_array_is_no_archive(tmp_path):
    np.save(tmp_path / "one.npy", X)
    with pytest.raises(InputError, match="not a zip archive of arrays"):
        load_data(str(tmp_path / "one.npy"))


def mixed_sizes():
    def generate():
        for size in (4, 5):
            yield np.ones((size, size)), 0

    return tf.data.Dataset.from_generator(
        generate, output_signature=(tf.TensorSpec((None, None)), tf.TensorSpec((), tf.int32))
    )


@pytest.mark.parametrize("text", ["x = (", "raise SystemExit", "1 / 0"])
def test_a_module_that_breaks(tmp_path, monkeypatch, text):
    module = f"broken_{abs(hash(text))}"
    (tmp_path / f"{module}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="must be importable"):
        load_data(f"{module}:f")


@pytest.mark.parametrize("source", ["no_such_module:f", "keras_se.data:no_such_function"])
def test_function_that_cannot_be_imported(source):
    with pytest.raises(InputError, match="must be importable"):
        load_data(source)


def empty():
    return tf.data.Dataset.from_tensor_slices((X, Y)).take(0)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ((X, Y, Y), "one or two tf.data.Datasets. Received: 3 values"),
        (empty, "holds pairs of image and label. Received: 0 elements"),
        (lambda: tf.data.Dataset.from_tensor_slices(X), "not all of them pairs"),
        (lambda: tf.data.Dataset.from_tensor_slices((X, Y)).repeat(), "must end: .* an infinite"),
        (lambda: mixed_sizes(), "must yield its elements|images of one shape"),
        (lambda: {"x": [[1], [1, 2]], "y": [0, 1]}, "x and y must be arrays. Received"),
        (lambda: {1: X, "y": Y}, r"Received: \['1', 'y'\]"),
        (lambda: 1 / 0, "which raises ZeroDivisionError: division by zero"),
        (lambda: sys.exit(0), "which raises SystemExit: 0"),
    ],
)
def test_function_that_returns_something_else(monkeypatch, returned, message):
    function = returned if callable(returned) else lambda: returned
    monkeypatch.setattr("keras_se.data.images", function, raising=False)
    with pytest.raises(InputError, match=message):
        load_data("keras_se.data:images")
