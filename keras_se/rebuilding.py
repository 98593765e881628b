"""Rebuilds a model from copies of its layers, with edits in its graph and in nested ones."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.replay import called_again, fresh_inputs, is_nested_graph, sublayers


def _call(operation: Any, *args: Any, **kwargs: Any) -> Any:
    return operation(*args, **kwargs)


def _alone(n: int, layer: Any) -> list[Any]:
    return [layer]


@dataclass(frozen=True)
class Edit:
    """The edits of one graph; by default there are none.

    Attributes:
        call: For a functional model. Called as `call(layer, *args, **kwargs)` with copied layers,
            for every call in topological order. Returns the outputs.
        chain: For a Sequential model. Called as `chain(n, layer)` with the copy of layer `n`.
            Returns the layers that replace it.
    """

    call: Callable[..., Any] = _call
    chain: Callable[[int, Any], list[Any]] = _alone


class Rebuilding:
    """Rebuilds a model with its nested models, and makes one copy of each shared layer."""

    def __init__(self, edits: Mapping[int, Edit]) -> None:
        self._edits = edits  # by the id of the model
        # By id of a layer, the layer and its copy: a reference to the layer keeps its id valid.
        self._copies: dict[int, tuple[Any, Any]] = {}
        self._opened: set[int] = set()  # models rebuilt from their graph, layer by layer

    def model(self, model: keras.Model) -> keras.Model:
        """Returns the new, uncompiled model with the state of the old one."""
        new_model = self._opened_copy(model)
        self._copies[id(model)] = (model, new_model)
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
                "A model is rebuilt from layers that are built; Keras does not build a Sequential "
                f"model on several tensors. Received: {layer.name!r}"
            )
        return self._opened_copy(layer) if self._opens(layer) else _from_config(layer)

    def _opened_copy(self, model: keras.Model) -> keras.Model:
        self._opened.add(id(model))
        is_sequential = isinstance(model, keras.Sequential)
        return self._sequential(model) if is_sequential else self._functional(model)

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
        """Refuses a layer inside of another that is also copied elsewhere."""
        # The configurations of the two would make two layers, and the shared weights would part.
        met = {id(old) for old, _ in self._copies.values()}
        for old, _ in list(self._copies.values()):
            if isinstance(old, keras.layers.Layer) and id(old) not in self._opened:
                for part in sublayers(old):
                    if id(part) in met:
                        raise InputError(
                            "A model is rebuilt layer by layer, so that a layer inside of another "
                            "must not be used elsewhere. "
                            f"Received: {part.name!r} inside of {old.name!r}"
                        )
                    met.add(id(part))

    def _sequential(self, model: keras.Sequential) -> keras.Sequential:
        chain = self._edit(model).chain
        layers = [new for n, old in enumerate(model.layers) for new in chain(n, self.copy(old))]
        new_model = keras.Sequential([fresh_inputs(model), *layers], name=model.name)
        new_model.dtype_policy = model.dtype_policy
        return new_model

    def _functional(self, model: keras.Model) -> keras.Model:
        inputs = fresh_inputs(model)
        outputs = called_again(model, inputs, self.copy, self._edit(model).call)
        new_model = keras.Model(inputs, outputs, name=model.name)
        # A nested model may have another precision than the layers around it.
        new_model.dtype_policy = model.dtype_policy
        return new_model

    def _edit(self, model: keras.Model) -> Edit:
        return self._edits.get(id(model), Edit())


def _from_config(layer: Any) -> Any:
    try:
        return type(layer).from_config(layer.get_config())
    except Exception as error:  # the code of a custom layer may raise anything
        raise InputError(
            "A model is rebuilt from the configurations of its layers. "
            f"Received: layer {layer.name!r} ({type(layer).__name__}), which gives: {error}"
        ) from error


def _copy_state(layer: Any, twin: Any) -> None:
    """Copies weights, adapted statistics and trainable flags, also of inner layers."""
    twin.set_weights(layer.get_weights())
    pairs = [(layer, twin), *zip(sublayers(layer), sublayers(twin), strict=False)]
    for old, new in pairs:
        # `Normalization` derives its constants from the weights only here.
        if hasattr(new, "finalize_state"):
            new.finalize_state()
        new.trainable = old.trainable
