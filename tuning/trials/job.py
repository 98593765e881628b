"""The job of a search: all that a trial depends on, except how candidates are chosen."""

import dataclasses
import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import keras
import keras_tuner

from keras_se.errors import InputError
from keras_se.files import load_model
from keras_se.importable import import_object, is_reference, qualified_name, reference_to
from tuning.choice.scores import Direction
from tuning.data.fingerprint import describe, graph_hash, hash_of_arrays
from tuning.data.trial_data import TrialData
from tuning.hypermodel import SEHyperModel, UserHyperModel
from tuning.space import SESpace

MAX_JOB = 2**24  # bytes of a job in a file
_TAKEN = ("x", "y", "sample_weight", "validation_data", "epochs", "batch_size")


@dataclass(frozen=True)
class Job:
    """Model, data and training arguments that all trials of a search share.

    Attributes:
        model: The `model_or_builder` of `tuning.search`.
        data: The `TrialData`.
        space: The `SESpace`; `None` if the model declares its own hyperparameters.
        metric: Name of the log that is the score of a trial.
        direction: `"min"` or `"max"`.
        epochs: Epochs per trial.
        batch_size: As for `Model.fit`.
        compile: Function that compiles a model, or `Model.compile` arguments; `None` if compiled.
        fit: Further arguments of `Model.fit`, with `callbacks` to copy, or a function for new ones.
        where: As for `keras_se.candidates`.
        max_parameters: Models with more parameters fail without training.
    """

    model: Any
    data: TrialData
    space: SESpace | None
    metric: str
    direction: Direction
    epochs: int
    batch_size: int | None = None
    compile: Any = None
    fit: Mapping[str, Any] = field(default_factory=dict)
    where: Any = None
    max_parameters: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "max_parameters"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise InputError(f"{name} must be at least 1. Received: {name}={number!r}")
        taken = sorted(set(self.fit) & set(_TAKEN))
        if taken:
            raise InputError(
                f"fit must hold further arguments of Model.fit, without {', '.join(_TAKEN)}. "
                f"Received: {taken}"
            )

    @functools.cached_property
    def hypermodel(self) -> Any:
        """The `keras_tuner.HyperModel` that builds the candidates."""
        model = self._model
        if inspect.isclass(model) and issubclass(model, keras_tuner.HyperModel):
            model = model()
        if isinstance(model, keras_tuner.HyperModel):
            return model
        # A model is callable with one required argument, too, just like build(hp).
        if not isinstance(model, keras.Model) and _takes_hp(model):
            return UserHyperModel(model, _found("compile", self.compile))
        if self.space is None:
            raise InputError(
                "A search needs a space, an SESpace, unless the model is a function of "
                "hyperparameters or a HyperModel. Received: space=None"
            )
        compile = _found("compile", self.compile)
        return SEHyperModel(model, self.space, compile, where=self.where)

    def check(self) -> None:
        """Raises for data and models that no search can use."""
        self.data.check_order()
        if isinstance(self.hypermodel, SEHyperModel):
            self.hypermodel.check()

    @property
    def has_own_fit(self) -> bool:
        """Whether the user's `HyperModel` trains in its own way."""
        return type(self.hypermodel).fit is not keras_tuner.HyperModel.fit

    def fit_arguments(self) -> dict[str, Any]:
        """Returns further arguments of `Model.fit` for a trial; callbacks are not copied yet."""
        arguments = {name: _found(name, value) for name, value in self.fit.items()}
        # JSON and TOML turn the integer labels that Keras expects into strings.
        if isinstance(arguments.get("class_weight"), Mapping):
            weights = arguments["class_weight"]
            arguments["class_weight"] = {int(label): weight for label, weight in weights.items()}
        return {"verbose": 0, **arguments}

    def fingerprint(self) -> dict[str, Any]:
        """Returns plain values, by section, that tell this job from others."""
        plain = ("epochs", "batch_size", "metric", "direction", "max_parameters")
        training = {
            **{name: getattr(self, name) for name in plain},
            "compile": describe(self.compile),
            "fit": {name: describe(value) for name, value in self.fit.items()},
            "where": describe(self.where),
        }
        content = {
            "model": self._describe_model(),
            "data": self.data.describe(),
            "space": None if self.space is None else self.space.to_dict(),
            "training": training,
            "versions": {name: _version(name) for name in ("keras", "tensorflow", "keras-tuner")},
        }
        # The stored fingerprint comes from JSON, so both sides must have lists for tuples.
        return json.loads(json.dumps(content, default=str))

    def _describe_model(self) -> dict[str, Any]:
        model = self._model
        content: dict[str, Any] = {"name": reference_to(self.model) or qualified_name(model)}
        if isinstance(self.model, str) and not is_reference(self.model):
            # Without its folder: a model file that has moved still gives the same job.
            content["name"] = Path(self.model).name
        if not isinstance(model, keras.Model):
            content["content"] = describe(model)
        if isinstance(self.hypermodel, SEHyperModel):
            content["graph"] = graph_hash(self.hypermodel.base())
            # A builder draws new weights on each call; only a given model has fixed ones.
            if isinstance(model, keras.Model):
                content["weights"] = hash_of_arrays(model.get_weights())
        return content

    def description(self) -> dict[str, Any]:
        """Returns the content of `job.toml`, with objects by name where they have one."""
        parts = {name: _plain_or_name(part) for name, part in self.data.parts.items()}
        if parts["validation"] is None:
            parts = {"data": parts["train"], "test": parts["test"]}
        return {
            "model": _plain_or_name(self.model),
            **parts,
            "data_id": self.data.data_id,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "max_parameters": self.max_parameters,
            "where": _plain_or_name(self.where),
            "space": None if self.space is None else self.space.to_dict(),
            "compile": _plain_or_name(self.compile),
            "fit": _plain_or_name(self.fit),
        }

    def portable(self) -> "Job":
        """Returns the job with objects for the names of files, modules and functions."""
        return dataclasses.replace(
            self,
            model=self._model,
            data=self.data.portable(),
            compile=_found("compile", self.compile),
            fit={name: _found(name, value) for name, value in self.fit.items()},
        )

    def __getstate__(self) -> dict[str, Any]:
        # Without what is cached: another process makes it anew.
        return {part.name: getattr(self, part.name) for part in dataclasses.fields(self)}

    @functools.cached_property
    def _model(self) -> Any:
        is_file = isinstance(self.model, str) and not is_reference(self.model)
        return load_model(self.model) if is_file else _found("model", self.model)


def _found(what: str, value: Any) -> Any:
    return import_object(what, value) if is_reference(value) else value


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # TensorFlow, with another backend of Keras
        return None


def _takes_hp(builder: Any) -> bool:
    if not callable(builder):
        raise InputError(
            "A search needs a keras.Model, a function that returns one, a HyperModel, or the name "
            f"of one of these or of a .keras file. Received: {type(builder).__qualname__}"
        )
    parameters = inspect.signature(builder).parameters.values()
    # A function with optional arguments only still builds a base model.
    return any(p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD for p in parameters)


def _plain_or_name(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain_or_name(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_plain_or_name(v) for v in value]
    # `job_file` refuses a file with this prefix, since nothing can restore the object.
    return reference_to(value) or f"a live {qualified_name(value)}"
