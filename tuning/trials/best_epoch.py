"""The best epoch of a training run: its score, its logs and its weights."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from tuning.trials.durable import fault_point


class BestEpoch(keras.callbacks.Callback):
    """Writes each epoch to a file and keeps the weights of the best one.

    Attributes:
        score: The best finite score so far; `None` before there is one.
        epoch: Its epoch, counted from 1.
        logs: The Keras logs of that epoch.
        weights: The weights of that epoch, as arrays.
        names: Names of all logs so far.
        evaluated: A callback to put before all others. It sees the weights that validation used,
            before another callback swaps them back.
    """

    def __init__(
        self, metric: str, direction: str, curve: Path, seconds: float | None = None
    ) -> None:
        super().__init__()
        self.metric, self.direction, self.curve = metric, direction, curve
        self.score: float | None = None
        self.epoch = 0
        self.logs: dict[str, float] = {}
        self.weights: list[Any] = []
        self.evaluated = EvaluatedWeights()
        self.names: set[str] = set()
        self._seconds = seconds
        self._started = time.monotonic()
        curve.write_text("")  # an earlier attempt that crashed may have left its lines

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stops a trial that takes too long."""
        self.on_train_batch_end(batch)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stops a trial that takes too long."""
        # Checked after each batch: a single epoch may exceed the limit by hours.
        if self._seconds is not None and time.monotonic() - self._started > self._seconds:
            raise TimeoutError(f"not done after {self._seconds:g} s")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Scores the epoch and writes it to the curve."""
        values = {name: float(v) for name, v in (logs or {}).items() if np.ndim(v) == 0}
        self.names |= set(values)
        score = values.get(self.metric)
        # Keras adds the weight penalties to both losses. They measure no error, and they
        # depend on the size of the model, so they would bias the comparison.
        if score is not None and self.metric in ("loss", "val_loss"):
            score -= weight_penalty(self.model)
        self._append({"epoch": epoch + 1, **values, "score": score})
        if score is not None and math.isfinite(score) and self._is_better(score):
            self.score, self.epoch, self.logs = score, epoch + 1, values
            # Callbacks such as `SwapEMAWeights` validate with averaged weights, and restore the
            # raw ones before this line.
            self.weights = self.evaluated.weights or self.model.get_weights()
        self.evaluated.weights = []

    def outcome(self) -> float:
        """Returns the best score, or raises if the metric was not logged or never finite."""
        if self.metric not in self.names:
            raise InputError(
                "The metric of a search is one that Model.fit logs. "
                f"Received: {self.metric!r}, with logs {sorted(self.names)}"
            )
        if self.score is None:
            raise FloatingPointError(f"{self.metric} was NaN or infinite in every epoch")
        return self.score

    def _is_better(self, score: float) -> bool:
        if self.score is None:
            return True
        return score < self.score if self.direction == "min" else score > self.score

    def _append(self, values: Mapping[str, float | None]) -> None:
        # json would write NaN and Infinity, which are not JSON.
        finite = {k: v if v is not None and math.isfinite(v) else None for k, v in values.items()}
        with open(self.curve, "a") as file:
            file.write(json.dumps(finite) + "\n")
        fault_point("curve.after")


class EvaluatedWeights(keras.callbacks.Callback):
    """Keeps the weights of the last validation.

    Attributes:
        weights: The weights; empty before the first validation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Any] = []

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Copies the weights."""
        self.weights = self.model.get_weights()


def weight_penalty(model: keras.Model) -> float:
    """Returns the sum of the weight regularization losses of a built model."""
    weights = [w for w in model.trainable_weights if w.regularizer is not None]
    return sum(float(weight.regularizer(weight)) for weight in weights)
