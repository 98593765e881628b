"""Arrays from a file or a function, checked before any work starts."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError, reason, user_code
from keras_se.importable import import_object, is_reference
from keras_se.untrusted import check_arrays

Shape = tuple[int | None, ...]
Pair = tuple[np.ndarray, np.ndarray]

# Parts in order of preference. Training and calibration never fall back to test samples.
_HELD_OUT, _TRAINING = ("_test", "", "_train"), ("_train", "")
_PROBED = 32  # samples that tell logits from probabilities
_RULE = "arrays x_train, y_train, x_test and y_test, or x and y"


def spaced(arrays: Any, count: int) -> Any:
    """Returns as many samples of arrays of one length, evenly spaced: data may lie in classes."""
    length = len(keras.tree.flatten(arrays)[0])
    if length <= count:
        return arrays
    rows = np.arange(count) * length // count
    return keras.tree.map_structure(lambda part: part[rows], arrays)


def read_arrays(source: str) -> dict[str, Any]:
    """Returns the arrays of `FILE.npz` or `package.module:function` by name, unchecked."""
    # An existing file wins, even if its name looks like a reference.
    if not os.path.exists(source) and is_reference(source):
        function = import_object("Data", source)
        with user_code("A function of data must return them when called without arguments", source):
            returned = function()
        return _by_name(source, returned)
    if not os.path.isfile(source):
        raise InputError(
            f"Data must be an existing .npz file or package.module:function. Received: {source!r}"
        )
    return npz_arrays("Data", source)


def npz_arrays(what: str, path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the arrays of an `.npz` file by name."""
    try:
        # `np.load` also reads a single `.npy` array, which has no names.
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no zip archive, as np.savez('f.npz', x=x, y=y) writes")
        check_arrays(path)
        # Unpickling runs code from the file.
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zip, zlib, header and pickle faults share no base class
        raise InputError(
            f"{what} must be an .npz file of arrays, without pickled objects. "
            f"Received: {os.fspath(path)!r}, which cannot be read: {reason(error)}"
        ) from error


def _by_name(source: str, returned: Any) -> dict[str, Any]:
    if isinstance(returned, Mapping):
        return dict(returned)
    parts = returned if isinstance(returned, tuple) else (returned,)
    if all(hasattr(part, "as_numpy_iterator") for part in parts):
        parts = tuple(_arrays_of(source, part) for part in parts)
    # (x, y), (x, y): the form that `keras.datasets` returns.
    if all(isinstance(part, tuple) and len(part) == 2 for part in parts):
        parts = tuple(array for part in parts for array in part)
    names = {2: ("x", "y"), 4: ("x_train", "y_train", "x_test", "y_test")}.get(len(parts))
    if names is None:
        raise InputError(
            f"A function of data must return {_RULE}, or one or two tf.data.Datasets. "
            f"Received: {len(parts)} values from {source!r}"
        )
    return dict(zip(names, parts, strict=True))


def _arrays_of(source: str, dataset: Any) -> Pair:
    # -1 is `tf.data.INFINITE_CARDINALITY`; its name would need an import of TensorFlow.
    if int(dataset.cardinality()) == -1:
        raise InputError(
            "A tf.data.Dataset must be finite: use take(n). "
            f"Received: an infinite one from {source!r}"
        )
    with user_code("A tf.data.Dataset must yield its elements", source):
        elements = list(dataset.as_numpy_iterator())
    if not elements or not all(isinstance(e, tuple) and len(e) == 2 for e in elements):
        raise InputError(
            "A tf.data.Dataset must hold pairs (x, y). "
            f"Received: {len(elements)} elements from {source!r}, not all of them pairs"
        )
    # A scalar label means that the dataset is not batched.
    join = np.stack if np.ndim(elements[0][1]) == 0 else np.concatenate
    with user_code("A tf.data.Dataset must hold examples of one shape", source):
        return join([x for x, _ in elements]), join([y for _, y in elements])


def finite_float32(name: str, x: Any, booleans: bool = False) -> np.ndarray:
    """Returns numbers as float32; raises for anything else, NaN and infinity.

    Booleans are numbers only where they are asked for, as those of a mask.
    """
    try:
        values = np.asarray(x)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} must be an array of numbers. Received: {error}") from error
    # `astype` alone would also convert strings of digits.
    if values.dtype.kind not in ("bfiu" if booleans else "fiu"):
        raise InputError(f"{name} must be an array of numbers. Received: dtype {values.dtype}")
    values = values.astype("float32")
    # Check after the cast: large float64 values become infinite in float32.
    if number := np.count_nonzero(~np.isfinite(values)):
        raise InputError(
            f"{name} must be finite. Received: {number} values that are NaN or infinite"
        )
    return values


