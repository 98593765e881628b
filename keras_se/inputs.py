"""Model inputs that a command loads from a file or a function."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.data import checked_labels, finite_float32, read_arrays
from keras_se.errors import InputError
from keras_se.replay import check_graph, named_inputs

Shape = tuple[int | None, ...]
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


def input_shapes(model: keras.Model) -> dict[str, Shape]:
    """Return the shape of one sample for each input of a model, by input name."""
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
    # Only a channel axis may be missing: for shape (1,) it could as well be the batch axis.
    if x.ndim == len(shape) > 1 and shape[-1] == 1:
        x = x[..., None]
    fits = x.ndim == len(shape) + 1
    if not fits or any(e not in (None, n) for e, n in zip(shape, x.shape[1:], strict=True)):
        raise InputError(
            f"{name} must have the shape (samples, {', '.join(map(str, shape))}) of the model's "
            f"input. Received: shape {x.shape} from {source!r}"
        )
    return x
