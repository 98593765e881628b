"""A model built anew from copies of its layers, with edits in its graph and in nested ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.replay import fresh_inputs, is_graph


def _call(operation: Any, *args: Any, **kwargs: Any) -> Any:
    return operation(*args, **kwargs)


def _alone(n: int, layer: Any) -> list[Any]:
    return [layer]


@dataclass(frozen=True)
class Edit:
    """What is done anew in one graph; nothing, by default.

    Attributes:
        call: Of a functional model: called as `call(layer, *args, **kwargs)` for every call in
            topological order, with copied layers; returns the outputs.
        chain: Of a Sequential model: called as `chain(n, layer)` with the copy of its layer `n`;
            returns the layers in its place.
    """

    call: Callable[..., Any] = _call
    chain: Callable[[int, Any], list[Any]] = _alone


class Rebuilding:
    """Builds a model anew, nested models included, and knows which copy stands for which layer.

    A layer that several calls or several nested models share has one copy.
    """

    def __init__(self, edits: Mapping[int, Edit]) -> None:
        """Takes the edits, by the id of the model that each is for."""
        self._edits = edits
        self._copies: dict[int, tuple[Any, Any]] = {}  # the layer and its copy

    def model(self, model: keras.Model) -> keras.Model:
        """The new model, with the state of the old one.

        Args:
            model: A model for which `is_graph` holds. It is not changed.

        Returns:
            The model, uncompiled; a Sequential model stays one.

        Raises:
            InputError: If a layer cannot be rebuilt from its configuration.
        """
        new_model = self.copy(model)
        for old, new in reversed(self._copies.values()):  # what holds others before what is held
            if isinstance(old, keras.layers.Layer):
                new.trainable = old.trainable
        for old, new in self._copies.values():
            is_layer = isinstance(old, keras.layers.Layer) and not is_graph(old)
            if is_layer and new.built:  # else an edit left it out
                _copy_weights(old, new)
        return new_model

    def copy(self, layer: Any) -> Any:
        """The copy of a layer, raw operation or nested model; the same one at each call.

        Args:
            layer: The layer.

        Returns:
            Its copy; only after `model` with its weights.
        """
        if id(layer) not in self._copies:
            self._copies[id(layer)] = (layer, self._built(layer))
        return self._copies[id(layer)][1]

    def _built(self, layer: Any) -> Any:
        if isinstance(layer, keras.Sequential) and is_graph(layer):
            return self._sequential(layer)
        return self._functional(layer) if is_graph(layer) else _from_config(layer)

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        chain = self._edit(model).chain
        layers = [new for n, old in enumerate(model.layers) for new in chain(n, self.copy(old))]
        new_model = keras.Sequential([fresh_inputs(model), *layers], name=model.name)
        new_model.dtype_policy = model.dtype_policy
        return new_model

    def _functional(self, model: keras.Model) -> keras.Model:
        inputs = fresh_inputs(model)
        copy = keras.models.clone_model(
            model,
            input_tensors=inputs,
            clone_function=self.copy,
            call_function=self._edit(model).call,
        )
        # The copy itself may be of another class, and is compiled if the model is.
        new_model = keras.Model(inputs, copy.output, name=model.name)
        new_model.dtype_policy = model.dtype_policy
        return new_model

    def _edit(self, model: keras.Model) -> Edit:
        return self._edits.get(id(model), Edit())


def _from_config(layer: Any) -> Any:
    try:
        return type(layer).from_config(layer.get_config())
    except Exception as error:  # whatever the layer's own code raises
        raise InputError(
            "A model is rebuilt from the configurations of its layers. "
            f"Received: layer {layer.name!r} ({type(layer).__name__}), which gives: {error}"
        ) from error


def _copy_weights(layer: Any, twin: Any) -> None:
    """Weights, and the statistics that are none."""
    twin.set_weights(layer.get_weights())
    if hasattr(twin, "finalize_state"):
        twin.finalize_state()
