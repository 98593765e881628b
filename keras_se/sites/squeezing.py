"""Recognizes a squeeze by its values: a statistic of each channel over all positions."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.layers.squeezes import SQUEEZES
from keras_se.sites.flow import Flow, Step, between, compute
from keras_se.sites.shapes import has_positions

# A squeeze of these is a statistic of the map before them; of others, of another map.
LAYOUTS = {
    "Cast",
    "Dropout",
    "GaussianDropout",
    "GaussianNoise",
    "Identity",
    "Permute",
    "Transpose",
}
RESHAPES = {"ExpandDims", "Flatten", "Reshape", "Squeeze"}
_ARITHMETIC = {
    *LAYOUTS,
    *RESHAPES,
    *("Absolute", "Add", "Divide", "Multiply", "Power", "Rescaling", "Sqrt", "Square"),
    *("Subtract", "TrueDivide"),
}
_SIZE = 4  # positions per axis are enough to tell a statistic
_TOLERANCE = 1e-3  # of the scale of the values, also in reduced precision


@dataclass(frozen=True)
class Squeeze:
    """A squeeze.

    Attributes:
        name: `"avg"`, `"max"`, `"avg_max"`, `"std"`, or `None` if it is none of them.
        root: The squeezed map.
        steps: The steps from it to one value per channel.
        vector: These values.
    """

    name: str | None
    root: Any
    steps: Sequence[Step]
    vector: Any


def origins(flow: Flow, feature: Any, kinds: Collection[str] = LAYOUTS) -> list[Any]:
    """A map, and those that it is only another layout of."""
    found = [feature]
    # Graphs have no cycles.
    while (step := flow.producer(found[-1])) is not None:
        if step.kind not in kinds or len(step.inputs) != 1:
            break
        found.append(step.inputs[0])
    return found


def squeeze_of(flow: Flow, squeezed: Any, maps: Sequence[Any]) -> Squeeze | None:
    """The squeeze of one of some maps that gives a vector; `None` if there is none."""
    for root in maps:
        steps = between(flow, [root], squeezed)
        if steps is not None and all(_keeps_map(step) for step in steps):
            return _recognized(root, steps, squeezed)
    return None


def squeeze_of_any(flow: Flow, squeezed: Any) -> Squeeze | None:
    """The squeeze that gives a vector, whatever its map."""
    step = flow.producer(squeezed)
    if step is None or len(step.inputs) != 1:
        return None
    return _recognized(step.inputs[0], [step], squeezed)


def _keeps_map(step: Step) -> bool:
    """Whether the values after a step are still those of the map: a reduction or arithmetic."""
    is_reduced = len(step.outputs) == 1 and _positions(step.outputs[0]) < max(
        map(_positions, step.inputs), default=0
    )
    return is_reduced or step.kind in _ARITHMETIC or (step.kind == "GetItem" and _is_whole(step))


def _is_whole(step: Step) -> bool:
    """Whether indexing keeps all values, as `x[:, None]` does."""
    before, after = (t.shape[1:] for t in (step.inputs[0], step.outputs[0]))
    return None not in (*before, *after) and math.prod(before) == math.prod(after)


def _positions(tensor: Any) -> int:
    return sum(size != 1 for size in tensor.shape[1:])


def _recognized(root: Any, steps: Sequence[Step], squeezed: Any) -> Squeeze | None:
    shape = tuple(root.shape)
    if not 3 <= len(shape) <= 5:
        return None
    fixed = [_SIZE if size is None else size for size in shape]
    for channel in (len(shape) - 1, 1):
        if shape[channel] is None or not has_positions(shape, channel):
            continue
        small = [n if at in (0, channel) else min(n, _SIZE) for at, n in enumerate(fixed)]
        # A window that covers the whole map, or a division by its size, needs the true size.
        names = [_statistic(root, steps, squeezed, small, channel)]
        if not names[0] and small[1:] != fixed[1:]:
            names.append(_statistic(root, steps, squeezed, fixed, channel))
        if any(name is not None for name in names):
            return Squeeze(next(filter(None, names), None), root, steps, squeezed)
    return None


def _statistic(
    root: Any, steps: Sequence[Step], squeezed: Any, sizes: list[int], channel: int
) -> str | None:
    """The name of a statistic, empty for an unknown one; `None` if it is none over positions."""
    channels = sizes[channel]
    rng = np.random.default_rng(0)
    # Rows of positions and channels: a map, its positions in another order, half of it changed.
    x = rng.normal(size=(np.prod(sizes[1:]) // channels, channels)) + 0.5
    changed = np.arange(channels) % 2 == 0
    maps = np.stack([x, rng.permutation(x), np.where(changed, 2.0 * x - 3.0, x)])
    spatial = [n for at, n in enumerate(sizes) if at not in (0, channel)]
    maps = np.moveaxis(maps.reshape(3, *spatial, channels), -1, channel)
    given = keras.ops.convert_to_tensor(maps.astype(root.dtype))
    try:
        values = keras.ops.convert_to_numpy(compute(steps, {id(root): given}, squeezed))
        one, other, third = values.astype("float64").reshape(3, channels)
    except Exception:  # a layer may refuse this size of a map, with any exception
        return None
    tolerance = _TOLERANCE * max(1.0, float(np.abs(values).max()))
    moved = np.abs(third - one) > tolerance
    if np.abs(other - one).max() > tolerance or not np.array_equal(moved, changed):
        return None
    tensor = keras.ops.convert_to_tensor(x[None].astype("float32"))
    for name, function in SQUEEZES.items():
        expected = keras.ops.convert_to_numpy(function(tensor, (1,), None)).ravel()
        if np.abs(expected - one).max() <= tolerance:
            return name
    return ""
