"""The function `search`: trains candidates on shared seeds, chooses one and confirms it."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import keras_tuner
from rich.console import Console

from keras_se.files import replace_file
from keras_se.importable import qualified_name
from keras_se.litert.formats import FormatName
from keras_se.surgery.placements import Where
from tuning.choice.rules import Rule
from tuning.data.trial_data import TrialData
from tuning.folder.opening import Opening
from tuning.objectives import get_objective, metric_direction
from tuning.oracles.table import OracleName, get_oracle
from tuning.result import SearchResult
from tuning.running.backends import open_backend
from tuning.running.budget import Budget, budget_of
from tuning.running.file_judge import check_judging
from tuning.running.progress import SearchProgress
from tuning.running.project import open_tuner, write_checkpoints
from tuning.running.rehearsal import discovered_space, rehearse_on
from tuning.running.runners import Runner
from tuning.running.settings import SearchSettings, list_seeds
from tuning.running.stages import Stages
from tuning.running.threads import threads_here
from tuning.space import SESpace
from tuning.trials.job import Job
from tuning.trials.records import TrialRecord


class _Oracle(Protocol):
    # A `keras_tuner.Oracle`, for type checkers, to which keras-tuner is unknown.
    def populate_space(self, trial_id: str) -> dict[str, Any]: ...


def search(
    model_or_builder: Any,
    train: Any,
    validation: Any = None,
    space: SESpace | None = None,
    objective: Any = "val_loss",
    *,
    epochs: int,
    directory: str | os.PathLike[str],
    seeds: int | Sequence[int] = 3,
    workers: Any = 1,
    oracle: OracleName | _Oracle = "exhaustive",
    compile: Callable[[keras.Model], Any] | Mapping[str, Any] | str | None = None,
    fit: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    test: Any = None,
    fresh_seeds: int = 3,
    max_seeds: int | None = None,
    max_trials: int | None = None,
    where: Where = None,
    max_parameters: int | None = None,
    keep_weights: int = 3,
    deployed: FormatName | None = None,
    threads: int | None = None,
    timeout: float | None = None,
    data_id: str | None = None,
    modules: Sequence[str] = (),
    accept_change: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    on_trial: Callable[[TrialRecord], Any] | None = None,
    on_start: Callable[[Budget], Any] | None = None,
    progress: bool | Console = True,
) -> SearchResult:
    """Trains candidates on shared seeds and chooses one by a rule that accounts for the noise.

    All candidates of a seed share the initial weights of the base network, the order of the data
    and the number of threads, so the rule compares them within each seed. Each candidate and seed
    leaves a record. The same call on the same folder resumes an interrupted search and trains only
    what has no record yet. The folder also serves further seeds, another rule, or more workers.

    Args:
        model_or_builder: A built model without SE blocks, whose weights every candidate starts
            from; a function that returns one, called for each seed; a function of hyperparameters
            that returns a model (with `SESpace.block`); a `keras_tuner.HyperModel`, whose own `fit`
            is used; or the name of one of these, `package.module:name`, or of a `.keras` file.
        train: Arrays `(x, y)` or `(x, y, sample_weight)`, a `tf.data.Dataset`, a `PyDataset`, or a
            function or its name `package.module:name` that returns these; it may take an argument,
            the seed.
        validation: Data in the same forms; never pass the test data. `None`: `train` is a function
            that returns training, validation and optionally test data, or the name of an `.npz`.
        space: The `SESpace` to search. Not needed if the model has its own hyperparameters.
        objective: `Cheapest`, `StructuralRisk`, its name, such as `"cheapest:0.002:val_accuracy"`,
            or a metric, by name or as `keras_tuner.Objective`, for `Cheapest` with a tolerance of
            0.002.
        epochs: Epochs per trial. A trial counts, and keeps the weights of, its best epoch.
        directory: Folder of the search, a new one or that of the same search to resume.
        seeds: Number of seeds, or the seeds themselves, below 1,000,000. With fewer than three, the
            search is a screening: it takes the best mean and makes no comparison.
        workers: 1: trials run in this process, and TensorFlow's memory grows by some MB with each.
            More: trials run in processes of their own, to which functions, live models and arrays
            travel; a live dataset does not. A trial whose process dies gets a second attempt. A
            `dask.distributed.Client` or a `concurrent.futures.Executor`: the same on its workers.
        oracle: What proposes candidates: `"exhaustive"` (up to 200 combinations),
            `"main_effects"`, `"random"`, `"bayesian"`, `"hyperband"`, or a `keras_tuner.Oracle`.
        compile: Function that compiles a model, or `Model.compile` arguments; `None` if compiled.
        fit: Further arguments of `Model.fit`, such as `callbacks`; each trial gets a copy, whose
            files go into a folder of the trial, or where their path says `{trial}`.
        batch_size: Samples per step, if the data are arrays.
        test: Test data in the same forms, on which only the winner is evaluated, at the end.
        fresh_seeds: Number of further seeds, without part in the choice, to train the winner on.
        max_seeds: Largest number of seeds per candidate, with those that `Cheapest` asks for; by
            default that of the rule, 10.
        max_trials: Largest number of candidates that the oracle proposes; by default 20 for
            `"random"` and `"bayesian"`, and no limit for others.
        where: As for `keras_se.candidates`.
        max_parameters: Candidates with more parameters fail without training.
        keep_weights: Number of trials whose weights are kept, in addition to the fresh seeds.
        deployed: A format of `keras_se.to_tflite`, such as `"int8"`: the files of what is tied with
            the best and of the Pareto front are made and judged, and a candidate whose gates do not
            survive is not chosen. Files are judged in a process of their own, alone, when no trial
            runs. Weights that were not kept are trained again, where trials run.
        threads: Threads per process; by default cores / `workers`, or as a resumed search started.
        timeout: Seconds after which a trial fails, after a batch or killed in its own process, and
            so does the judging of a file.
        data_id: Name of the version of the data, if they are a dataset or a function.
        modules: Modules that each process imports first, to register custom layers.
        accept_change: Whether a changed job may use the folder, which notes this, and its records.
        retry_failed: Whether trials that have failed run again; their old records are set aside.
        overwrite: Whether to rename an existing search in the folder (`NAME.1`, ...).
        on_trial: Called with each new `TrialRecord`.
        on_start: Called with the `Budget`, before the first trial.
        progress: Whether to show on standard error the trials that run and that have ended; or the
            `rich.console.Console` to show it on.

    Returns:
        The `SearchResult`, also written to `result.json`.

    Raises:
        InputError: If an argument is invalid, the folder is in use or of another job, a first batch
            shows that model, data and metrics do not go together, or all trials fail.
        MissingExtraError: If keras-tuner is not installed.

    Example: see `examples/03_search.py`.
    """
    rule = get_objective(objective, max_seeds)
    job = Job(
        model=model_or_builder,
        data=TrialData(train, validation, test, data_id),
        space=space,
        metric=rule.metric,
        direction=metric_direction(rule),
        epochs=epochs,
        batch_size=batch_size,
        compile=compile,
        fit=dict(fit or {}),
        where=where,
        max_parameters=max_parameters,
    )
    given = SearchSettings(
        seeds=list_seeds(seeds),
        fresh_seeds=fresh_seeds,
        workers=workers if isinstance(workers, int) else None,
        threads=threads,
        timeout=timeout,
        keep_weights=keep_weights,
        modules=tuple(modules),
        max_seeds=max_seeds,
        max_trials=max_trials,
        deployed=deployed,
    )
    opening = Opening(Path(directory), accept_change, retry_failed, overwrite)
    heard = _Heard(on_trial, on_start, progress)
    return _run(job, rule, given, opening, heard, oracle, workers)


@dataclass(frozen=True)
class _Heard:
    """Who hears of a search while it runs."""

    on_trial: Callable[[TrialRecord], Any] | None
    on_start: Callable[[Budget], Any] | None
    progress: bool | Console

    def start(self, budget: Budget) -> None:
        """Tells the budget."""
        if self.on_start is not None:
            self.on_start(budget)

    def by(self, watch: SearchProgress) -> list[Callable[[TrialRecord], Any]]:
        """Returns who hears of each record."""
        return [watch.add, *([] if self.on_trial is None else [self.on_trial])]


def _run(
    job: Job,
    rule: Rule,
    given: SearchSettings,
    opening: Opening,
    heard: _Heard,
    oracle: Any,
    workers: Any,
) -> SearchResult:
    # Before anything computes: TensorFlow fixes its number of threads at the first operation.
    threads = threads_here(given.workers, given.threads, opening.threads)
    settings = dataclasses.replace(given, threads=threads)
    job.check()
    with ExitStack() as stack:
        watch = SearchProgress(rule.metric, job.direction, job.epochs, heard.progress)
        stack.enter_context(watch)
        watch.do("one batch is tried")
        space = discovered_space(job, settings.seeds[0])
        objective = keras_tuner.Objective(*rule.objective(job.direction))
        proposer = get_oracle(oracle, objective, space, job.epochs, settings.max_trials)
        # All that refuses a job comes before the folder is opened: it must leave none.
        backend = stack.enter_context(open_backend(job, settings, workers))
        if opening.is_new:
            rehearse_on(backend, space, settings.seeds[0])
        check_judging(job, settings)
        # The number of threads changes the results, so it is part of the job.
        fingerprint = {**job.fingerprint(), "threads": threads}
        named = oracle if isinstance(oracle, str) else f"a live {qualified_name(oracle)}"
        run_as = {"objective": rule.name, "oracle": named, **given.description()}
        folder = stack.enter_context(opening.opened(fingerprint, {**run_as, **job.description()}))
        runner = stack.enter_context(Runner(backend, settings, folder, job.direction))
        report = functools.partial(_report, rule, job)
        tuner = open_tuner(proposer, folder.path, folder.records, report)
        budget = budget_of(tuner, settings, rule, folder, backend.capacity)
        heard.start(budget)
        watch.start(budget, runner.progress)
        stages = Stages(job, settings, rule, folder, tuner, runner, heard.by(watch), watch.do)
        result = stages.result()
        watch.do("the result is written")
        write_checkpoints(tuner, folder.path, folder.records)
        replace_file(folder.path / "result.json", result.to_json().encode())
    return result


def _report(rule: Rule, job: Job, record: TrialRecord) -> dict[str, float]:
    """Returns the metrics of a record that keras-tuner stores."""
    score = float(record.score or 0.0)
    value = rule.value(score, record.complexity, job.direction)
    return {**record.metrics, rule.metric: score, rule.objective(job.direction)[0]: value}
