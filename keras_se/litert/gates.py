"""Reads the gates of a TFLite file while it runs.

A twin of the file has the gates among its outputs. It computes what the file computes, which is
checked: integers are equal, floats are as near as the kernels round.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from keras_se.display.progress import step
from keras_se.errors import InputError
from keras_se.litert.graph.flatbuffer import TFLite, TFLiteModel, with_outputs
from keras_se.litert.graph.sites import main_nodes
from keras_se.litert.inputs import thinned
from keras_se.litert.runtime import Runner
from keras_se.sites.site import PREFIXES

MapName = Literal["feature_tensor", "squeezed_tensor"]  # attribute of a GateNode
_CHECKED = 4  # samples on which to compare with a plain run
_ROUNDINGS = 32.0  # of the inputs, by which a float output of the twin may be off


@dataclass(frozen=True)
class Reading:
    """Values of a file for some samples.

    Attributes:
        gates: By site name, float32, shape (samples, channels).
        maps: By site name, the requested maps, float32, shape (samples, *map shape).
        outputs: By name, the outputs of the file, dequantized.
    """

    gates: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def file_gates(tflite: TFLite, x: Any) -> dict[str, np.ndarray]:
    """Returns the gates of each SE site of a TFLite file, as (samples, channels) arrays."""
    file = TFLiteModel.of(tflite)
    if not main_nodes(file, tuple(PREFIXES)):
        return {}
    return GateReader(file).gates_and_outputs(x)[0]


class GateReader:
    """A TFLite file and its twin that gives the gates, each in an interpreter.

    Attributes:
        nodes: The sites that are read.
        plain: The file itself.
    """

    def __init__(self, tflite: TFLite, maps: MapName | None = None) -> None:
        file = TFLiteModel.of(tflite)
        self.nodes = main_nodes(file, tuple(PREFIXES))
        self.plain = Runner(file)
        found = {} if maps is None else {n.site.name: getattr(n, maps) for n in self.nodes}
        self._maps = {name: tensor for name, tensor in found.items() if tensor is not None}
        tensors = [node.gate_tensor for node in self.nodes]
        self._twin = Runner(with_outputs(file, [*tensors, *self._maps.values()]))

    def read(self, x: Any, maps: Collection[str] | None = None) -> Iterator[Reading]:
        """Yields the gates and outputs, with the maps of some sites, some samples at a time."""
        arrays, names = self.plain.arranged(x), list(self.plain.outputs)
        wanted = {n: t for n, t in self._maps.items() if maps is None or n in maps}
        sites = {node.site.name: node for node in self.nodes}
        gates = [node.gate_tensor for node in sites.values()]
        tensors = [*self.plain.outputs.values(), *gates, *wanted.values()]
        for n, values in enumerate(self._twin.read(arrays, tensors)):
            rest = iter(values)
            outputs = {name: next(rest) for name in names}
            if n == 0:
                self._check(arrays, outputs)
            yield Reading(
                gates={n: next(rest).reshape(-1, s.site.channels) for n, s in sites.items()},
                maps={name: next(rest) for name in wanted},
                outputs=outputs,
            )

    def gates_and_outputs(self, x: Any) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """Returns the gates by site, and each output; of large maps some positions only."""
        gates: list[dict[str, np.ndarray]] = []
        outputs: list[list[np.ndarray]] = []
        with step("gates of the file"):
            for reading in self.read(x, maps=()):
                gates.append(reading.gates)
                outputs.append([thinned(values) for values in reading.outputs.values()])
        return (
            {name: np.concatenate([part[name] for part in gates]) for name in gates[0]},
            [np.concatenate(values) for values in zip(*outputs, strict=True)],
        )

    def _check(self, x: dict[str, np.ndarray], outputs: dict[str, np.ndarray]) -> None:
        few = {name: array[:_CHECKED] for name, array in x.items()}
        wanted_outputs = self.plain.run(few)
        for (name, tensor), wanted in zip(self.plain.outputs.items(), wanted_outputs, strict=True):
            found = outputs[name][: len(wanted)]
            # NaN is equal to NaN here.
            if np.array_equal(found, wanted, equal_nan=True):
                continue
            tolerance = self._tolerance(few, name, wanted) if self.plain.is_float(tensor) else 0.0
            if not np.allclose(found, wanted, rtol=0.0, atol=tolerance, equal_nan=True):
                raise InputError(
                    "Reading gates must not change what a file computes. Received: a file whose "
                    f"output {name!r} differs when its tensors are kept"
                )

    def _tolerance(self, x: dict[str, np.ndarray], name: str, outputs: np.ndarray) -> float:
        """Returns some roundings of the inputs in an output, and of the output itself."""
        # How far one rounding goes depends on the network: a deep one amplifies it.
        nudged = self.plain.run({key: _nudged(values) for key, values in x.items()})
        moved = nudged[list(self.plain.outputs).index(name)]
        with np.errstate(invalid="ignore"):
            amplified = float(np.nan_to_num(np.abs(moved - outputs)).max(initial=0.0))
            scale = float(np.nan_to_num(np.abs(outputs)).max(initial=0.0))
        return _ROUNDINGS * (amplified + float(np.finfo("float32").eps) * scale)


def _nudged(x: np.ndarray) -> np.ndarray:
    return np.nextafter(x, np.float32(np.inf))
