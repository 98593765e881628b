"""Before the first trial: the hyperparameters, and whether model, data and metrics fit."""

import inspect
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import keras_tuner
from keras_tuner.engine import base_tuner

from keras_se.errors import InputError
from tuning.data.batches import first_batch
from tuning.running.backends import Backend, not_loaded, unpickled
from tuning.seeding import reseed, trial_seed
from tuning.slots.slot import Ended
from tuning.trials.job import Job
from tuning.trials.metric_names import plain_logs, unknown_metric
from tuning.trials.training import cause_of, ensure_built, training_arguments


def discovered_space(job: Job, seed: int) -> Any:
    """Returns the hyperparameters of a job, those of conditional scopes and of `fit` included."""
    hp = keras_tuner.HyperParameters()
    job.hypermodel.declare_hyperparameters(hp)
    if hp.space and not job.has_own_fit:
        return hp
    oracle = keras_tuner.Oracle(keras_tuner.Objective("score", "min"))
    try:
        # The tuner builds the model repeatedly to find hyperparameters that depend on others.
        with tempfile.TemporaryDirectory() as folder:
            base_tuner.BaseTuner(oracle, _Declaring(job, seed), directory=folder)
    except Exception as error:  # the user's own code
        raise InputError(
            "A search must be able to build the model once, to find its hyperparameters. "
            f"Received: {type(job.hypermodel).__qualname__}, which raises {cause_of(error)}"
        ) from error
    return oracle.get_space()


class _Declaring(keras_tuner.HyperModel):
    """Builds a model, and calls a `fit` of the user's, which may declare hyperparameters, too."""

    def __init__(self, job: Job, seed: int) -> None:
        super().__init__()
        self._job, self._seed = job, seed

    def declare_hyperparameters(self, hp: Any) -> None:
        self._job.hypermodel.declare_hyperparameters(hp)

    def build(self, hp: Any) -> Any:
        with trial_seed(self._seed):
            model = self._job.hypermodel.build(hp)
            if self._job.has_own_fit:
                self._fit(hp, model)
        return model

    def _fit(self, hp: Any, model: keras.Model) -> None:
        train, validation, _ = self._job.data.load(self._seed)
        arguments = training_arguments(self._job, train, validation)
        _train_one_step(model)
        # What it raises may come from the single step; if not, each trial says it.
        with suppress(Exception, SystemExit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._job.hypermodel.fit(hp, model, **{**arguments, "epochs": 1, "callbacks": []})


def _train_one_step(model: keras.Model) -> None:
    """Makes `model.fit` train one step and no more, whatever it is given."""
    fit, names = model.fit, list(inspect.signature(model.fit).parameters)
    once = {"epochs": 1, "initial_epoch": 0, "steps_per_epoch": 1, "validation_steps": 1}

    def fit_once(*arguments: Any, **further: Any) -> Any:
        given = {**dict(zip(names, arguments, strict=False)), **further}
        return fit(**{**given, **once, "callbacks": [], "verbose": 0})

    model.fit = fit_once
    model.run_eagerly = True  # tracing would take longer than the step


def rehearse(job: Job, space: Any, seed: int) -> None:
    """Passes a first batch through an untrained candidate, with loss and metrics.

    Raises:
        InputError: If that fails for two candidates as different as can be, or if the metric of the
            job is not among the logs.
    """
    if job.has_own_fit:  # it may make other data of these
        return
    error: Exception | None = None
    for hp in _extremes(space):
        try:
            logged = _logs_of_a_pass(job, hp, seed)
            break
        except Exception as failure:
            error = error or failure
    else:
        raise InputError(
            "A search needs a model, data, loss and metrics that go together; one batch is tried "
            f"before the first trial. Received: {cause_of(error) if error else 'no candidate'}"
        ) from error
    if job.metric not in logged and not _may_log(job):
        raise unknown_metric(job.metric, logged)


@dataclass(frozen=True)
class Rehearsal:
    """A rehearsal as a call that can travel, for the processes where trials run.

    Attributes:
        space: The hyperparameters.
        seed: The seed.
    """

    space: Any
    seed: int

    def perform(self, job: Job, scratch: Path | None = None) -> str:
        """Returns why the job is refused; empty if it is not."""
        try:
            rehearse(job, self.space, self.seed)
        except InputError as error:
            return str(error)
        return ""


class Start:
    """A call that does nothing, after which a process is started and has loaded the job."""

    def perform(self, job: Job, scratch: Path | None = None) -> None:
        """Does nothing."""


def rehearse_on(backend: Backend, space: Any, seed: int) -> None:
    """Rehearses where trials run, so that what kills a process does not kill the search.

    Meanwhile the other processes start.

    Raises:
        InputError: As `rehearse`, or if the job cannot be loaded there.
    """
    rehearsal = backend.submit(Rehearsal(space, seed))
    for _ in range(backend.capacity - 1):
        backend.submit(Start())
    found = unpickled(backend.result(rehearsal))
    if isinstance(found, Ended):
        if found.kind == "setup":
            raise not_loaded(found)
        return  # each trial says what it is
    if found:
        raise InputError(found)


def _extremes(space: Any) -> Iterator[Any]:
    """Yields hyperparameters with all default values, and with the last value of each."""
    yield space.copy()
    hp = keras_tuner.HyperParameters()
    hp.values = {p.name: list(p.values)[-1] for p in space.space if hasattr(p, "values")}
    yield hp


def _logs_of_a_pass(job: Job, hp: Any, seed: int) -> set[str]:
    with trial_seed(seed):
        model = job.hypermodel.build(hp)
        reseed()
        train, validation, _ = job.data.load(seed)
        ensure_built(model, train)
    model.run_eagerly = True  # tracing would take longer than the pass
    parts = [validation]
    # A `train_step` of the user's own may take other data than the loss.
    steps = [getattr(kind, "train_step", None) for kind in (type(model), keras.Model)]
    if steps[0] is steps[1]:
        parts.append(train)
    logs: dict[str, Any] = {}
    for batch in map(first_batch, parts):
        if batch is not None:
            logs.update(model.test_on_batch(*batch, return_dict=True))
    names = plain_logs(
        {**logs, **{f"val_{name}": value for name, value in logs.items()}}, job.metric
    )
    return set(names)


def _may_log(job: Job) -> bool:
    """Whether a callback of the user's own may add to the logs."""
    given = job.fit_arguments().get("callbacks") or []
    listed = given if isinstance(given, list | tuple) else [given]
    return any(
        not type(callback).__module__.startswith("keras.")
        or isinstance(callback, keras.callbacks.LambdaCallback)
        for callback in listed
    )