def checked_labels(source: str, name: str, labels: Any, samples: int) -> np.ndarray:
    """Returns labels as int64, also those of a column or one-hot; raises unless one for each."""
    if isinstance(labels, Mapping):
        raise InputError(
            f"{name} must be an array, the labels of the first output. "
            f"Received: a dictionary with the keys {list(labels)}"
        )
    try:
        y = _as_integers(np.asarray(labels))
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} must be an array of labels. Received: {error}") from error
    is_integer = y.ndim == 1 and y.dtype.kind in "ui"
    # uint64 labels above the int64 maximum would wrap around in `astype`.
    if not is_integer or (y.size and (y.min() < 0 or y.max() > np.iinfo("int64").max)):
        lowest = f", lowest {y.min()}" if is_integer and y.size else ""
        raise InputError(
            f"{name} must hold one integer label of at least 0 per sample. Received: shape "
            f"{y.shape}, dtype {y.dtype}{lowest} from {source!r}{_of_names(y)}"
        )
    if samples != len(y) or samples == 0:
        raise InputError(
            f"x{name[1:]} and {name} must have the same length, above 0. "
            f"Received: {samples} samples and {len(y)} labels from {source!r}"
        )
    return y.astype("int64")


def _of_names(y: np.ndarray) -> str:
    """Returns how names become labels; empty for anything else."""
    how = ". Names of classes become labels by [names.index(name) for name in y], with the names "
    return f"{how}in the order of the outputs" if y.dtype.kind in "US" else ""


def _as_integers(y: np.ndarray) -> np.ndarray:
    """Returns labels, also floats, a column or one-hot rows, and anything else as it is."""
    if y.ndim not in (1, 2) or y.dtype.kind not in "bfiu" or not len(y):
        return y
    if y.ndim == 1 or y.shape[1] == 1:
        labels = y.reshape(len(y))
        is_whole = labels.dtype.kind == "f" and np.isfinite(labels).all()
        is_whole = is_whole and (labels == np.round(labels)).all()
        return labels.astype("int64") if is_whole else labels
    is_one_hot = np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
    return y.argmax(axis=1) if is_one_hot else y


def fits(shape: Sequence[int | None], expected: Sequence[int | None]) -> bool:
    """Returns whether a shape is the expected one, whose `None` stands for any size."""
    return len(shape) == len(expected) and all(
        wanted in (None, size) for wanted, size in zip(expected, shape, strict=True)
    )


def input_target_pair(
    source: str, arrays: Mapping[str, Any], part: str, at_least: int = 1
) -> Pair | None:
    """Returns the arrays x and y of a part, by its suffix, or `None` if it has neither."""
    x_name, y_name = f"x{part}", f"y{part}"
    given = [name for name in (x_name, y_name) if name in arrays]
    if not given:
        return None
    if len(given) == 1:
        raise InputError(
            f"{x_name} and {y_name} must be given together. "
            f"Received: {given[0]} alone, from {source!r}"
        )
    x = finite_float32(f"{x_name} of {source!r}", arrays[x_name])
    # Only a check: class labels must stay integers.
    finite_float32(f"{y_name} of {source!r}", arrays[y_name])
    y = np.asarray(arrays[y_name])
    if x.shape[:1] != y.shape[:1] or not x.ndim or len(x) < at_least:
        raise InputError(
            f"{x_name} and {y_name} must be arrays of one length of at least {at_least}. "
            f"Received: inputs of shape {x.shape} and targets of shape {y.shape}, from {source!r}"
        )
    return x, y


def load_images(source: str) -> tuple[Pair, Pair | None]:
    """Returns the images and integer labels to train on, and those to test on if there are any."""
    arrays = read_arrays(source)
    train, test = (_images(source, arrays, part) for part in ("_train", "_test"))
    if train is None or test is None:
        train, test = _images(source, arrays, ""), None
    if train is None:
        raise InputError(
            f"Data must hold {_RULE}. Received: {sorted(map(str, arrays))} from {source!r}"
        )
    if test is not None and train[0].shape[1:] != test[0].shape[1:]:
        raise InputError(
            "x_train and x_test must hold images of one shape. "
            f"Received: {train[0].shape[1:]} and {test[0].shape[1:]} from {source!r}"
        )
    return train, test


