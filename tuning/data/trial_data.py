"""The data of a search: arrays, datasets, functions, or their names."""

import hashlib
import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_se.data import finite_float32, read_arrays
from keras_se.errors import InputError
from keras_se.importable import import_object, is_reference, qualified_name, reference_to
from tuning.data.fingerprint import describe, hash_of_arrays, source_hash
from tuning.data.splits import split_arrays

_SAMPLED = 8  # batches of a `PyDataset` that tell its content


class TrialData:
    """Training, validation and test data; functions load them again for each seed."""

    def __init__(
        self, train: Any, validation: Any, test: Any = None, data_id: str | None = None
    ) -> None:
        self.parts = {"train": train, "validation": validation, "test": test}
        self.data_id = data_id
        self._arrays: Any = None
        for name, part in self.parts.items():
            _check_part(name, part, whole=validation is None)

    def load(self, seed: int) -> tuple[Any, Any, Any]:
        """Returns training, validation and test data (or `None`). Set the trial's seed first."""
        train, validation, test = self.parts.values()
        if validation is None:
            train, validation, own_test = self._load_all(train, seed)
            test = own_test if test is None else test
        train, validation, test = (_called(part, seed) for part in (train, validation, test))
        for name, part in (("train", train), ("validation", validation)):
            _check_form(name, part)
        return train, validation, test

    def check_order(self) -> None:
        """Raises an error if the training data are a dataset that reshuffles on each pass."""
        # It keeps its random state, so candidates of one seed would see different orders.
        for name, part in self.parts.items():
            first, again = (_sample(name, part) for _ in range(2))
            if first != again:
                raise InputError(
                    f"{name} must have one order for all candidates, but a dataset that shuffles "
                    "goes on from trial to trial: give a function that returns it. "
                    "Received: a dataset that begins differently each time"
                )

    def _load_all(self, source: Any, seed: int) -> tuple[Any, Any, Any]:
        if isinstance(source, str) and not is_reference(source):
            if self._arrays is None:  # read once: a file does not depend on the seed
                self._arrays = split_arrays(source, read_arrays(source))
            return self._arrays
        name, parts = str(reference_to(source) or source), _called(source, seed)
        if isinstance(parts, Mapping):
            return split_arrays(name, parts)
        if not isinstance(parts, tuple) or len(parts) not in (2, 3) or any(map(_is_array, parts)):
            raise InputError(
                "A function of all data must return training, validation and perhaps test data, "
                "each (x, y) or a tf.data.Dataset, or a dictionary with x_train, y_train and so "
                f"on. Received: {type(parts).__name__} from {name!r}"
            )
        return (*parts, None) if len(parts) == 2 else parts

    def describe(self) -> dict[str, Any]:
        """Returns plain values that identify the data: hashes of arrays, files and functions."""
        given = {name: part for name, part in self.parts.items() if part is not None}
        return {**{n: _describe_part(part) for n, part in given.items()}, "data_id": self.data_id}

    def portable(self) -> "TrialData":
        """Returns the data with functions and arrays for their names."""
        parts = {n: import_object(n, p) if is_reference(p) else p for n, p in self.parts.items()}
        if isinstance(parts["train"], str):  # an .npz file, which other machines may lack
            parts = dict(zip(parts, self.load(0), strict=True))
        return TrialData(**parts, data_id=self.data_id)


def fit_arguments(data: Any) -> dict[str, Any]:
    """Returns data as keyword arguments of `Model.fit`."""
    if not isinstance(data, tuple):
        return {"x": data}
    return dict(zip(("x", "y", "sample_weight"), data, strict=False))


def _is_array(part: Any) -> bool:
    return hasattr(part, "__array__") and not hasattr(part, "element_spec")


def _called(part: Any, seed: int) -> Any:
    function = import_object("data", part) if is_reference(part) else part
    if not _is_function(function):
        return function
    # Keyword-only parameters and **kwargs do not count: the seed is a positional argument.
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(function).parameters.values()
    return function(seed) if any(p.kind in kinds for p in parameters) else function()


