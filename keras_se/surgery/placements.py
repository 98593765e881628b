"""Where SE blocks can go in a model's graph.

Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507v4, sections 3.3 and 6.5
(placements in a residual unit).
"""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras
from keras import layers

from keras_se.errors import InputError
from keras_se.graph.models import is_nested_graph
from keras_se.graph.trace import Call, Graph, trace
from keras_se.graph.visits import site_names
from keras_se.layers.se_block import DataFormat
from keras_se.sites.gated import Search, search
from keras_se.surgery.occupied import se_calls

Placement = Literal["standard", "pre", "post", "identity"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)
WhereName = Literal["residual", "concat", "conv"]
WHERE: tuple[WhereName, ...] = get_args(WhereName)
# Not Iterable[str]: a str is one itself, so a type checker would pass a misspelt kind.
Where = WhereName | list[str] | tuple[str, ...] | Callable[[Any], bool] | None
Edges = tuple[tuple[int, int], ...]
_WHERE_RULE = f"where must be one of {list(WHERE)}, a list of layer names, or a function of a layer"

_CONVOLUTIONS = (
    layers.Conv1D,
    layers.Conv2D,
    layers.Conv3D,
    layers.DepthwiseConv1D,
    layers.DepthwiseConv2D,
    layers.SeparableConv1D,
    layers.SeparableConv2D,
)
_NORMALIZATIONS = (layers.BatchNormalization, layers.GroupNormalization, layers.LayerNormalization)
_REORDERING = {"Einsum", "EinsumDense", "Moveaxis", "Permute", "Reshape", "Swapaxes", "Transpose"}
_ACTIVATIONS = (layers.Activation, layers.ELU, layers.LeakyReLU, layers.PReLU, layers.ReLU)


@dataclass(frozen=True)
class Candidate:
    """A place where `insert` would put an SE block.

    Attributes:
        name: Ordinal name, the key in a plan: `"se_1"`, `"se_2"`, in a nested model `"inner/se_1"`.
        after: Name of the layer whose output the block would gate.
        channels: C, the number of channels there.
        shape: Shape of the feature map there, with `None` for the batch and for unknown sizes.
        data_format: `"channels_last"` or `"channels_first"`, taken from the nearest layer before.
    """

    name: str
    after: str
    channels: int
    shape: tuple[int | None, ...]
    data_format: DataFormat


@dataclass(frozen=True)
class Place:
    """A candidate with its position in the graph.

    Attributes:
        candidate: The candidate.
        graph: The graph that contains it: that of the model or of a nested model.
        producer: Index of the call whose output is gated; -1 for an input of the model.
        edges: The consumers that get the gated tensor, as (index of the call, position among its
            arguments); `None` for all consumers and the model's outputs.
        dtype_policy: Policy for the block, that of the producer.
        is_certain: Whether a layer states the data format of the candidate, and none in between may
            change it.
    """

    candidate: Candidate
    graph: Graph
    producer: int
    edges: Edges | None
    dtype_policy: Any
    is_certain: bool


def candidates(
    model: keras.Model, placement: Placement = "standard", where: Where = None
) -> list[Candidate]:
    """Lists the places where `insert` would put an SE block, in topological order.

    The search includes nested models; a model that is called several times counts once. Places that
    have SE of any form already are left out, unless `where` chooses layers.

    Args:
        model: A built functional or Sequential model.
        placement: Position in a residual unit: `"standard"` (on the branch, before the addition),
            `"pre"` (before the branch), `"post"` (after the addition and its activation) or
            `"identity"` (on the shortcut).
        where: `"residual"`: residual additions. `"concat"`: concatenations that feed no other
            concatenation, such as the ends of DenseNet blocks and Inception modules. `"conv"`:
            convolutions with their normalization and activation. Or a list of layer names, or a
            function that takes a layer and returns whether a block follows it. By default the first
            of the three kinds that the model has.

    Returns:
        A list with one `Candidate` per place.

    Raises:
        InputError: If the model is not a built graph of layers, an argument is invalid, or the
            model has no such place without SE.

    Source: Hu et al., arXiv 1709.01507v4, sections 3.3 and 6.5.

    Example:
        >>> conv = keras.layers.Conv2D(8, 3, activation="relu", name="conv")
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), conv])
        >>> [(c.name, c.after, c.channels) for c in candidates(model)]
        [('se_1', 'conv', 8)]
    """
    return [place.candidate for place in find_places(trace(model, "candidates"), placement, where)]


