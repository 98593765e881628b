"""keras-tuner's part of a search: an oracle proposes, and its folder is kept for its tools."""

import contextlib
import copy
import io
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from keras_se.errors import InputError, import_extra
from keras_se.outputs import free_name
from tuning.candidate import Candidate, make_candidate
from tuning.durable import fault_point
from tuning.records import Records, SearchWarning, TrialRecord
from tuning.runners import Runner, Task
from tuning.trial import BUDGET, cause_of

keras_tuner: Any = import_extra("keras_tuner", "tuning")
base_tuner: Any = import_extra("keras_tuner.engine.base_tuner", "tuning")

FOLDER = "keras_tuner"
_WAIT = object()


class SearchTuner(base_tuner.BaseTuner):
    """Runs the trials that an oracle proposes, each from several seeds, from records where it can.

    A trial is a candidate, its executions are the seeds, its score is their mean. What keras-tuner
    keeps is derived from the records: a trial that was cut off is completed from them.

    Args:
        oracle: The `keras_tuner.Oracle`, with the space.
        folder: That of the search.
        records: Its records.
        report: What keras-tuner is told of a record: metrics by name, the objective among them.
    """

    def __init__(
        self,
        oracle: Any,
        folder: Path,
        records: Records,
        report: Callable[[TrialRecord], dict[str, float]],
    ) -> None:
        self._records, self._report = records, report
        self._seeds: Sequence[int] = ()
        self._queue: deque[Task] = deque()
        # By candidate: its trials, more than one if it was proposed twice, and seeds not yet run.
        self._open: dict[str, tuple[dict[str, Any], set[int]]] = {}
        oracle.verbose = 0
        with contextlib.redirect_stdout(io.StringIO()):  # "Reloading Tuner from ..."
            super().__init__(oracle, directory=str(folder), project_name=FOLDER)
        self.save()  # what tells a folder of keras-tuner from none, before there is a trial

    @property
    def varying(self) -> list[str]:
        """Names of the hyperparameters with more than one value, the network without SE aside."""
        counts = {}
        for parameter in self.oracle.hyperparameters.space:  # asked often: no copy of it
            values = list(parameter.values)
            is_plain = parameter.name == "se_placement" and "none" in values
            counts[parameter.name] = len(values) - is_plain
        return [name for name, count in counts.items() if count > 1]

    def candidate(self, values: dict[str, Any]) -> Candidate:
        """The candidate of some values.

        Args:
            values: The active hyperparameters by name.

        Returns:
            The candidate, labelled by what varies.
        """
        own = {k: v for k, v in values.items() if k == BUDGET or not k.startswith("tuner/")}
        return make_candidate(own, self.varying)

    def candidates(self) -> list[Candidate]:
        """The candidates of all trials, in the order in which they were proposed.

        Of an oracle that gives some of them fewer epochs, those with the most.
        """
        trials = [self.oracle.trials[key] for key in sorted(self.oracle.trials)]
        found = {c.id: c for c in (self.candidate(t.hyperparameters.values) for t in trials)}
        most = max((c.values.get(BUDGET, 0) for c in found.values()), default=0)
        return [c for c in found.values() if c.values.get(BUDGET, 0) == most]

    def search(self, runner: Runner, seeds: Sequence[int], on_record: Callable[..., Any]) -> None:
        """Completes the trials that are open, then runs those that the oracle proposes.

        Args:
            runner: Runs them.
            seeds: Seeds of every trial.
            on_record: Called with each new record.
        """
        self._seeds = tuple(seeds)
        reopened = deque(self.oracle.trials[key] for key in sorted(self.oracle.trials))

        def next_task() -> Any:
            while not self._queue:
                trial = reopened.popleft() if reopened else self._proposed()
                if trial is None or trial is _WAIT:
                    return trial
                self._begin(trial)
            return self._queue.popleft()

        def done(record: TrialRecord) -> None:
            on_record(record)
            self._executed(record)

        drive(runner, next_task, done)

    def _proposed(self) -> Any:
        running = {tuner_id for tuner_id, _ in self.oracle.ongoing_trials.items()}
        free = next(name for n in range(len(running) + 1) if (name := f"tuner{n}") not in running)
        trial = self.oracle.create_trial(free)
        fault_point("trial.opened")
        if trial.status == "STOPPED":
            return None
        return _WAIT if trial.status == "IDLE" else trial

    def _begin(self, trial: Any) -> None:
        candidate = self.candidate(trial.hyperparameters.values)
        if candidate.id in self._open:
            self._open[candidate.id][0][trial.trial_id] = trial
            return
        missing = [s for s in self._seeds if self._records.get(candidate.id, s) is None]
        self._queue.extend(Task(candidate, seed) for seed in missing)
        if missing:
            self._open[candidate.id] = ({trial.trial_id: trial}, set(missing))
        elif trial.status == "RUNNING" or not self._is_settled(trial, candidate):
            self.settle(trial, self._seeds)

    def _is_settled(self, trial: Any, candidate: Candidate) -> bool:
        """Whether keras-tuner knows of all the seeds already."""
        known = [self._records.get(candidate.id, seed) for seed in self._seeds]
        if any(record is None or not record.completed for record in known):
            return trial.status != "COMPLETED"
        name = self.oracle.objective.name
        history = trial.metrics.get_history(name) if trial.metrics.exists(name) else []
        return bool(history) and len(history[0].value) >= len(known)

    def _executed(self, record: TrialRecord) -> None:
        trials, missing = self._open[record.candidate]
        missing.discard(record.seed)
        if not missing:
            del self._open[record.candidate]
            for trial in trials.values():
                self.settle(trial, self._seeds)

    def settle(self, trial: Any, seeds: Sequence[int]) -> None:
        """Ends a trial with what its records say; one that has ended is ended anew.

        Args:
            trial: The trial.
            seeds: Seeds that have records.
        """
        candidate = self.candidate(trial.hyperparameters.values)
        records = [r for seed in seeds if (r := self._records.get(candidate.id, seed)) is not None]
        failures = [record for record in records if not record.completed]
        trial = self.oracle.get_trial(trial.trial_id)
        trial.metrics, trial.score = type(trial.metrics)(), None
        if trial.trial_id in self.oracle.end_order:
            self.oracle.end_order.remove(trial.trial_id)
        if not failures:
            for record in records:
                self.oracle.update_trial(trial.trial_id, self._report(record))
        fault_point("trial.measured")
        trial.status = "FAILED" if failures else "COMPLETED"
        trial.message = failures[0].cause if failures else None
        self.oracle.end_trial(trial)
        self.save()
        fault_point("trial.ended")

    def resettle(self, candidate: Candidate, seeds: Sequence[int]) -> None:
        """Brings the score of a candidate's trials up to date with further seeds.

        Args:
            candidate: The candidate.
            seeds: All its seeds.
        """
        for trial in list(self.oracle.trials.values()):
            if self.candidate(trial.hyperparameters.values).id == candidate.id:
                self.settle(trial, seeds)


