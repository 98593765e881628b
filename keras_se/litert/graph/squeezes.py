"""Recognizes a tensor of a TFLite graph as a statistic of a feature map over all its positions.

The axes of the map are followed through poolings, reductions, transpositions, reshapes and
element-wise operators.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from keras_se.litert.graph.flatbuffer import CASTS, LAYOUTS, Operator, SubGraph

_Axes = tuple[str, ...]
Operators = dict[int, Operator]

MAX_OPERATORS = 64  # a site has about 20; the limit bounds the time on a hostile file
_MAX_RANK = 8  # of a TFLite tensor
_ONE, _BATCH, _CHANNEL, _SPACE = "one", "batch", "channel", "space"  # _ONE: an axis of size 1


def squeeze(graph: SubGraph, squeezed: int, root: int, channel: int) -> Operators | None:
    """Returns the operators from a map to its statistic; `None` if it is not a statistic of it."""
    between = _between(graph, squeezed, root)
    named, sizes = {0: _BATCH, channel: _CHANNEL}, graph.shape(root)
    axes = tuple(_ONE if size == 1 else named.get(n, _SPACE) for n, size in enumerate(sizes))
    if between is None or _SPACE not in axes:
        return None
    known = {root: axes}
    for operator in between.values():
        given = [known.get(i) for i in graph.data_inputs(operator)]
        rule = _RULES[operator.name]
        found = None if None in given else rule(graph, operator, [a for a in given if a])
        if found is None or len(found) != len(graph.shape(operator.outputs[0])):
            return None
        known[operator.outputs[0]] = found
    # The statistic must lose all positions but keep the samples and the channels.
    left = known.get(squeezed, (_SPACE,))
    return between if _SPACE not in left and set(axes) - {_SPACE, _ONE} <= set(left) else None


def squeeze_of_any(graph: SubGraph, squeezed: int) -> Operators | None:
    """Returns the operators from any map to its statistic; `None` if there is no such map."""
    root = squeezed
    for _ in range(MAX_OPERATORS):
        operator = graph.producers.get(root)
        if operator is None or operator.name not in _POOLINGS | CASTS | LAYOUTS:
            break
        root = operator.inputs[0]
    rank = len(graph.shape(root))
    # The layout of the map is unknown: try channels last, then channels first.
    tried = (squeeze(graph, squeezed, root, channel) for channel in (rank - 1, 1) if rank > 2)
    return next((found for found in tried if found is not None), None)


def origin(graph: SubGraph, tensor: int, channel: int) -> tuple[int, int]:
    """Traces a map back through casts and transpositions; returns it and its channel axis."""
    for _ in range(MAX_OPERATORS):
        operator = graph.producers.get(tensor)
        if operator is None or operator.name not in CASTS | {"TRANSPOSE"}:
            break
        if operator.name == "TRANSPOSE":
            order = _constant_integers(graph, operator.inputs[1])
            if len(order) != len(graph.shape(tensor)) or order[0] != 0:
                break
            channel = order[channel]
        tensor = operator.inputs[0]
    return tensor, channel


def _between(graph: SubGraph, squeezed: int, root: int) -> Operators | None:
    """Returns the operators between two tensors; `None` if one of them has no rule."""
    found: Operators = {}
    to_visit = [squeezed]
    while to_visit:
        tensor = to_visit.pop()
        if tensor == root:
            continue
        operator = graph.producers.get(tensor)
        if operator is None or operator.name not in _RULES or len(found) >= MAX_OPERATORS:
            return None
        if operator.position not in found:
            found[operator.position] = operator
            to_visit += graph.data_inputs(operator)
    return dict(sorted(found.items()))


def _broadcast(graph: SubGraph, operator: Operator, given: Sequence[_Axes]) -> _Axes | None:
    rank = max(map(len, given), default=0)
    aligned = [(_ONE,) * (rank - len(axes)) + axes for axes in given]
    merged = [set(names) - {_ONE} for names in zip(*aligned, strict=True)]
    if any(len(names) > 1 for names in merged):
        return None
    return tuple(names.pop() if names else _ONE for names in merged)


def _reduced(graph: SubGraph, operator: Operator, given: Sequence[_Axes]) -> _Axes | None:
    (axes,) = given
    # _Axes may be negative.
    numbers = {n % len(axes) for n in _constant_integers(graph, operator.inputs[1])}
    if len(graph.shape(operator.outputs[0])) == len(axes):
        return tuple(_ONE if n in numbers else name for n, name in enumerate(axes))
    return tuple(name for n, name in enumerate(axes) if n not in numbers)


def _pooled(graph: SubGraph, operator: Operator, given: Sequence[_Axes]) -> _Axes | None:
    """Returns the axes after a pooling whose window covers the whole map."""
    (axes,) = given
    _, height, width, _ = graph.shape(operator.inputs[0])
    options = operator.options
    covered = 0 < height <= options.filterHeight and 0 < width <= options.filterWidth
    # One output alone does not prove coverage: the stride can exceed the window.
    is_one = graph.shape(operator.outputs[0])[1:3] == (1, 1)
    if not (covered and is_one) or set(axes[1:3]) - {_SPACE, _ONE}:
        return None
    return axes[0], _ONE, _ONE, axes[3]


def _transposed(graph: SubGraph, operator: Operator, given: Sequence[_Axes]) -> _Axes | None:
    (axes,) = given
    order = _constant_integers(graph, operator.inputs[1])
    return tuple(axes[n] for n in order) if len(order) == len(axes) else None


def _reshaped(graph: SubGraph, operator: Operator, given: Sequence[_Axes]) -> _Axes | None:
    (axes,) = given
    old, new = graph.shape(operator.inputs[0]), graph.shape(operator.outputs[0])
    if max(len(old), len(new)) > _MAX_RANK:
        return None
    # _Axes of size 1 come and go freely in a reshape, so only the others are matched.
    names: list[str] = []
    for before, after in _groups([s for s in old if s != 1], [s for s in new if s != 1]):
        labels = [name for name, size in zip(axes, old, strict=True) if size != 1][before]
        count = after.stop - after.start
        if len(labels) == count == 1:
            names += labels
        # Positions may merge or split; an axis merged with the channels or samples is lost.
        elif set(labels) == {_SPACE}:
            names += [_SPACE] * count
        else:
            return None
    rest = iter(names)
    return tuple(_ONE if size == 1 else next(rest, _SPACE) for size in new)


def _groups(old: Sequence[int], new: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yields the shortest runs of sizes, before and after a reshape, with equal products."""
    start = other = 0
    for end in range(1, len(old) + 1):
        for stop in range(other + 1, len(new) + 1):
            if math.prod(old[start:end]) == math.prod(new[other:stop]):
                yield slice(start, end), slice(other, stop)
                start, other = end, stop
                break
    if start < len(old) or other < len(new):
        yield slice(start, len(old)), slice(other, len(new))


def _constant_integers(graph: SubGraph, tensor: int) -> tuple[int, ...]:
    return tuple(int(value) for value in graph.values(tensor))


_Rule = Callable[[SubGraph, Operator, Sequence[_Axes]], _Axes | None]
_REDUCTIONS = {"MEAN", "SUM", "REDUCE_MAX"}
_WINDOWS = {"AVERAGE_POOL_2D", "MAX_POOL_2D"}
_POOLINGS = _REDUCTIONS | _WINDOWS
_ELEMENTWISE = {"SUB", "SQUARE", "SQUARED_DIFFERENCE", "ABS", "POW", "MUL", "SQRT", "ADD"}
_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(CASTS | _ELEMENTWISE, _broadcast),
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(_WINDOWS, _pooled),
    **dict.fromkeys(LAYOUTS - {"TRANSPOSE"}, _reshaped),
    "TRANSPOSE": _transposed,
}
