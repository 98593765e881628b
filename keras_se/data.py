"""Images and labels from a file or a function, checked before any work starts."""

import importlib
import os
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError

Shape = tuple[int | None, ...]
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_RULE = "arrays x_train, y_train, x_test and y_test, or x and y"


@dataclass(frozen=True)
class Data:
    """Images and labels, split into training and test part if the source has both.

    Attributes:
        source: Where the data came from, for messages and reports.
        x_train: Images, float32, shape (samples, height, width, channels), in the source's units.
        y_train: Integer labels, shape (samples,).
        x_test: Test images, or `None` if the source holds only `x` and `y`.
        y_test: Test labels, or `None`.
    """

    source: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray | None = None
    y_test: np.ndarray | None = None

    @property
    def x_held_out(self) -> np.ndarray:
        """The test images if there are any, else all images."""
        return self.x_train if self.x_test is None else self.x_test

    @property
    def y_held_out(self) -> np.ndarray:
        """The labels of `x_held_out`."""
        return self.y_train if self.y_test is None else self.y_test


def load_data(source: str) -> Data:
    """Load images and labels from `FILE.npz` or `package.module:function`, and check them."""
    return _checked(source, read_arrays(source))


def read_arrays(source: str) -> dict[str, Any]:
    """Read arrays by name from `FILE.npz` or `package.module:function`, without checks."""
    # An existing file wins, even if its name looks like `module:function`.
    if not os.path.exists(source) and _FUNCTION.fullmatch(source):
        return _by_name(source, _call(source))
    return _read_npz(source)


def finite_float32(name: str, x: Any) -> np.ndarray:
    """Convert numbers to float32, and refuse non-numbers, NaN and infinity."""
    try:
        values = np.asarray(x)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} must be an array of numbers. Received: {error}") from error
    # `astype` alone would also convert booleans and strings of digits.
    if values.dtype.kind not in "fiu":
        raise InputError(f"{name} must be an array of numbers. Received: dtype {values.dtype}")
    values = values.astype("float32")
    # Check after the cast: large float64 values become infinite in float32.
    if not np.isfinite(values).all():
        raise InputError(
            f"{name} must be finite. Received: "
            f"{int((~np.isfinite(values)).sum())} values that are NaN or infinite"
        )
    return values


def _read_npz(source: str) -> dict[str, np.ndarray]:
    path = Path(source)
    if not path.is_file():
        raise InputError(
            f"Data must be an existing .npz file or package.module:function. Received: {source!r}"
        )
    try:
        return npz_arrays(path)
    except Exception as error:  # zip, zlib, header and pickle faults share no base class
        raise InputError(
            f"Data must be an .npz file with {_RULE}, without pickled objects. "
            f"Received: {source!r}, which cannot be read: {error}"
        ) from error


