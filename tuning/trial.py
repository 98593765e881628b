"""One trial: a candidate trained from one seed. Everything that happens in it is in its record."""

import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_se import SEBlock
from tuning.best_epoch import BestEpoch
from tuning.candidate import Candidate
from tuning.durable import fault_point, settle
from tuning.job import Job
from tuning.records import COMPLETED, FAILED, TrialRecord, run_key
from tuning.seeding import reseed, trial_seed
from tuning.trial_data import fit_arguments

BUDGET = "tuner/epochs"  # what Hyperband calls the epochs of a trial, beside its own bookkeeping


class OverBudgetError(Exception):
    """A model has more parameters than the search allows."""


def run_trial(
    job: Job,
    candidate: Candidate,
    seed: int,
    folder: Path,
    *,
    fingerprint: str = "",
    tested: bool = False,
    seconds: float | None = None,
) -> TrialRecord:
    """Trains a candidate from a seed; whatever goes wrong is in the record that it returns.

    Args:
        job: What is trained.
        candidate: Its hyperparameters.
        seed: Seed of initial weights, order of the data and everything else that is random.
        folder: That of the search, with `curves` and `weights` in it.
        fingerprint: Hash of the job, for the record.
        tested: Whether the weights that count are evaluated on the test data.
        seconds: Time that the trial may take.

    Returns:
        The record, which is not written yet. The weights of the epoch that counts are in `weights`.
    """
    started, key = time.monotonic(), run_key(candidate.id, seed)
    record = TrialRecord(
        candidate=candidate.id,
        label=candidate.label,
        values=dict(candidate.values),
        seed=seed,
        status=FAILED,
        curve=f"curves/{key}.jsonl",
        fingerprint=fingerprint,
    )
    watch = BestEpoch(job.metric, job.direction, folder / record.curve, seconds)
    found: dict[str, Any] = {}
    try:
        with trial_seed(seed):
            found.update(_train(job, candidate, seed, watch, found, tested))
            _keep_weights(found.pop("model"), folder, key)
        found.update(status=COMPLETED)
    except (Exception, SystemExit) as error:  # the user's model, data, callbacks, and Keras's
        found = {name: found[name] for name in ("parameters", "complexity") if name in found}
        found.update(cause=cause_of(error))
    seconds_taken = round(time.monotonic() - started, 3)
    return dataclasses.replace(record, **found, seconds=seconds_taken)


def _train(
    job: Job, candidate: Candidate, seed: int, watch: BestEpoch, found: dict[str, Any], tested: bool
) -> dict[str, Any]:
    """Puts the size of the model into `found` at once, and returns what is known at the end."""

    def built(model: keras.Model) -> None:
        if model.built:
            found.update(_sizes(model))
        if job.max_parameters is not None and found.get("parameters", 0) > job.max_parameters:
            raise OverBudgetError(
                f"{found['parameters']:,} parameters, at most {job.max_parameters:,} are allowed"
            )

    model, returned, test = fit_candidate(job, candidate, seed, [watch], built)
    score = _score(returned, watch)
    if watch.weights:
        model.set_weights(watch.weights)
    found.update(_sizes(model))
    evaluated = _evaluated(model, test, job.batch_size) if tested and test is not None else {}
    return {
        "score": score, "epoch": watch.epoch, "metrics": watch.logs, "test": evaluated,
        "model": model,
    }  # fmt: skip


def fit_candidate(
    job: Job,
    candidate: Candidate,
    seed: int,
    callbacks: Sequence[Any] = (),
    built: Callable[[keras.Model], Any] = lambda model: None,
) -> tuple[keras.Model, Any, Any]:
    """Builds and fits a candidate, within `trial_seed`.

    Args:
        job: What is trained.
        candidate: Its hyperparameters.
        seed: The seed, for data that are a function of it.
        callbacks: Callbacks beside those of the job.
        built: Called with the model before it is trained.

    Returns:
        The model after the last epoch, what its `fit` returned, and the test data or `None`.
    """
    hp = candidate.hyperparameters
    model = job.hypermodel.build(hp)
    reseed()
    train, validation, test = job.data.load(seed)
    ensure_built(model, train)
    built(model)
    reseed()
    arguments = {**fit_arguments(train), **job.fit_arguments(), "validation_data": validation}
    first = [c.evaluated for c in callbacks if isinstance(c, BestEpoch)]
    arguments["callbacks"] = [*first, *_callbacks(arguments.get("callbacks")), *callbacks]
    if job.batch_size is not None:
        arguments["batch_size"] = job.batch_size
    if hasattr(train, "element_spec"):
        arguments.setdefault("shuffle", False)  # a dataset shuffles itself; Keras would warn
    epochs = int(candidate.values.get(BUDGET, job.epochs))
    return model, job.hypermodel.fit(hp, model, epochs=epochs, **arguments), test


