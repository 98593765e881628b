"""Where SE blocks can go in a model's graph.

Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507v4, sections 3.3 and 6.5
(placements in a residual unit).
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.replay import check_graph, fresh_inputs, original, replay

PLACEMENTS = ("standard", "pre", "post", "identity")
WHERE = ("residual", "concat", "conv")
Edges = tuple[tuple[int, int], ...]
Where = str | Iterable[str] | Callable[[Any], bool] | None

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)
_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)


@dataclass(frozen=True)
class Candidate:
    """A place where `insert` would put an SE block.

    Attributes:
        name: Ordinal name, the key of a plan: `"se_1"`, `"se_2"`, ...
        after: Name of the layer whose output the block would gate.
        channels: C, the number of channels there.
        shape: Shape of the feature map there, with `None` for the batch and for unknown sizes.
        data_format: `"channels_last"` or `"channels_first"`, as the nearest layer before it has it.
    """

    name: str
    after: str
    channels: int
    shape: tuple[int | None, ...]
    data_format: str


@dataclass(frozen=True)
class Call:
    """One call of a layer or raw operation in a model's graph.

    Attributes:
        layer: The layer or operation.
        inputs: Ids of all its arguments, flattened: tensors and others.
        outputs: Its output tensors, flattened.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True)
class Place:
    """A candidate, and how to reach it in the graph.

    Attributes:
        candidate: What is said of it.
        producer: Index of the call whose output is gated; -1 for an input of the model.
        edges: The consumers that get the gated tensor, as (index of the call, position among its
            arguments); `None` for all of them and for the model's outputs.
        dtype_policy: That of the producer.
    """

    candidate: Candidate
    producer: int
    edges: Edges | None
    dtype_policy: Any


