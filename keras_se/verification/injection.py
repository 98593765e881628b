"""A model that takes its SE gates as inputs, to see the outputs that other gates give."""

from typing import Any

import keras
import numpy as np

from keras_se.graph.inputs import fresh_inputs
from keras_se.graph.trace import trace
from keras_se.graph.visits import Visit, walk
from keras_se.layers import SEBlock
from keras_se.sites.blocks import call_arguments
from keras_se.sites.gated import GatedSite, gated_sites


class Injection:
    """Computes the outputs of a model for given gates, sample by sample."""

    def __init__(self, model: keras.Model) -> None:
        graph = trace(model, purpose="verify")
        self._sites = {part.number: part for part in gated_sites(graph)}
        # Explicit names: automatic ones may collide with names of the model's inputs.
        self._gates = {
            part.site.name: keras.Input((part.site.channels,), name=f"keras_se_gates_{n}")
            for n, part in enumerate(self._sites.values())
        }
        inputs = fresh_inputs(model)
        outputs = walk(graph, inputs, self._visit)
        given = [*keras.tree.flatten(inputs), *self._gates.values()]
        self._model = keras.Model(given, keras.tree.flatten(outputs))
        self._model.compile(jit_compile=False)

    def __call__(self, x: list[np.ndarray], gates: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the first output as a float array, for inputs and gates by site name."""
        given = [gates[name].astype("float32") for name in self._gates]
        outputs = self._model.predict([*x, *given], batch_size=32, verbose=0)
        return np.asarray(outputs[0] if isinstance(outputs, list) else outputs)

    def _visit(self, visit: Visit) -> Any:
        site = self._sites.get(visit.number)
        if site is None:
            return visit.outputs()
        if not isinstance(site.source, SEBlock):
            return self._gated(site, visit.arguments[site.source.position])
        outputs, x, gates = site.observe(visit)
        with_gates = call_arguments(*visit.args, **visit.kwargs).get("return_gates")
        gated = self._gated(site, x)
        if site.source.shift:  # its value is unknown here: move the output by the difference
            gated += (outputs[0] if with_gates else outputs) - _per_channel(site, gates, x) * x
        return (gated, gates) if with_gates else gated

    def _gated(self, site: GatedSite, x: Any) -> Any:
        gates = keras.ops.cast(self._gates[site.site.name], x.dtype)
        return x * _per_channel(site, gates, x)


def _per_channel(site: GatedSite, gates: Any, x: Any) -> Any:
    """Reshapes (batch, channels) gates so that they broadcast over a feature map."""
    shape = [1] * (len(x.shape) - 1)
    shape[-1 if site.data_format == "channels_last" else 0] = site.site.channels
    return keras.ops.reshape(gates, (-1, *shape))