def _is_function(part: Any) -> bool:
    return callable(part) and not hasattr(part, "element_spec") and not _is_array(part)


def _check_part(name: str, part: Any, whole: bool) -> None:
    # Check arrays before the first trial. Only trials run functions and datasets.
    if whole and name == "train" and not (isinstance(part, str) or _is_function(part)):
        raise InputError(
            "validation must be given, unless train is a function that returns both or the name of "
            f"an .npz file. Received: train of type {type(part).__name__}, validation=None"
        )
    if isinstance(part, str) and not is_reference(part):
        if not (whole and name == "train"):
            raise InputError(
                f"{name} as a string must be package.module:name. Received: {name}={part!r}"
            )
        if not Path(part).is_file():
            raise InputError(
                "Data by a name, train or --data, must be an existing .npz file or "
                f"package.module:name. Received: {part!r}"
            )
    if part is not None or name == "train":
        _check_form(name, part)
    if isinstance(part, tuple):
        _check_arrays(name, part)


def _check_form(name: str, part: Any) -> None:
    # `Model.fit` takes a list or an array as inputs without targets; an iterator ends.
    is_once = isinstance(part, Iterator)
    if part is None or is_once or isinstance(part, list | Mapping) or _is_array(part):
        raise InputError(
            f"{name} must be a tuple of arrays (x, y) or (x, y, sample_weight), a dataset, or a "
            f"function that returns one of these. Received: {type(part).__qualname__}"
        )


def _check_arrays(name: str, part: tuple[Any, ...]) -> None:
    arrays = [array for array in keras.tree.flatten(part) if array is not None]
    lengths = [np.shape(array)[0] if np.ndim(array) else None for array in arrays]
    if len(part) not in (2, 3) or len(set(lengths)) != 1 or lengths[0] in (0, None):
        raise InputError(
            f"{name} must be a dataset, or arrays (x, y) of one length, above 0. "
            f"Received: lengths {lengths}"
        )
    for what, values in zip(("x", "y", "sample_weight"), part, strict=False):
        for array in keras.tree.flatten(values):
            if array is not None:
                _check_values(f"{what} of {name}", array)


def _check_values(name: str, array: Any) -> None:
    kind = np.asarray(array).dtype.kind
    if kind == "O":
        raise InputError(f"{name} must hold numbers or text. Received: an array of objects")
    if kind in "fiu":
        finite_float32(name, array)


def _describe_part(part: Any) -> dict[str, Any]:
    if isinstance(part, str) and not is_reference(part):
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return {"file": Path(part).name, "sha256": digest}
    if isinstance(part, tuple):
        shapes = [list(np.shape(array)) for array in keras.tree.flatten(part)]
        return {"arrays": shapes, "sha256": hash_of_arrays(part)}
    if hasattr(part, "element_spec"):
        return {"element_spec": str(part.element_spec), "cardinality": int(part.cardinality())}
    if isinstance(part, keras.utils.PyDataset):
        content = {"source": source_hash(part), "sha256": hash_of_arrays(_sampled_batches(part))}
        return {"type": type(part).__qualname__, "batches": part.num_batches, **content}
    if isinstance(part, str) or _is_function(part):
        return {"function": reference_to(part) or qualified_name(part), "content": describe(part)}
    return {"type": type(part).__qualname__}


def _sample(name: str, part: Any) -> str | None:
    """Returns a hash of how a pass begins; `None` for data without an order of their own."""
    if isinstance(part, keras.utils.PyDataset):
        digest = hash_of_arrays(_sampled_batches(part))
        part.on_epoch_end()  # where datasets shuffle themselves
        return digest
    if name == "train" and hasattr(part, "as_numpy_iterator"):
        return hash_of_arrays(next(part.as_numpy_iterator(), ()))
    return None


def _sampled_batches(data: keras.utils.PyDataset) -> list[Any]:
    """Returns up to eight batches, spread over the dataset: to read all may take hours."""
    number = data.num_batches or _SAMPLED  # `None` for a dataset without an end
    return [data[n] for n in sorted({i * (number - 1) // (_SAMPLED - 1) for i in range(_SAMPLED)})]
