"""A keras-tuner tuner that trains every combination from one seed and keeps a record of each."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_se.errors import import_extra
from tuning.hypermodel import SEHyperModel
from tuning.result import TrialRecord

keras_tuner: Any = import_extra("keras_tuner", "tuning")


class GridTuner(keras_tuner.Tuner):
    """Goes through a grid; each trial is seeded alike, trained, and measured after its last epoch.

    Args:
        hypermodel: What builds a compiled model from hyperparameters.
        objective: Name of a logged metric, or a `keras_tuner.Objective`.
        seed: Seed of every trial.
        directory: Where keras-tuner keeps its records.
        on_trial: Called with each `TrialRecord` as it comes.

    Attributes:
        records: The `TrialRecord`s so far.
    """

    def __init__(
        self,
        hypermodel: SEHyperModel,
        objective: Any,
        *,
        seed: int,
        directory: str | os.PathLike[str],
        on_trial: Callable[[TrialRecord], Any] | None = None,
    ) -> None:
        self.records: list[TrialRecord] = []
        self._seed = seed
        self._on_trial = on_trial
        self._measured: dict[str, tuple[dict[str, float], int]] = {}
        hp = keras_tuner.HyperParameters()
        hypermodel.space.settings(hp)
        oracle = keras_tuner.oracles.GridSearchOracle(
            objective=objective, hyperparameters=hp, max_consecutive_failed_trials=None
        )
        parent, name = os.path.split(os.fspath(directory))
        # A tuner that is given a hypermodel builds it at once to learn the space, which is known.
        super().__init__(oracle, directory=parent, project_name=name)
        self.hypermodel = hypermodel

    def run_trial(
        self, trial: Any, data: Any, fit: Mapping[str, Any], verbose: int = 0
    ) -> dict[str, float]:
        """Trains one candidate; called by `search(data, fit)`.

        Args:
            trial: The `keras_tuner` trial.
            data: Training data, `(x, y)` or a `tf.data.Dataset`.
            fit: Arguments of `Model.fit`.
            verbose: As for `Model.fit`.

        Returns:
            The metrics after the last epoch.
        """
        keras.utils.set_random_seed(self._seed)
        model = self.hypermodel.build(trial.hyperparameters)
        arrays = data if isinstance(data, tuple) else (data,)
        history = model.fit(*arrays, **fit, verbose=verbose)
        metrics = {name: float(values[-1]) for name, values in history.history.items()}
        self._measured[trial.trial_id] = (metrics, model.count_params())
        return metrics

    def on_trial_end(self, trial: Any) -> None:
        """Keeps the record of the trial, finished or failed."""
        metrics, parameters = self._measured.get(trial.trial_id, ({}, 0))
        completed = trial.status == "COMPLETED"
        record = TrialRecord(
            settings=self.hypermodel.space.settings(trial.hyperparameters),
            status="completed" if completed else "failed",
            metrics=metrics if completed else {},
            parameters=parameters,
            cause="" if completed else _cause(trial.message or "no message"),
        )
        super().on_trial_end(trial)
        self.records.append(record)
        if self._on_trial is not None:
            self._on_trial(record)


def _cause(message: str) -> str:
    """The line of a traceback that says what went wrong; below it TensorFlow names graph nodes."""
    lines = [line.strip() for line in message.splitlines()]
    return [line for line in lines if line and "{{node" not in line][-1]
