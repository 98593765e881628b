"""Reads the gates of a TFLite file while it runs.

A twin of the file has the gates among its outputs. It computes what the file computes, which is
checked: integers are equal, floats are as near as the kernels round.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

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

    def __init__(
        self, tflite: TFLite, kinds: Collection[str] = tuple(PREFIXES), maps: MapName | None = None
    ) -> None:
        file = TFLiteModel.of(tflite)
        self.nodes = main_nodes(file, kinds)
        self.plain = Runner(file)
        found = {} if maps is None else {n.site.name: getattr(n, maps) for n in self.nodes}
        self._maps = {name: tensor for name, tensor in found.items() if tensor is not None}
        tensors = [node.gate_tensor for node in self.nodes]
        self._twin = Runner(with_outputs(file, [*tensors, *self._maps.values()]))

    def read(self, x: Any, maps: Collection[str] | None = None) -> Iterator[Reading]:
        """Yields the gates and outputs, with the maps of some sites, some samples at a time."""
        arrays, names = self.plain.arranged(x), list(self.plain.outputs)
        self._check({name: array[:_CHECKED] for name, array in arrays.items()})
        wanted = {n: t for n, t in self._maps.items() if maps is None or n in maps}
        sites = {node.site.name: node for node in self.nodes}
        gates = [node.gate_tensor for node in sites.values()]
        tensors = [*self.plain.outputs.values(), *gates, *wanted.values()]
        for values in self._twin.read(arrays, tensors):
            rest = iter(values)
            outputs = {name: next(rest) for name in names}
            yield Reading(
                gates={n: next(rest).reshape(-1, s.site.channels) for n, s in sites.items()},
                maps={name: next(rest) for name in wanted},
                outputs=outputs,
            )

    def gates_and_outputs(self, x: Any) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        """Returns the gates by site, and each output; of large maps some positions only."""
        gates: list[dict[str, np.ndarray]] = []
        outputs: list[list[np.ndarray]] = []
        for reading in self.read(x, maps=()):
            gates.append(reading.gates)
            outputs.append([thinned(values) for values in reading.outputs.values()])
        return (
            {name: np.concatenate([part[name] for part in gates]) for name in gates[0]},
            [np.concatenate(values) for values in zip(*outputs, strict=True)],
        )

    def _check(self, x: dict[str, np.ndarray]) -> None:
        wanted, found = (_outputs(self.plain, runner, x) for runner in (self.plain, self._twin))
        moved = _outputs(self.plain, self.plain, {name: _nudged(v) for name, v in x.items()})
        for n, (name, tensor) in enumerate(self.plain.outputs.items()):
            is_float = self.plain.is_float(tensor)
            tolerance = _tolerance(wanted[n], moved[n]) if is_float else 0.0
            # NaN is equal to NaN here.
            if not np.allclose(found[n], wanted[n], rtol=0.0, atol=tolerance, equal_nan=True):
                raise InputError(
                    "Reading gates must not change what a file computes. Received: a file whose "
                    f"output {name!r} differs when its tensors are kept"
                )


def _outputs(names: Runner, runner: Runner, x: Any) -> list[np.ndarray]:
    rows = [*runner.read(x, names.outputs.values())]
    return [np.concatenate(values) for values in zip(*rows, strict=True)]


def _nudged(x: np.ndarray) -> np.ndarray:
    return np.nextafter(x, np.float32(np.inf))


def _tolerance(outputs: np.ndarray, moved: np.ndarray) -> float:
    """Returns some roundings of the inputs in the outputs, and of the outputs themselves."""
    # How far one rounding goes depends on the network: a deep one amplifies it.
    with np.errstate(invalid="ignore"):
        amplified = float(np.nan_to_num(np.abs(moved - outputs)).max(initial=0.0))
        scale = float(np.nan_to_num(np.abs(outputs)).max(initial=0.0))
    return _ROUNDINGS * (amplified + float(np.finfo("float32").eps) * scale)
