"""A first batch of any data, and what a model makes of it."""

from collections.abc import Iterator
from itertools import count
from typing import Any

import keras
import numpy as np

_SIZE = 32


def first_batch(data: Any) -> tuple[Any, ...] | None:
    """Returns inputs, targets and weights of a first batch, as far as there are any.

    Of arrays the batch also has the samples with the lowest and the highest label.
    """
    if isinstance(data, tuple):
        rows = _rows(data)
        return with_rows(data, rows)
    if isinstance(data, keras.utils.PyDataset):
        batch = data[0]
    elif hasattr(data, "element_spec"):
        batch = next(iter(data), None)
    else:
        return None
    return batch if batch is None or isinstance(batch, tuple) else (batch,)


def open_shape(model: keras.Model, x: Any) -> tuple[int, ...] | None:
    """Returns the shape of a sample if the model has one input that leaves sizes open."""
    arrays, inputs = keras.tree.flatten(x), list(getattr(model, "inputs", None) or [])
    is_one = len(arrays) == 1 and len(inputs) == 1
    return tuple(arrays[0].shape[1:]) if is_one and None in inputs[0].shape[1:] else None


def _rows(data: tuple[Any, ...]) -> np.ndarray:
    first = np.arange(min(_SIZE, len(keras.tree.flatten(data)[0])))
    labels = data[1] if len(data) > 1 else None
    array = np.asarray(labels) if hasattr(labels, "__array__") else np.zeros(0, "S")
    if array.dtype.kind not in "iuf" or not array.size:
        return first
    flat = array.reshape(len(array), -1)
    if flat.shape[1] != 1:  # no class of each sample
        return first
    return np.unique([*first, flat.argmin(), flat.argmax()])


def check_outputs(model: keras.Model, data: Any, strictly: bool = True) -> None:
    """Raises `FloatingPointError` unless outputs on a first batch are finite.

    Without `strictly` a model that does not take the data themselves is judged by its weights.
    """
    batch = first_batch(data)
    try:
        outputs = [] if batch is None else keras.tree.flatten(model(batch[0], training=False))
    except Exception:
        if strictly:
            raise
        outputs = []
    # Weights, too: what a model does with NaN may look like numbers.
    for values in [*outputs, *model.get_weights()]:
        array = keras.ops.convert_to_numpy(values)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FloatingPointError("the outputs or weights of the trained model are not finite")


def first_samples(data: Any, number: int) -> tuple[Any, ...]:
    """Returns inputs, targets and weights of some samples as arrays, as far as there are any.

    Those of arrays are spread evenly, since these may be sorted; of batches they are the first.
    """
    if isinstance(data, tuple):
        last = len(keras.tree.flatten(data)[0]) - 1
        return with_rows(data, np.linspace(0, last, min(number, last + 1)).astype(int))
    found: list[Any] = []
    missing = number
    for batch in _batches(data):
        found.append(with_rows(batch, slice(None)))
        missing -= len(keras.tree.flatten(batch)[0])
        if missing <= 0:
            break
    if not found:
        return ()

    def joined(*parts: Any) -> Any:
        return None if parts[0] is None else np.concatenate(parts)[:number]

    whole = keras.tree.map_structure(joined, *found)
    return whole if isinstance(whole, tuple) else (whole,)


def with_rows(data: Any, rows: Any) -> Any:
    """Returns the rows of each array in a structure."""
    return keras.tree.map_structure(lambda a: None if a is None else np.asarray(a)[rows], data)


def _batches(data: Any) -> Iterator[Any]:
    if isinstance(data, keras.utils.PyDataset):
        # `num_batches` is `None` for a dataset without an end.
        return (data[n] for n in (range(data.num_batches) if data.num_batches else count()))
    return iter(data)
