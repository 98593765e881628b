"""A float TFLite file as the reference of a verdict, whoever converted it; no Keras is needed."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from keras_se.errors import InputError
from keras_se.litert.gates import GateReader, MapName
from keras_se.litert.graph.flatbuffer import TFLite, TFLiteModel
from keras_se.litert.graph.injection import GATES, excitation_of, with_gates_as_inputs
from keras_se.litert.graph.sites import precision
from keras_se.litert.inputs import Samples, thinned
from keras_se.litert.matching import matched_files
from keras_se.litert.runtime import Runner
from keras_se.sites.site import Site
from keras_se.verification.reference import Gates


class FileReference:
    """A float file whose gates another file must have.

    Attributes:
        sites: The sites, by name.
        map_name: The tensor of a site in a file of which `replay` makes its gates.
    """

    map_name: MapName = "squeezed_tensor"

    def __init__(self, tflite: TFLite, names: Mapping[str, str] | None = None) -> None:
        """`names` are those of sites in the model that the file was made of, by those in it."""
        self._file = TFLiteModel.of(tflite)
        if precision(self._file) == "int8":
            raise InputError(
                "The reference must be a Keras model or a float TFLite file. "
                "Received: a file with integer weights or activations"
            )
        self._reader = GateReader(self._file)
        in_file = [node.site.name for node in self._reader.nodes]
        self._in_file = {(names or {}).get(name, name): name for name in in_file}
        self._nodes = dict(zip(self._in_file, self._reader.nodes, strict=True))
        self._excitations: dict[str, Runner | None] = {}
        self.sites: dict[str, Site] = {
            name: replace(node.site, name=name) for name, node in self._nodes.items()
        }

    @property
    def name(self) -> str:
        """What the reference is called in a sentence."""
        return f"a file of {len(self._file.content)} bytes"

    def samples(self, x: Any, what: str) -> Samples:
        """Returns inputs as float32 arrays, by their names in the file."""
        return self._reader.plain.arranged(x, what)

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """Shape of the first output."""
        return self._reader.plain.output_shape

    def read(self, samples: Samples) -> tuple[Gates, list[np.ndarray]]:
        """Returns the gates, and the outputs that they make."""
        gates, outputs = self._reader.gates_and_outputs(samples)
        return {name: gates[at] for name, at in self._in_file.items()}, outputs

    def outputs(self, samples: Samples, gates: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Returns the outputs with given gates, one array for each site."""
        sites = {f"{GATES}_{at}": name for name, at in self._in_file.items()}
        given = {
            name: np.asarray(gates[sites[name]]).reshape(-1, *shape)
            for name, shape in self._injected.shapes.items()
            if name in sites
        }
        tensors = self._reader.plain.outputs.values()
        rows = [map(thinned, row) for row in self._injected.read({**samples, **given}, tensors)]
        return [np.concatenate(values) for values in zip(*rows, strict=True)]

    @cached_property
    def _injected(self) -> Runner:
        names = ((n, int(d["index"])) for n, d in self._reader.plain.inputs.items())
        return Runner(with_gates_as_inputs(self._file, self._reader.nodes, names))

    def replay(self, name: str, maps: np.ndarray) -> np.ndarray | None:
        """Returns the gates of a site for other maps; `None` if they are not made of one map."""
        runner = self._excitation(name)
        if runner is None or maps.shape[1:] != next(iter(runner.shapes.values())):
            return None
        (found,) = runner.run(np.nan_to_num(maps))
        gates = found.reshape(len(maps), -1)
        # Inputs must be finite; maps that are not say so by their gates.
        is_finite = np.isfinite(maps).reshape(len(maps), -1).all(axis=1, keepdims=True)
        return np.where(is_finite, gates, np.float32(np.nan))

    def _excitation(self, name: str) -> Runner | None:
        if name not in self._excitations:
            part = excitation_of(self._file, self._nodes[name])
            self._excitations[name] = None if part is None else Runner(part)
        return self._excitations[name]

    def matched(self, file: TFLiteModel, samples: Samples) -> dict[str, str]:
        """Returns the names of the sites in another file by those in this one."""
        found = matched_files(self._file, file, samples)
        return {name: found[at] for name, at in self._in_file.items() if at in found}
