"""The keras-tuner side of a search: oracles propose trials, and its tools can read the folder."""

import contextlib
import copy
import io
import itertools
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras_tuner
from keras_tuner.engine import base_tuner

from keras_se.errors import InputError
from keras_se.files import free_name
from tuning.oracles.exhaustive import ExhaustiveOracle
from tuning.oracles.hyperband import EPOCHS
from tuning.running.runners import Runner, execute
from tuning.space import BASELINE, SWITCH
from tuning.trials.combination import Combination, make_combination
from tuning.trials.perform import Run
from tuning.trials.records import Records, SearchWarning, TrialRecord
from tuning.trials.training import cause_of

FOLDER = "keras_tuner"


class SearchTuner(base_tuner.BaseTuner):
    """Runs each trial that an oracle proposes on several seeds, and reuses existing records."""

    def __init__(
        self,
        oracle: Any,
        folder: Path,
        records: Records,
        report: Callable[[TrialRecord], dict[str, float]],
    ) -> None:
        self._records, self._report = records, report
        self._seeds: Sequence[int] = ()
        self._queue: deque[Run] = deque()
        # Trials and missing seeds by candidate. An oracle may propose a candidate twice.
        self._open: dict[str, tuple[dict[str, Any], set[int]]] = {}
        oracle.verbose = 0
        with contextlib.redirect_stdout(io.StringIO()):  # "Reloading Tuner from ..."
            super().__init__(oracle, directory=str(folder), project_name=FOLDER)
        self.save()  # `open_tuner` takes a folder without this file for a damaged one

    @property
    def _varying(self) -> list[str]:
        """Names of the hyperparameters with more than one value, without counting the baseline."""
        counts = {}
        for parameter in self.oracle.hyperparameters.space:  # `get_space` would copy it
            values = list(parameter.values)
            is_plain = parameter.name.startswith(SWITCH) and BASELINE in values
            counts[parameter.name] = len(values) - is_plain
        return [name for name, count in counts.items() if count > 1]

    def candidate(self, values: dict[str, Any]) -> Combination:
        """Returns the candidate for some hyperparameter values, labelled by those that vary."""
        # Drop Hyperband's bookkeeping, except for the epochs: it does not change the training.
        own = {k: v for k, v in values.items() if k == EPOCHS or not k.startswith("tuner/")}
        return make_combination(own, self._varying)

    def candidates(self) -> list[Combination]:
        """Returns the candidates with the most epochs, in the order of the space or the trials."""
        if isinstance(self.oracle, ExhaustiveOracle):
            # Not the trials: a folder may hold some that are beyond the space now.
            return list(map(self.candidate, self.oracle.all_values()))
        trials = [self.oracle.trials[key] for key in sorted(self.oracle.trials)]
        found = {c.id: c for c in (self.candidate(t.hyperparameters.values) for t in trials)}
        most = max((c.values.get(EPOCHS, 0) for c in found.values()), default=0)
        return [c for c in found.values() if c.values.get(EPOCHS, 0) == most]

    def search(self, runner: Runner, seeds: Sequence[int], on_record: Callable[..., Any]) -> None:
        """Completes the open trials, then runs those that the oracle proposes."""
        self._seeds = tuple(seeds)
        reopened = deque(self.oracle.trials[key] for key in sorted(self.oracle.trials))

        def next_run() -> Run | None:
            while not self._queue:
                trial = reopened.popleft() if reopened else self._propose()
                if trial is None:
                    return None
                self._begin(trial)
            return self._queue.popleft()

        def done(record: TrialRecord) -> None:
            on_record(record)
            trials, missing = self._open[record.candidate]
            missing.discard(record.seed)
            if not missing:
                del self._open[record.candidate]
                for trial in trials.values():
                    self._end_trial(trial, self._seeds)

        execute(runner, next_run, done)

    def _propose(self) -> Any:
        # An oracle gives a tuner id the trial that it already runs, so each trial needs its own id.
        running = self.oracle.ongoing_trials
        free = next(name for n in itertools.count() if (name := f"tuner{n}") not in running)
        trial = self.oracle.create_trial(free)
        return None if trial.status in ("STOPPED", "IDLE") else trial

    def _begin(self, trial: Any) -> None:
        candidate = self.candidate(trial.hyperparameters.values)
        if candidate.id in self._open:
            self._open[candidate.id][0][trial.trial_id] = trial
            return
        missing = [s for s in self._seeds if self._records.get(candidate.id, s) is None]
        self._queue.extend(Run(candidate, seed) for seed in missing)
        if missing:
            self._open[candidate.id] = ({trial.trial_id: trial}, set(missing))
        elif trial.status == "RUNNING" or not self._is_up_to_date(trial, candidate):
            self._end_trial(trial, self._seeds)

    def _is_up_to_date(self, trial: Any, candidate: Combination) -> bool:
        known = [self._records.get(candidate.id, seed) for seed in self._seeds]
        if any(record is None or not record.completed for record in known):
            return trial.status != "COMPLETED"
        name = self.oracle.objective.name
        history = trial.metrics.get_history(name) if trial.metrics.exists(name) else []
        return bool(history) and len(history[0].value) >= len(known)

    def _end_trial(self, trial: Any, seeds: Sequence[int]) -> None:
        candidate = self.candidate(trial.hyperparameters.values)
        records = [r for seed in seeds if (r := self._records.get(candidate.id, seed)) is not None]
        failures = [record for record in records if not record.completed]
        trial = self.oracle.get_trial(trial.trial_id)
        # keras-tuner appends each value, so start again from empty metrics.
        trial.metrics, trial.score = type(trial.metrics)(), None
        if trial.trial_id in self.oracle.end_order:
            self.oracle.end_order.remove(trial.trial_id)
        if not failures:
            for record in records:
                self.oracle.update_trial(trial.trial_id, self._report(record))
        trial.status = "FAILED" if failures else "COMPLETED"
        trial.message = failures[0].cause if failures else None
        self.oracle.end_trial(trial)
        self.save()

    def update_score(self, candidate: Combination, seeds: Sequence[int]) -> None:
        """Updates the score of a candidate's trials after further seeds."""
        for trial in list(self.oracle.trials.values()):
            if self.candidate(trial.hyperparameters.values).id == candidate.id:
                self._end_trial(trial, seeds)


