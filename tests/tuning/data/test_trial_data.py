import functools
import json
import os
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_se.errors import InputError
from tuning.data.trial_data import TrialData, fit_arguments

MODULE = __name__
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(20, 3)).astype("float32"), (np.arange(20) % 2).astype("int64")
W = RNG.random(20).astype("float32")


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Pytest imports this file by its path."""
    monkeypatch.setitem(sys.modules, MODULE, sys.modules[train.__module__])


def train():
    return X, Y


def seeded(seed):
    return np.full((8, 3), seed, "float32"), Y[:8]


def both():
    return (X, Y), (X[:5], Y[:5])


def three(seed):
    return seeded(seed), (X[:5], Y[:5]), (X[:6], Y[:6])


def named_arrays():
    return {"x_train": X, "y_train": Y, "x_val": X[:5], "y_val": Y[:5]}


class Loader:
    def __call__(self, seed):
        return seeded(seed)


def dataset(x=X, y=Y, batch=4):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(batch)


def same(one, other):
    keras.tree.assert_same_structure(one, other)
    pairs = zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True)
    for a, b in pairs:
        np.testing.assert_array_equal(a, b)
    return True


def npz(folder, name="a.npz", **arrays):
    np.savez(folder / name, **(arrays or {"x": X, "y": Y}))
    return str(folder / name)


FORMS = {
    "arrays": (X, Y),
    "weighted": (X, Y, W),
    "no weights": (X, Y, None),
    "dictionary": ({"a": X, "b": X[:, :1]}, Y),
    "lists": ([X, X[:, :1]], [Y, Y]),
    "text": (X.astype(str), Y),
}


@pytest.mark.parametrize("part", FORMS.values(), ids=FORMS)
def test_arrays_are_given_as_they_are(part):
    data = TrialData(part, part, part)
    for found in data.load(3):
        assert found is part
    assert data.load(0)[0] is data.load(1)[0]
    assert TrialData(part, part).load(0)[2] is None


def test_datasets_are_given_as_they_are():
    given = dataset()
    assert all(found is given for found in TrialData(given, given, given).load(0))


@pytest.mark.parametrize(
    "function",
    [train, f"{MODULE}:train", lambda: (X, Y), functools.partial(train), Loader.__call__],
)
def test_functions_without_a_seed(function):
    if function is Loader.__call__:
        function = functools.partial(seeded, 3)
    assert len(TrialData(function, (X, Y)).load(7)[0][0]) in (8, 20)


@pytest.mark.parametrize(
    "function",
    [seeded, f"{MODULE}:seeded", lambda s: seeded(s), Loader(), functools.partial(seeded)],
)
def test_functions_of_the_seed(function):
    data = TrialData(function, function, function)
    for seed in (0, 5):
        assert all(np.all(x == seed) for x, _ in data.load(seed))


def test_a_function_of_all_parts():
    (x, _), validation, test = TrialData(three, None).load(4)
    assert np.all(x == 4)
    assert (len(validation[0]), len(test[0])) == (5, 6)
    assert TrialData(both, None).load(0)[2] is None
    assert TrialData(three, None, (X, Y)).load(0)[2][0] is X
    assert TrialData(lambda: ((X, Y), dataset(), None), None).load(0)[2] is None


@pytest.mark.parametrize("function", [named_arrays, f"{MODULE}:named_arrays"])
def test_a_function_of_named_arrays(function):
    train_part, validation, test = TrialData(function, None).load(0)
    assert (len(train_part[0]), len(validation[0]), test) == (20, 5, None)


def test_a_file_is_read_once(tmp_path):
    path = npz(tmp_path)
    data = TrialData(path, None)
    first = data.load(0)
    assert [len(part[0]) for part in first] == [12, 4, 4]
    os.remove(path)
    assert all(a is b for a, b in zip(first, data.load(1), strict=True))


def test_fit_arguments():
    given = dataset()
    assert fit_arguments((1, 2, 3)) == {"x": 1, "y": 2, "sample_weight": 3}
    assert fit_arguments(given) == {"x": given}


def described(part, **arguments):
    return TrialData(part, (X, Y), **arguments).describe()


def test_equal_data_are_described_alike():
    assert described((X, Y)) == described((X.copy(), Y.copy()))
    assert described((np.asfortranarray(X), Y)) == described((X, Y))
    assert described((X[::2], Y[::2])) == described((X[::2].copy(), Y[::2].copy()))
    assert described(train) == described(f"{MODULE}:train")
    assert described(dataset()) == described(dataset())
    assert described(Loader()) == described(Loader())
    json.dumps(described((X, Y, None)), allow_nan=False)


@pytest.mark.parametrize(
    "other",
    [
        (X + np.float32(1e-6), Y),
        (X.astype("float64"), Y),
        (X[:, ::-1], Y),
        (X, 1 - Y),
        (X, Y, W),
        (X, Y, None),
        (X.reshape(20, 3, 1), Y),
        ({"a": X}, Y),
        ([X], Y),
        train,
        dataset(),
    ],
)
def test_other_data_are_described_otherwise(other):
    assert described(other) != described((X, Y))


def test_the_names_of_inputs_count():
    one, other = ({"a": X, "b": X[:, :1]}, Y), ({"a": X, "c": X[:, :1]}, Y)
    assert described(one) != described(other)


def test_what_differs_of_functions_and_datasets():
    parts = [train, seeded, f"{MODULE}:both", Loader(), lambda: (X, Y)]
    parts += [functools.partial(seeded, 1), functools.partial(seeded, 2)]
    parts += [dataset(), dataset(batch=5), dataset().batch(2), dataset(X[:8], Y[:8])]
    parts += [dataset(X.astype("float64"))]
    texts = [json.dumps(described(part)) for part in parts]
    assert len(set(texts)) == len(parts)


def test_the_version_is_told(tmp_path):
    assert described(dataset(), data_id="v1") != described(dataset(), data_id="v2")
    assert described(dataset(), data_id="v1")["data_id"] == "v1"


def test_files_are_told_by_content(tmp_path, monkeypatch):
    path = npz(tmp_path)
    first = TrialData(path, None).describe()
    monkeypatch.chdir(tmp_path)
    assert TrialData("a.npz", None).describe() == first
    npz(tmp_path, x=X + 1, y=Y)
    assert TrialData(path, None).describe() != first


class Batches(keras.utils.PyDataset):
    """As Keras's guide writes them, shuffled after each epoch or augmented if asked."""

    def __init__(self, x, y, shuffles=False, draws=False):
        super().__init__()
        self.x, self.y, self.shuffles, self.draws = x, y, shuffles, draws
        self.order, self.read = np.arange(len(x)), []

    def __len__(self):
        return len(self.x) // 2

    def __getitem__(self, number):
        self.read.append(number)
        rows = self.order[2 * number : 2 * number + 2]
        return self.x[rows] + self.draws * np.random.rand(), self.y[rows]

    def on_epoch_end(self):
        if self.shuffles:
            np.random.shuffle(self.order)


