"""A Keras model as the reference of a verdict: its gates, and its outputs with any gates."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_se.compress.stripping import strip
from keras_se.data import fits
from keras_se.display.progress import counted
from keras_se.errors import InputError
from keras_se.graph.compressed import compression_of
from keras_se.graph.fitting import fitted
from keras_se.graph.inputs import fresh_inputs, packed_inputs
from keras_se.graph.replay import Computation
from keras_se.graph.trace import trace
from keras_se.graph.visits import Visit, holds, replaying, walk
from keras_se.layers import GraphSEBlock
from keras_se.layers.quantization.fake_quantize import is_quantize_aware
from keras_se.litert.convert import convert
from keras_se.litert.formats import Options
from keras_se.litert.gates import MapName
from keras_se.litert.graph.flatbuffer import TFLiteModel
from keras_se.litert.inputs import (
    Samples,
    batches,
    filled,
    input_arrays,
    input_specs,
    thinned,
)
from keras_se.litert.matching import match_sites
from keras_se.reading import read_gates
from keras_se.sites.finding import InlineSE
from keras_se.sites.gated import GatedSite, call_arguments, search
from keras_se.sites.site import Site
from keras_se.verification.reference import Gates

_BATCH = 32


class KerasReference:
    """A Keras model whose gates a file must have.

    Attributes:
        sites: The sites, by name.
        map_name: The tensor of a site in a file of which `replay` makes its gates.
    """

    map_name: MapName = "feature_tensor"

    def __init__(
        self, model: Any, purpose: str = "verify", input_shape: Sequence[int] | None = None
    ) -> None:
        self._given, self._purpose = model, purpose
        # Sites are found in Keras 3 models, and most compressed ones are of tf_keras.
        plain = model if compression_of(model) is None else strip(model)
        self._model = fitted(plain, purpose, input_shape)
        self._graph = trace(self._model, purpose)
        self._search = search(self._graph)
        self._parts = {part.site.name: part for part in self._search.sites}
        unions = [n for n, p in self._parts.items() if isinstance(p.source, GraphSEBlock)]
        if unions:
            raise InputError(
                f"{purpose} judges gates of one sample each; those of a GraphSEBlock are of a "
                "graph in a union, whose size a file fixes. Received: model "
                f"{self._model.name!r} with the GraphSEBlocks {unions}"
            )
        self.sites: dict[str, Site] = {name: part.site for name, part in self._parts.items()}

    @property
    def name(self) -> str:
        """What the reference is called in a sentence."""
        return f"model {self._model.name!r}"

    def samples(self, x: Any, what: str) -> Samples:
        """Returns inputs as arrays, by their names in a file of the model."""
        return input_arrays(input_specs(self._model, self._purpose), x, what)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of the first output."""
        return tuple(self._model.outputs[0].shape)

    def read(self, samples: Samples) -> tuple[Gates, list[np.ndarray]]:
        """Returns the gates, and the outputs that they make."""
        if compression_of(self._given) is not None:
            # A stripped model has lost the ranges of quantization: take those of the compressed.
            read = read_gates(self._given, packed_inputs(self._model, samples.values()))
            own = {name: read[name] for name in self.sites}
            return own, self.outputs(samples, own)
        found = self._computed(samples, {})
        return dict(zip(self.sites, found, strict=False)), found[len(self.sites) :]

    def outputs(self, samples: Samples, gates: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs with given gates; a site without keeps its own."""
        return self._computed(samples, gates)[len(self.sites) :]

    def replay(self, name: str, maps: np.ndarray) -> np.ndarray | None:
        """Returns the gates of a site for other maps; `None` if they are not made of the map."""
        part = self._parts[name]
        # A converter may reshape or transpose a map.
        if part.site.kind != "self" or not fits(maps.shape[1:], tuple(part.features.shape[1:])):
            return None
        return part.replay(maps)

    def matched(self, file: TFLiteModel, samples: Samples) -> dict[str, str]:
        """Returns the names of the sites in a file by those in the model."""
        # The float32 conversion is of a stripped model, whose sites are at the same places.
        is_plain = not is_quantize_aware(self._model)
        plain = self._model if is_plain else strip(self._model)
        options = Options(format="float32")
        return match_sites(
            plain,
            samples,
            lambda: convert(plain, None, options, self._purpose).tflite,
            file,
            self._search if is_plain else None,
        )

    def _computed(self, samples: Samples, gates: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        count = len(next(iter(samples.values())))
        own = np.full((), np.nan, "float32")  # stands for a site's own gates
        given = [
            np.asarray(gates[name], "float32")
            if name in gates
            else np.broadcast_to(own, (count, site.channels))
            for name, site in self.sites.items()
        ]
        # `predict` would set up a pipeline for each of many runs, which takes longer than they do.
        with replaying():
            few = batches([*samples.values(), *given], _BATCH)
            rows = [self._run(batch) for batch in counted(few, -(-count // _BATCH))]
        return [np.concatenate(values)[:count] for values in zip(*rows, strict=True)]

    def _run(self, batch: list[np.ndarray]) -> list[np.ndarray]:
        found = self._injected.predict_on_batch([filled(array, _BATCH) for array in batch])
        values = [np.asarray(part) for part in keras.tree.flatten(found)]
        gates = len(self.sites)
        return [*values[:gates], *map(thinned, values[gates:])]

    @cached_property
    def _injected(self) -> keras.Model:
        """A model of the inputs and of gates for each site, to the own gates and the outputs."""
        # Explicit names: automatic ones may collide with names of the model's inputs.
        given = {
            name: keras.Input((site.channels,), name=f"keras_se_gates_{n}")
            for n, (name, site) in enumerate(self.sites.items())
        }
        places = {part.place: part for part in self._parts.values()}
        own: dict[str, Any] = {}

        def visited(visit: Visit) -> Any:
            if visit.kwargs.get("training") is True:
                raise InputError(
                    f"{self._purpose} needs outputs that are the same each time: call no layer "
                    f"with training=True. Received: {visit.path}{visit.layer.name}"
                )
            part = places.get(visit.place)
            if part is None:
                return visit.outputs()
            return _with_gates(part, visit, given[part.site.name], own)

        inputs = fresh_inputs(self._model)
        outputs = walk(self._graph, inputs, visited, opens=holds(places))
        ends = [*(own[name] for name in self.sites), *keras.tree.flatten(outputs)]
        model = keras.Model([*keras.tree.flatten(inputs), *given.values()], ends)
        model.compile(jit_compile=False)  # XLA costs more than it saves for a few runs
        return model


def _with_gates(part: GatedSite, visit: Visit, given: Any, own: dict[str, Any]) -> Any:
    """Returns the outputs of a site with given gates, and notes its own."""
    outputs, x, gates = part.observe(visit)
    own[part.site.name] = gates
    source: Any = part.source
    if isinstance(source, InlineSE):
        taken = {source.position, source.gate_position}
        # A product may have more than two factors.
        others = [visit.arguments[n] for n in source.product.slots if n not in taken]
        return Computation(lambda x, g, own, *rest: _gated(part, x, g, own, rest))(
            x, given, gates, *others
        )
    with_gates = call_arguments(source, visit).get("return_gates")
    plain = outputs[0] if with_gates else outputs
    gated = Computation(lambda x, g, own, y: _moved(part, x, g, own, y))(x, given, gates, plain)
    chosen = Computation(_chosen)(given, gates) if with_gates else None
    return (gated, chosen) if with_gates else gated


def _chosen(given: Any, own: Any) -> Any:
    given = keras.ops.cast(given, own.dtype)
    return keras.ops.where(keras.ops.isnan(given), own, given)


def _gated(part: GatedSite, x: Any, given: Any, own: Any, others: Sequence[Any] = ()) -> Any:
    gated = x * _per_channel(part, keras.ops.cast(_chosen(given, own), x.dtype), x)
    for factor in others:
        gated = gated * factor
    return gated


def _moved(part: GatedSite, x: Any, given: Any, own: Any, outputs: Any) -> Any:
    gated = _gated(part, x, given, own)
    source: Any = part.source
    if not source.shift:
        return gated
    # The value of the shift is unknown here: move the output by the difference.
    return gated + outputs - _per_channel(part, own, x) * x


def _per_channel(part: GatedSite, gates: Any, x: Any) -> Any:
    """Reshapes (batch, channels) gates so that they broadcast over a feature map."""
    shape = [1] * (len(x.shape) - 1)
    shape[-1 if part.data_format == "channels_last" else 0] = part.site.channels
    return keras.ops.reshape(gates, (-1, *shape))
