"""The keras-tuner side of a search: oracles propose trials, and its tools can read the folder."""

import contextlib
import io
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from keras_tuner.engine import base_tuner

from tuning.oracles.exhaustive import ExhaustiveOracle
from tuning.oracles.hyperband import EPOCHS
from tuning.running.runners import Runner, execute
from tuning.space import BASELINE, SWITCH
from tuning.trials.combination import Combination, make_combination
from tuning.trials.perform import Run
from tuning.trials.records import Records, TrialRecord

FOLDER = "keras_tuner"


class SearchTuner(base_tuner.BaseTuner):
    """Runs each trial that an oracle proposes on several seeds, and reuses existing records."""

    def __init__(
        self,
        oracle: Any,
        folder: Path,
        records: Records[TrialRecord],
        report: Callable[[TrialRecord], dict[str, float]],
    ) -> None:
        self._records, self._report = records, report
        self._seeds: Sequence[int] = ()
        self._queue: deque[Run] = deque()
        # Trials and missing seeds by candidate. An oracle may propose a candidate twice.
        self._open: dict[str, tuple[dict[str, Any], set[int]]] = {}
        self._trials_of: dict[str, dict[str, Any]] = {}  # all of them, by candidate
        oracle.verbose = 0
        with contextlib.redirect_stdout(io.StringIO()):  # "Reloading Tuner from ..."
            super().__init__(oracle, directory=str(folder), project_name=FOLDER)
        self.save()  # without this file a folder counts as damaged

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
        return make_combination(own, [*self._varying, EPOCHS])

    def candidates(self) -> list[Combination]:
        """Returns the candidates with the most epochs, in the order of the space or the trials."""
        if isinstance(self.oracle, ExhaustiveOracle):
            # Not the trials: a folder may hold some that are beyond the space now.
            return list(map(self.candidate, self.oracle.all_values()))
        values = [trial.hyperparameters.values for trial in self._trials()]
        found = {c.id: c for c in map(self.candidate, values)}
        most = max((c.values.get(EPOCHS, 0) for c in found.values()), default=0)
        return [c for c in found.values() if c.values.get(EPOCHS, 0) == most]

    def search(self, runner: Runner, seeds: Sequence[int], on_record: Callable[..., Any]) -> None:
        """Completes the open trials, then runs those that the oracle proposes."""
        self._seeds = tuple(seeds)
        reopened = deque(self._reopened())

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
        self.save()

    def rehearse(self) -> None:
        """Does all that a search does with the oracle: raises if its trials do not let it."""
        for trial in self._reopened():
            self._is_up_to_date(trial, self.candidate(trial.hyperparameters.values))
        if (trial := self._propose()) is not None:
            self.oracle.update_trial(trial.trial_id, {self.oracle.objective.name: 0.0})
            trial.status = "COMPLETED"
            self.oracle.end_trial(trial)

    def _reopened(self) -> list[Any]:
        """Returns the trials there; those that an earlier run left open count as running again."""
        # What keras-tuner would propose again, in addition.
        for _ in tuple(self.oracle.get_state()["retry_queue"]):  # it shortens the queue
            self.oracle.create_trial(self._free_id())
        trials, running = self._trials(), self.oracle.ongoing_trials
        for trial in trials:
            if trial.status == "RUNNING" and trial not in running.values():
                running[self._free_id()] = trial
        return trials

    def _trials(self) -> list[Any]:
        # keras-tuner pads the numbers as wide as `max_trials`, which may change.
        return [self.oracle.trials[key] for key in sorted(self.oracle.trials, key=_padded)]

    def _free_id(self) -> str:
        # An oracle gives a tuner id the trial that it already runs, so each trial needs its own id.
        running = self.oracle.ongoing_trials
        return next(name for n in itertools.count() if (name := f"tuner{n}") not in running)

    def _propose(self) -> Any:
        trial = self.oracle.create_trial(self._free_id())
        return None if trial.status in ("STOPPED", "IDLE") else trial

    def _begin(self, trial: Any) -> None:
        candidate = self.candidate(trial.hyperparameters.values)
        self._trials_of.setdefault(candidate.id, {})[trial.trial_id] = trial
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
        records = [self._records.get(candidate.id, seed) for seed in self._seeds]
        known = [record for record in records if record is not None and record.completed]
        if len(known) < len(self._seeds):
            return bool(trial.status == "FAILED")
        name = self.oracle.objective.name
        history = trial.metrics.get_history(name) if trial.metrics.exists(name) else []
        # More than those of the first seeds, if the rule asked for further ones.
        values = history[0].value if history else []
        expected = [self._report(record)[name] for record in known]
        if trial.status != "COMPLETED" or values[: len(expected)] != expected:
            return False
        return bool(trial.score == np.mean(values))

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
        # The oracle's file grows with the number of trials, so it is written at each proposal
        # only: a trial that it calls open has ended if all its seeds have records.
        self.oracle.save = lambda: None
        self.oracle.end_trial(trial)
        del self.oracle.save

    def update_score(self, candidate: Combination, seeds: Sequence[int]) -> None:
        """Updates the score of a candidate's trials after further seeds."""
        for trial in self._trials_of[candidate.id].values():
            self._end_trial(trial, seeds)


def _padded(trial_id: str) -> str:
    return trial_id.zfill(9)
