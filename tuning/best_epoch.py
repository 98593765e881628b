"""The epoch that counts: its score, its logs and its weights."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from tuning.durable import fault_point


class BestEpoch(keras.callbacks.Callback):
    """Writes every epoch to a file, and keeps the best one with its weights.

    Args:
        metric: Name of the log that is the score. Of `loss` and `val_loss` the penalties of weight
            regularizers are taken off: they measure no error.
        direction: `"min"` or `"max"`.
        curve: The file, to which each epoch adds a JSON line.
        seconds: If given, training is ended by an error after so many.

    Attributes:
        score: The best finite score so far; `None` before there is one.
        epoch: Its epoch, from 1.
        logs: What Keras logged then.
        weights: The weights then, as arrays.
        names: Names of all logs so far.
        evaluated: Another callback, to be put before all others: it sees the weights that the
            validation was made with, which a callback may change back after it.
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
        curve.write_text("")  # an attempt that ended early left its own

    def on_test_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Ends a trial that takes too long."""
        self.on_train_batch_end(batch)

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Ends a trial that takes too long."""
        if self._seconds is not None and time.monotonic() - self._started > self._seconds:
            raise TimeoutError(f"not done after {self._seconds:g} s")

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
        """Scores the epoch."""
        values = {name: float(v) for name, v in (logs or {}).items() if np.ndim(v) == 0}
        self.names |= set(values)
        score = values.get(self.metric)
        if score is not None and self.metric in ("loss", "val_loss"):
            score -= weight_penalty(self.model)
        self._append({"epoch": epoch + 1, **values, "score": score})
        if score is not None and math.isfinite(score) and self._is_better(score):
            self.score, self.epoch, self.logs = score, epoch + 1, values
            self.weights = self.evaluated.weights or self.model.get_weights()
        self.evaluated.weights = []

    def outcome(self) -> float:
        """The best score.

        Returns:
            The score.

        Raises:
            InputError: If the metric is not among the logs.
            FloatingPointError: If it was finite in no epoch.
        """
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
        finite = {k: v if v is not None and math.isfinite(v) else None for k, v in values.items()}
        with open(self.curve, "a") as file:
            file.write(json.dumps(finite) + "\n")
        fault_point("curve.after")


class EvaluatedWeights(keras.callbacks.Callback):
    """Keeps the weights of the last validation, a moving average of them, say.

    Attributes:
        weights: The weights; empty before there was one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[Any] = []

    def on_test_end(self, logs: Mapping[str, Any] | None = None) -> None:
        """Copies them."""
        self.weights = self.model.get_weights()


def weight_penalty(model: keras.Model) -> float:
    """What the weight regularizers add to the losses that Keras logs.

    Args:
        model: A built model.

    Returns:
        The sum over its trainable weights.

    Example:
        >>> layer = keras.layers.Dense(1, kernel_initializer="ones", kernel_regularizer="l2")
        >>> round(weight_penalty(keras.Sequential([keras.Input((3,)), layer])), 6)
        0.03
    """
    weights = [w for w in model.trainable_weights if w.regularizer is not None]
    return sum(float(weight.regularizer(weight)) for weight in weights)