def npz_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an `.npz` file by name."""
    # `np.load` also reads a single `.npy` array, which has no names.
    if not zipfile.is_zipfile(path):
        raise ValueError("it is not a zip archive of arrays")
    # Unpickling runs code from the file.
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _call(source: str) -> Any:
    module_name, function_name = source.split(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (Exception, SystemExit) as error:  # user code may raise anything, or exit
        raise InputError(
            "Data given as package.module:function must be importable. "
            f"Received: {source!r}, which raises {type(error).__name__}: {error}"
        ) from error
    try:
        return function()
    except (Exception, SystemExit) as error:  # user code may raise anything, or exit
        raise InputError(
            "Data given as package.module:function must be returned by a call without arguments. "
            f"Received: {source!r}, which raises {type(error).__name__}: {error}"
        ) from error


def _by_name(source: str, returned: Any) -> dict[str, Any]:
    """Name the arrays that a data function returned."""
    if isinstance(returned, Mapping):
        return dict(returned)
    parts = returned if isinstance(returned, tuple) else (returned,)
    if all(hasattr(part, "as_numpy_iterator") for part in parts):
        parts = tuple(array for part in parts for array in _arrays_of(source, part))
    # (x, y), (x, y): the form that `keras.datasets` returns.
    elif all(isinstance(part, tuple) and len(part) == 2 for part in parts):
        parts = tuple(array for part in parts for array in part)
    names = {2: ("x", "y"), 4: ("x_train", "y_train", "x_test", "y_test")}.get(len(parts))
    if names is None:
        raise InputError(
            f"A data function returns {_RULE}, or one or two tf.data.Datasets. "
            f"Received: {len(parts)} values from {source!r}"
        )
    return dict(zip(names, parts, strict=True))


def _arrays_of(source: str, dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """Collect the images and labels of a `tf.data.Dataset`, batched or not."""
    # -1 is `tf.data.INFINITE_CARDINALITY`; its name would need an import of TensorFlow.
    if int(dataset.cardinality()) == -1:
        raise InputError(
            "A tf.data.Dataset of data must end: take(n) of it. "
            f"Received: an infinite one from {source!r}"
        )
    try:
        elements = list(dataset.as_numpy_iterator())
    except Exception as error:  # user code that TensorFlow runs
        raise InputError(
            "A tf.data.Dataset of data must yield its elements. "
            f"Received: {source!r}, which raises {type(error).__name__}: {error}"
        ) from error
    if not elements or not all(isinstance(e, tuple) and len(e) == 2 for e in elements):
        raise InputError(
            "A tf.data.Dataset of data holds pairs of image and label. "
            f"Received: {len(elements)} elements from {source!r}, not all of them pairs"
        )
    # A scalar label means that the dataset is not batched.
    join = np.stack if np.ndim(elements[0][1]) == 0 else np.concatenate
    try:
        return join([x for x, _ in elements]), join([y for _, y in elements])
    except ValueError as error:
        raise InputError(
            f"A tf.data.Dataset of data holds images of one shape. Received: {source!r}: {error}"
        ) from error


def _checked(source: str, arrays: Mapping[str, Any]) -> Data:
    if {"x_train", "y_train", "x_test", "y_test"} <= set(arrays):
        train = _pair(source, arrays, "x_train", "y_train")
        test = _pair(source, arrays, "x_test", "y_test")
        if train[0].shape[1:] != test[0].shape[1:]:
            raise InputError(
                "x_train and x_test must hold images of one shape. "
                f"Received: {train[0].shape[1:]} and {test[0].shape[1:]} from {source!r}"
            )
        return Data(source, *train, *test)
    if {"x", "y"} <= set(arrays):
        return Data(source, *_pair(source, arrays, "x", "y"))
    raise InputError(
        f"Data must hold {_RULE}. Received: {sorted(map(str, arrays))} from {source!r}"
    )


def _pair(
    source: str, arrays: Mapping[str, Any], x_name: str, y_name: str
) -> tuple[np.ndarray, np.ndarray]:
    try:
        x, y = np.asarray(arrays[x_name]), np.asarray(arrays[y_name])
    except ValueError as error:  # lists of different lengths
        raise InputError(
            f"{x_name} and {y_name} must be arrays. Received: {error} from {source!r}"
        ) from error
    if x.ndim not in (3, 4) or x.dtype.kind not in "uif":
        raise InputError(
            f"{x_name} must hold images of shape (N, H, W, C) or (N, H, W), uint8 or float. "
            f"Received: shape {x.shape}, dtype {x.dtype} from {source!r}"
        )
    y = checked_labels(source, y_name, y, len(x))
    x = finite_float32(x_name, x)
    return (x[..., None] if x.ndim == 3 else x), y


def checked_labels(source: str, name: str, labels: Any, samples: int) -> np.ndarray:
    """Convert labels to int64, and check that there is one for each sample."""
    try:
        y = np.asarray(labels)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} must be an array of labels. Received: {error}") from error
    is_integer = y.ndim == 1 and y.dtype.kind in "ui"
    # uint64 labels above the int64 maximum would wrap around in `astype`.
    if not is_integer or (y.size and (y.min() < 0 or y.max() > np.iinfo("int64").max)):
        lowest = f", lowest {y.min()}" if is_integer and y.size else ""
        raise InputError(
            f"{name} must hold one integer label of at least 0 per image. Received: shape "
            f"{y.shape}, dtype {y.dtype}{lowest} from {source!r}"
        )
    if samples != len(y) or samples == 0:
        raise InputError(
            f"x{name[1:]} and {name} must have the same length, above 0. "
            f"Received: {samples} images and {len(y)} labels from {source!r}"
        )
    return y.astype("int64")


# Parts in order of preference. Training and calibration never fall back to test samples.
_HELD_OUT, _TRAINING = ("_test", "", "_train"), ("_train", "")


@dataclass(frozen=True)
class Inputs:
    """Samples for a model, with labels if the source has them.

    Attributes:
        x: Float32 array, shape (samples, *input shape); for a model with several inputs a
            dictionary of such arrays by input name.
        labels: Integer labels, shape (samples,), or `None`.
        samples: Number of samples.
    """

    x: Any
    labels: np.ndarray | None
    samples: int


def load_inputs(source: str, shapes: Mapping[str, Shape], held_out: bool = True) -> Inputs:
    """Load the inputs of a model from `FILE.npz` or `package.module:function`."""
    arrays = read_arrays(source)
    parts = _HELD_OUT if held_out else _TRAINING
    # A single input is called `x`, unless the source uses the input's own name.
    bases = {name: "x" if len(shapes) == 1 and not _has(arrays, name) else name for name in shapes}
    # All inputs come from the same part, so that their samples belong together.
    part = next((p for p in parts if all(base + p in arrays for base in bases.values())), None)
    if part is None:
        wanted = f"x or {next(iter(shapes))}" if len(shapes) == 1 else " and ".join(shapes)
        raise InputError(
            f"Data must hold {wanted}, or the same with "
            f"{' or '.join(p for p in parts if p)} behind the name. "
            f"Received: {sorted(map(str, arrays))} from {source!r}"
        )
    x = {
        name: _fitted(source, base + part, arrays[base + part], shapes[name])
        for name, base in bases.items()
    }
    samples = {len(values) for values in x.values()}
    if len(samples) != 1 or 0 in samples:
        lengths = {name: len(values) for name, values in x.items()}
        raise InputError(
            f"Inputs must have one number of samples, above 0. Received: {lengths} from {source!r}"
        )
    # An array `y` holds no labels if the model has an input of that name.
    labels, count = None if "y" in bases.values() else arrays.get(f"y{part}"), samples.pop()
    return Inputs(
        x=next(iter(x.values())) if len(x) == 1 else x,
        labels=None if labels is None else checked_labels(source, f"y{part}", labels, count),
        samples=count,
    )


def _has(arrays: Mapping[str, Any], name: str) -> bool:
    return any(name + part in arrays for part in _HELD_OUT)


def _fitted(source: str, name: str, array: Any, shape: Shape) -> np.ndarray:
    x = finite_float32(name, array)
    # Only a channel axis may be missing: for shape (1,) it could as well be the batch axis.
    if x.ndim == len(shape) > 1 and shape[-1] == 1:
        x = x[..., None]
    if x.ndim == 0 or not fits(x.shape[1:], shape):
        raise InputError(
            f"{name} must have the shape (samples, {', '.join(map(str, shape))}) of the model's "
            f"input. Received: shape {x.shape} from {source!r}"
        )
    return x


def fits(shape: Sequence[int | None], expected: Sequence[int | None]) -> bool:
    """Whether a shape is the expected one, whose `None` stands for any size."""
    return len(shape) == len(expected) and all(
        wanted in (None, size) for wanted, size in zip(expected, shape, strict=True)
    )


def cross_entropy_of(model: keras.Model, x: Any) -> keras.losses.Loss:
    """Return the cross entropy for integer labels, from logits unless outputs are probabilities."""
    # Look at values: the last activation may be a layer, an argument or a raw operation.
    outputs = model.predict(x, verbose=0)
    values = keras.tree.flatten(outputs)[0]
    if values.shape[1] == 1:
        is_logit = values.min() < 0.0 or values.max() > 1.0
        return keras.losses.BinaryCrossentropy(from_logits=bool(is_logit))
    is_logit = values.min() < 0.0 or not np.allclose(values.sum(axis=1), 1.0, atol=1e-3)
    return keras.losses.SparseCategoricalCrossentropy(from_logits=bool(is_logit))
