"""SE blocks inserted into and removed from existing models, which stay unchanged."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any, Unpack

import keras
import numpy as np

from keras_se.errors import InputError, SiteWarning, keras_errors, warn
from keras_se.graph.models import free_name
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Graph, trace
from keras_se.graph.visits import Visit
from keras_se.layers import SEBlock, gates
from keras_se.layers.se_block import BlockArguments
from keras_se.sites.gated import call_arguments, given_mask, search
from keras_se.surgery.doubling import scalable_layer, scale
from keras_se.surgery.placements import Place, Placement, Where, find_places_and_se


def insert(
    model: keras.Model,
    ratio: float = 16,
    *,
    placement: Placement = "standard",
    where: Where = None,
    plan: Mapping[str, Mapping[str, Any]] | None = None,
    **block: Unpack[BlockArguments],
) -> keras.Model:
    """Builds a new model with SE blocks that computes the same function as the old one.

    In eager calls the outputs equal the old ones to the last bit. Blocks with the default gate,
    `one_plus_tanh`, start as the identity. A fresh `sigmoid` or `hard_sigmoid` is ½, so `insert`
    doubles the weights of the layer before, if only the site consumes its output. It refuses other
    gates, except with `identity_init=False`: then blocks start at random and change the function.

    Args:
        model: A built functional or Sequential model. It is not changed. Places that have SE of
            any form already get none, unless `where` chooses layers.
        ratio: Reduction ratio of every block.
        placement: `"standard"`, `"pre"`, `"post"` or `"identity"`; see `candidates`.
        where: `"residual"`, `"concat"`, `"conv"` (by default the first of them that the model has),
            a list of layer names, or a function that takes a layer; see `candidates`.
        plan: Settings per site, `{"se_1": {"ratio": 4}, ...}`, which override the other arguments.
            If given, only the sites in it get a block.
        **block: Further arguments of `SEBlock`. By default `gate="one_plus_tanh"` and
            `identity_init=True`.

    Returns:
        A new uncompiled model with the weights, names, dtype policies and trainable flags of the
        old one. A Sequential model stays Sequential.

    Raises:
        InputError: If the model cannot be rebuilt or has no place without SE, if a plan names an
            unknown site, or if the function cannot be preserved.

    Warns:
        SiteWarning: If the model has SE at some of the places, or a part that may hide SE. If a
            place is in a frozen model, such as a nested backbone with `trainable = False`: a new
            block in it does not train, until the model is set to `trainable = True` and its other
            layers to `False`. If a block gets no mask where the model gives one to other layers by
            hand; masks of Keras's own, as of `Masking`, reach the blocks.

    Source: Hu et al., arXiv 1709.01507v4, sections 3.3 and 6.5.

    Example:
        >>> conv = keras.layers.Conv2D(8, 3, activation="relu")
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), conv])
        >>> [layer.__class__.__name__ for layer in insert(model, ratio=4).layers]
        ['Conv2D', 'SEBlock']
    """
    graph = trace(model, "insert")
    se = search(graph)
    se.warned()
    places, beside = find_places_and_se(graph, placement, where, se)
    if beside:
        is_kind = where is None or isinstance(where, str)
        done = "skips the places of the SE" if is_kind else "adds SE beside that"
        warn(
            f"insert {done} which model {model.name!r} has already: {beside}.",
            SiteWarning,
        )
    names = [place.candidate.name for place in places]
    plan = {name: {} for name in names} if plan is None else _checked_plan(plan, names)
    if "name" in block:
        raise InputError(
            "insert names the blocks after their sites; a plan can name each one. "
            f"Received: name={block['name']!r}"
        )
    sites = [
        _PlacedBlock(graph, place, {"ratio": ratio, **block, **plan[place.candidate.name]})
        for place in places
        if place.candidate.name in plan
    ]
    _check_names(sites)
    if frozen := _frozen(graph, sites):
        warn(
            f"insert puts blocks into frozen models, where they do not train: {frozen}. Set "
            "trainable = True on them in the new model, then False on their layers but the blocks.",
            SiteWarning,
        )
    insertion = _Insertion(sites)
    rebuilding = Rebuilding(graph, {id(site.place.graph.model): insertion for site in sites})
    new_model = rebuilding.model()
    if unmasked := _unmasked(graph, sites):
        warn(
            f"insert puts blocks at {unmasked} that average over the padding, too: other layers of "
            f"model {model.name!r} are given a mask there by hand, and the blocks none. Call "
            "SEBlock()(x, mask=mask) in the code of the model instead.",
            SiteWarning,
        )
    for site in sites:
        if site.doubled is not None:
            # A zero last kernel and bias hold the gate at ½ for every input; doubling cancels it.
            scale(rebuilding.copy(site.doubled), 2.0)
            site.block.w2.assign(np.zeros(site.block.w2.shape))
            if site.block.use_bias:
                site.block.b2.assign(np.zeros(site.block.b2.shape))
    return new_model


def remove(model: keras.Model) -> keras.Model:
    """Builds a new model without the SE blocks of the old one.

    Each block is replaced by its gate at rest: 1 for `one_plus_tanh`; ½ for `sigmoid` and
    `hard_sigmoid`, multiplied into the layer before if `insert` would have doubled that layer. So
    `remove(insert(model))` equals `model` exactly.

    Args:
        model: A built functional or Sequential model. It is not changed.

    Returns:
        A new uncompiled model with the weights, names, dtype policies and trainable flags of the
        old one. A Sequential model stays Sequential.

    Raises:
        InputError: If the model has no SE block, cannot be rebuilt, or uses the gates of a block.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2), keras.layers.ReLU()])
        >>> [layer.__class__.__name__ for layer in remove(model).layers]
        ['ReLU']
    """
    graph = trace(model, "remove")
    if not any(isinstance(call.layer, SEBlock) for part in graph.family() for call in part.calls):
        raise InputError(
            f"remove needs a model with SE blocks. Received: model {model.name!r}, which has none"
        )
    rebuilding = Rebuilding(graph, {id(part.model): _without_block for part in graph.family()})
    new_model = rebuilding.model()
    for layer in _halved(graph):
        scale(rebuilding.copy(layer), 0.5)
    return new_model


class _PlacedBlock:
    """A block to insert, and the layer to double for it."""

    def __init__(self, graph: Graph, place: Place, arguments: dict[str, Any]) -> None:
        self.place = place
        self.doubled: Any = None
        arguments = {
            "gate": "one_plus_tanh",
            "data_format": place.candidate.data_format,
            "dtype": place.dtype_policy,
            "name": place.candidate.name.rpartition("/")[-1],
            **arguments,
        }
        _check_data_format(place, arguments)
        if "/" in str(arguments["name"]):
            raise InputError(
                f"The name of a block must not hold a slash. Received: name={arguments['name']!r}"
            )
        # A Keras model refuses two layers of the same name.
        taken = {layer.name for layer in place.graph.model.layers}
        arguments["name"] = free_name(arguments["name"], taken)
        keeps = arguments.pop("identity_init", True)
        if keeps and gates.get(arguments["gate"]).at_rest is not None:
            self.doubled = scalable_layer(graph, place.graph, place.producer, place.edges)
            if self.doubled is None:
                raise InputError(
                    f"With gate={arguments['gate']!r}, insert keeps the function only if it can "
                    "double the layer before the site; else use gate='one_plus_tanh', or "
                    "identity_init=False to let the function change. "
                    f"Received: site {place.candidate.name} after {place.candidate.after!r}"
                )
            # `SEBlock(identity_init=True)` refuses these gates.
            keeps = False
        with _settings_errors(arguments):
            self.block = SEBlock(**arguments, identity_init=keeps)
        self._gated: Any = None

    def __call__(self, tensor: Any) -> Any:
        # One block gates all edges of its place, so call it only once.
        if self._gated is None:
            with _settings_errors(self.block.name):
                self._gated = self.block(tensor)
        return self._gated


def _settings_errors(block: Any) -> AbstractContextManager[None]:
    return keras_errors("The settings of a block must be arguments of SEBlock", f"{block!r:.200}")


class _Insertion:
    """Calls the operations of the models again, and SE blocks at their places."""

    def __init__(self, sites: Iterable[_PlacedBlock]) -> None:
        # By id of the model first, since indices of calls count within one model.
        self._after: dict[tuple[int, int], list[_PlacedBlock]] = {}
        self._edges: dict[tuple[int, int, int], list[_PlacedBlock]] = {}
        for site in sites:
            place, model = site.place, id(site.place.graph.model)
            if place.edges is None:
                self._after.setdefault((model, place.producer), []).append(site)
            for n, position in place.edges or ():
                self._edges.setdefault((model, n, position), []).append(site)

    def __call__(self, visit: Visit) -> Any:
        flat, model = visit.arguments, id(visit.graph.model)
        for position, argument in enumerate(flat):
            for site in self._edges.get((model, visit.index, position), ()):
                flat[position] = site(argument)
        args, kwargs = keras.tree.pack_sequence_as((visit.args, visit.kwargs), flat)
        outputs = visit.stand_in(*args, **kwargs)
        for site in self._after.get((model, visit.index), ()):
            gated = [site(output) for output in keras.tree.flatten(outputs)]
            outputs = keras.tree.pack_sequence_as(outputs, gated)
        return outputs


def _frozen(graph: Graph, sites: Iterable[_PlacedBlock]) -> list[str]:
    """The names of the frozen models that keep a block from training: its own and the outermost."""
    around = [(graph, site.place.graph) for site in sites if site.block.trainable]
    models = [part.model for pair in around for part in pair]
    return sorted({model.name for model in models if not model.trainable})


def _unmasked(graph: Graph, sites: Iterable[_PlacedBlock]) -> list[str]:
    """The blocks without a mask, though the model masks maps of their positions elsewhere."""
    masks = [
        tuple(mask.shape)
        for part in graph.family()
        for call in part.calls
        for mask in keras.tree.flatten(given_mask(call))
        if mask is not None
    ]
    found = []
    for site in sites:
        tensor, *mask = keras.tree.flatten(site.block.input)
        if not mask and any(shape == tensor.shape[: len(shape)] for shape in masks):
            found.append(site.place.candidate.name)
    return found


def _check_data_format(place: Place, arguments: dict[str, Any]) -> None:
    """Refuses a data format that a layer contradicts: the block would gate another axis."""
    found, given = place.candidate.data_format, arguments["data_format"]
    if given is None:
        arguments["data_format"] = found
    elif place.is_certain and given != found:
        raise InputError(
            "The data_format of a block must be that of the layers beside it; leave it out, and "
            f"insert takes theirs. Received: data_format={given!r} for {place.candidate.name}, "
            f"which is {found} after {place.candidate.after!r}"
        )


def _check_names(sites: list[_PlacedBlock]) -> None:
    names = [(id(site.place.graph.model), site.block.name) for site in sites]
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"A plan must give each block of a model its own name. Received: name={name[1]!r}"
            )


def _checked_plan(plan: Any, names: list[str]) -> dict[str, Mapping[str, Any]]:
    if not isinstance(plan, Mapping) or not all(isinstance(v, Mapping) for v in plan.values()):
        raise InputError(
            "A plan must be a dictionary of dictionaries, such as {'se_1': {'ratio': 4}}. "
            f"Received: {plan!r}"
        )
    unknown = sorted(set(plan) - set(names))
    if unknown:
        raise InputError(f"A plan must name sites of {names}. Received: {unknown}")
    return dict(plan)


def _halved(graph: Graph) -> Iterator[Any]:
    """Yield the layers that absorb the gate ½ of the blocks after them."""
    for part in graph.family():
        for n, call in enumerate(part.calls):
            if isinstance(call.layer, SEBlock) and gates.get(call.layer.gate).at_rest:
                producer = part.producers.get(call.inputs[0], -1)
                layer = scalable_layer(graph, part, producer, ((n, 0),))
                if layer is not None:
                    yield layer


def _without_block(visit: Visit) -> Any:
    if not isinstance(visit.layer, SEBlock):
        return visit.outputs()
    arguments = call_arguments(visit.layer, visit)
    if arguments.get("return_gates"):
        raise InputError(
            "remove needs a model that does not use the gates of a block. "
            f"Received: {visit.layer.name!r}, called with return_gates=True"
        )
    return arguments["inputs"]
