"""How the command line compiles a model: as the model is, by flags, or by default."""

import json
from collections.abc import Mapping
from typing import Any

import keras
import keras_tuner
import numpy as np
from rich.console import Console

from keras_se.data import cross_entropy_of
from keras_se.errors import InputError
from keras_se.verification.outcome import takes_labels
from tuning.data.trial_data import TrialData
from tuning.hypermodel import SEHyperModel, UserHyperModel
from tuning.seeding import trial_seed
from tuning.space import SESpace
from tuning.trials.job import Job
from tuning.trials.training import cause_of

OF_COMPILE = ("optimizer", "learning_rate", "loss", "metric")


def with_compile(arguments: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Adds `compile` to the arguments of `search` if the model needs it or flags are given."""
    # `Job` alone knows what kind of model it has; the other arguments are placeholders.
    data = TrialData(arguments["train"], arguments.get("validation"), arguments.get("test"))
    space = arguments.get("space")
    job = Job(arguments["model_or_builder"], data, space or SESpace(), "", "min", 1)
    _check_space(job, space, "space" in given)
    # `_loss` inspects the outputs of a fresh network: a fixed seed makes its choice repeatable.
    with trial_seed(0):
        model = _build_model(job)
        flags = {name: given[name] for name in OF_COMPILE if name in given}
        if model is None and flags:
            raise InputError(
                "A HyperModel compiles its models itself. "
                f"Received: {', '.join(map(flag_name, flags))} for {job.model}"
            )
        if model is None or "compile" in arguments or (model.compiled and not flags):
            return arguments
        compile = {
            "optimizer": flags.get("optimizer", "adam"),
            "learning_rate": flags.get("learning_rate", 1e-3),
            "loss": flags["loss"] if "loss" in flags else _loss(model, data),
            "metrics": list(flags.get("metric", ("accuracy",))),
            "jit_compile": False,
        }
    Console(highlight=False, markup=False).print(f"Compiled with {json.dumps(compile)}")
    return {**arguments, "compile": compile}


def _check_space(job: Job, space: SESpace | None, is_flag: bool) -> None:
    places_blocks = isinstance(job.hypermodel, SEHyperModel)
    if places_blocks and space is None:
        raise InputError(
            "A search needs --space FILE.json or [space] in its job file,"
            f" unless the builder takes hp. Received: {job.model} without"
        )
    if is_flag and not places_blocks:
        raise InputError(
            "A builder that takes hp, or a HyperModel, defines its own space. "
            f"Received: {job.model} with --space"
        )


def _build_model(job: Job) -> keras.Model | None:
    """Builds the user's model; returns `None` for a HyperModel, which compiles its own models."""
    rule = "A builder must return a keras.Model"
    try:
        if isinstance(job.hypermodel, SEHyperModel):
            model = job.hypermodel.base()
        elif isinstance(job.hypermodel, UserHyperModel):
            model = job.hypermodel.builder(keras_tuner.HyperParameters())
        else:
            return None
    except Exception as error:  # the user's own code
        raise InputError(
            f"{rule}. Received: {job.model}, which raises {cause_of(error)}"
        ) from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{rule}. Received: {type(model).__name__} from {job.model}")
    return model


def _loss(model: keras.Model, data: TrialData) -> dict[str, Any]:
    # Sparse cross entropy takes class indices, so one-hot labels and several outputs need --loss.
    x, y = _samples(data)
    shapes = [output.shape for output in model.outputs]
    if (
        len(shapes) != 1
        or not _are_labels(y)
        or not takes_labels(shapes[0], np.ravel(y).astype(int))
    ):
        kind = f"{y.dtype} of shape {y.shape}" if isinstance(y, np.ndarray) else type(y).__name__
        raise InputError(
            "Without --loss the model needs one output of classes, and the data integer labels of "
            f"these classes. Received: outputs of shape {shapes}, labels of type {kind}"
        )
    loss = cross_entropy_of(model, x)
    return {
        "class_name": type(loss).__name__,
        "config": {"from_logits": bool(loss.get_config()["from_logits"])},
    }


def _samples(data: TrialData) -> tuple[Any, Any]:
    """Returns the inputs and labels to train on, of a dataset those of the first batch."""
    try:
        train = data.load(0)[0]
        if hasattr(train, "element_spec"):
            train = tuple(part.numpy() for part in next(iter(train.take(1)))[:2])
        x, y = train[:2]
    except InputError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(
            "The data of a search must be (x, y). "
            f"Received: {data.parts['train']}, which gives {cause_of(error)}"
        ) from error
    return x, y


def _are_labels(y: Any) -> bool:
    """Returns whether the values are non-negative integers, one per sample."""
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "buif" or y.shape[1:] not in ((), (1,)):
        return False
    return bool(np.all(y == np.round(y)) and y.min() >= 0)


def flag_name(name: str) -> str:
    """Returns the command-line flag of an argument: `batch_size` becomes `--batch-size`."""
    return f"--{name.replace('_', '-')}"
