"""The function `search`: trains candidates on shared seeds, chooses one and confirms it."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import keras

from keras_se.errors import InputError, import_extra
from tuning.choice.rules import StructuralRisk
from tuning.hypermodel import SEHyperModel
from tuning.objectives import Rule, get_objective, metric_direction, objective_name, objective_value
from tuning.result import SearchResult
from tuning.running.exhaustive import ExhaustiveOracle
from tuning.running.folder import Project, open_project, stored_threads
from tuning.running.main_effects import MainEffects
from tuning.running.runners import InlineRunner, ProcessRunner, Runner
from tuning.running.stages import FINAL, Rounds
from tuning.running.threads import devices, threads_here
from tuning.running.tuner import discovered_space, open_tuner
from tuning.space import SESpace
from tuning.trials.data import TrialData
from tuning.trials.durable import write_durably
from tuning.trials.job import Job
from tuning.trials.records import Records, TrialRecord
from tuning.trials.references import qualified_name

keras_tuner: Any = import_extra("keras_tuner", "tuning")

ORACLES = ("exhaustive", "main_effects")


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
    workers: int = 1,
    oracle: Any = "exhaustive",
    compile: Callable[[keras.Model], Any] | Mapping[str, Any] | str | None = None,
    fit: Mapping[str, Any] | None = None,
    batch_size: int | None = None,
    test: Any = None,
    fresh_seeds: int = 3,
    where: Any = None,
    max_parameters: int | None = None,
    keep_weights: int = 3,
    threads: int | None = None,
    timeout: float | None = None,
    data_id: str | None = None,
    modules: Sequence[str] = (),
    accept_change: bool = False,
    overwrite: bool = False,
    on_trial: Callable[[TrialRecord], Any] | None = None,
    on_start: Callable[[int | None, int], Any] | None = None,
) -> SearchResult:
    """Trains candidates on shared seeds and chooses one by a rule that accounts for the noise.

    All candidates of a seed share the initial weights of the base network, the order of the data
    and the number of threads, so the rule compares them within each seed. The search writes one
    record per candidate and seed. Call it again with the same folder to resume a search that was
    interrupted: it trains only what has no record yet. The same folder also serves further seeds,
    another rule, or more workers.

    Args:
        model_or_builder: A built model without SE blocks, whose weights every candidate starts
            from; or a function that returns one, called anew for each seed; or a function of
            hyperparameters that returns a model (`SESpace.block` adds blocks to it); or a
            `keras_tuner.HyperModel`, whose own `fit` is used; or the name of one of these,
            `package.module:name`, or of a `.keras` file.
        train: Training data: arrays `(x, y)` or `(x, y, sample_weight)`, a `tf.data.Dataset`, or a
            function that returns one of these, itself or as `package.module:name`. The function
            gets the seed if it takes an argument.
        validation: Validation data in the same forms; never pass the test data. `None`: `train`
            is a function that returns training, validation and optionally test data, or the name
            of an `.npz` file.
        space: The `SESpace` to search. Not needed if the model has its own hyperparameters.
        objective: `Cheapest`, `StructuralRisk`, or the name of one, such as
            `"cheapest:0.002:val_accuracy"`; or the name of a metric, for `Cheapest` with a
            tolerance of 0.002.
        epochs: Epochs per trial. A trial counts, and keeps the weights of, its best epoch.
        directory: Folder of the search, a new one or that of the same search to resume.
        seeds: Number of seeds, or the seeds themselves, below 1,000,000. With fewer than three, the
            search is a screening: it takes the best mean and makes no comparison.
        workers: 1: trials run in this process, where TensorFlow's memory grows by some MB with each
            trial. More: each trial runs in its own process, which imports the model, functions and
            data by name; arrays go through files. A process that leaves no record gets a second
            attempt.
        oracle: `"exhaustive"` (up to 200 combinations), `"main_effects"`, or a
            `keras_tuner.Oracle`.
        compile: Function that compiles the model it is given, or plain arguments of
            `Model.compile`. Not needed for compiled models.
        fit: Further arguments of `Model.fit`, such as `callbacks`; each trial gets a copy.
        batch_size: Samples per step, if the data are arrays.
        test: Test data in the same forms. The search evaluates only the winner on them, at the
            end.
        fresh_seeds: Number of further seeds to train the winner on at the end. They play no part in
            the choice. 0 for none.
        where: As for `keras_se.candidates`.
        max_parameters: Candidates with more parameters fail without training.
        keep_weights: Number of trials whose weights are kept, in addition to the fresh seeds.
        threads: Threads per process; by default the number of cores divided by `workers`. A search
            resumes with the number it started with.
        timeout: Seconds after which a trial fails. In this process the check happens after each
            batch; a trial in its own process is killed.
        data_id: Name of the version of the data, if they are a dataset or a function.
        modules: Modules that each process imports first, to register custom layers.
        accept_change: Whether a changed job may resume in the folder and use all its records. The
            folder keeps a note of the change.
        overwrite: Whether to rename an existing search in the folder (`NAME.1`, ...).
        on_trial: Called with each new `TrialRecord`.
        on_start: Called with the number of planned trials (`None` if an oracle decides) and the
            number of existing records.

    Returns:
        The `SearchResult`, also written to `result.json`.

    Raises:
        InputError: If an argument is invalid, the folder belongs to another job or is in use, or
            no candidate finished.
        MissingExtraError: If keras-tuner is not installed.

    Example: see `examples/03_search.py`.
    """
    rule = get_objective(objective)
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
    first = _checked_seeds(seeds)
    for name, number, least in (
        ("workers", workers, 1),
        ("fresh_seeds", fresh_seeds, 0),
        ("keep_weights", keep_weights, 0),
        ("batch_size", batch_size or 1, 1),
        ("timeout", 1 if timeout is None else timeout, 0),
    ):
        if not number >= least:
            raise InputError(f"{name} must be at least {least}. Received: {name}={number!r}")
    began_with = None if overwrite else stored_threads(Path(directory))
    # Before anything computes: TensorFlow fixes its number of threads at the first operation.
    count = threads_here(workers, threads, began_with)
    job.data.check_order()
    proposer = _oracle(oracle, job, rule)
    with ExitStack() as stack:
        # Before `open_project`: a job that worker processes cannot import must leave no folder.
        names = job.named(_folder(stack)) if workers > 1 else None
        project = stack.enter_context(open_project(Path(directory), overwrite))
        # The number of threads changes the results, so it is part of the job.
        fingerprint = project.claim({**job.fingerprint(), "threads": count}, accept_change)
        run_as = {
            "objective": objective_name(rule),
            "oracle": oracle if isinstance(oracle, str) else f"a live {qualified_name(oracle)}",
            "seeds": list(first),
            "fresh_seeds": fresh_seeds,
            "workers": workers,
            "threads": threads,
            "timeout": timeout,
            "keep_weights": keep_weights,
            "modules": list(modules) or None,
        }
        project.write_job({**run_as, **job.description()})
        records = Records(project.folder / "records")
        if on_start is not None:
            on_start(_planned(proposer, first, fresh_seeds), sum(1 for _ in records))
        runner = stack.enter_context(
            _runner(job, names, project, records, fingerprint, timeout, workers, count, modules)
        )
        tuner = open_tuner(proposer, project.folder, records, _report(rule, job.direction))
        rounds = Rounds(
            job,
            rule,
            first,
            tuner,
            runner,
            records,
            project.folder,
            keep_weights=keep_weights,
            fingerprint=fingerprint,
            on_record=on_trial,
        )
        return _searched(rounds, job, rule, first, records, project, fresh_seeds)


def _searched(
    rounds: Rounds,
    job: Job,
    rule: Rule,
    seeds: tuple[int, ...],
    records: Records,
    project: Project,
    fresh_seeds: int,
) -> SearchResult:
    rounds.explore()
    chosen, decision, sentence = rounds.decide()
    places_blocks = isinstance(job.hypermodel, SEHyperModel)
    # Records of other candidates, such as the short runs of Hyperband, come last.
    order = {candidate.id: number for number, candidate in enumerate(rounds.candidates)}
    result = SearchResult(
        objective=objective_name(rule),
        metric=job.metric,
        direction=job.direction,
        epochs=job.epochs,
        seeds=seeds,
        chosen=chosen.label,
        values=chosen.values,
        plan=job.hypermodel.plan(chosen.hyperparameters) if places_blocks else None,
        placement=job.hypermodel.placement(chosen.hyperparameters) if places_blocks else None,
        decision=decision,
        sentence=sentence,
        confirmation=rounds.confirm(chosen, fresh_seeds),
        ratio_fit=rounds.ratio_fit(chosen),
        records=tuple(
            sorted(records, key=lambda r: (order.get(r.candidate, len(order)), r.label, r.seed))
        ),
        job=job,
        folder=project.folder,
    )
    write_durably(project.folder / "result.json", result.to_json().encode(), "result")
    return result


def _planned(oracle: Any, seeds: tuple[int, ...], fresh_seeds: int) -> int | None:
    """Returns the number of planned trials, or `None` if an oracle decides it."""
    # Further seeds that the rule may ask for are unknown here and not counted.
    if not isinstance(oracle, ExhaustiveOracle):
        return None
    return len(list(oracle.all_values())) * len(seeds) + fresh_seeds


def _checked_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
    # Seeds from FINAL on are reserved for finalists and for confirming the winner.
    given = tuple(range(seeds)) if isinstance(seeds, int) else tuple(seeds)
    valid = all(isinstance(seed, int) and 0 <= seed < FINAL for seed in given)
    if not given or not valid or len(set(given)) < len(given):
        raise InputError(
            "seeds must be a number of at least 1, or different integers from 0 to "
            f"{FINAL - 1:,}. Received: seeds={seeds!r}"
        )
    return given


def _oracle(oracle: Any, job: Job, rule: Rule) -> Any:
    if isinstance(job.hypermodel, SEHyperModel):
        job.hypermodel.check()
    space = discovered_space(job.hypermodel)
    # J is a loss even if its metric is maximized.
    is_risk = isinstance(rule, StructuralRisk)
    name, direction = ("J", "min") if is_risk else (job.metric, job.direction)
    objective = keras_tuner.Objective(name, direction)
    if oracle in ORACLES:
        kind = ExhaustiveOracle if oracle == "exhaustive" else MainEffects
        return kind(objective, space)
    if not isinstance(oracle, keras_tuner.Oracle):
        raise InputError(
            f"oracle must be one of {list(ORACLES)} or a keras_tuner.Oracle. "
            f"Received: oracle={oracle!r}"
        )
    # keras-tuner's name for the objective of an oracle that was constructed without one.
    if oracle.objective.name == "default_objective":
        oracle.objective = objective
    elif oracle.objective != objective:
        raise InputError(
            f"The objective of an oracle must be that of the search, {name!r}, {direction!r}, or "
            f"left out. Received: {oracle.objective.name!r}, {oracle.objective.direction!r}"
        )
    oracle.update_space(space)
    # By default keras-tuner aborts the search after three failed trials in a row.
    oracle.max_consecutive_failed_trials = None
    return oracle


def _report(rule: Rule, direction: str) -> Callable[[TrialRecord], dict[str, float]]:
    """Returns a function that maps a record to the metrics that keras-tuner stores."""

    def report(record: TrialRecord) -> dict[str, float]:
        score = float(record.score or 0.0)
        metrics = {**record.metrics, rule.metric: score}
        if isinstance(rule, StructuralRisk):
            metrics["J"] = objective_value(rule, direction, score, record.complexity)
        return metrics

    return report


def _folder(stack: ExitStack) -> Path:
    """Creates a temporary folder for the arrays that worker processes read."""
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="keras-se-")))


def _runner(
    job: Job,
    names: dict[str, Any] | None,
    project: Project,
    records: Records,
    fingerprint: str,
    timeout: float | None,
    workers: int,
    threads: int,
    modules: Sequence[str],
) -> AbstractContextManager[Runner]:
    shared = (project.folder, records, fingerprint, timeout)
    if names is None:
        return InlineRunner(job, *shared)
    return ProcessRunner(
        names,
        *shared,
        workers=workers,
        threads=threads,
        devices=devices(),
        modules=modules,
    )