def open_tuner(oracle: Any, folder: Path, *arguments: Any) -> SearchTuner:
    """A tuner that goes on with the folder of keras-tuner, or without it if it is damaged.

    Args:
        oracle: The `keras_tuner.Oracle`, with the space. It is copied.
        folder: That of the search.
        *arguments: Further arguments of `SearchTuner`.

    Returns:
        The tuner. A damaged folder is renamed aside, with a warning, and made anew from the
        records.
    """
    kept = folder / FOLDER
    try:
        if not kept.exists() or (kept / "tuner0.json").exists():
            return _opened(oracle, folder, *arguments)
        error: Exception | str = "it was never completed"
    except Exception as reloading:  # whatever keras-tuner makes of files that are cut off
        error = reloading
    aside = kept.rename(free_name(kept))
    warnings.warn(
        f"The folder of keras-tuner must be one that it can read. Received: {kept}: {error}; it is "
        f"now {aside.name}, and is made anew from the records",
        SearchWarning,
        stacklevel=2,
    )
    return _opened(oracle, folder, *arguments)


def _opened(oracle: Any, folder: Path, *arguments: Any) -> SearchTuner:
    tuner = SearchTuner(copy.deepcopy(oracle), folder, *arguments)
    tuner.oracle.hyperparameters = oracle.get_space()  # a file would bring back the space it had
    return tuner


def discovered_space(hypermodel: Any) -> Any:
    """The hyperparameters of a hypermodel, conditional ones included.

    Args:
        hypermodel: A `keras_tuner.HyperModel`. One that does not declare them is built for it,
            more than once where they depend on each other.

    Returns:
        `keras_tuner.HyperParameters`.
    """
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    if hp.space:
        return hp
    oracle = keras_tuner.Oracle(keras_tuner.Objective("score", "min"))
    try:
        with tempfile.TemporaryDirectory() as folder:
            base_tuner.BaseTuner(oracle, hypermodel, directory=folder)
    except Exception as error:  # the user's own code
        raise InputError(
            "A model with hyperparameters of its own must build, for the search to know them. "
            f"Received: {type(hypermodel).__qualname__}, which raises {cause_of(error)}"
        ) from error
    return oracle.get_space()


def drive(runner: Runner, next_task: Callable[[], Any], done: Callable[[TrialRecord], Any]) -> None:
    """Keeps a runner busy until there is nothing more to do.

    Args:
        runner: Runs the trials.
        next_task: Gives the next `Task`; `None` or anything else where there is none now.
        done: Called with the record of each.
    """
    while True:
        while runner.free > 0:
            task = next_task()
            if not isinstance(task, Task):
                break
            runner.start(task)
        if not runner.busy:
            return
        for record in runner.wait():
            done(record)
