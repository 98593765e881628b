"""Rebuilds a model from copies of its layers, with edits in its graph and in nested ones."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_se.graph.copying import Copies
from keras_se.graph.inputs import fresh_inputs
from keras_se.graph.models import free_name, is_nested_graph
from keras_se.graph.trace import Graph
from keras_se.graph.visits import Visit, walk

# Takes each call of one graph, with copied layers, in topological order; returns its outputs.
Edit = Callable[[Visit], Any]


class Rebuilding:
    """Rebuilds a model with its nested models, and makes one copy of each shared layer.

    The new model has inputs of the shapes that the graph was recorded with. `opens` chooses
    composite layers whose parts become layers of the new model. `precision` gives the dtype or
    policy of a copy for that of the original.
    """

    def __init__(
        self,
        graph: Graph,
        edits: Mapping[int, Edit] | None = None,
        opens: Callable[[Visit], bool] = lambda visit: False,
        precision: Callable[[Any], Any] = lambda dtype: dtype,
    ) -> None:
        self._model = graph.model
        self._graphs = {id(part.model): part for part in graph.family()}
        self._edits = edits or {}  # by the id of the model
        self._opens = opens
        self._precision = precision
        self._copies = Copies(self._nested, self._keeps_class, precision)
        own = [call.layer for part in graph.family() for call in part.calls]
        self._own = set(map(id, own))
        self._names = {layer.name for layer in own}

    def model(self) -> keras.Model:
        """Returns the new, uncompiled model with the state of the old one."""
        new_model = self._copies.of(self._model)
        self._copies.finish(self._model)
        return new_model

    def copy(self, layer: Any) -> Any:
        """Returns the copy of a layer, raw operation or nested model, the same at each call."""
        is_own = id(layer) in self._own or not isinstance(layer, keras.layers.Layer)
        if is_own or layer in self._copies:
            return self._copies.of(layer)
        # A part of a composite layer, whose name may be that of another layer.
        name = free_name(layer.name, self._names)
        self._names.add(name)
        return self._copies.of(layer, name)

    def _nested(self, model: keras.Model, name: str | None) -> keras.Model:
        """Builds a model anew from its graph, with the edits inside."""
        if id(model) not in self._graphs:  # inside another layer
            inside = {id(part.model): part for part in Graph(model).family()}
            self._graphs = {**inside, **self._graphs}
        graph = self._graphs[id(model)]
        shapes = [tuple(tensor.shape[1:]) for tensor in keras.tree.flatten(graph.inputs)]
        inputs = fresh_inputs(model, shapes, self._precision)
        edit = self._edits.get(id(model), Visit.outputs)
        opened = []

        def opens(visit: Visit) -> bool:
            opened.append(self._opens(visit))
            return opened[-1]

        outputs = walk(graph, inputs, edit, stand_in=self.copy, opens=opens, is_deep=False)
        # The parts of an opened layer need not be a chain, nor layers.
        is_chain = isinstance(model, keras.Sequential) and not any(opened)
        new_model = self._assembled(model, inputs, outputs, name or model.name, is_chain)
        # A nested model may have another precision than the layers around it.
        new_model.dtype_policy = self._precision(model.dtype_policy)
        return new_model

    def _assembled(
        self, model: keras.Model, inputs: Any, outputs: Any, name: str, is_chain: bool
    ) -> keras.Model:
        new_model = keras.Model(inputs, outputs, name=name)
        # Its layers were called on this input already, which `layer.output` goes on to show.
        layers = [inputs, *new_model.layers[1:]]
        if not self._keeps_class(model):
            return keras.Sequential(layers, name=name) if is_chain else new_model
        if is_chain:
            return self._copies.started(model, keras.Sequential, layers=layers, name=name)
        kind = type(new_model)
        return self._copies.started(model, kind, inputs=inputs, outputs=outputs, name=name)

    def _keeps_class(self, model: keras.Model) -> bool:
        """Whether the copy of a model has its class, and not one of Keras."""
        is_plain = type(model).__module__.startswith("keras.")
        return not is_plain and model is not self._model and not self._has_edit(model)

    def _has_edit(self, layer: Any) -> bool:
        inside = layer.layers if is_nested_graph(layer) else ()
        return id(layer) in self._edits or any(map(self._has_edit, inside))
