"""How long one inference of a TFLite file takes on this machine."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_se.errors import InputError
from keras_se.litert.graph.flatbuffer import TFLite
from keras_se.litert.runtime import Runner

_WARM_UP = 10
_MIN_RUNS = 50


@dataclass(frozen=True)
class Latency:
    """Wall time of one inference, in milliseconds.

    Attributes:
        median: The median over the runs.
        low: The lower quartile.
        high: The upper quartile.
    """

    median: float
    low: float
    high: float


def latency(tflite: TFLite, x: Any, runs: int = _MIN_RUNS) -> Latency:
    """Measures one inference of a file with one thread, the rest of the machine left as it is.

    Args:
        tflite: The bytes or the path of a TFLite file.
        x: Inputs as for the model; the first ones are run.
        runs: Number of measured runs, at least 50, after ten that are not counted.

    Returns:
        A `Latency`, of the interpreter alone: inputs and outputs are not copied.

    Raises:
        InputError: If there are too few runs, or file and inputs do not go together.
        MissingExtraError: If LiteRT is not installed.

    Example:
        >>> import keras
        >>> from keras_se import to_tflite
        >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4)])
        >>> found = latency(to_tflite(model, "float32"), np.ones((1, 8)))
        >>> 0.0 < found.low <= found.median <= found.high
        True
    """
    return latencies([tflite], x, runs)[0]


def latencies(files: Sequence[TFLite], x: Any, runs: int = _MIN_RUNS) -> list[Latency]:
    """Measures files as `latency` does, in turn, so that what slows the machine slows them all."""
    if runs < _MIN_RUNS:
        raise InputError(f"A latency needs at least {_MIN_RUNS} runs. Received: runs={runs!r}")
    runners = [Runner(file) for file in files]
    for runner in runners:
        # It leaves the inputs in the interpreter.
        runner.run({name: array[: runner.batch] for name, array in runner.arranged(x).items()})
    seconds = np.zeros((len(runners), _WARM_UP + runs))
    for n in range(_WARM_UP + runs):
        for row, runner in zip(seconds, runners, strict=True):
            started = time.perf_counter()
            runner.interpreter.invoke()
            row[n] = time.perf_counter() - started
    low, median, high = np.percentile(1000.0 * seconds[:, _WARM_UP:], (25, 50, 75), axis=1)
    return [Latency(*map(float, values)) for values in zip(median, low, high, strict=True)]
