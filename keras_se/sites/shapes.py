"""What the shapes of tensors say: vectors of one value per channel, and maps with positions."""

import math
from typing import Any

Shape = tuple[int | None, ...]


def is_vector(tensor: Any) -> bool:
    """Whether a tensor has at most one axis besides the batch that is longer than 1."""
    shape = tensor.shape
    return len(shape) > 1 and sum(size != 1 for size in shape[1:]) <= 1


def length(tensor: Any) -> int | None:
    """The number of values of a vector for one example; `None` if it is unknown."""
    return None if None in tensor.shape[1:] else math.prod(tensor.shape[1:])


def channel_axis(gate: Shape, feature: Shape, aligns_left: bool) -> int | None:
    """The axis of a map along which the gates of a product differ; `None` if there is none.

    `aligns_left` says that a gate of fewer axes gets the missing ones after its batch, as in the
    layer `Multiply`.
    """
    rank = len(feature)
    if not 3 <= rank <= 5 or len(gate) > rank or (len(gate) < rank and not aligns_left):
        return None
    gate = (gate[0], *[1] * (rank - len(gate)), *gate[1:])
    axes = [n for n in range(1, rank) if gate[n] != 1]
    if len(axes) > 1:
        return None
    if not axes:  # one channel
        single = [n for n in (rank - 1, 1) if feature[n] == 1]
        return single[0] if single else None
    # No layout has its channels on another axis.
    (axis,) = axes
    is_fit = axis in (1, rank - 1) and gate[axis] is not None and gate[axis] == feature[axis]
    return axis if is_fit else None


def einsum_shape(subscripts: str, position: int, gates: Any) -> Shape:
    """The shape of gates beside a map in an einsum of both; empty if it is no such product."""
    operands, _, out = subscripts.partition("->")
    terms = operands.split(",")
    if len(terms) != 2:
        return ()
    whole, gate = terms[position], terms[1 - position]
    if whole != out or not set(gate) <= set(whole) or gate[:1] != whole[:1]:
        return ()
    sizes = dict(zip(gate, gates.shape, strict=True))
    return tuple(sizes.get(letter, 1) for letter in whole)


def has_positions(shape: Shape, channel: int) -> bool:
    """Whether a map has more than one position."""
    return any(size != 1 for n, size in enumerate(shape) if n not in (0, channel))
