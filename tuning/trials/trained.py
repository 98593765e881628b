"""A trained candidate: its kept weights, or else the same training again."""

import tempfile
from pathlib import Path

import keras

from tuning.seeding import trial_seed
from tuning.trials.best_epoch import BestEpoch
from tuning.trials.combination import Combination
from tuning.trials.job import Job
from tuning.trials.records import run_key
from tuning.trials.training import ensure_built, fit_candidate, weights_path


def trained_model(job: Job, candidate: Combination, seed: int, folder: Path) -> keras.Model:
    """Returns a candidate with the weights of its best epoch from a seed.

    It is trained again if the folder of the search has not kept them.
    """
    kept = weights_path(folder, run_key(candidate.id, seed))
    return _restored(job, candidate, seed, kept) if kept.exists() else _again(job, candidate, seed)


def _again(job: Job, candidate: Combination, seed: int) -> keras.Model:
    with tempfile.TemporaryDirectory() as name, trial_seed(seed):
        watch = BestEpoch(job.metric, job.direction, Path(name, "curve"))
        model = fit_candidate(job, candidate, seed, [watch])[0]
    if watch.weights:  # empty if the user's own `fit` ran no callbacks
        model.set_weights(watch.weights)
    return model


def _restored(job: Job, candidate: Combination, seed: int, kept: Path) -> keras.Model:
    with trial_seed(seed):
        model = job.hypermodel.build(candidate.hyperparameters)
        ensure_built(model, job.data.load(seed)[0] if not model.built else None)
    if model.compiled:
        # The file also holds the optimizer's variables, which exist only once it is built.
        model.optimizer.build(model.trainable_variables)
    model.load_weights(kept)
    return model
