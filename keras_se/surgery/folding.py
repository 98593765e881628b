"""Replaces SE sites by constants per channel, which a layer beside the site takes up if it can."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from keras_se.graph.models import free_name
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Graph
from keras_se.graph.visits import Place, Visit
from keras_se.layers import GraphSEBlock
from keras_se.sites.finding import InlineSE
from keras_se.sites.flow import Step
from keras_se.sites.gated import GatedSite, Search, call_arguments
from keras_se.surgery.absorption import absorbing_layers
from keras_se.surgery.opening import kept_inside, key_of, opens
from keras_se.surgery.scaling import scale_input, scale_output

How = Literal["before", "after", "multiplication", "dropped"]


@dataclass(frozen=True)
class Constant:
    """What became of a site whose gates are constant.

    Attributes:
        how: The layer `"before"` or the layers `"after"` it took the constant up; it is one
            `"multiplication"`; or it is `"dropped"`, since only other sites read its product.
        layers: The names of these layers.
    """

    how: How
    layers: tuple[str, ...]


def why_kept(found: Search) -> dict[str, str]:
    """By name, the sites of a model that cannot become constants, and why."""
    steps = _steps(found)
    calls = Counter(map(key_of, steps.values()))
    reasons = {
        part.site.name: _why_kept(part, steps[part.site.name], calls) for part in found.sites
    }
    return {name: reason for name, reason in reasons.items() if reason is not None}


def _why_kept(part: GatedSite, step: Step, calls: Counter[Any]) -> str | None:
    source: Any = part.source
    if calls[key_of(step)] > 1:
        return "it is inside a model that is called more than once, with other gates in each call"
    if isinstance(source, InlineSE):
        return kept_inside(source.product, source.excitation)
    if isinstance(source, GraphSEBlock):
        return "the gates of a GraphSEBlock are of graphs, not of samples"
    if source.shift:
        return "it has a shift beside the gate, which varies, too"
    if call_arguments(source, step).get("return_gates"):
        return "the model uses its gates"
    return kept_inside(step)


def _steps(found: Search) -> dict[str, Step]:
    by_place = {step.place: step for step in found.flow.steps}
    return {part.site.name: by_place[part.place] for part in found.sites}


def with_constants(
    graph: Graph, found: Search, gates: Mapping[str, np.ndarray]
) -> tuple[keras.Model, dict[str, Constant]]:
    """Returns a new model with constant gates at some sites, by name, and what became of them.

    Each array has one gate for each channel.
    """
    steps, edits = _steps(found), dict[int, _Multiplications]()
    parts = [part for part in found.sites if part.site.name in gates]
    for part in parts:
        model, place = key_of(steps[part.site.name])
        edits.setdefault(model, _Multiplications()).sites[place] = part, gates[part.site.name]
    keys = [key_of(steps[part.site.name]) for part in parts]
    model = Rebuilding(graph, edits, opens=opens(keys)).model()
    made = {name: layer for edit in edits.values() for name, layer in edit.made.items()}
    return _absorbed(model, {part.site.name: made[part.site.name] for part in parts}, gates)


class _Multiplications:
    """Replays the calls of a model, with a multiplication by constants in place of each site."""

    def __init__(self) -> None:
        self.sites: dict[Place, tuple[GatedSite, np.ndarray]] = {}
        self.made: dict[str, Any] = {}  # by name of the site

    def __call__(self, visit: Visit) -> Any:
        if visit.local not in self.sites:
            # Also pooling and matrices: unused, they drop out of the new model.
            return visit.outputs()
        part, gates = self.sites[visit.local]
        x, others = _factors(part, visit)
        (output,) = visit.recorded.outputs
        taken = {*(layer.name for layer in visit.home.model.layers), *self._names()}
        layer = keras.layers.Rescaling(
            _shaped(gates, part, len(output.shape)).tolist(),
            dtype=output.dtype,
            name=free_name(f"{part.site.layer}_constant", taken),
        )
        self.made[part.site.name] = layer
        return visit.stand_in([layer(x), *others]) if others else layer(x)

    def _names(self) -> list[str]:
        return [layer.name for layer in self.made.values()]


def _factors(part: GatedSite, visit: Visit) -> tuple[Any, list[Any]]:
    """The map that a site gates, and further factors of its product."""
    source = part.source
    if not isinstance(source, InlineSE):
        return call_arguments(source, visit)["inputs"], []
    own = (source.position, source.gate_position)
    others = [visit.arguments[n] for n in source.product.slots if n not in own]
    return visit.arguments[source.position], others


def _shaped(gates: np.ndarray, part: GatedSite, rank: int) -> np.ndarray:
    """Gates that broadcast over a map."""
    # With three axes or more `Rescaling` leaves the data format of Keras out of it.
    shape = [1] * max(rank - 1, 3)
    shape[_axis(part.data_format, rank) - rank] = -1
    return gates.reshape(shape)


def _axis(data_format: str, rank: int) -> int:
    return rank - 1 if data_format == "channels_last" else 1


def _absorbed(
    model: keras.Model, layers: Mapping[str, Any], gates: Mapping[str, np.ndarray]
) -> tuple[keras.Model, dict[str, Constant]]:
    """Lets layers take up the multiplications beside them, and drops these."""
    graph, became, gone = Graph(model), dict[str, Constant](), list[Any]()
    for name, layer in layers.items():
        found = absorbing_layers(graph, layer, gates[name].astype("float64"))
        if found is None:
            became[name] = Constant("dropped", ())
            continue
        how, takers = found
        scale = scale_output if how == "before" else scale_input
        for taker in takers:
            scale(taker, gates[name].astype("float64"))
        if takers:
            gone.append(layer)
        became[name] = Constant(
            how if takers else "multiplication",
            tuple(taker.name for taker in takers) or (layer.name,),
        )
    if not gone:
        return model, became
    edit = _without(gone)
    return Rebuilding(graph, {id(part.model): edit for part in graph.family()}).model(), became


def _without(layers: Sequence[Any]) -> Any:
    left_out = set(map(id, layers))

    def edit(visit: Visit) -> Any:
        return visit.arguments[0] if id(visit.layer) in left_out else visit.outputs()

    return edit
