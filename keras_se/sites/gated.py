"""The SE sites of a Keras model with what computes their gates.

A site is one call of an `SEBlock` or a `GraphSEBlock`, or SE built from other layers ("inline").
Names are ordinals in topological order: automatic names of Keras layers differ between processes.
"""

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import keras
import numpy as np

from keras_se.errors import SiteWarning, warn
from keras_se.graph.composites import may_reduce
from keras_se.graph.models import sublayers
from keras_se.graph.replay import Computation, shared, takes_mask
from keras_se.graph.trace import Call, Graph
from keras_se.graph.visits import Place, Visit, nested_arguments, site_names
from keras_se.layers import GraphSEBlock, SEBlock, gates, squeezes
from keras_se.layers.se_block import DataFormat
from keras_se.sites.finding import InlineSE, NearMiss, find_inline
from keras_se.sites.flow import Flow, Step, compute
from keras_se.sites.site import PREFIXES, Site

Block = SEBlock | GraphSEBlock


@dataclass(frozen=True)
class GatedSite:
    """An SE site of a Keras model.

    Attributes:
        site: The site.
        source: The block, or the `InlineSE` of an inline site.
        place: The place of its visit on a walk over the model: of the block, or of the product.
        features: The feature map in the recorded graph, with a shape only.
        is_masked: Whether the squeeze may be under a mask of Keras.
    """

    site: Site
    source: Block | InlineSE
    place: Place
    features: Any
    is_masked: bool

    @property
    def data_format(self) -> DataFormat:
        """Data format of the feature map."""
        return "channels_last" if isinstance(self.source, GraphSEBlock) else self.source.data_format

    def replay(self, features: np.ndarray) -> np.ndarray | None:
        """Computes the float gates for feature maps of shape (samples, *map shape).

        Returns `None` for a site whose gates do not come from these maps alone.
        """
        if self.is_masked:
            return None
        if isinstance(self.source, SEBlock):
            return self.source.gates(features)
        return None if self._excite is None else self._excite.predict(features, verbose=0)

    @cached_property
    def _excite(self) -> keras.Model | None:
        """The gates of an inline site as a model of its feature map; `None` if it needs others."""
        source = self.source
        if not isinstance(source, InlineSE) or source.path is None:
            return None
        inputs = keras.Input(
            batch_shape=(None, *self.features.shape[1:]), dtype=self.features.dtype
        )
        gates = compute(source.path, {id(self.features): inputs}, source.gates, stand_in=shared)
        return keras.Model(inputs, Computation(self._vector)(gates))

    def observe(self, visit: Visit) -> tuple[Any, Any, Any]:
        """Returns the outputs of a visit of this site, the features and the (batch, C) gates."""
        if isinstance(self.source, InlineSE):
            features = visit.arguments[self.source.position]
            gates = visit.arguments[self.source.gate_position]
            return visit.outputs(), features, Computation(self._vector)(gates)
        # Always ask for the gates; the caller gets them only if the model uses them.
        given = call_arguments(self.source, visit)
        asked = given.pop("return_gates", False)
        x = given.pop("inputs")
        outputs, gates = visit.stand_in(x, **given, return_gates=True)
        return ((outputs, gates) if asked else outputs), x, gates

    def _vector(self, gates: Any) -> Any:
        """The gates of an inline site as (batch, C)."""
        source: Any = self.source
        rank = len(self.features.shape)
        if len(gates.shape) == rank:  # they may be repeated over the positions
            keep = slice(None)
            gates = gates[(keep, *(keep if n == source.axis else 0 for n in range(1, rank)))]
        return keras.ops.reshape(gates, (-1, self.site.channels))


@dataclass(frozen=True)
class Search:
    """What a search for SE in a model found.

    Attributes:
        sites: The sites in topological order.
        remarks: Sentences on what may be SE, and is not among the sites.
        flow: All calls of the model.
    """

    sites: list[GatedSite]
    remarks: list[str]
    flow: Flow

    def warned(self) -> list[GatedSite]:
        """Warns of each remark, and returns the sites."""
        for remark in self.remarks:
            warn(remark, SiteWarning)
        return self.sites


def search(graph: Graph) -> Search:
    """Looks for SE in a model's graph, in nested models and in composite layers."""
    flow = Flow.of(graph)
    found: dict[Place, tuple[Step, Block | InlineSE]] = {
        step.place: (step, step.layer)
        for step in flow.steps
        if isinstance(step.layer, SEBlock | GraphSEBlock)
    }
    remarks = [f"{_title(step)} may hold SE: {why}." for step, why in _hidden(flow)]
    for part in find_inline(flow):
        if isinstance(part, NearMiss):
            remarks.append(f"{_title(part.product)} is not taken for SE: {part.reason}.")
        else:
            found[part.product.place] = part.product, part
    order = {step.place: n for n, step in enumerate(flow.steps)}
    ordered = [found[place] for place in sorted(found, key=order.__getitem__)]
    masked = _masked_tensors(flow)
    sites = [
        _gated(flow, name, pair, _is_masked(graph, *pair, masked)) for name, pair in _named(ordered)
    ]
    return Search(sites, remarks, flow)


