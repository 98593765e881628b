"""The metric of a search, of what a file gives on validation samples."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.litert.inputs import input_arrays, input_specs, thinned
from keras_se.litert.runtime import Runner
from keras_se.verification.outcome import Outcome, outcome
from tuning.data.batches import with_rows
from tuning.trials.best_epoch import weight_penalty
from tuning.trials.metric_names import plain_logs

_BATCH = 32


@dataclass(frozen=True)
class Compared:
    """A model and its file on the same samples.

    Attributes:
        reference: The metric of the model; `None` if it does not tell.
        file: The metric of the file.
        outcome: How far their outputs agree.
    """

    reference: float | None
    file: float | None
    outcome: Outcome


def compare(model: keras.Model, tflite: bytes, data: tuple[Any, ...], metric: str) -> Compared:
    """Runs a model and its file on samples, and gives a metric of both."""
    runner, specs = Runner(tflite), input_specs(model, "deployed", any_size=True)
    wanted: list[list[np.ndarray]] = []
    found: list[list[np.ndarray]] = []

    def of_file(x: Any, outputs: Any) -> Any:
        arrays = runner.run(input_arrays(specs, x, "validation"))
        own = [keras.ops.convert_to_numpy(values) for values in keras.tree.flatten(outputs)]
        if [a.shape for a in arrays] != [a.shape for a in own]:
            raise InputError(
                "A file must have the outputs of its model. Received: outputs of shape "
                f"{[a.shape for a in arrays]} for {[a.shape for a in own]}"
            )
        wanted.append([thinned(a) for a in own])
        found.append([thinned(a) for a in arrays])
        return keras.tree.pack_sequence_as(outputs, arrays)

    name = metric.removeprefix("val_")
    reference = _metric(model, data, name, lambda x, outputs: outputs)
    file = _metric(model, data, name, of_file)
    own, shipped = (
        [np.concatenate(rows) for rows in zip(*part, strict=True)] for part in (wanted, found)
    )
    return Compared(reference, file, outcome(own, shipped, None, None))


def _metric(
    model: keras.Model, data: tuple[Any, ...], name: str, outputs: Callable[[Any, Any], Any]
) -> float | None:
    """Returns a metric that the model is compiled with, of given outputs; `None` without it."""
    # A `test_step` of the user's own may make other things of the data than a loss.
    is_scored = model.compiled and type(model).test_step is keras.Model.test_step
    losses: list[float] = []
    sizes: list[int] = []
    logs: dict[str, Any] = {}
    if model.compiled:
        model.reset_metrics()
    for x, y, weight in _batches(data):
        own = model(x, training=False)  # also for losses that layers add
        given = outputs(x, own)
        if is_scored:
            part = model.compute_loss(x, y, given, weight, training=False)
            losses.append(float(part) - weight_penalty(model))
            sizes.append(len(keras.tree.flatten(x)[0]))
            logs = model.compute_metrics(x, y, given, weight)
    scalars = {key: keras.ops.convert_to_numpy(value) for key, value in logs.items()}
    if losses:
        scalars["loss"] = np.average(losses, weights=sizes)
    value = plain_logs(scalars, name).get(name)
    return value if value is not None and np.isfinite(value) else None


def _batches(data: tuple[Any, ...]) -> Iterator[tuple[Any, Any, Any]]:
    count = len(keras.tree.flatten(data[0])[0])
    for start in range(0, count, _BATCH):
        parts = with_rows(data, slice(start, start + _BATCH))
        x, y, weight = (*parts, None, None)[:3]
        yield x, y, weight