def test_the_content_of_a_pydataset_is_that_of_some_batches():
    def described(*arguments):
        return TrialData(Batches(*arguments), (X, Y)).describe()

    assert described(X, Y) == described(X, Y)
    other = Y.copy()
    other[-1] += 1
    assert described(X, Y) != described(X, other)  # the last batch
    assert described(X, Y) != described(X[:10], Y[:10])
    long = Batches(np.zeros((2000, 3)), np.zeros(2000))
    TrialData(long, (X, Y)).describe()
    assert long.read[0] == 0
    assert long.read[-1] == 999
    assert len(long.read) == 8


@pytest.mark.parametrize("how", ["shuffles", "draws"])
@pytest.mark.parametrize("name", ["train", "validation"])
def test_a_pydataset_that_shuffles_is_given_as_a_function(how, name):
    parts = {"train": (X, Y), "validation": (X, Y), name: Batches(X, Y, **{how: True})}
    with pytest.raises(InputError, match=f"{name} must have one order .* give a function"):
        TrialData(**parts).check_order()
    TrialData(**{**parts, name: Batches(X, Y)}).check_order()
    TrialData(**{**parts, name: lambda: Batches(X, Y, **{how: True})}).check_order()


NAN = X.copy()
NAN[3, 1] = np.nan
REFUSED = [
    (((X, Y), None), "validation must be given, .*: train of type tuple, validation=None"),
    ((dataset(), None), "Received: train of type .*Dataset, validation=None"),
    ((None, None), "Received: train of type NoneType"),
    ((None, (X, Y)), "train must be a tuple of arrays .* Received: NoneType"),
    (("missing.npz", None), ".npz file or package.module:name. Received: 'missing.npz'"),
    (("a.npz", (X, Y)), "train as a string must be package.module:name. Received: train='a.npz'"),
    (((X, Y), "a.npz"), "validation as a string must .* Received: validation='a.npz'"),
    (((X, Y), (X, Y), "a.npz"), "test as a string must .* Received: test='a.npz'"),
    (((X,), (X, Y)), r"train must be a dataset, or arrays .*above 0. Received: lengths \[20\]"),
    (((X, Y, W, W), (X, Y)), r"train must be .* lengths \[20, 20, 20, 20\]"),
    (((X, Y[:3]), (X, Y)), r"train must be .* Received: lengths \[20, 3\]"),
    (((X, Y, W[:3]), (X, Y)), r"lengths \[20, 20, 3\]"),
    ((({"a": X, "b": X[:3]}, Y), (X, Y)), r"lengths \[20, 3, 20\]"),
    (((X, Y), (X[:0], Y[:0])), r"validation must be .* lengths \[0, 0\]"),
    (((X, Y), (X, Y), (X, np.array(3))), r"test must be .* Received: lengths \[20, None\]"),
    (((3, 4), (X, Y)), r"Received: lengths \[None, None\]"),
    ((([1, 2], [3, 4]), (X, Y)), r"Received: lengths \[None, None, None, None\]"),
    (((NAN, Y), (X, Y)), "x of train must be finite. Received: 1 values"),
    (((X, Y), ({"a": NAN}, Y)), "x of validation must be finite"),
    (((X, NAN), (X, Y)), "y of train must be finite"),
    (((X, Y, np.full(20, np.inf)), (X, Y)), "sample_weight of train must be finite"),
    (((X, Y.astype(object)), (X, Y)), "y of train must hold numbers or text. .* array of objects"),
    (([X, Y], (X, Y)), "train must be a tuple of arrays .* Received: list"),
    ((X, (X, Y)), "train must be a tuple of arrays .* Received: ndarray"),
    (({"x": X}, (X, Y)), "train must be a tuple of arrays .* Received: dict"),
    ((iter([(X, Y)]), (X, Y)), "train must be a tuple of .* Received: list_iterator"),
    (((X, Y), [X, Y]), "validation must be a tuple of arrays .* Received: list"),
    (((X, Y), (X, Y), X), "test must be a tuple of arrays .* Received: ndarray"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        TrialData(*arguments)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (
            (X, Y),
            "A function of all data must return .* Received: tuple from '.*:given'",
        ),
        (((X, Y),), "Received: tuple"),
        ([(X, Y), (X, Y)], "Received: list"),
        (None, "Received: NoneType"),
        (((X, Y), None), "validation must be a tuple of arrays .* Received: NoneType"),
        (([X, Y], (X, Y)), "train must be a tuple of arrays .* Received: list"),
        ({"x": X}, "x and y must be given together"),
    ],
)
def test_what_a_function_must_not_return(monkeypatch, returned, message):
    def given():
        return returned

    given.__qualname__ = "given"
    monkeypatch.setattr(sys.modules[MODULE], "given", given, raising=False)
    with pytest.raises(InputError, match=message):
        TrialData(given, None).load(0)


@pytest.mark.parametrize("returned", [None, [X, Y], X])
def test_what_a_function_of_one_part_must_not_return(returned):
    with pytest.raises(InputError, match=r"train must be a tuple of arrays .* Received: "):
        TrialData(lambda: returned, (X, Y)).load(0)
    with pytest.raises(InputError, match=r"validation must be a tuple of arrays .* Received: "):
        TrialData((X, Y), lambda: returned).load(0)


def test_a_broken_file(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"Data must be an .npz file .* which cannot be read"):
        TrialData(str(tmp_path / "a.npz"), None).load(0)


def test_a_function_that_cannot_be_imported():
    with pytest.raises(InputError, match=r"data given as package.module:name must be importable"):
        TrialData("no_such:function", (X, Y)).load(0)
