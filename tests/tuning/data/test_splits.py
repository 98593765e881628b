import numpy as np
import pytest

from keras_se.errors import InputError
from tuning.data.splits import split_arrays, split_in_two


def numbered(number=40, classes=4, first=0):
    """Examples that can be told apart, and their targets from them."""
    x = np.arange(first, first + number, dtype="float32")[:, None]
    return x, (np.arange(number) % classes).astype("int64")


def ids(part):
    return set(part[0].ravel().tolist())


def test_parts_share_no_example_and_lose_none():
    x, y = numbered()
    parts = split_arrays("a.npz", {"x": x, "y": y})
    assert [len(ids(part)) for part in parts] == [24, 8, 8]
    assert set.union(*map(ids, parts)) == set(x.ravel())
    for part_x, part_y in parts:
        np.testing.assert_array_equal(part_x.ravel() % 4, part_y)


def test_classes_are_of_equal_share():
    x, y = numbered(400)
    y = (y == 0).astype("uint8")
    for _, part in split_arrays("a.npz", {"x": x, "y": y}):
        assert part.mean() == 0.25
        assert part.dtype == "uint8"


def test_this_guard_can_fail():
    """Targets that are no labels are split as they come."""
    x, y = numbered(400)
    shares = {part.mean() for _, part in split_arrays("a.npz", {"x": x, "y": (y == 0) * 1.0})}
    assert shares != {0.25}


@pytest.mark.parametrize("labels", [[0] * 19 + [1], range(20), [0] * 17 + [1, 2, 3]])
def test_classes_too_small_to_be_shared_out(labels):
    x = numbered(20)[0]
    one, other = split_in_two(x, np.array(labels), share=0.25, seed=0)
    assert (len(one[0]), len(other[0])) == (15, 5)
    assert ids(one) | ids(other) == set(x.ravel())


def test_the_two_parts_follow_the_share_and_the_seed():
    x, y = numbered()
    for share in (0.1, 0.25, 0.5):
        assert len(split_in_two(x, y, share=share, seed=0)[1][0]) == share * 40
    first, again, other = (split_in_two(x, y, share=0.25, seed=seed)[1] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first[0], again[0])
    assert ids(first) != ids(other)


def test_always_the_same():
    x, y = numbered()
    one, other = (split_arrays(name, {"x": x, "y": y}) for name in ("a.npz", "b.npz"))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a[0], b[0])


def test_given_parts_are_kept():
    parts = {
        name: numbered(n, first=100 * n) for name, n in (("train", 20), ("val", 10), ("test", 5))
    }
    arrays = {f"{a}_{name}": part["xy".index(a)] for name, part in parts.items() for a in "xy"}
    for found, part in zip(split_arrays("a.npz", arrays), parts.values(), strict=True):
        np.testing.assert_array_equal(found[0], part[0])
        np.testing.assert_array_equal(found[1], part[1])


def test_validation_is_taken_from_the_training_part():
    (x, y), (x_test, y_test) = numbered(), numbered(10, first=100)
    arrays = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}
    train, validation, test = split_arrays("a.npz", arrays)
    assert (len(train[0]), len(validation[0])) == (30, 10)
    assert ids(train) | ids(validation) == set(x.ravel())
    np.testing.assert_array_equal(test[0], x_test)
    assert split_arrays("a.npz", {"x_train": x, "y_train": y})[2] is None


def test_a_test_part_that_is_given_is_the_test_part():
    (x, y), (x_test, y_test) = numbered(), numbered(10, first=100)
    train, validation, test = split_arrays(
        "a", {"x": x, "y": y, "x_test": x_test, "y_test": y_test}
    )
    assert ids(train) | ids(validation) == set(x.ravel())
    assert ids(test) == set(x_test.ravel())


def test_a_validation_part_beside_x_and_y():
    (x, y), (x_val, y_val) = numbered(), numbered(10, first=100)
    train, validation, test = split_arrays("a", {"x": x, "y": y, "x_val": x_val, "y_val": y_val})
    assert ids(validation) == set(x_val.ravel())
    assert ids(train) | ids(test) == set(x.ravel())


@pytest.mark.parametrize("shape", [(40,), (40, 3), (40, 2, 2)])
def test_targets_of_a_regression(shape):
    x, y = numbered()[0], np.random.default_rng(0).normal(size=shape)
    for part_x, part_y in split_arrays("a", {"x": x, "y": y}):
        np.testing.assert_array_equal(part_y, y[part_x.ravel().astype(int)])
        assert part_y.dtype == "float64"


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8), (8,)])
def test_shapes_stay(shape):
    """Sequences have rank 3; to images without channels Keras adds them where a model has one."""
    x, y = np.zeros((20, *shape), "uint8"), np.zeros(20, int)
    assert split_arrays("a", {"x": x, "y": y})[0][0].shape == (12, *shape)
    assert split_arrays("a", {"x": x, "y": y})[0][0].dtype == "float32"


def test_lists_will_do():
    assert len(split_arrays("a", {"x": [[1.0]] * 20, "y": [0, 1] * 10})[0][0]) == 12


X, Y = numbered(10)
BROKEN = [
    ({}, r"must hold x_train and y_train, with .* to be split. Received: \[\] from 'a.npz'"),
    ({"x_test": X, "y_test": Y}, r"Received: \['x_test', 'y_test'\]"),
    ({"a": X, 1: Y}, r"Received: \['1', 'a'\]"),
    ({"x": X}, r"x and y must be given together. Received: x alone, from 'a.npz'"),
    (
        {"x_train": X, "y_train": Y, "x_val": X},
        "x_val and y_val must be given together. Received: x_val",
    ),
    ({"x_train": X, "y_train": Y, "y_test": Y}, "x_test and y_test must .* y_test alone"),
    ({"x": X, "y": Y[:-1]}, r"one length of at least 5. Received: .*\(10, 1\).* shape \(9,\)"),
    ({"x": X[:4], "y": Y[:4]}, r"x and y must be arrays of one length of at least 5"),
    ({"x": X, "y": 3}, r"targets of shape \(\), from 'a.npz'"),
    ({"x": 3, "y": Y}, r"inputs of shape \(\)"),
    ({"x": 3, "y": 3}, r"inputs of shape \(\)"),
    ({"x": np.where(X == 3, np.nan, X), "y": Y}, "x of .* must be finite. Received: 1 values"),
    (
        {"x_train": X, "y_train": np.where(Y == 3, np.inf, Y)},
        "y_train of .* finite. Received: 2",
    ),
    ({"x": X, "y": Y.astype(str)}, "y of .* must be an array of numbers. Received: dtype <U"),
    ({"x": X.astype(str), "y": Y}, "x of .* must be an array of numbers. Received: dtype <U"),
    ({"x": X, "y": Y == 1}, "y of .* must be an array of numbers. Received: dtype bool"),
    (
        {"x": X, "y": [[1], [1, 2]]},
        "y of .* must be an array of numbers. Received: setting",
    ),
    (
        {"x": [[1], [1, 2]], "y": Y},
        "x of .* must be an array of numbers. Received: setting",
    ),
]


@pytest.mark.parametrize(("arrays", "message"), BROKEN)
def test_refusals(arrays, message):
    with pytest.raises(InputError, match=message):
        split_arrays("a.npz", arrays)
