"""Whether a tf_keras model computes what a Keras 3 model does, to the rounding of float32.

No fixed tolerance tells a wrong conversion from rounding: what rounding makes of a network depends
on its depth and its values. It is measured: the original is computed again from numbers that are
moved to one of their neighbours in float32.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np

from keras_se.graph.inputs import packed_inputs
from keras_se.graph.visits import Visit

# Of what rounding explains. Sound networks differ by up to 1.2 times it, a BatchNormalization with
# an epsilon of 0.0011 for 0.001 by 200 times.
_FACTOR = 16.0
_EPSILON = float(np.finfo("float32").eps)
_SAMPLES = 2
_UNKNOWN_SIZE = 96  # InceptionV3 rejects images smaller than 75
_WIDE = 16.0  # past the bends of all activations

Checked = tuple[Visit, Callable[..., Any], Any]  # a call, what it becomes, and its outputs


def agree(model: keras.Model, new_model: Any) -> bool:
    """Return whether two models compute the same from random inputs."""
    x = random_inputs(new_model)
    expected = model(packed_inputs(model, x), training=False)
    given = new_model(keras.tree.pack_sequence_as(new_model.input, x), training=False)
    # Each layer rounds; so move the weights, too.
    trained, others = (
        [_moved(v.numpy(), n) for n, v in enumerate(variables)]
        for variables in (model.trainable_variables, model.non_trainable_variables)
    )
    inputs = packed_inputs(model, [_moved(array, n) for n, array in enumerate(x)])
    moved, _ = model.stateless_call(trained, others, inputs, training=False)
    return _difference(expected, given, moved) is None


def first_difference(calls: Sequence[Checked], tensors: Any, new_model: Any) -> str | None:
    """Say which call is the first that becomes something else, if there is one.

    `tensors` are the inputs of `new_model` as the calls take them. Each call gets what the
    layers of tf_keras before it computed, so that differences do not add up.
    """
    values = dict(zip(map(id, keras.tree.flatten(tensors)), random_inputs(new_model), strict=True))
    uses = Counter(id(part) for visit, _, _ in calls for part in visit.arguments)

    for visit, function, outputs in calls:
        found, given = None, None
        for change in (np.asarray, _widened):
            changed = partial(_changed, values, visit, change)
            args, kwargs = changed()
            new = _arrays(function(*args, **kwargs))
            given = new if given is None else given
            moved_args, moved_kwargs = changed(_moved)
            moved = visit.layer(*moved_args, **moved_kwargs)
            found = found or _difference(visit.layer(*args, **kwargs), new, moved)
        if found is not None:
            kind = type(visit.layer).__name__
            return f"{visit.layer.name!r} ({kind}) is the first layer that differs, {found}"
        for part in visit.arguments:
            uses[id(part)] -= 1
            if uses[id(part)] == 0:
                values.pop(id(part), None)
        values |= zip(map(id, keras.tree.flatten(outputs)), keras.tree.flatten(given), strict=True)
    return None


def _changed(
    values: dict[int, np.ndarray],
    visit: Visit,
    *changes: Callable[[np.ndarray], np.ndarray],
) -> Any:
    """The arguments of a call with values for the tensors, changed one after another."""

    def value(part: Any) -> Any:
        if id(part) not in values:
            return part
        given = values[id(part)]
        for change in changes if given.dtype.kind == "f" else ():
            given = change(given)
        return given

    return keras.tree.map_structure(value, (visit.args, visit.kwargs))


def _moved(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """Each number of float32 as one of its two neighbours, at random."""
    if values.dtype != np.float32:
        return values
    signs = np.random.default_rng(seed).choice([-np.inf, np.inf], values.shape)
    return np.nextafter(values, signs.astype("float32"))


def _widened(values: np.ndarray) -> np.ndarray:
    """Values that reach past the bends of activations."""
    largest = np.abs(values).max(initial=0.0)
    return values * values.dtype.type(_WIDE / largest) if 0.0 < largest < np.inf else values


def _arrays(outputs: Any) -> Any:
    return keras.tree.map_structure(np.asarray, outputs)


def _difference(expected: Any, given: Any, moved: Any) -> str | None:
    """Say by how much outputs differ, if by more than what rounding explains."""
    parts = (keras.tree.flatten(_arrays(outputs)) for outputs in (expected, given, moved))
    for own, new, near in zip(*parts, strict=True):
        if own.dtype.kind != "f":
            if not np.array_equal(own, new):
                return "in whole numbers"
            continue
        if own.shape != new.shape:
            return f"in shape: {own.shape} becomes {new.shape}"
        largest = np.abs(own[np.isfinite(own)]).max(initial=0.0)
        explained = _distance(own, near) + _EPSILON * largest
        distance = _distance(own, new)
        # `not <=` instead of `>`: NaN counts as a difference.
        if not distance <= _FACTOR * explained:
            return f"by {distance:.1e}, where rounding explains {explained:.1e}"
    return None


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference; the same infinity, and not-a-number in both, are none."""
    with np.errstate(invalid="ignore"):
        differences = np.abs(one - other)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return float(np.where(same, 0.0, differences).max(initial=0.0))


def random_inputs(tf_keras_model: Any) -> list[np.ndarray]:
    """Values for each input of a model."""
    arrays = []
    for tensor in tf_keras_model.inputs:
        rng = np.random.default_rng(0)
        shape = [_UNKNOWN_SIZE if size is None else size for size in tensor.shape[1:]]
        shape = [tensor.shape[0] or _SAMPLES, *shape]
        is_float = tensor.dtype.is_floating
        values = rng.normal(size=shape) if is_float else rng.integers(0, 2, size=shape)
        arrays.append(values.astype(tensor.dtype.as_numpy_dtype))
    return arrays
