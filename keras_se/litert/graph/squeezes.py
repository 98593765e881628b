"""Recognizes a tensor of a TFLite graph as a statistic of a feature map over all its positions.

The axes of the map are followed through poolings, reductions, transpositions, reshapes and
element-wise operators. Other data may enter as weights of samples and positions: a mask, or the
number of positions under it.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from keras_se.litert.graph.flatbuffer import CASTS, LAYOUTS, Operator, SubGraph

_Axes = tuple[str, ...]
_Given = Sequence[_Axes | None]  # `None` for a weight
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
    known, pooled, is_partly = {root: axes}, set(), False
    for operator in between.values():
        found = _axes(graph, operator, known, _weights(graph, operator, root))
        if found is None or len(found) != len(graph.shape(operator.outputs[0])):
            return None
        known[operator.outputs[0]] = found
        if operator.name in _POOLINGS:
            pooled.add(_POOLINGS[operator.name])
            is_partly |= _SPACE in found
    # Axis by axis, the order of the positions counts in a mean of maxima.
    if is_partly and len(pooled) > 1:
        return None
    # The statistic must lose all positions but keep the samples and the channels.
    left = known.get(squeezed, (_SPACE,))
    return between if _SPACE not in left and set(axes) - {_SPACE, _ONE} <= set(left) else None


def squeeze_of_any(graph: SubGraph, squeezed: int, gated: int) -> Operators | None:
    """Returns the operators from any map but the gated one to its statistic; `None` without one."""
    roots = _before(graph, squeezed, gated)
    # The layout of the map is unknown: try channels last, then channels first.
    tried = (
        squeeze(graph, squeezed, root, channel)
        for root in reversed(roots)
        for channel in (len(graph.shape(root)) - 1, 1)
        if len(graph.shape(root)) > 2
    )
    return next((found for found in tried if found is not None), None)


def squeeze_name(squeezing: Operators, excitation: Operators) -> str:
    """Returns the name of what the operators of a squeeze compute; `"unknown"` for anything else.

    A root that is taken of the pooled values is among those of the excitation. Without operators it
    is the squeeze of a map of one position, of which all are the same.
    """
    names = {_squared(operator) for operator in squeezing.values()}
    pooled = {_POOLINGS[name] for name in names & set(_POOLINGS)}
    if names & _NOT_LINEAR:
        has_root = any(o.name == "SQRT" for o in (*squeezing.values(), *excitation.values()))
        is_deviation = has_root and bool(names & {"SQUARED_DIFFERENCE", "SUB"})
        is_linear = pooled == {"sum"} and not names & (_NOT_LINEAR - _OF_DEVIATION)
        return "std" if is_deviation and is_linear else "unknown"
    # Under a mask a maximum takes the minimum for what is masked.
    if names & _SELECTIONS:
        pooled -= {"minimum"}
    # Of a sum it is not known over how many positions; under a mask a quotient makes it a mean.
    if pooled == {"sum"} and not names & {"MEAN", "AVERAGE_POOL_2D", "DIV"}:
        return "unknown"
    return _NAMES.get(frozenset(pooled), "unknown")


def _squared(operator: Operator) -> str:
    """Returns the name of an operator; a product of a tensor with itself is a square."""
    is_square = operator.name == "MUL" and len(set(operator.inputs)) == 1
    return "SQUARE" if is_square else operator.name


def _before(graph: SubGraph, squeezed: int, gated: int) -> list[int]:
    """Returns a tensor and those that it is a pooling, another layout or a weighing of."""
    found = [squeezed]
    for _ in range(MAX_OPERATORS):
        operator = graph.producers.get(found[-1])
        if operator is None:
            break
        weights = _weights(graph, operator, gated)
        others = [i for i in graph.data_inputs(operator) if i not in weights]
        is_followed = weights or operator.name in {*_POOLINGS, *CASTS, *LAYOUTS, *_SLICES}
        if not is_followed or len(others) != 1:
            break
        found += others
    return found


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


def is_weight(graph: SubGraph, tensor: int, root: int) -> bool:
    """Whether a tensor is made of masks: it can only weigh the samples and positions of a map.

    A mask is of booleans or integers, or an input of the graph with fewer axes than the map.
    """
    axes = len(graph.shape(root)) - 2
    seen, to_visit = set[int](), [tensor]
    while to_visit:
        found = to_visit.pop()
        if found == root:
            return False
        if found in seen or graph.type(found) in _MASKS:
            continue
        seen.add(found)
        operator = graph.producers.get(found)
        if operator is None:
            if sum(size != 1 for size in graph.shape(found)[1:]) > axes:
                return False
        # Softmax and sigmoid are no part of it: attention is no mask.
        elif operator.name not in _WEIGHING or len(seen) > MAX_OPERATORS:
            return False
        else:
            to_visit += graph.data_inputs(operator)
    return True


def _weights(graph: SubGraph, operator: Operator, root: int) -> set[int]:
    """Returns the inputs of an operator that only weigh its others."""
    inputs = graph.data_inputs(operator)
    if operator.name not in _COMBINED or len(inputs) < 2:
        return set()
    return {i for i in inputs if is_weight(graph, i, root)}


def _weighs(shape: Sequence[int], axes: _Axes) -> bool:
    """Whether a weight of some shape has no channels, and no positions that the others lack."""
    aligned = zip(reversed(shape), reversed(axes), strict=False)
    return all(size == 1 or name in (_BATCH, _SPACE) for size, name in aligned)


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
            weights = _weights(graph, operator, root)
            to_visit += [i for i in graph.data_inputs(operator) if i not in weights]
    return dict(sorted(found.items()))


def _axes(
    graph: SubGraph, operator: Operator, known: Mapping[int, _Axes], weights: set[int]
) -> _Axes | None:
    """Returns the axes of the output of an operator; `None` if it has no rule for its inputs."""
    inputs = graph.data_inputs(operator)
    given = [known.get(i) for i in inputs]
    if any(axes is None and i not in weights for i, axes in zip(inputs, given, strict=True)):
        return None
    if operator.name in _COMBINED:
        return _COMBINED[operator.name](graph, operator, given)
    axes = given[0] if len(given) == 1 else None
    return None if axes is None else _FOLLOWED[operator.name](graph, operator, axes)


def _broadcast(graph: SubGraph, operator: Operator, given: _Given) -> _Axes | None:
    maps = [axes for axes in given if axes is not None]
    rank = max(map(len, maps), default=0)
    aligned = [(_ONE,) * (rank - len(axes)) + axes for axes in maps]
    merged = [set(names) - {_ONE} for names in zip(*aligned, strict=True)]
    if any(len(names) > 1 for names in merged):
        return None
    found = tuple(names.pop() if names else _ONE for names in merged)
    weights = [
        graph.shape(i)
        for i, axes in zip(graph.data_inputs(operator), given, strict=True)
        if axes is None and not _is_finite(graph, i)
    ]
    return found if all(_weighs(shape, found) for shape in weights) else None


def _is_finite(graph: SubGraph, tensor: int) -> bool:
    """Whether a tensor asks if others are finite, as a logarithm of a sum of exponentials does."""
    equal = graph.producers.get(tensor)
    difference = graph.producers.get(equal.inputs[0]) if equal and equal.name == "EQUAL" else None
    return bool(difference and difference.name == "SUB" and len(set(difference.inputs)) == 1)


def _joined(graph: SubGraph, operator: Operator, given: _Given) -> _Axes | None:
    """Returns the axes of statistics side by side, such as a mean and a maximum."""
    axes = given[0]
    if axes is None or len(set(given)) != 1:
        return None
    is_new = operator.name == "PACK"
    at = operator.options.axis % (len(axes) + is_new)
    if not is_new and axes[at] not in (_ONE, _SPACE):
        return None
    return (*axes[:at], _SPACE, *axes[at + (not is_new) :])


def _clipped(graph: SubGraph, operator: Operator, given: _Given) -> _Axes | None:
    """Returns the axes of values that are clipped once they are pooled."""
    # Clipped before, as by a ReLU, they are those of another map.
    axes = _broadcast(graph, operator, given)
    return None if axes is None or _SPACE in axes else axes


def _contracted(graph: SubGraph, operator: Operator, given: _Given) -> _Axes | None:
    """Returns the axes of a sum over positions that is written as a product with a mask."""
    if len(given) != 2 or given.count(None) != 1:
        return None
    is_left = given[1] is None  # the map is the left factor
    (axes,) = (axes for axes in given if axes is not None)
    is_flipped = bool(operator.options.adjX if is_left else operator.options.adjY)
    # A left factor is summed over its columns, a right one over its rows.
    summed, kept = (-1, -2) if is_left != is_flipped else (-2, -1)
    weight = graph.shape(graph.data_inputs(operator)[given.index(None)])
    is_one = graph.shape(operator.outputs[0])[-1 if is_left else -2] == 1  # of one mask
    if axes[summed] != _SPACE or not is_one or not _weighs(weight[:-2], axes[:-2]):
        return None
    return *axes[:-2], *((axes[kept], _ONE) if is_left else (_ONE, axes[kept]))


def _reduced(graph: SubGraph, operator: Operator, axes: _Axes) -> _Axes | None:
    # _Axes may be negative.
    numbers = {n % len(axes) for n in _constant_integers(graph, operator.inputs[1])}
    # Over the channels it is no statistic of each.
    if {axes[n] for n in numbers} - {_SPACE, _ONE}:
        return None
    if len(graph.shape(operator.outputs[0])) == len(axes):
        return tuple(_ONE if n in numbers else name for n, name in enumerate(axes))
    return tuple(name for n, name in enumerate(axes) if n not in numbers)


def _pooled(graph: SubGraph, operator: Operator, axes: _Axes) -> _Axes | None:
    """Returns the axes after a pooling whose window covers the whole height, width or both."""
    old, new = graph.shape(operator.inputs[0]), graph.shape(operator.outputs[0])
    options, found = operator.options, list(axes)
    windows = (options.filterHeight, options.strideH), (options.filterWidth, options.strideW)
    for n, (window, stride) in enumerate(windows, 1):
        # One output alone does not prove coverage: the stride can exceed the window.
        if 0 < old[n] <= window and new[n] == 1 and axes[n] in (_SPACE, _ONE):
            found[n] = _ONE
        elif not window == stride == 1:
            return None
    return tuple(found)


def _transposed(graph: SubGraph, operator: Operator, axes: _Axes) -> _Axes | None:
    order = _constant_integers(graph, operator.inputs[1])
    return tuple(axes[n] for n in order) if len(order) == len(axes) else None


def _reshaped(graph: SubGraph, operator: Operator, axes: _Axes) -> _Axes | None:
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


def _sliced(graph: SubGraph, operator: Operator, axes: _Axes) -> _Axes | None:
    """Returns the axes after a slice that takes everything, as one that adds axes of size 1."""
    old, new = graph.shape(operator.inputs[0]), graph.shape(operator.outputs[0])
    return _reshaped(graph, operator, axes) if math.prod(old) == math.prod(new) else None


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


_REDUCTIONS = {"MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"}
_WINDOWS = {"AVERAGE_POOL_2D", "MAX_POOL_2D"}
_POOLINGS = {  # with what they take of the positions
    **dict.fromkeys(("AVERAGE_POOL_2D", "MEAN", "SUM"), "sum"),
    **dict.fromkeys(("MAX_POOL_2D", "REDUCE_MAX"), "maximum"),
    "REDUCE_MIN": "minimum",
}
_NAMES = {
    frozenset[str](): "avg",
    frozenset({"sum"}): "avg",
    frozenset({"maximum"}): "max",
    frozenset({"sum", "maximum"}): "avg_max",
}
_OF_DEVIATION = {"SQRT", "SQUARE", "SQUARED_DIFFERENCE"}
_NOT_LINEAR = {"ABS", "EXP", "LOG", "POW", *_OF_DEVIATION}
_ELEMENTWISE = {
    *("ABS", "ADD", "DIV", "EXP", "LOG", "MUL", "POW", "SQRT", "SQUARE", "SQUARED_DIFFERENCE"),
    "SUB",
}
_SELECTIONS = {"SELECT", "SELECT_V2", "ZEROS_LIKE"}  # and what is selected elsewhere
_CLIPS = {"MAXIMUM", "MINIMUM"}
_SLICES = {"SLICE", "STRIDED_SLICE"}
_FOLLOWED: Mapping[str, Callable[[SubGraph, Operator, _Axes], _Axes | None]] = {
    **dict.fromkeys(_REDUCTIONS, _reduced),
    **dict.fromkeys(_WINDOWS, _pooled),
    **dict.fromkeys(LAYOUTS - {"TRANSPOSE"}, _reshaped),
    **dict.fromkeys(_SLICES, _sliced),
    "TRANSPOSE": _transposed,
}
_COMBINED: Mapping[str, Callable[[SubGraph, Operator, _Given], _Axes | None]] = {
    **dict.fromkeys(CASTS | _ELEMENTWISE | _SELECTIONS, _broadcast),
    **dict.fromkeys(_CLIPS, _clipped),
    **dict.fromkeys(("CONCATENATION", "PACK"), _joined),
    "BATCH_MATMUL": _contracted,
}
_RULES = {*_FOLLOWED, *_COMBINED}
_MASKS = {"BOOL", "INT32", "INT64"}
_WEIGHING = {  # operators that make weights of masks
    *(CASTS | LAYOUTS | _REDUCTIONS | _ELEMENTWISE | _SELECTIONS | _CLIPS | _SLICES),
    *("BROADCAST_TO", "TILE"),
}