def _images(source: str, arrays: Mapping[str, Any], part: str) -> Pair | None:
    """Returns float32 images, shape (samples, height, width, channels), and int64 labels."""
    pair = input_target_pair(source, arrays, part)
    if pair is None:
        return None
    x, y = pair
    if x.ndim not in (3, 4):
        raise InputError(
            f"x{part} must hold images of shape (N, H, W, C) or (N, H, W). "
            f"Received: shape {x.shape} from {source!r}"
        )
    return (x[..., None] if x.ndim == 3 else x), checked_labels(source, f"y{part}", y, len(x))


def load_inputs(source: str, shapes: Mapping[str, Shape], held_out: bool = True) -> tuple[Any, Any]:
    """Returns inputs of a model, several of them by name, and int64 labels or `None`.

    Inputs are float32, but for booleans, which only the model knows a use for.
    """
    parts = _HELD_OUT if held_out else _TRAINING
    return _inputs(source, read_arrays(source), shapes, parts)


def load_training_and_test(
    source: str, shapes: Mapping[str, Shape]
) -> tuple[tuple[Any, Any], tuple[Any, Any] | None]:
    """Returns inputs and labels to train on, and the test part of the same arrays if it has one."""
    arrays = read_arrays(source)
    training = _inputs(source, arrays, shapes, _TRAINING)
    if not any(str(name).endswith("_test") for name in arrays):
        return training, None
    # A part that is there in part is a mistake.
    return training, _inputs(source, arrays, shapes, ("_test",))


def _inputs(
    source: str, arrays: Mapping[str, Any], shapes: Mapping[str, Shape], parts: Sequence[str]
) -> tuple[Any, Any]:
    # A single input is called `x`, unless the source uses the input's own name.
    own_name = any(name + part in arrays for name in shapes for part in _HELD_OUT)
    bases = {name: name if own_name or len(shapes) > 1 else "x" for name in shapes}
    # All inputs come from the same part, so that their samples belong together.
    part = next((p for p in parts if all(base + p in arrays for base in bases.values())), None)
    if part is None:
        wanted = f"x or {next(iter(shapes))}" if len(shapes) == 1 else " and ".join(shapes)
        raise InputError(
            f"Data must hold {wanted}{', or the same' if '' in parts else ''} with "
            f"{' or '.join(p for p in parts if p)} behind the name. "
            f"Received: {sorted(map(str, arrays))} from {source!r}"
        )
    x = {
        name: _fitted(source, base + part, arrays[base + part], shapes[name])
        for name, base in bases.items()
    }
    lengths = {name: len(values) for name, values in x.items()}
    samples = next(iter(lengths.values()))
    if samples == 0 or len(set(lengths.values())) != 1:
        raise InputError(
            f"Inputs must have one number of samples, above 0. Received: {lengths} from {source!r}"
        )
    # An array `y` holds no labels if the model has an input of that name.
    labels = None if "y" in bases.values() else arrays.get(f"y{part}")
    if labels is not None:
        labels = checked_labels(source, f"y{part}", labels, samples)
    return next(iter(x.values())) if len(x) == 1 else x, labels


def _fitted(source: str, name: str, array: Any, shape: Shape) -> np.ndarray:
    x = finite_float32(f"{name} of {source!r}", array, booleans=True)
    if np.asarray(array).dtype == np.bool_:
        x = x.astype("bool")
    # Only a channel axis may be missing: for shape (1,) it could as well be the batch axis.
    if x.ndim == len(shape) > 1 and shape[-1] == 1:
        x = x[..., None]
    if x.ndim == 0 or not fits(x.shape[1:], shape):
        raise InputError(
            f"{name} must have the shape (samples, {', '.join(map(str, shape))}) of the model's "
            f"input. Received: shape {x.shape} from {source!r}"
        )
    return x


def cross_entropy_of(model: keras.Model, x: Any) -> keras.losses.Loss:
    """Returns the cross entropy that fits integer labels and outputs, logits or probabilities."""
    # Look at values: the last activation may be a layer, an argument or a raw operation.
    probed = keras.tree.map_structure(lambda part: part[:_PROBED], x)
    values = keras.tree.flatten(model.predict(probed, verbose=0))[0]
    if values.shape[1] == 1:
        is_logit = values.min() < 0.0 or values.max() > 1.0
        return keras.losses.BinaryCrossentropy(from_logits=bool(is_logit))
    is_logit = values.min() < 0.0 or not np.allclose(values.sum(axis=1), 1.0, atol=1e-3)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=bool(is_logit))
