"""A model that takes its SE gates as inputs, to see the outputs that other gates give."""

from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.inline import InlineSE, find_inline
from keras_se.layers import SEBlock
from keras_se.replay import (
    Graph,
    can_inline,
    fresh_inputs,
    is_nested_graph,
    original,
    replay,
    trace,
)
from keras_se.sites import call_arguments, excitations


class Injection:
    """Computes the outputs of a model for given gates, sample by sample."""

    def __init__(self, model: keras.Model) -> None:
        walk, inputs = _Walk(model), fresh_inputs(model)
        outputs = walk.model(model, inputs, "")
        flat = keras.tree.flatten(outputs)
        self._names = list(walk.gates)
        given = [*keras.tree.flatten(inputs), *walk.gates.values()]
        self._model = keras.Model(given, flat)
        self._model.compile(jit_compile=False)

    def __call__(self, x: list[np.ndarray], gates: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the first output as a float array, for inputs and gates by site name."""
        given = [gates[name].astype("float32") for name in self._names]
        outputs = self._model.predict([*x, *given], batch_size=32, verbose=0)
        return np.asarray(outputs[0] if isinstance(outputs, list) else outputs)


class _Walk:
    """Walks a model and its nested models, and multiplies by inputs in place of gates."""

    def __init__(self, model: keras.Model) -> None:
        # Explicit names: automatic ones may collide with names of the model's inputs.
        self.gates = {
            part.site.name: keras.Input((part.site.channels,), name=f"keras_se_gates_{n}")
            for n, part in enumerate(excitations(model))
        }
        self._products: dict[int, dict[int, InlineSE]] = {
            id(graph.model): {site.call: site for site in find_inline(graph)}
            for graph in trace(model, purpose="verify").family()
        }
        self._ordinals: dict[str, int] = {}

    def model(self, model: keras.Model, inputs: Any, path: str) -> Any:
        graph, products = Graph(model, inputs), self._products[id(model)]

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            layer = original(operation)
            # The replay has the call order of `trace`, so the index finds inline products.
            site = products.get(len(graph.calls))
            if is_nested_graph(layer):
                outputs = self._nested(layer, f"{path}{layer.name}/", *args, **kwargs)
            elif isinstance(layer, SEBlock):
                outputs = self._block(operation, path, call_arguments(*args, **kwargs))
            elif site is not None:
                features = keras.tree.flatten((args, kwargs))[site.position]
                outputs = self._gated(features, path, site.channels, site.data_format)
            else:
                outputs = operation(*args, **kwargs)
            graph.add(layer, args, kwargs, outputs)
            return outputs

        # Keras clones the graph from its inputs, so it must know the gates as inputs, too.
        return replay(model, inputs, call, extra=list(self.gates.values()))

    def _nested(self, model: keras.Model, path: str, *args: Any, **kwargs: Any) -> Any:
        inputs = args[0] if args else kwargs.get("inputs")
        if not can_inline(model, inputs):
            raise InputError(
                "Gates are put into nested models that take their inputs as they are. "
                f"Received: {model.name!r}"
            )
        return self.model(model, inputs, path)

    def _block(self, operation: Any, path: str, arguments: dict[str, Any]) -> Any:
        block, x = original(operation), arguments["inputs"]
        outputs, gates = operation(x, mask=arguments.get("mask"), return_gates=True)
        channels = gates.shape[-1]
        if block.shift:  # its value is unknown here: move the output by the difference
            own = _per_channel(gates, len(x.shape), channels, block.data_format)
            outputs = outputs - own * x + self._gated(x, path, channels, block.data_format)
        else:
            outputs = self._gated(x, path, channels, block.data_format)
        return (outputs, gates) if arguments.get("return_gates") else outputs

    def _gated(self, x: Any, path: str, channels: int, data_format: str) -> Any:
        # Sites are met in the order of `model_sites`, so the ordinals give the same names.
        self._ordinals[path] = self._ordinals.get(path, 0) + 1
        gates = keras.ops.cast(self.gates[f"{path}se_{self._ordinals[path]}"], x.dtype)
        return x * _per_channel(gates, len(x.shape), channels, data_format)


def _per_channel(gates: Any, rank: int, channels: int, data_format: str) -> Any:
    """Reshapes (batch, channels) gates so that they broadcast over a feature map."""
    shape = [1] * (rank - 1)
    shape[-1 if data_format == "channels_last" else 0] = channels
    return keras.ops.reshape(gates, (-1, *shape))