def find_places(graph: Graph, placement: Placement, where: Where) -> list[Place]:
    """Finds the places in a traced model; see `candidates`."""
    return find_places_and_se(graph, placement, where, search(graph))[0]


def find_places_and_se(
    graph: Graph, placement: Placement, where: Where, se: Search
) -> tuple[list[Place], list[str]]:
    """Finds the places, and the sites of SE that is there already: left out, or beside it."""
    if placement not in PLACEMENTS:
        raise InputError(
            f"placement must be one of {list(PLACEMENTS)}. Received: placement={placement!r}"
        )
    found = _find(graph, placement, where)
    if placement != "standard" and (where not in (None, "residual") or not found):
        raise InputError(
            f"placement={placement!r} needs residual units. "
            f"Received: where={where!r} and model {graph.model.name!r}"
        )
    if not found:
        raise InputError(
            "insert needs a place: residual additions, concatenations or convolutions. "
            f"Received: model {graph.model.name!r}, which has none for where={where!r}"
        )
    occupied = se_calls(se)
    taken = [occupied.keys() & point.region(part) for part, point in found]
    sites = sorted({occupied[call] for calls in taken for call in calls})
    if where is None or isinstance(where, str):
        found = [pair for pair, calls in zip(found, taken, strict=True) if not calls]
    if not found:
        raise InputError(
            "insert needs a place without SE; choose layers with where=[...] to add more. "
            f"Received: model {graph.model.name!r}, which has SE at each place: {sites}"
        )
    names = site_names(part.path for part, _ in found)
    places = [_place(part, name, point) for name, (part, point) in zip(names, found, strict=True)]
    return places, sites


@dataclass(frozen=True)
class _Point:
    """A point in a graph.

    Attributes:
        producer: As in `Place`.
        edges: As in `Place`.
        calls: The calls that belong to it: of a residual unit, or a convolution with what follows.
    """

    producer: int
    edges: Edges | None
    calls: frozenset[int]

    def region(self, graph: Graph) -> set[tuple[int, int]]:
        """Its calls, with the id of the model."""
        return {(id(graph.model), n) for n in (self.producer, *self.calls)}


_Finder = Callable[[Graph, int], Iterator[_Point]]  # the points at one call of a graph


def _find(graph: Graph, placement: Placement, where: Where) -> list[tuple[Graph, _Point]]:
    if where is None:
        # Other placements exist only in residual units.
        order: tuple[WhereName, ...] = ("residual",) if placement != "standard" else WHERE
        return next((points for kind in order if (points := _find(graph, placement, kind))), [])
    if not isinstance(where, str) and not callable(where):
        if not isinstance(where, list | tuple | set) or not all(isinstance(n, str) for n in where):
            raise InputError(f"{_WHERE_RULE}. Received: where={where!r}")
        names = set(where)
        known = {call.layer.name for part in graph.family() for call in part.calls}
        if names - known:
            raise InputError(
                f"where must name layers of the model. Received: unknown {sorted(names - known)}"
            )
        return _find(graph, placement, lambda layer: layer.name in names)
    if callable(where):
        return list(_points(graph, functools.partial(_chosen, where)))
    finders: dict[str, _Finder] = {
        "residual": functools.partial(_residual, placement),
        "concat": _concatenation,
        "conv": _convolution,
    }
    if where not in finders:
        raise InputError(f"{_WHERE_RULE}. Received: where={where!r}")
    return list(_points(graph, finders[where]))


