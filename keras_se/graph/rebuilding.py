"""Rebuilds a model from copies of its layers, with edits in its graph and in nested ones."""

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.graph.inputs import fresh_inputs
from keras_se.graph.models import is_nested_graph, sublayers
from keras_se.graph.trace import Graph
from keras_se.graph.visits import Visit, walk

# Takes each call of one graph, with copied layers, in topological order; returns its outputs.
Edit = Callable[[Visit], Any]


class Rebuilding:
    """Rebuilds a model with its nested models, and makes one copy of each shared layer."""

    def __init__(self, graph: Graph, edits: Mapping[int, Edit] | None = None) -> None:
        self._model = graph.model
        self._graphs = {id(part.model): part for part in graph.family()}
        self._edits = edits or {}  # by the id of the model
        # By id of a layer, the layer and its copy: a reference to the layer keeps its id valid.
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._opened: set[int] = set()  # models rebuilt from their graph, layer by layer

    def model(self) -> keras.Model:
        """Returns the new, uncompiled model with the state of the old one."""
        new_model = self._opened_copy(self._model)
        self._copies[id(self._model)] = (self._model, new_model)
        self._check_shared()
        layers = [pair for pair in self._copies.values() if isinstance(pair[0], keras.layers.Layer)]
        # Outer before inner: in Keras the flag of a model overwrites those of its layers.
        for old, new in reversed(layers):
            new.trainable = old.trainable
        for old, new in layers:
            # An edit may drop a layer. Its copy is never called and has no weights to set.
            left_out = bool(old.weights) and not new.built
            if id(old) not in self._opened and not left_out:
                _copy_state(old, new)
        return new_model

    def copy(self, layer: Any) -> Any:
        """Returns the copy of a layer, raw operation or nested model, the same at each call."""
        if id(layer) not in self._copies:
            self._copies[id(layer)] = (layer, self._built(layer))
        return self._copies[id(layer)][1]

    def _built(self, layer: Any) -> Any:
        if isinstance(layer, keras.Sequential) and not getattr(layer, "inputs", None):
            raise InputError(
                "Each nested model must be built, and Keras does not build a Sequential model on "
                f"several tensors. Received: {layer.name!r}"
            )
        return self._opened_copy(layer) if self._opens(layer) else _from_config(layer)

    def _opened_copy(self, model: keras.Model) -> keras.Model:
        self._opened.add(id(model))
        inputs = fresh_inputs(model)
        edit = self._edits.get(id(model), Visit.outputs)
        graph = self._graphs[id(model)]
        outputs = walk(graph, inputs, edit, stand_in=self.copy, is_deep=False)
        new_model = keras.Model(inputs, outputs, name=model.name)
        if isinstance(model, keras.Sequential):
            # Its layers were called on this input already, which `layer.output` goes on to show.
            new_model = keras.Sequential([inputs, *new_model.layers[1:]], name=model.name)
        # A nested model may have another precision than the layers around it.
        new_model.dtype_policy = model.dtype_policy
        return new_model

    def _opens(self, layer: Any) -> bool:
        """Whether a model is rebuilt from its graph, which makes it a plain Keras model."""
        if not is_nested_graph(layer):
            return False
        # Models of a custom class keep that class, unless an edit is inside.
        is_plain = type(layer).__module__.startswith("keras.")
        return is_plain or id(layer) in self._edits or any(map(self._opens_edit, layer.layers))

    def _opens_edit(self, layer: Any) -> bool:
        inside = layer.layers if is_nested_graph(layer) else ()
        return id(layer) in self._edits or any(map(self._opens_edit, inside))

    def _check_shared(self) -> None:
        # The configurations of the two would make two layers, and the shared weights would part.
        met = {id(old) for old, _ in self._copies.values()}
        for old, _ in self._copies.values():
            if isinstance(old, keras.layers.Layer) and id(old) not in self._opened:
                for part in sublayers(old):
                    if id(part) in met:
                        raise InputError(
                            "A layer inside another one must not be used elsewhere in the model. "
                            f"Received: {part.name!r} inside {old.name!r}"
                        )
                    met.add(id(part))


def _from_config(layer: Any) -> Any:
    try:
        return type(layer).from_config(layer.get_config())
    except Exception as error:  # the code of a custom layer may raise anything
        raise InputError(
            "Each layer must be rebuilt from its configuration. "
            f"Received: layer {layer.name!r} ({type(layer).__name__}), which raises: {error}"
        ) from error


def _copy_state(layer: Any, copy: Any) -> None:
    copy.set_weights(layer.get_weights())
    for old, new in [(layer, copy), *zip(sublayers(layer), sublayers(copy), strict=False)]:
        # `Normalization` derives its constants from the weights only here.
        if hasattr(new, "finalize_state"):
            new.finalize_state()
        new.trainable = old.trainable