class Trace:
    """The calls of a model's graph in topological order, and who consumes what."""

    def __init__(
        self,
        model: keras.Model,
        input_shape: tuple[int, ...] | None = None,
        purpose: str = "insert",
    ) -> None:
        check_graph(purpose, model)
        self.model = model
        self.inputs = fresh_inputs(model, input_shape)
        self.calls: list[Call] = []
        self.outputs = {id(t) for t in keras.tree.flatten(replay(model, self.inputs, self._record))}

    def _record(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = operation(*args, **kwargs)
        arguments = keras.tree.flatten((args, kwargs))
        flat = tuple(keras.tree.flatten(outputs))  # kept, so that ids hold
        self.calls.append(Call(original(operation), tuple(map(id, arguments)), flat))
        return outputs

    @cached_property
    def producers(self) -> dict[int, int]:
        """By id of a tensor, the index of the call that made it; inputs are not in it."""
        return {id(t): n for n, call in enumerate(self.calls) for t in call.outputs}

    @cached_property
    def consumers(self) -> dict[int, list[tuple[int, int]]]:
        """By id of a tensor, the edges that take it: (index of the call, position)."""
        edges: dict[int, list[tuple[int, int]]] = {}
        for n, call in enumerate(self.calls):
            for position, tensor in enumerate(call.inputs):
                edges.setdefault(tensor, []).append((n, position))
        return edges

    @cached_property
    def ancestors(self) -> list[frozenset[int]]:
        """By index of a call, the indices of the calls that it depends on, itself included."""
        known: list[frozenset[int]] = []
        for n, call in enumerate(self.calls):
            before = [known[self.producers[t]] for t in call.inputs if t in self.producers]
            known.append(frozenset({n}).union(*before))
        return known

    def sole_consumer(self, n: int) -> int | None:
        """The call that alone takes the output of call `n`, if it is so."""
        tensor = id(self.calls[n].outputs[0])
        edges = self.consumers.get(tensor, [])
        if len(self.calls[n].outputs) != 1 or len(edges) != 1 or tensor in self.outputs:
            return None
        return edges[0][0]


def candidates(
    model: keras.Model, placement: str = "standard", where: Where = None
) -> list[Candidate]:
    """The places where `insert` would put an SE block, in topological order.

    Args:
        model: A built functional or Sequential model.
        placement: In a residual unit: `"standard"` (on the branch, before the addition), `"pre"`
            (before the branch), `"post"` (after the addition and its activation) or `"identity"`
            (on the shortcut).
        where: `"residual"`: the residual additions. `"concat"`: each concatenation that feeds no
            other one: the dense blocks of DenseNet, the modules of Inception. `"conv"`: each
            convolution with its normalization and activation. Or names of layers, or a function of
            a layer that says whether a block follows it. By default the first of the three that the
            model has.

    Returns:
        One `Candidate` for each place.

    Raises:
        InputError: If the model is not a built graph of layers, an argument breaks its rule, or
            there is no such place.

    Source: Hu et al., arXiv 1709.01507v4, sections 3.3 and 6.5.

    Example:
        >>> conv = keras.layers.Conv2D(8, 3, activation="relu", name="conv")
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), conv])
        >>> [(c.name, c.after, c.channels) for c in candidates(model)]
        [('se_1', 'conv', 8)]
    """
    return [place.candidate for place in find_places(Trace(model), placement, where)]


def find_places(trace: Trace, placement: str, where: Where) -> list[Place]:
    """The places of a traced model; see `candidates`."""
    if placement not in PLACEMENTS:
        raise InputError(
            f"placement must be one of {list(PLACEMENTS)}. Received: placement={placement!r}"
        )
    found = _find(trace, placement, where)
    if placement != "standard" and (where not in (None, "residual") or not found):
        raise InputError(
            f"placement={placement!r} is a place in a residual unit. "
            f"Received: where={where!r} and model {trace.model.name!r}"
        )
    if not found:
        raise InputError(
            "insert needs a place: residual additions, concatenations or convolutions. "
            f"Received: model {trace.model.name!r}, which has none for where={where!r}"
        )
    return [_place(trace, number, *point) for number, point in enumerate(found, start=1)]


_Point = tuple[int, Edges | None]  # producer and edges, as in Place


def _find(trace: Trace, placement: str, where: Where) -> list[_Point]:
    if where is None:
        order = ("residual",) if placement != "standard" else WHERE
        return next((points for kind in order if (points := _find(trace, placement, kind))), [])
    if callable(where):
        return [(n, None) for n, call in enumerate(trace.calls) if where(call.layer)]
    if not isinstance(where, str):
        return list(_named(trace, list(where)))
    if where not in WHERE:
        raise InputError(
            f"where must be one of {list(WHERE)}, names of layers, or a function of a layer. "
            f"Received: where={where!r}"
        )
    if where == "residual":
        return list(_residual(trace, placement))
    return list(_concatenations(trace) if where == "concat" else _convolutions(trace))


def _named(trace: Trace, names: list[str]) -> Iterator[_Point]:
    known = {call.layer.name for call in trace.calls}
    unknown = sorted(set(names) - known)
    if unknown:
        raise InputError(f"where names layers of the model. Received: {unknown}, not among them")
    yield from ((n, None) for n, call in enumerate(trace.calls) if call.layer.name in names)


def _convolutions(trace: Trace) -> Iterator[_Point]:
    for n, call in enumerate(trace.calls):
        _check_nested(trace, call.layer)
        if isinstance(call.layer, _CONVOLUTIONS):
            end = n
            for kinds in (_NORMALIZATIONS, _ACTIVATIONS):
                end = _extended(trace, end, kinds)
            yield end, None


def _extended(trace: Trace, n: int, kinds: tuple[type, ...]) -> int:
    """The call after `n` if it is of these kinds and the only one, else `n`."""
    following = trace.sole_consumer(n)
    if following is None or not isinstance(trace.calls[following].layer, kinds):
        return n
    return following


def _check_nested(trace: Trace, layer: Any) -> None:
    if isinstance(layer, keras.Model):
        raise InputError(
            "insert after convolutions takes models without nested models: insert into the nested "
            f"one first. Received: model {trace.model.name!r}, which holds {layer.name!r}"
        )


def _concatenations(trace: Trace) -> Iterator[_Point]:
    for n, call in enumerate(trace.calls):
        if isinstance(call.layer, keras.layers.Concatenate) and len(call.outputs[0].shape) > 2:
            edges = trace.consumers.get(id(call.outputs[0]), [])
            layers = [trace.calls[consumer].layer for consumer, _ in edges]
            if not any(isinstance(layer, keras.layers.Concatenate) for layer in layers):
                yield n, None


def _residual(trace: Trace, placement: str) -> Iterator[_Point]:
    for n, call in enumerate(trace.calls):
        unit = _unit(trace, n) if _is_addition(call) else None
        if unit is None:
            continue
        fork, branch, shortcut = unit
        if placement == "standard":
            yield trace.producers[call.inputs[branch]], ((n, branch),)
        elif placement == "post":
            yield _extended(trace, n, _ACTIVATIONS), None
        elif placement == "identity":
            yield trace.producers.get(call.inputs[shortcut], -1), ((n, shortcut),)
        else:
            yield fork, _into_branch(trace, fork, trace.producers[call.inputs[branch]], n)


def _is_addition(call: Call) -> bool:
    """A layer `Add`, or `a + b` on two feature maps."""
    is_add = isinstance(call.layer, keras.layers.Add) or (
        not isinstance(call.layer, keras.layers.Layer) and type(call.layer).__name__ == "Add"
    )
    return is_add and len(call.inputs) == 2 and len(call.outputs[0].shape) > 2


def _unit(trace: Trace, n: int) -> tuple[int, int, int] | None:
    """Where the two paths into an addition part, and which of them is the branch.

    The branch is the path with more layers that hold weights; without any it is no residual unit.
    """
    paths = [
        trace.ancestors[trace.producers[t]] if t in trace.producers else frozenset()
        for t in trace.calls[n].inputs
    ]
    fork = max(paths[0] & paths[1], default=-1)
    weights = [sum(i > fork and _has_weights(trace.calls[i].layer) for i in path) for path in paths]
    if weights[0] == weights[1]:
        return None
    branch = 0 if weights[0] > weights[1] else 1
    return fork, branch, 1 - branch


def _has_weights(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Layer) and len(layer.weights) > 0


def _into_branch(trace: Trace, fork: int, branch_end: int, addition: int) -> Edges:
    """The edges from the fork into the branch."""
    if fork >= 0:
        tensors = {id(t) for t in trace.calls[fork].outputs}
    else:
        tensors = {id(t) for t in keras.tree.flatten(trace.inputs)}
    branch = trace.ancestors[branch_end]
    edges = [edge for t in tensors for edge in trace.consumers.get(t, [])]
    return tuple(sorted((n, p) for n, p in edges if n in branch and n != addition))


def _place(trace: Trace, number: int, producer: int, edges: Edges | None) -> Place:
    if producer >= 0:
        layer, outputs = trace.calls[producer].layer, trace.calls[producer].outputs
    else:
        layer, outputs = None, tuple(keras.tree.flatten(trace.inputs))
    after = "" if layer is None else layer.name
    if len(outputs) != 1 or len(outputs[0].shape) not in (3, 4, 5):
        raise InputError(
            "An SE block goes on one feature map of rank 3, 4 or 5. "
            f"Received: {[tuple(t.shape) for t in outputs]} after {after!r}"
        )
    data_format = _data_format(trace, producer)
    shape = tuple(outputs[0].shape)
    channels = shape[-1 if data_format == "channels_last" else 1]
    if channels is None:
        raise InputError(
            "insert needs a known number of channels. "
            f"Received: shape {shape} after layer {after!r}"
        )
    candidate = Candidate(f"se_{number}", after, channels, shape, data_format)
    return Place(candidate, producer, edges, getattr(layer, "dtype_policy", None))


def _data_format(trace: Trace, producer: int) -> str:
    """That of the nearest layer before, among those that have one."""
    before = sorted(trace.ancestors[producer], reverse=True) if producer >= 0 else []
    formats = (getattr(trace.calls[n].layer, "data_format", None) for n in before)
    return next((f for f in formats if f), keras.config.image_data_format())
