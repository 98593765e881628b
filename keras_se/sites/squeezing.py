"""Recognizes a squeeze by its values: a statistic of each channel over all positions."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.layers.squeezes import SQUEEZES
from keras_se.sites.flow import Flow, Step, between, compute
from keras_se.sites.shapes import has_positions, is_vector

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
    *("Absolute", "Add", "Concatenate", "Divide", "Exp", "Log", "Multiply", "Power", "Rescaling"),
    *("Sqrt", "Square", "Stack", "Subtract", "TrueDivide"),
}
# Under a mask, arithmetic may select.
_WEIGHED = {*_ARITHMETIC, "FullLike", "OnesLike", "Where", "ZerosLike"}
_CLIPS = {"Maximum", "Minimum"}
_WEIGHING = {  # steps that make weights of masks
    *(_WEIGHED | _CLIPS),
    *("BroadcastTo", "GetItem", "Max", "Mean", "Min", "Reciprocal", "Sum", "Tile"),
}
_SIZE = 4  # positions per axis are enough to tell a statistic
_TOLERANCE = 1e-3  # of the scale of the values, also in reduced precision


@dataclass(frozen=True)
class Squeeze:
    """A squeeze.

    Attributes:
        name: `"avg"`, `"max"`, `"avg_max"`, `"std"`, or `None` if it is none of them, or under a
            mask.
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


def masks_of(flow: Flow, tensor: Any, maps: Sequence[Any]) -> list[Any]:
    """The masks that a weight of samples and positions is made of; empty if it is no such weight.

    A mask is of booleans or integers, or an input of the model with fewer axes than the maps.
    """
    axes = max(len(root.shape) for root in maps) - 2
    stops, masks = set(map(id, maps)), dict[int, Any]()
    seen, to_visit = set[int](), [tensor]
    while to_visit:
        found = to_visit.pop()
        step = flow.producer(found)
        if id(found) in stops:
            return []
        if "float" not in found.dtype or (step is None and _positions(found) <= axes):
            masks[id(found)] = found
        # Softmax and sigmoid are no part of it: attention is no mask.
        elif step is None or step.kind not in _WEIGHING:
            return []
        elif id(found) not in seen:
            seen.add(id(found))
            to_visit += step.inputs
    return list(masks.values())


def weights_of(flow: Flow, step: Step, maps: Sequence[Any]) -> dict[int, list[Any]]:
    """By id, the inputs of a step that only weigh its others, with the masks they are made of."""
    if len(step.inputs) < 2:
        return {}
    found = {id(tensor): masks_of(flow, tensor, maps) for tensor in step.inputs}
    return {key: masks for key, masks in found.items() if masks}


def squeeze_of(flow: Flow, squeezed: Any, maps: Sequence[Any]) -> Squeeze | None:
    """The squeeze of one of some maps that gives a vector; `None` if there is none."""
    for root in maps:
        masks = _masks_between(flow, root, squeezed)
        steps = None if masks is None else between(flow, [root, *masks], squeezed)
        if masks is not None and steps is not None:
            return _recognized(root, steps, squeezed, masks)
    return None


def squeeze_of_any(flow: Flow, squeezed: Any, maps: Sequence[Any]) -> Squeeze | None:
    """The squeeze of another than some maps that gives a vector."""
    root = squeezed
    while is_vector(root):
        step = flow.producer(root)
        weights = {} if step is None else weights_of(flow, step, maps)
        others = [] if step is None else [t for t in step.inputs if id(t) not in weights]
        if len(others) != 1:
            return None
        (root,) = others
    return squeeze_of(flow, squeezed, [root])


def _masks_between(flow: Flow, root: Any, squeezed: Any) -> list[Any] | None:
    """The masks that enter between a map and a vector; `None` if a step there keeps no map."""
    found: dict[int, Any] = {}
    seen, to_visit = {id(root)}, [squeezed]
    while to_visit:
        tensor = to_visit.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        step = flow.producer(tensor)
        if step is None or not _keeps_map(step):
            return None
        weights = weights_of(flow, step, [root])
        found |= {id(mask): mask for masks in weights.values() for mask in masks}
        to_visit += [t for t in step.inputs if id(t) not in weights]
    return list(found.values())


def _keeps_map(step: Step) -> bool:
    """Whether the values after a step are still those of the map: a reduction or arithmetic."""
    before = max(map(_positions, step.inputs), default=0)
    is_reduced = all(_positions(tensor) < before for tensor in step.outputs)
    is_kept = step.kind in _WEIGHED or (step.kind == "GetItem" and _is_whole(step))
    # Clipped before they are pooled, as by a ReLU, the values are those of another map.
    return is_reduced or is_kept or (step.kind in _CLIPS and is_vector(step.outputs[0]))


def _is_whole(step: Step) -> bool:
    """Whether indexing keeps all values, as `x[:, None]` does."""
    before, after = (t.shape[1:] for t in (step.inputs[0], step.outputs[0]))
    return None not in (*before, *after) and math.prod(before) == math.prod(after)