def _points(graph: Graph, find: _Finder) -> Iterator[tuple[Graph, _Point]]:
    """Yield the points of a graph and of its nested graphs, in topological order."""
    for n in range(len(graph.calls)):
        if n in graph.nested:
            yield from _points(graph.nested[n], find)
        yield from ((graph, point) for point in find(graph, n))


def _chosen(choose: Callable[[Any], bool], graph: Graph, n: int) -> Iterator[_Point]:
    if choose(graph.calls[n].layer):
        yield _Point(n, None, frozenset())


def _convolution(graph: Graph, n: int) -> Iterator[_Point]:
    if isinstance(graph.calls[n].layer, _CONVOLUTIONS):
        calls = [n]
        for kinds in (_NORMALIZATIONS, _ACTIVATIONS):
            calls.append(_extended(graph, calls[-1], kinds))
        yield _Point(calls[-1], None, frozenset(calls))


def _extended(graph: Graph, n: int, kinds: tuple[type, ...]) -> int:
    """Return the sole consumer of call `n` if it is a layer of these types, else `n`."""
    following = graph.sole_consumer(n)
    # With a second consumer, a block after the next layer would gate only one of the paths.
    if following is None or not isinstance(graph.calls[following].layer, kinds):
        return n
    return following


def _concatenation(graph: Graph, n: int) -> Iterator[_Point]:
    call = graph.calls[n]
    # Rank 2 is a concatenation of vectors, which have no positions to squeeze.
    if isinstance(call.layer, layers.Concatenate) and len(call.outputs[0].shape) > 2:
        edges = graph.consumers.get(id(call.outputs[0]), [])
        # In a DenseNet block each concatenation feeds the next one; the last ends the block.
        following = [graph.calls[consumer].layer for consumer, _ in edges]
        if not any(isinstance(layer, layers.Concatenate) for layer in following):
            yield _Point(n, None, frozenset())


def _residual(placement: Placement, graph: Graph, n: int) -> Iterator[_Point]:
    unit = _unit(graph, n) if _is_addition(graph, graph.calls[n]) else None
    if unit is None:
        return
    fork, branch = unit
    producers = [graph.producers.get(tensor, -1) for tensor in graph.calls[n].inputs]
    last = _extended(graph, n, _ACTIVATIONS)
    calls = frozenset(i for i in (*graph.ancestors[n], last) if i > fork)
    if placement == "standard":
        yield _Point(producers[branch], ((n, branch),), calls)
    elif placement == "post":
        yield _Point(last, None, calls)
    elif placement == "identity":
        yield _Point(producers[1 - branch], ((n, 1 - branch),), calls)
    else:
        yield _Point(fork, _into_branch(graph, fork, producers[branch], n), calls)


def _is_addition(graph: Graph, call: Call) -> bool:
    """Whether a call is a layer `Add`, or `a + b`, of two feature maps."""
    # A constant is not a tensor of the graph: the hard-swish of MobileNetV3 adds 3.
    if not all(i in graph.tensors for i in call.inputs):
        return False
    is_add = isinstance(call.layer, layers.Add) or (
        # Keras does not export the operation class behind `a + b`.
        not isinstance(call.layer, layers.Layer) and type(call.layer).__name__ == "Add"
    )
    return is_add and len(call.inputs) == 2 and len(call.outputs[0].shape) > 2


def _unit(graph: Graph, n: int) -> tuple[int, int] | None:
    """Return the fork of the two paths into an addition, and which of them is the branch."""
    paths = [
        graph.ancestors[graph.producers[t]] if t in graph.producers else frozenset()
        for t in graph.calls[n].inputs
    ]
    # Indices are in topological order: the largest common ancestor is where the paths part.
    fork = max(paths[0] & paths[1], default=-1)
    passed = [[graph.calls[i].layer for i in path if i > fork] for path in paths]
    # Raw operations have no weights.
    weights = [sum(bool(getattr(layer, "weights", ())) for layer in path) for path in passed]
    # The branch holds more layers with weights (a projection shortcut holds one). Equal paths are
    # parallel branches, not a residual unit.
    if weights[0] == weights[1]:
        return None
    return fork, 0 if weights[0] > weights[1] else 1


