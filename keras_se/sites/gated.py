"""The SE sites of a Keras model with what computes their gates.

A site is one call of an `SEBlock`, or SE built from other layers in the graph ("inline"). Names are
ordinals in topological order: automatic names of Keras layers differ between processes.
"""

import inspect
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.graph.models import is_nested_graph, sublayers
from keras_se.graph.trace import Graph
from keras_se.graph.visits import Visit, nested_arguments, site_names, walk
from keras_se.layers import SEBlock, gates
from keras_se.layers.se_block import DataFormat
from keras_se.sites.finding import InlineSE, InlineSites
from keras_se.sites.site import Site


@dataclass(frozen=True)
class GatedSite:
    """An SE site of a Keras model.

    Attributes:
        site: The site.
        source: The `SEBlock`, or the `InlineSE` of an inline site.
        number: Which visit of a walk over the model it is: of the block, or of the product.
        features: The feature map in the recorded graph, with a shape only.
        gates: The gates there.
    """

    site: Site
    source: SEBlock | InlineSE
    number: int
    features: Any
    gates: Any

    @property
    def data_format(self) -> DataFormat:
        """Data format of the feature map."""
        return self.source.data_format

    def replay(self, features: np.ndarray) -> np.ndarray:
        """Computes the float gates for feature maps of shape (samples, *map shape)."""
        if isinstance(self.source, SEBlock):
            return self.source.gates(features)
        # The features are an inner tensor: Keras cuts the graph there.
        values = keras.Model(self.features, self.gates)(features)
        return keras.ops.convert_to_numpy(values).reshape(-1, self.site.channels)

    def observe(self, visit: Visit) -> tuple[Any, Any, Any]:
        """Returns the outputs of a visit of this site, the features and the (batch, C) gates."""
        if isinstance(self.source, InlineSE):
            gates = keras.ops.reshape(visit.value(self.source.gates), (-1, self.site.channels))
            return visit.outputs(), visit.arguments[self.source.position], gates
        # Always ask for the gates; the caller gets them only if the model uses them.
        given = call_arguments(*visit.args, **visit.kwargs)
        x = given["inputs"]
        outputs, gates = visit.stand_in(x, mask=given.get("mask"), return_gates=True)
        return ((outputs, gates) if given.get("return_gates") else outputs), x, gates


def gated_sites(graph: Graph) -> list[GatedSite]:
    """Lists the SE sites of a model's graph and of those nested in it, in topological order."""
    inline = InlineSites()
    visits: list[tuple[Visit, SEBlock | InlineSE]] = []

    def look(visit: Visit) -> Any:
        source: SEBlock | InlineSE | None = inline.at(visit)
        if isinstance(visit.layer, SEBlock):
            source = visit.layer
        elif not is_nested_graph(visit.layer):
            # Calls inside another layer cannot be observed: refuse the model, do not miss the site.
            check_hidden(visit.layer)
        if source is not None:
            visits.append((visit, source))
        return visit.recorded.returned

    walk(graph, graph.inputs, look, stand_in=lambda layer: layer, enter=_given)
    names = site_names(visit.path for visit, _ in visits)
    return [_gated_site(name, *found) for name, found in zip(names, visits, strict=False)]


def _given(visit: Visit) -> Any:
    return nested_arguments(visit.args, visit.kwargs)["inputs"]


def _gated_site(name: str, visit: Visit, source: Any) -> GatedSite:
    graph, call = visit.graph, visit.recorded
    if isinstance(source, SEBlock):
        features = id(call_arguments(*call.args, **call.kwargs)["inputs"])
        channels, width = map(int, source.w1.shape)
        gate, tensor = gates.get(source.gate).name, None
    else:
        features, tensor = call.inputs[source.position], source.gates
        channels, width, gate = source.channels, source.width, source.gate or "unknown"
    site = Site(
        name=name,
        channels=channels,
        width=width,
        gate=gate,
        after=graph.producer_name(features),
        layer=visit.layer.name,
        source="inline" if isinstance(source, InlineSE) else "SEBlock",
    )
    return GatedSite(site, source, visit.number, graph.tensors[features], tensor)


def call_arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Returns the arguments of a call of an `SEBlock` by name."""
    arguments = inspect.signature(SEBlock.call).bind(None, *args, **kwargs).arguments
    return {name: value for name, value in arguments.items() if name != "self"}


def check_hidden(layer: Any) -> None:
    """Refuses a layer that contains an `SEBlock` which the graph does not show."""
    inside = sublayers(layer) if isinstance(layer, keras.layers.Layer) else ()
    hidden = next((part for part in inside if isinstance(part, SEBlock)), None)
    if hidden is not None:
        raise InputError(
            "Each SEBlock must be a layer of a functional or Sequential model. "
            f"Received: {hidden.name!r} inside the layer {layer.name!r} ({type(layer).__name__})"
        )