def ensure_built(model: keras.Model, data: Any) -> None:
    """Builds a model that knows no shape yet, on the first example of its data.

    Args:
        model: The model.
        data: Training data; where they cannot be looked at, the model stays as it is.
    """
    if model.built:
        return
    if hasattr(data, "element_spec"):
        data = next(iter(data))
    if isinstance(data, tuple):
        model(keras.tree.map_structure(lambda part: part[:1], data[0]), training=False)


def _score(returned: Any, watch: BestEpoch) -> float:
    """Of the epochs, or what a `HyperModel.fit` of the user's own returned in their place."""
    if not watch.names and isinstance(returned, int | float):
        returned = {watch.metric: float(returned)}
    if not watch.names and isinstance(returned, Mapping):
        watch.logs = {name: float(value) for name, value in returned.items()}
        score = watch.logs.get(watch.metric, math.nan)
        watch.names, watch.score = set(watch.logs), score if math.isfinite(score) else None
    return watch.outcome()


def _callbacks(given: Any) -> list[Any]:
    """Callbacks of this trial alone: they have a state."""
    callbacks = given() if callable(given) else copy.deepcopy(given)
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] * bool(callbacks)


def _evaluated(model: keras.Model, data: Any, batch_size: int | None) -> dict[str, float]:
    logs = model.evaluate(**fit_arguments(data), batch_size=batch_size, verbose=0, return_dict=True)
    return {name: float(value) for name, value in logs.items()}


def _sizes(model: keras.Model) -> dict[str, Any]:
    return {"parameters": model.count_params(), "complexity": complexity(model)}


def complexity(model: keras.Model) -> float:
    """ΣC²/r over the SE blocks of a model; where a block has a width of its own, C times that.

    Args:
        model: A built model.

    Returns:
        The sum, half the number of weights in SE matrices where C / r is whole.

    Example:
        >>> complexity(keras.Sequential([keras.Input((4, 4, 8)), SEBlock(2)]))
        32.0
    """
    blocks = {id(block): block for block in _blocks(model)}.values()
    return float(sum(_complexity(block) for block in blocks))


def _complexity(block: SEBlock) -> float:
    channels = int(block.w1.shape[0])
    return channels * block.width if block.width is not None else channels**2 / block.ratio


def _blocks(layer: Any) -> Iterator[SEBlock]:
    for part in getattr(layer, "layers", ()):
        if isinstance(part, SEBlock):
            yield part
        yield from _blocks(part)


def _keep_weights(model: keras.Model, folder: Path, key: str) -> None:
    """Half-written weights never have the name of whole ones."""
    path = weights_path(folder, key)
    temporary = path.with_name(f".{key}.{os.getpid()}.tmp.weights.h5")
    fault_point("weights.before")
    model.save_weights(temporary)
    settle(temporary, path, "weights")


def weights_path(folder: Path, key: str) -> Path:
    """Where the weights of a trial are kept.

    Args:
        folder: That of the search.
        key: Of the trial.

    Returns:
        The path.
    """
    return folder / "weights" / f"{key}.weights.h5"


def cause_of(error: BaseException) -> str:
    """The line of an error that says what went wrong; below it TensorFlow names graph nodes.

    Args:
        error: The error.

    Returns:
        Its type and that line.

    Example:
        >>> cause_of(ValueError("no"))
        'ValueError: no'
    """
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line for line in lines if line and "{{node" not in line and "Detected at" not in line]
    return ": ".join([type(error).__name__, *said[-1:]]) if said else type(error).__name__
