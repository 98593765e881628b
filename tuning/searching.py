"""An exhaustive search with keras-tuner in which all candidates share their noise."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_se.data import finite_float32
from keras_se.errors import InputError
from tuning.hypermodel import SEHyperModel
from tuning.result import SearchResult, TrialRecord
from tuning.space import SESpace
from tuning.tuner import GridTuner


def search(
    model_or_builder: keras.Model | Callable[[], keras.Model],
    train: Any,
    validation: Any,
    space: SESpace,
    objective: Any = "val_loss",
    *,
    epochs: int,
    compile: Callable[[keras.Model], Any],
    directory: str | os.PathLike[str],
    batch_size: int | None = None,
    seed: int = 0,
    on_trial: Callable[[TrialRecord], Any] | None = None,
) -> SearchResult:
    """Trains every combination of a space once and returns the best.

    All candidates start from the same seed: they share the base network's initial weights and the
    order of the data. It is a screening with one seed; candidates that lie close to each other
    cannot be told apart by it.

    Args:
        model_or_builder: A built model without SE blocks, or a function that returns one.
        train: Training data, `(x, y)` arrays or a `tf.data.Dataset`.
        validation: Validation data, likewise; never the test data.
        space: What may be chosen.
        objective: Name of a logged metric that Keras knows the direction of (losses are minimized,
            accuracies maximized), or a `keras_tuner.Objective`.
        epochs: Epochs per candidate. Its metrics are those after the last one.
        compile: Function that compiles the model given to it.
        directory: New folder, in which keras-tuner keeps its records.
        batch_size: Samples per step where `train` is arrays.
        seed: Seed of every candidate; 0 is a seed like any other.
        on_trial: Called with each `TrialRecord` as it comes.

    Returns:
        The `SearchResult`.

    Raises:
        InputError: If the folder exists, arrays do not fit or are not finite, or no candidate could
            be trained (the folder is then removed).
        MissingExtraError: If keras-tuner is not installed.

    Example: see `examples/03_search.py`.
    """
    if Path(directory).exists():
        raise InputError(
            f"A search needs a new folder for its records. Received: directory={str(directory)!r}, "
            "which exists"
        )
    if epochs < 1:
        raise InputError(f"epochs must be at least 1. Received: epochs={epochs!r}")
    _check_pair("train", train)
    _check_pair("validation", validation)
    hypermodel = SEHyperModel(model_or_builder, space, compile)
    tuner = GridTuner(hypermodel, objective, seed=seed, directory=directory, on_trial=on_trial)
    fit = {"epochs": epochs, "batch_size": batch_size, "validation_data": validation}
    tuner.search(train, fit, verbose=0)
    if all(record.status == "failed" for record in tuner.records):
        shutil.rmtree(directory)  # nothing in it but failures: the next try needs the name
        raise InputError(
            "At least one candidate of a search must finish. "
            f"Received: {len(tuner.records)} failures, the first: {tuner.records[0].cause}"
        )
    best = tuner.oracle.get_best_trials(1)[0].hyperparameters
    return SearchResult(
        objective=tuner.oracle.objective.name,
        seed=seed,
        epochs=epochs,
        trials=tuple(tuner.records),
        settings=space.settings(best),
        plan=hypermodel.plan(best),
    )


def _check_pair(name: str, data: Any) -> None:
    """Arrays `(x, y)` are checked before a search is paid for; datasets are Keras's affair."""
    if not isinstance(data, tuple) or not all(isinstance(part, np.ndarray) for part in data):
        return
    lengths = {len(part) for part in data}
    if len(data) < 2 or len(lengths) > 1 or 0 in lengths:
        raise InputError(
            f"{name} must be a dataset, or arrays (x, y) of one length, above 0. "
            f"Received: lengths {[len(part) for part in data]}"
        )
    finite_float32(f"x of {name}", data[0])
