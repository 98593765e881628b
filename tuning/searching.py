"""A search over SE blocks: trained on shared seeds, recorded, chosen by a rule, confirmed anew."""

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import keras

from keras_se.errors import InputError, import_extra
from tuning.durable import write_durably
from tuning.exhaustive_oracle import ExhaustiveOracle
from tuning.hypermodel import SEHyperModel
from tuning.job import Job
from tuning.main_effects import MainEffects
from tuning.objectives import Rule, get_objective, metric_direction, objective_name, objective_value
from tuning.project import Project, open_project, stored_threads
from tuning.records import Records, TrialRecord
from tuning.references import qualified_name
from tuning.result import SearchResult
from tuning.rounds import FINAL, Rounds
from tuning.runners import InlineRunner, ProcessRunner, Runner
from tuning.select import StructuralRisk
from tuning.space import SESpace
from tuning.threads import devices, threads_here
from tuning.trial_data import TrialData
from tuning.tuner import discovered_space, open_tuner

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
    """Trains candidates from shared seeds, and chooses one by a rule that knows their noise.

    All candidates of a seed share the initial weights of the base network, the order of the data
    and the number of threads, so that they are compared within seeds. One record for each
    candidate and seed is the truth: a search that was killed goes on when it is started again, and
    no record is ever made twice. With further seeds, another rule or more workers the same folder
    is used again.

    Args:
        model_or_builder: A built model without SE blocks, whose weights every candidate starts
            from; or a function that returns one, built anew for each seed; or a function of
            hyperparameters that returns a model (`SESpace.block` gives it blocks); or a
            `keras_tuner.HyperModel`, whose `fit` is heeded; or the name of one of these,
            `package.module:name`, or of a `.keras` file.
        train: Training data: arrays `(x, y)` or `(x, y, sample_weight)`, a `tf.data.Dataset`, or a
            function that returns one, called with the seed if it has an argument, also by name.
        validation: Validation data likewise, never the test data. `None`: `train` is a function
            that returns both, and perhaps test data; or the name of an `.npz` file.
        space: What may be chosen; not needed where the model has hyperparameters of its own.
        objective: `Cheapest`, `StructuralRisk`, or the name of one, such as
            `"cheapest:0.002:val_accuracy"`; or the name of a metric, of which `Cheapest` tolerates
            0.002.
        epochs: Epochs per trial. The epoch that counts is the one of the best score; its weights
            are the ones that are kept.
        directory: Folder of the search: new, or that of the same search, which then goes on.
        seeds: Number of seeds, or the seeds, below 1,000,000. Fewer than three are a screening:
            the best mean is taken, and nothing is told apart.
        workers: 1: trials run in this process, which TensorFlow lets grow by some MB with each.
            More: each in a process of its own, which finds model, functions and data by name;
            arrays are handed over in files. A process that leaves no record is given one more try.
        oracle: `"exhaustive"` (up to 200 combinations), `"main_effects"`, or a
            `keras_tuner.Oracle`.
        compile: Function that compiles the model given to it, or arguments of `Model.compile` as
            plain values; not needed for compiled models.
        fit: Further arguments of `Model.fit`, such as `callbacks`, which are copied for each trial.
        batch_size: Samples per step where data are arrays.
        test: Test data, likewise, on which the winner is evaluated at the end.
        fresh_seeds: Number of further seeds that the winner is trained from at the end, which had
            no part in the choice; 0 for none.
        where: As for `keras_se.candidates`.
        max_parameters: Candidates with more fail, untrained.
        keep_weights: Of how many trials the weights are kept, besides those of the fresh seeds.
        threads: Threads of each process; by default the cores over the workers. A search goes on
            with the number that it began with.
        timeout: Seconds that a trial may take; then it has failed. In this process it is looked at
            after each batch; a process of its own is killed.
        data_id: Name of the version of the data, where they are a dataset or a function.
        modules: Modules that each process imports first: they register custom layers.
        accept_change: Whether a changed job may go on in the folder, with all its records. The
            change is noted there.
        overwrite: Whether a search in the folder is renamed aside (`NAME.1`, ...).
        on_trial: Called with each new `TrialRecord`.
        on_start: Called with the number of trials that are planned, `None` where an oracle decides,
            and the number of records that are there.

    Returns:
        The `SearchResult`; it is in `result.json`, too.

    Raises:
        InputError: If an argument breaks its rule, the folder is for another job or in use, or no
            candidate finished.
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
    count = threads_here(workers, threads, began_with)  # before anything computes
    job.data.check_order()
    proposer = _oracle(oracle, job, rule)
    with ExitStack() as stack:
        names = job.named(_folder(stack)) if workers > 1 else None
        project = stack.enter_context(open_project(Path(directory), overwrite))
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
            *(job, rule, first, tuner, runner, records, project.folder),
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
    """Further seeds, which a rule may ask for, not counted."""
    if not isinstance(oracle, ExhaustiveOracle):
        return None
    return len(list(oracle.all_values())) * len(seeds) + fresh_seeds


def _checked_seeds(seeds: int | Sequence[int]) -> tuple[int, ...]:
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
    if oracle.objective.name == "default_objective":
        oracle.objective = objective
    elif oracle.objective != objective:
        raise InputError(
            f"The objective of an oracle must be that of the search, {name!r}, {direction!r}, or "
            f"left out. Received: {oracle.objective.name!r}, {oracle.objective.direction!r}"
        )
    oracle.update_space(space)
    oracle.max_consecutive_failed_trials = None  # a failed trial ends nothing
    return oracle


def _report(rule: Rule, direction: str) -> Callable[[TrialRecord], dict[str, float]]:
    """What keras-tuner is told of a record."""

    def report(record: TrialRecord) -> dict[str, float]:
        score = float(record.score or 0.0)
        metrics = {**record.metrics, rule.metric: score}
        if isinstance(rule, StructuralRisk):
            metrics["J"] = objective_value(rule, direction, score, record.complexity)
        return metrics

    return report


def _folder(stack: ExitStack) -> Path:
    """For arrays that other processes read."""
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
        *(names, *shared),
        workers=workers, threads=threads, devices=devices(), modules=modules,
    )  # fmt: skip