def _into_branch(graph: Graph, fork: int, branch_end: int, addition: int) -> Edges:
    if fork >= 0:
        tensors = {id(t) for t in graph.calls[fork].outputs}
    else:
        tensors = {id(t) for t in keras.tree.flatten(graph.inputs)}
    branch = graph.ancestors[branch_end]
    edges = [edge for t in tensors for edge in graph.consumers.get(t, [])]
    # An identity shortcut runs from the fork to the addition itself, which is not in the branch.
    return tuple(sorted((n, p) for n, p in edges if n in branch and n != addition))


def _place(graph: Graph, name: str, point: _Point) -> Place:
    producer = point.producer
    if producer >= 0:
        layer, outputs = graph.calls[producer].layer, graph.calls[producer].outputs
    else:
        layer, outputs = None, tuple(keras.tree.flatten(graph.inputs))
    after = "" if layer is None else layer.name
    if len(outputs) != 1 or len(outputs[0].shape) not in (3, 4, 5):
        raise InputError(
            "An SE block needs one feature map of rank 3, 4 or 5. "
            f"Received: {[tuple(t.shape) for t in outputs]} after {after!r}"
        )
    data_format, is_certain = _data_format(graph, producer)
    shape = tuple(outputs[0].shape)
    channels = shape[-1 if data_format == "channels_last" else 1]
    if channels is None:
        raise InputError(
            "insert needs a known number of channels. "
            f"Received: shape {shape} after layer {after!r}"
        )
    candidate = Candidate(name, after, channels, shape, data_format)
    policy = _dtype_policy(layer, outputs[0])
    return Place(candidate, graph, producer, point.edges, policy, is_certain)


def _dtype_policy(layer: Any, tensor: Any) -> Any:
    """Return the policy for a block: that of the layer before, or the tensor's dtype."""
    policy = getattr(layer, "dtype_policy", None)
    if policy is None:
        return tensor.dtype if "float" in tensor.dtype else None
    # Keras cannot quantize an SEBlock: take the float policy under the quantized one.
    if isinstance(policy, keras.dtype_policies.QuantizedDTypePolicy):
        compute = policy.compute_dtype
        return compute if policy.variable_dtype == compute else f"mixed_{compute}"
    return policy


def _data_format(graph: Graph, producer: int) -> tuple[DataFormat, bool]:
    """Return the data format of the nearest layer before a point, else of one after it.

    And whether it is certain: no layer in between may change it.
    """
    # Only some layers have a data format; an SE block must use the one of its neighbours.
    before = sorted(graph.ancestors[producer], reverse=True) if producer >= 0 else []
    after = [n for n in range(len(graph.calls)) if n not in before]
    is_certain = True
    for layer in (graph.calls[n].layer for n in (*before, *after)):
        for data_format in _data_formats(layer):
            return data_format, is_certain
        is_certain = is_certain and not _may_reorder(layer)
    return keras.config.image_data_format(), False


def _may_reorder(layer: Any) -> bool:
    """Whether the output of a layer may have its channels on another axis than the input."""
    is_own = not type(layer).__module__.startswith(("keras.", "keras_se."))
    return is_own or type(layer).__name__ in _REORDERING or isinstance(layer, layers.Lambda)


def _data_formats(layer: Any) -> Iterator[DataFormat]:
    """Yield the data formats of a layer, for a nested model those of its layers, last first."""
    for part in reversed(layer.layers) if is_nested_graph(layer) else ():
        yield from _data_formats(part)
    own = getattr(layer, "data_format", None)
    if own:
        yield own
