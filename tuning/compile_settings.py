"""How a model is compiled that a command line names: as it is, as flags say, or by default."""

import json
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from rich.console import Console

from keras_se.effects import takes_labels
from keras_se.errors import InputError, import_extra
from keras_se.losses import cross_entropy_of
from tuning.hypermodel import SEHyperModel
from tuning.job import Job
from tuning.seeding import trial_seed
from tuning.space import SESpace
from tuning.trial import cause_of
from tuning.trial_data import TrialData
from tuning.user_hypermodel import UserHyperModel

keras_tuner: Any = import_extra("keras_tuner", "tuning")

OF_COMPILE = ("optimizer", "learning_rate", "loss", "metric")
_PROBED = 32


def with_compile(arguments: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with settings of compilation, where the model has none or flags give some.

    Args:
        arguments: Keyword arguments of `search`.
        given: Flags of the command line, those of `OF_COMPILE` among them.

    Returns:
        The arguments, with `compile` where it is needed: Adam and the cross entropy that fits.

    Raises:
        InputError: If the model cannot be built, no cross entropy fits, or flags are of no use.
    """
    hypermodel = _hypermodel(arguments, "space" in given)
    with trial_seed(0):  # what a fresh network says of its outputs is then always the same
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
    """What builds the candidates; a space is needed, or of no use: then a flag is refused."""
    model, space = arguments["model_or_builder"], arguments.get("space")
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
    """A model as the user's builder returns it; `None` of a HyperModel, which compiles itself."""
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
    """The cross entropy that fits outputs and labels."""
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
    """A few inputs, and all labels that are at hand."""
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
    return keras.tree.map_structure(lambda part: part[:_PROBED], x), y


def _are_labels(y: Any) -> bool:
    """Whether they are whole numbers, one for each sample."""
    if not isinstance(y, np.ndarray) or y.dtype.kind not in "buif" or y.shape[1:] not in ((), (1,)):
        return False
    return bool(np.all(y == np.round(y)) and y.min() >= 0)


def flag_name(name: str) -> str:
    """An argument as the command line spells it.

    Args:
        name: The argument.

    Returns:
        The flag.

    Example:
        >>> flag_name("batch_size")
        '--batch-size'
    """
    return f"--{name.replace('_', '-')}"
