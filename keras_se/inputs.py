"""Inputs of a model from a file or from a function: what a command runs a model on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.data import checked_labels, finite_float32, read_arrays
from keras_se.errors import InputError
from keras_se.replay import check_graph, named_inputs

Shape = tuple[int | None, ...]
_HELD_OUT, _TRAINING = ("_test", "", "_train"), ("_train", "")


@dataclass(frozen=True)
class Inputs:
    """Samples for a model, with their labels where there are any.

    Attributes:
        x: Float32 array, shape (samples, *input shape); of a model with several inputs a dictionary
            of such arrays, by the names of its inputs.
        labels: Integer labels, shape (samples,), or `None`.
        samples: Number of samples.
    """

    x: Any
    labels: np.ndarray | None
    samples: int


def load_inputs(source: str, shapes: Mapping[str, Shape], held_out: bool = True) -> Inputs:
    """Inputs of a model from `FILE.npz` or from `package.module:function`.

    Args:
        source: As for `load_data`, labels not needed. Of a model with one input the array is `x`;
            of one with several, each array has the name of its input. `_test` or `_train` behind
            the name says which part it is. A last axis of one channel may be missing.
        shapes: Shape of one sample by name of the input, `None` for sizes that are open.
        held_out: Whether to prefer the test part to the whole, and the whole to the training part;
            else the training part is preferred, and the test part never taken.

    Returns:
        The checked `Inputs`.

    Raises:
        InputError: If the source cannot be read, or does not fit the shapes.

    Example:
        >>> load_inputs("missing.npz", {"image": (8, 8, 3)})
        Traceback (most recent call last):
        ...
        keras_se.errors.InputError: Data must be an existing .npz file or package.module:function.
        Received: 'missing.npz'
    """
    arrays = read_arrays(source)
    parts = _HELD_OUT if held_out else _TRAINING
    bases = {name: "x" if len(shapes) == 1 and not _has(arrays, name) else name for name in shapes}
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
    labels, count = None if "y" in bases.values() else arrays.get(f"y{part}"), samples.pop()
    return Inputs(
        x=next(iter(x.values())) if len(x) == 1 else x,
        labels=None if labels is None else checked_labels(source, f"y{part}", labels, count),
        samples=count,
    )


def input_shapes(model: keras.Model) -> dict[str, Shape]:
    """The shape of one sample of each input of a model.

    Args:
        model: A built functional or Sequential model.

    Returns:
        By the name under which the model takes the input.

    Raises:
        InputError: If the model is no built graph of layers.

    Example:
        >>> inputs = keras.Input((8, 8, 3), name="image")
        >>> input_shapes(keras.Model(inputs, keras.layers.ReLU()(inputs)))
        {'image': (8, 8, 3)}
    """
    check_graph("keras-se", model)
    named = named_inputs(model)
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in named.values()):
        raise InputError(
            "Inputs come from files by their names, so that a model must not nest them. "
            f"Received: model {model.name!r} with inputs {list(named)}"
        )
    return {name: tuple(tensor.shape[1:]) for name, tensor in named.items()}


def _has(arrays: Mapping[str, Any], name: str) -> bool:
    return any(name + part in arrays for part in _HELD_OUT)


def _fitted(source: str, name: str, array: Any, shape: Shape) -> np.ndarray:
    x = finite_float32(name, array)
    if x.ndim == len(shape) > 1 and shape[-1] == 1:
        x = x[..., None]
    fits = x.ndim == len(shape) + 1
    if not fits or any(e not in (None, n) for e, n in zip(shape, x.shape[1:], strict=True)):
        raise InputError(
            f"{name} must have the shape (samples, {', '.join(map(str, shape))}) of the model's "
            f"input. Received: shape {x.shape} from {source!r}"
        )
    return x
