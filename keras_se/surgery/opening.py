"""Composite layers around a site, which surgery opens: their parts become layers of the model."""

from collections.abc import Callable, Iterable, Sequence

from keras_se.graph.composites import has_own_weights, why_closed
from keras_se.graph.visits import Place, Visit
from keras_se.sites.flow import Step

Key = tuple[int, Place]  # the id of a model and the place of a call in it


def key_of(step: Step) -> Key:
    """The model of a step and its place in it, the same in each call of the model."""
    return id(step.home.model), step.local


def opens(sites: Iterable[Key]) -> Callable[[Visit], bool]:
    """Chooses the composite layers around the calls of some sites, for `Rebuilding`."""
    around = {(model, place[:n]) for model, place in sites for n in range(1, len(place))}
    return lambda visit: (id(visit.home.model), visit.local) in around


def kept_inside(product: Step, excitation: Sequence[Step] = ()) -> str | None:
    """Why a site must stay inside a composite layer; `None` if it need not.

    `product` is the call of the site, `excitation` the steps that make the gates of inline SE.
    """
    graph = product.home
    ours = {step.local for step in (product, *excitation)}
    for n, index in enumerate(product.local[:-1], 1):
        call = graph.calls[index]
        reason = why_closed(call)
        if reason is not None:
            return f"it is inside the layer {call.layer.name!r}, which {reason}"
        graph = graph.look_into(index)
        # What the call computes of a weight alone is a constant in the recording.
        known = {id(c) for step in excitation for c in step.constants}
        calls = enumerate(graph.calls)
        others = [part for at, part in calls if (*product.local[:n], at) not in ours]
        if has_own_weights(call.layer, others, known):
            return f"it is inside the layer {call.layer.name!r}, which has weights of its own"
    return None