def _positions(tensor: Any) -> int:
    return sum(size != 1 for size in tensor.shape[1:])


def _recognized(
    root: Any, steps: Sequence[Step], squeezed: Any, masks: Sequence[Any]
) -> Squeeze | None:
    shape = tuple(root.shape)
    if not 3 <= len(shape) <= 5:
        return None
    fixed = [_SIZE if size is None else size for size in shape]
    for channel in (len(shape) - 1, 1):
        if shape[channel] is None or not has_positions(shape, channel):
            continue
        small = [n if at in (0, channel) else min(n, _SIZE) for at, n in enumerate(fixed)]
        trial = _Trial(root, steps, squeezed, masks, channel)
        # A window that covers the whole map, or a division by its size, needs the true size.
        names = [trial.name(small)]
        if not names[0] and small[1:] != fixed[1:]:
            names.append(trial.name(fixed))
        if any(name is not None for name in names):
            # No block has the mask, whatever it computes without one.
            name = None if masks else next(filter(None, names), None)
            return Squeeze(name, root, steps, squeezed)
    return None


@dataclass(frozen=True)
class _Trial:
    """Computes what may be a squeeze of the channels on one axis, on maps and masks made up.

    Attributes:
        root: The squeezed map.
        steps: The steps from it and its masks to one value per channel.
        vector: These values.
        masks: The masks.
        channel: The axis of the channels.
    """

    root: Any
    steps: Sequence[Step]
    vector: Any
    masks: Sequence[Any]
    channel: int

    def name(self, sizes: Sequence[int]) -> str | None:
        """The name of a statistic, empty for an unknown one; `None` if it is none over positions.

        `sizes` are those of the map.
        """
        channels = sizes[self.channel]
        rng = np.random.default_rng(0)
        # Rows of positions and channels: a map, its positions in other orders, half of it changed.
        x = rng.normal(size=(math.prod(sizes[1:]) // channels, channels)) + 0.5
        changed = np.arange(channels) % 2 == 0
        # A permutation may leave a position where it is, the roll leaves none.
        orders = [np.roll(x, 1, axis=0), rng.permutation(x), rng.permutation(x)]
        maps = np.stack([x, *orders, np.where(changed, 2.0 * x - 3.0, x)])
        values = self._values(maps, sizes, np.ones)
        if values is None:
            return None
        one, *others, last = values
        tolerance = _TOLERANCE * max(1.0, float(np.abs(values).max()))
        moved = np.abs(last - one) > tolerance
        if np.abs(others - one).max() > tolerance or not np.array_equal(moved, changed):
            return None
        if self.masks and not self._is_alike(x, sizes):
            return None
        tensor = keras.ops.convert_to_tensor(x[None].astype("float32"))
        for name, function in SQUEEZES.items():
            expected = keras.ops.convert_to_numpy(function(tensor, (1,), None)).ravel()
            if np.abs(expected - one).max() <= tolerance:
                return name
        return ""

    def _is_alike(self, x: np.ndarray, sizes: Sequence[int]) -> bool:
        """Whether masks weigh all channels alike: channels that change places do so in it."""
        rng = np.random.default_rng(0)
        shifted = np.stack([x, np.roll(x, 1, axis=1), x])

        def drawn(shape: tuple[int, ...]) -> np.ndarray:
            values = rng.integers(2, size=(1, *shape[1:]))
            # One that lets nothing through, or all, shows nothing.
            values[:, :1] = 1
            values.flat[values.size - 1] = values.size == 1
            return values

        values = self._values(shifted, sizes, drawn)
        if values is None:
            return False
        one, other, _ = values
        return bool(np.allclose(np.roll(one, 1), other, rtol=_TOLERANCE, atol=_TOLERANCE))

    def _values(
        self, maps: np.ndarray, sizes: Sequence[int], masked: Callable[[tuple[int, ...]], Any]
    ) -> np.ndarray | None:
        """The vectors of some maps, as rows; `None` if the steps do not take this size."""
        channels = sizes[self.channel]
        spatial = [n for at, n in enumerate(sizes) if at not in (0, self.channel)]
        maps = np.moveaxis(maps.reshape(len(maps), *spatial, channels), -1, self.channel)
        known = {id(self.root): keras.ops.convert_to_tensor(maps.astype(self.root.dtype))}
        for mask in self.masks:
            shape = (len(maps), *[_SIZE if size is None else size for size in mask.shape[1:]])
            values = np.broadcast_to(masked(shape), shape)
            known[id(mask)] = keras.ops.convert_to_tensor(values.astype(mask.dtype))
        try:
            values = keras.ops.convert_to_numpy(compute(self.steps, known, self.vector))
            return values.astype("float64").reshape(len(maps), channels)
        except Exception:  # a layer may refuse this size of a map, with any exception
            return None