def open_tuner(oracle: Any, folder: Path, *arguments: Any) -> SearchTuner:
    """Opens the tuner of a folder, or starts anew from the records if its files are damaged."""
    kept = folder / FOLDER
    try:
        # Without this file keras-tuner would start anew among the old trials.
        if not kept.exists() or (kept / "tuner0.json").exists():
            return _opened(oracle, folder, *arguments)
        error: Exception | str = "it was never completed"
    except Exception as reloading:  # keras-tuner raises many types for truncated files
        error = reloading
    aside = kept.rename(free_name(kept))
    warnings.warn(
        "keras-tuner must be able to read its folder, so the search makes a new one from the "
        f"records. Received: {kept}: {error}; the old one is now {aside.name}",
        SearchWarning,
        stacklevel=2,
    )
    return _opened(oracle, folder, *arguments)


def _opened(oracle: Any, folder: Path, *arguments: Any) -> SearchTuner:
    # A copy: reloading a damaged folder may leave the oracle half changed.
    tuner = SearchTuner(copy.deepcopy(oracle), folder, *arguments)
    tuner.oracle.hyperparameters = oracle.get_space()  # not the old space from the file
    return tuner


def discovered_space(hypermodel: Any) -> Any:
    """Returns the hyperparameters of a hypermodel, including conditional ones."""
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    if hp.space:
        return hp
    oracle = keras_tuner.Oracle(keras_tuner.Objective("score", "min"))
    try:
        # The tuner builds the model repeatedly to find hyperparameters that depend on others.
        with tempfile.TemporaryDirectory() as folder:
            base_tuner.BaseTuner(oracle, hypermodel, directory=folder)
    except Exception as error:  # the user's own code
        raise InputError(
            "A search must be able to build the model once, to find its hyperparameters. "
            f"Received: {type(hypermodel).__qualname__}, which raises {cause_of(error)}"
        ) from error
    return oracle.get_space()