def gated_sites(graph: Graph) -> list[GatedSite]:
    """Lists the SE sites of a model's graph, in topological order."""
    return search(graph).sites


def _named(
    found: list[tuple[Step, Block | InlineSE]],
) -> Iterator[tuple[str, tuple[Step, Block | InlineSE]]]:
    """Yields each site with its name. Each kind counts on its own, as in files."""
    ordinals = {
        kind: site_names([step.path for step, source in found if _kind(source) == kind], prefix)
        for kind, prefix in PREFIXES.items()
    }
    for pair in found:
        yield next(ordinals[_kind(pair[1])]), pair


def _kind(source: Block | InlineSE) -> str:
    return source.kind if isinstance(source, InlineSE) else "self"


def _masked_tensors(flow: Flow) -> set[int]:
    """The ids of the tensors that may have a mask of Keras."""
    masked: set[int] = set()
    for step in flow.steps:
        # A composite layer may hand a mask on from its input to its output, whatever is inside.
        hands_on = getattr(step.layer, "supports_masking", len(step.local) > 1)
        if hands_on and (_takes_masked(step, masked) or _makes_mask(step.layer)):
            masked |= set(map(id, step.outputs))
    return masked


def _takes_masked(step: Step, masked: set[int]) -> bool:
    if any(id(tensor) in masked for tensor in step.inputs):
        return True
    return given_mask(step) is not None


def _makes_mask(layer: Any) -> bool:
    """Whether a layer may make a mask; a class of the user's that overrides `compute_mask` may."""
    if not isinstance(layer, keras.layers.Layer) or type(layer).__module__.startswith("keras."):
        return isinstance(layer, keras.layers.Masking) or bool(getattr(layer, "mask_zero", False))
    return type(layer).compute_mask is not keras.layers.Layer.compute_mask


def _is_masked(graph: Graph, step: Step, source: Block | InlineSE, masked: set[int]) -> bool:
    """Whether a mask may enter the squeeze of a site."""
    path = source.path or () if isinstance(source, InlineSE) else [step]
    if any(takes_mask(part.layer) and _takes_masked(part, masked) for part in path):
        return True
    for index in step.place[:-1]:  # a nested model may be called with a mask
        call, inside = graph.calls[index], graph.inside(index)
        if inside and nested_arguments(call.args, call.kwargs)["mask"] is not None:
            return True
        graph = inside or cast(Graph, graph.look_into(index))
    return False


def _gated(
    flow: Flow, name: str, pair: tuple[Step, Block | InlineSE], is_masked: bool
) -> GatedSite:
    step, source = pair
    block: Any = source  # or what stands for one
    if isinstance(source, InlineSE):
        features, channels, width, gate = block.feature, block.channels, block.width, block.gate
    else:
        features = keras.tree.flatten(call_arguments(block, step)["inputs"])[0]
        channels, width = map(int, block.w1.shape)
        gate = gates.get(block.gate).name
    producer = flow.producer(features)
    site = Site(
        name=name,
        channels=channels,
        width=width,
        gate=gate,
        after="" if producer is None else producer.name,
        layer=step.name,
        source="inline" if isinstance(source, InlineSE) else type(source).__name__,
        kind=_kind(source),
        form=source.form if isinstance(source, InlineSE) else "two_matrices",
        squeeze=block.squeeze if isinstance(source, InlineSE) else squeezes.name(block.squeeze),
    )
    return GatedSite(site, source, step.place, features, is_masked)


def _hidden(flow: Flow) -> Iterator[tuple[Step, str]]:
    """Yields the composite layers that may hold SE, and why it cannot be seen."""
    for index, reason in flow.closed.items():
        step = flow.steps[index]
        block = next((part for part in sublayers(step.layer) if isinstance(part, Block)), None)
        has_matrix = any(len(weight.shape) > 1 for weight in step.layer.weights)
        if block is not None:
            yield step, f"it holds {block.name!r}, and Keras cannot record its call: {reason}"
        elif has_matrix and may_reduce(step.layer, step.args, step.kwargs):
            yield step, f"Keras cannot record its call on symbolic inputs: {reason}"


def _title(step: Step) -> str:
    return f"The layer {step.path + step.name!r} ({step.kind})"


def call_arguments(layer: Any, call: Visit | Step | Call) -> dict[str, Any]:
    """Returns the arguments of a call of a layer by name."""
    bound = inspect.signature(layer.call).bind(*call.args, **call.kwargs)
    return dict(bound.arguments)


def given_mask(call: Visit | Step | Call) -> Any:
    """Returns the mask that a call is given, by Keras or by hand; `None` without one."""
    return call_arguments(call.layer, call).get("mask") if takes_mask(call.layer) else None
