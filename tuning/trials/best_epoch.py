"""The best epoch of a training run: its score, its logs and its weights."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from tuning.choice.scores import as_loss
from tuning.trials.metric_names import plain_logs, unknown_metric


class BestEpoch(keras.callbacks.Callback):
    """Writes each epoch to a file and keeps score, logs and weights of the best one."""

    def __init__(
        self, metric: str, direction: str, curve: Path, seconds: float | None = None
    ) -> None:
        super().__init__()
        self.metric, self.direction, self.curve = metric, direction, curve
        self.score: float | None = None
        self.epoch = 0  # counted from 1
        self.logs: dict[str, float] = {}
        self.weights: list[Any] = []
        # Goes before all callbacks: another one may swap back the weights that validation used.
        self.evaluated = _EvaluatedWeights()
        self.names: set[str] = set()  # of all logs so far
        self.diverged = False  # whether a loss was not finite in any epoch
        self._seconds = seconds
        self._started = time.monotonic()
        curve.write_text("")  # an earlier attempt that crashed may have left its lines

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Stops a trial that takes too long."""
        # Checked after each batch: a single epoch may exceed the limit by hours.
        if self._seconds is not None and time.monotonic() - self._started > self._seconds:
            raise TimeoutError(f"not done after {self._seconds:g} s")

    on_test_batch_end = on_train_batch_end

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Scores the epoch and writes it to the curve."""
        values = plain_logs(logs or {}, self.metric)
        self.names |= set(values)
        score = values.get(self.metric)
        # NaN predictions have an accuracy, too: of the class that they count as.
        if not all(math.isfinite(values.get(loss, 0.0)) for loss in ("loss", "val_loss")):
            score, self.diverged = None, True
        # Keras adds the weight penalties to both losses; they grow with the model and are no error.
        if score is not None and self.metric in ("loss", "val_loss"):
            score -= weight_penalty(self.model)
        line = {"epoch": epoch + 1, **values, "score": score}
        # json would write NaN and Infinity, which are not JSON.
        finite = {k: v if v is not None and math.isfinite(v) else None for k, v in line.items()}
        with open(self.curve, "a") as file:
            file.write(json.dumps(finite) + "\n")
        best = math.inf if self.score is None else as_loss(self.score, self.direction)
        if score is not None and math.isfinite(score) and as_loss(score, self.direction) < best:
            self.score, self.epoch, self.logs = score, epoch + 1, values
            # Callbacks such as `SwapEMAWeights` validate with averaged weights, and restore the
            # raw ones before this line.
            self.weights = self.evaluated.weights or self.model.get_weights()
        self.evaluated.weights = []

    def outcome(self) -> float:
        """Returns the best score, or raises if the metric was not logged or never finite."""
        if self.metric not in self.names:
            raise unknown_metric(self.metric, self.names)
        if self.score is None:
            what = "the loss or " * self.diverged + self.metric
            raise FloatingPointError(f"{what} was NaN or infinite in every epoch")
        return self.score


class _EvaluatedWeights(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Any] = []  # of the last validation

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        self.weights = self.model.get_weights()


def weight_penalty(model: keras.Model) -> float:
    """Returns the sum of the weight regularization losses of a built model."""
    weights = [w for w in model.trainable_weights if w.regularizer is not None]
    return sum(float(weight.regularizer(weight)) for weight in weights)
