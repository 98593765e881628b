"""One trial: trains a candidate from one seed. Its record holds the result or the error."""

import copy
import dataclasses
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_se import SEBlock
from keras_se.costs import cost
from keras_se.errors import InputError, SiteWarning, reason
from keras_se.files import replacement
from keras_se.graph.models import sublayers
from tuning.data.batches import check_outputs, first_batch, open_shape
from tuning.data.trial_data import fit_arguments
from tuning.oracles.hyperband import EPOCHS
from tuning.seeding import reseed, trial_seed
from tuning.trials.best_epoch import BestEpoch
from tuning.trials.callback_files import move_files
from tuning.trials.combination import Combination
from tuning.trials.disk import is_full_disk
from tuning.trials.job import Job
from tuning.trials.metric_names import plain_logs
from tuning.trials.records import COMPLETED, FAILED, TrialRecord, run_key
from tuning.trials.returned import score_of

_SIZES = ("parameters", "complexity", "flops")  # fields of a record


class OverBudgetError(Exception):
    """Raised for a model with more parameters than the search allows."""


def run_trial(
    job: Job,
    candidate: Combination,
    seed: int,
    folder: Path,
    *,
    fingerprint: str = "",
    tested: bool = False,
    seconds: float | None = None,
) -> TrialRecord:
    """Trains a candidate from a seed and returns its record, not yet written to disk."""
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
            model = _train(job, candidate, seed, watch, found, tested)
            keep_weights(model, weights_path(folder, key))
        found.update(status=COMPLETED)
    except (Exception, SystemExit) as error:
        if is_full_disk(error):  # with room the trial may succeed
            raise
        # Any error, also `exit()` in a callback, fails only this trial: the user's code runs in it.
        found = {name: found[name] for name in _SIZES if name in found}
        found.update(cause=cause_of(error))
    return dataclasses.replace(record, **found, seconds=round(time.monotonic() - started, 3))


def _train(
    job: Job,
    candidate: Combination,
    seed: int,
    watch: BestEpoch,
    found: dict[str, Any],
    tested: bool,
) -> keras.Model:
    def built(model: keras.Model, train: Any) -> None:
        if model.built:
            found.update(_sizes(model, train))
        if job.max_parameters is not None and found.get("parameters", 0) > job.max_parameters:
            raise OverBudgetError(
                f"{found['parameters']:,} parameters, at most {job.max_parameters:,} are allowed"
            )

    model, returned, data = fit_candidate(job, candidate, seed, [watch], built)
    found.update(score=score_of(returned, watch), epoch=watch.epoch, metrics=watch.logs)
    if watch.weights:  # empty if the user's own `fit` ran no callbacks
        model.set_weights(watch.weights)
    train, validation, test = data
    check_outputs(model, validation, strictly=not job.has_own_fit)
    if "parameters" not in found:  # the model was not built before training
        found.update(_sizes(model, train))
    if tested and test is not None:
        logs = model.evaluate(
            **fit_arguments(test), batch_size=job.batch_size, verbose=0, return_dict=True
        )
        found.update(test=plain_logs(logs, job.metric.removeprefix("val_")))
    return model


def fit_candidate(
    job: Job,
    candidate: Combination,
    seed: int,
    callbacks: Sequence[Any] = (),
    built: Callable[[keras.Model, Any], Any] = lambda model, train: None,
) -> tuple[keras.Model, Any, Any]:
    """Builds and fits a candidate; returns the model, the result of `fit` and all data."""
    hp = candidate.hyperparameters
    model = job.hypermodel.build(hp)
    # Building may draw more random numbers for one candidate than for another. Reset the generators
    # so that all of them load the same data and, below, see the same order and Dropout masks.
    reseed()
    train, validation, test = job.data.load(seed)
    ensure_built(model, train)
    built(model, train)
    reseed()
    arguments = training_arguments(job, train, validation)
    # Before all other callbacks: one that averages weights swaps them back after validation.
    first = [c.evaluated for c in callbacks if isinstance(c, BestEpoch)]
    own = _callbacks(arguments.get("callbacks"))
    for callback in own:
        move_files(callback, run_key(candidate.id, seed))
    arguments["callbacks"] = [*first, *own, *callbacks]
    declared = len(hp.space)
    epochs = int(candidate.values.get(EPOCHS, job.epochs))
    returned = job.hypermodel.fit(hp, model, epochs=epochs, **arguments)
    late = [p.name for p in hp.space[declared:] if p.name not in candidate.values]
    if any(map(hp.is_active, late)):
        raise InputError(
            "HyperModel.fit must declare all its hyperparameters in a first training, of one step; "
            "those that depend on others need hp.conditional_scope. "
            f"Received: {', '.join(late)}, which the search does not vary"
        )
    return model, returned, (train, validation, test)


def training_arguments(job: Job, train: Any, validation: Any) -> dict[str, Any]:
    """Returns the arguments of `Model.fit` for some data; callbacks are not copied yet."""
    arguments = {**fit_arguments(train), **job.fit_arguments(), "validation_data": validation}
    if job.batch_size is not None:
        arguments["batch_size"] = job.batch_size
    if hasattr(train, "element_spec"):
        arguments.setdefault("shuffle", False)  # Keras warns: a dataset shuffles itself
    return arguments


def ensure_built(model: keras.Model, data: Any) -> None:
    """Builds a model without an input shape on a first batch of its data."""
    if not model.built and (batch := first_batch(data)) is not None:
        model(keras.tree.map_structure(lambda part: part[:1], batch[0]), training=False)


def _callbacks(given: Any) -> list[Any]:
    # Callbacks have state, so each trial needs its own.
    callbacks = given() if callable(given) else copy.deepcopy(given)
    return list(callbacks) if isinstance(callbacks, list | tuple) else [callbacks] * bool(callbacks)


def _sizes(model: keras.Model, train: Any) -> dict[str, Any]:
    blocks = [layer for layer in sublayers(model) if isinstance(layer, SEBlock)]
    complexity = 0.0
    for block in blocks:
        channels = int(block.w1.shape[0])
        # C²/r is C times the width, which may also be set outright.
        scaled = channels**2 / block.ratio if block.width is None else channels * block.width
        complexity += scaled
    sizes = (model.count_params(), complexity, _flops(model, train))
    return dict(zip(_SIZES, sizes, strict=True))


def _flops(model: keras.Model, train: Any) -> int | None:
    """Counts the operations for one sample; `None` if some layers cannot be counted."""
    batch = first_batch(train) if None in _sample_shape(model) else None
    shape = None if batch is None else open_shape(model, batch[0])
    with warnings.catch_warnings():
        # The trials of a search would say it again and again.
        warnings.simplefilter("ignore", SiteWarning)
        try:
            report = cost(model, shape)
        except InputError:  # no graph of layers, or one of open sizes
            return None
    return None if report.uncounted else report.flops


def _sample_shape(model: keras.Model) -> tuple[int | None, ...]:
    return tuple(n for tensor in getattr(model, "inputs", None) or [] for n in tensor.shape[1:])


def keep_weights(model: keras.Model, path: Path) -> None:
    """Writes the weights of a model completely or not at all."""
    with replacement(path, suffix=".weights.h5") as temporary:  # Keras asks for this suffix
        model.save_weights(temporary)


def weights_path(folder: Path, key: str) -> Path:
    """Returns the path of a trial's weights."""
    return folder / "weights" / f"{key}.weights.h5"


def cause_of(error: BaseException) -> str:
    """Returns the type of an error and the sentence that explains it."""
    kind, why = type(error).__name__, reason(error)
    return kind if why == kind else f"{kind}: {why}"
