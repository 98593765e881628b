"""Values of samples that the codes of a file's inputs cannot hold."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from keras_se.litert.graph.flatbuffer import SubGraph, TFLiteModel

_CODES = ("INT8", "UINT8", "INT16")
_TOLERATED = 0.01  # share of values; calibrations may leave out a few on purpose


@dataclass(frozen=True)
class ClippedInput:
    """An input of a file that clips values of samples.

    Attributes:
        low: The least value that the codes of the input hold, in the units of the samples.
        high: The greatest.
        least: The least value of the samples.
        greatest: The greatest.
        share: Share of the values of the samples that are clipped.
    """

    low: float
    high: float
    least: float
    greatest: float
    share: float


def clipped_inputs(
    file: TFLiteModel, inputs: Mapping[str, int], samples: Mapping[str, np.ndarray]
) -> dict[str, ClippedInput]:
    """Returns the inputs of a file, by name, that clip more than a hundredth of the values.

    Args:
        file: The file.
        inputs: The tensor of each input, by name.
        samples: Values for each input, by the same names.
    """
    held = dict(file.read(lambda graph: _held(graph, inputs)))
    found = {}
    for name, (low, high, step) in held.items():
        values = samples[name]
        share = float(((values < low - step / 2) | (values > high + step / 2)).mean())
        if share > _TOLERATED:
            least, greatest = float(values.min()), float(values.max())
            found[name] = ClippedInput(low, high, least, greatest, share)
    return found


def _held(
    graph: SubGraph, inputs: Mapping[str, int]
) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Yields the range and the step of the codes of each input that becomes codes."""
    if graph.index:
        return
    for name, tensor in inputs.items():
        codes = [tensor]
        if graph.type(tensor).startswith("FLOAT"):
            consumers = [o for o in graph.operators if tensor in o.inputs]
            if any(operator.name != "QUANTIZE" for operator in consumers):
                continue  # some of the network takes the values as they are
            codes = [operator.outputs[0] for operator in consumers]
        ranges = [_range(graph, code) for code in codes if graph.type(code) in _CODES]
        if ranges and all(step > 0.0 for _, _, step in ranges):
            lows, highs, steps = zip(*ranges, strict=True)
            yield name, (max(lows), min(highs), max(steps))


def _range(graph: SubGraph, tensor: int) -> tuple[float, float, float]:
    limits, step = np.iinfo(graph.type(tensor).lower()), graph.scale(tensor)
    zero = graph.zero_point(tensor)
    return (limits.min - zero) * step, (limits.max - zero) * step, step
