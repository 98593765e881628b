"""How the command line compiles a model: as the model is, by flags, or by default."""

import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from rich.console import Console

from keras_se.data import cross_entropy_of
from keras_se.errors import InputError, import_extra
from keras_se.verification.effect import takes_labels
from tuning.hypermodel import SEHyperModel
from tuning.seeding import trial_seed
from tuning.space import SESpace
from tuning.trials.data import TrialData
from tuning.trials.job import Job
from tuning.trials.training import cause_of
from tuning.user_hypermodel import UserHyperModel

keras_tuner: Any = import_extra("keras_tuner", "tuning")

OF_COMPILE = ("optimizer", "learning_rate", "loss", "metric")
_PROBED = 32


def with_compile(arguments: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Adds `compile` to the arguments of `search` if the model needs it or flags are given."""
    hypermodel = _hypermodel(arguments, "space" in given)
    # `_loss` inspects the outputs of a fresh network: a fixed seed makes its choice repeatable.
    with trial_seed(0):
        model = _built(hypermodel, arguments["model_or_builder"])
        flags = {name: given[name] for name in OF_COMPILE if name in given}
        if model is None and flags:
            raise InputError(
                "A HyperModel compiles its models itself. "
                f"Received: {', '.join(map(flag_name, flags))} for {arguments['model_or_builder']}"
            )
        if model is None or "compile" in arguments or (model.compiled and not flags):
            return arguments
        compile = {
            "optimizer": flags.get("optimizer", "adam"),
            "learning_rate": flags.get("learning_rate", 1e-3),
            "loss": flags["loss"] if "loss" in flags else _loss(model, arguments),
            "metrics": list(flags.get("metric", ("accuracy",))),
            "jit_compile": False,
        }
    Console(highlight=False, markup=False).print(f"Compiled with {json.dumps(compile)}")
    return {**arguments, "compile": compile}


def _hypermodel(arguments: Mapping[str, Any], byflag_name: bool) -> Any:
    """Returns the hypermodel of the job; raises if `--space` is missing or of no use."""
    model, space = arguments["model_or_builder"], arguments.get("space")
    # `Job` alone knows what kind of model it has; the other arguments are placeholders.
    job = Job(model, _data(arguments), space or SESpace(), "", "min", 1)
    places_blocks = isinstance(job.hypermodel, SEHyperModel)
    if places_blocks and space is None:
        raise InputError(
            "A search needs --space, a JSON file with arguments of SESpace, or [space] in its file,"
            f" unless the builder takes hp. Received: {model} without"
        )
    if byflag_name and not places_blocks:
        raise InputError(
            "A builder that takes hp, or a HyperModel, says itself what may be chosen. "
            f"Received: {model} with --space"
        )
    return job.hypermodel


def _built(hypermodel: Any, name: str) -> keras.Model | None:
    """Builds the user's model; returns `None` for a HyperModel, which compiles its own models."""
    try:
        if isinstance(hypermodel, SEHyperModel):
            model = hypermodel.base()
        elif isinstance(hypermodel, UserHyperModel):
            model = hypermodel.builder(keras_tuner.HyperParameters())
        else:
            return None
    except Exception as error:  # the user's own code
        raise InputError(
            f"A builder must return a keras.Model. Received: {name}, which raises {cause_of(error)}"
        ) from error
    if not isinstance(model, keras.Model):
        raise InputError(
            f"A builder must return a keras.Model. Received: {type(model).__name__} from {name}"
        )
    return model


def _data(arguments: Mapping[str, Any]) -> TrialData:
    return TrialData(arguments["train"], arguments.get("validation"), arguments.get("test"))


def _loss(model: keras.Model, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the cross entropy that fits the outputs and labels."""
    # Sparse cross entropy takes class indices, so one-hot labels and several outputs need --loss.
    x, y = _samples(arguments)
    shapes = [output.shape for output in model.outputs]
    if len(shapes) != 1 or not _are_labels(y) or not takes_labels(model, np.ravel(y).astype(int)):
        kind = f"{y.dtype} of shape {y.shape}" if isinstance(y, np.ndarray) else type(y).__name__
        raise InputError(
            "Without --loss a model has one output of classes, and data have integer labels among "
            f"them. Received: outputs of shape {shapes}, labels of type {kind}"
        )
    loss = cross_entropy_of(model, x)
    return {
        "class_name": type(loss).__name__,
        "config": {"from_logits": bool(loss.get_config()["from_logits"])},
    }


def _samples(arguments: Mapping[str, Any]) -> tuple[Any, Any]:
    """Returns a few inputs and all available labels."""
    try:
        train = _data(arguments).load(0)[0]
        if hasattr(train, "element_spec"):
            train = tuple(part.numpy() for part in next(iter(train.take(1)))[:2])
        x, y = train[:2]
    except InputError:
        raise
    except Exception as error:  # the user's own code
        raise InputError(
            "Data of a search are (x, y). "
            f"Received: {arguments['train']}, which gives {cause_of(error)}"
        ) from error
    # The model predicts on the inputs, so a few must do. `takes_labels` checks every label.
    return keras.tree.map_structure(lambda part: part[:_PROBED], x), y


def _are_labels(y: Any) -> bool:
    """Whether the values are non-negative integers, one per sample."""
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "buif" or y.shape[1:] not in ((), (1,)):
        return False
    return bool(np.all(y == np.round(y)) and y.min() >= 0)


def flag_name(name: str) -> str:
    """Returns the command-line flag of an argument: `batch_size` becomes `--batch-size`."""
    return f"--{name.replace('_', '-')}"
