"""The job of a search: all that a trial depends on, except how candidates are chosen."""

import functools
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import keras

from keras_se.errors import InputError, import_extra
from keras_se.files import load_model
from tuning.compiling import compile_like
from tuning.hypermodel import SEHyperModel
from tuning.space import SESpace
from tuning.trials.data import TrialData
from tuning.trials.fingerprint import described, graph_hash, hash_of_arrays
from tuning.trials.references import is_reference, qualified_name, reference_to, resolve
from tuning.user_hypermodel import UserHyperModel

keras_tuner: Any = import_extra("keras_tuner", "tuning")

_TAKEN = ("x", "y", "sample_weight", "validation_data", "epochs", "batch_size")
_PACKAGES = ("keras", "tensorflow", "keras-tuner")


@dataclass(frozen=True)
class Job:
    """Model, data and training arguments that all trials of a search share.

    Attributes:
        model: A built model without SE blocks; a function that returns one; a function of
            hyperparameters that returns a model; a `keras_tuner.HyperModel`; the reference
            `package.module:name` of one of these; or the name of a `.keras` file.
        data: The `TrialData`.
        space: The `SESpace`; `None` if the model declares its own hyperparameters.
        metric: Name of the log that is the score of a trial.
        direction: `"min"` or `"max"`: whether low or high scores are good.
        epochs: Epochs per trial.
        batch_size: As for `Model.fit`.
        compile: Function that compiles a model, or arguments of `Model.compile` as plain values;
            `None` if the model is already compiled.
        fit: Further arguments of `Model.fit`. Each trial gets a copy of the `callbacks`, or new
            ones from a function without arguments.
        where: As for `keras_se.candidates`.
        max_parameters: Models with more parameters fail without training.
    """

    model: Any
    data: TrialData
    space: SESpace | None
    metric: str
    direction: str
    epochs: int
    batch_size: int | None = None
    compile: Any = None
    fit: Mapping[str, Any] = field(default_factory=dict)
    where: Any = None
    max_parameters: int | None = None

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1. Received: epochs={self.epochs!r}")
        taken = sorted(set(self.fit) & set(_TAKEN))
        if taken:
            raise InputError(
                f"fit holds further arguments of Model.fit, without {', '.join(_TAKEN)}. "
                f"Received: {taken}"
            )

    @functools.cached_property
    def hypermodel(self) -> Any:
        """The `keras_tuner.HyperModel` that builds the candidates."""
        model = self._found("model", self.model)
        if inspect.isclass(model) and issubclass(model, keras_tuner.HyperModel):
            model = model()
        if isinstance(model, keras_tuner.HyperModel):
            return model
        # A model is callable with one required argument, too, just like build(hp).
        if not isinstance(model, keras.Model) and _takes_hp(model):
            return UserHyperModel(model, self._compile_of_builder())
        if self.space is None:
            raise InputError(
                "A search needs a space, an SESpace, unless the model is a function of "
                "hyperparameters or a HyperModel. Received: space=None"
            )
        return SEHyperModel(
            model, self.space, self._found("compile", self.compile), where=self.where
        )

    def _compile_of_builder(self) -> Any:
        compile = self._found("compile", self.compile)
        if isinstance(compile, Mapping):
            # `UserHyperModel` accepts only a function.
            return lambda model: compile_like(model, model, compile)
        return compile

    def fit_arguments(self) -> dict[str, Any]:
        """Returns further arguments of `Model.fit` for a trial; callbacks are not copied yet."""
        arguments = {name: self._found(name, value) for name, value in self.fit.items()}
        # JSON and TOML turn the integer labels that Keras expects into strings.
        if isinstance(arguments.get("class_weight"), Mapping):
            weights = arguments["class_weight"]
            arguments["class_weight"] = {int(label): weight for label, weight in weights.items()}
        return {"verbose": 0, **arguments}

    def fingerprint(self) -> dict[str, Any]:
        """Returns plain values, by section, that tell this job from others."""
        training = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "metric": self.metric,
            "direction": self.direction,
            "compile": described(self.compile),
            "fit": {name: described(value) for name, value in self.fit.items()},
            "where": described(self.where),
            "max_parameters": self.max_parameters,
        }
        content = {
            "model": self._described_model(),
            "data": self.data.describe(),
            "space": None if self.space is None else self.space.to_dict(),
            "training": training,
            "versions": {name: _version(name) for name in _PACKAGES},
        }
        # The stored fingerprint comes from JSON, so both sides must have lists for tuples.
        return json.loads(json.dumps(content, default=str))

    def _described_model(self) -> dict[str, Any]:
        model = self._found("model", self.model)
        name = reference_to(self.model) or qualified_name(model)
        if isinstance(self.model, str) and not is_reference(self.model):
            # Without its folder: a model file that has moved still gives the same job.
            name = Path(self.model).name
        content: dict[str, Any] = {"name": name}
        if not isinstance(model, keras.Model):
            content["content"] = described(model)
        if isinstance(self.hypermodel, SEHyperModel):
            base = self.hypermodel.base()
            content["graph"] = graph_hash(base)
            # A builder draws new weights on each call; only a given model has fixed ones.
            if isinstance(model, keras.Model):
                content["weights"] = hash_of_arrays(model.get_weights())
        return content

    def description(self) -> dict[str, Any]:
        """Returns the content of `job.toml`, with objects by name where they have one."""
        parts = {name: _in_words(part) for name, part in self.data.parts.items()}
        if parts["validation"] is None:
            parts = {"data": parts["train"], "test": parts["test"]}
        return {
            "model": _in_words(self.model),
            **parts,
            "data_id": self.data.data_id,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "max_parameters": self.max_parameters,
            "where": _in_words(self.where),
            "space": None if self.space is None else self.space.to_dict(),
            "compile": _in_words(self.compile),
            "fit": {name: _in_words(value) for name, value in self.fit.items()},
        }

    def named(self, folder: Path) -> dict[str, Any]:
        """Returns plain values for `from_names`; `folder` takes the arrays of the data."""
        content = {
            "model": _name("model", self.model),
            "data": self.data.named(folder),
            "space": None if self.space is None else self.space.to_dict(),
            "compile": _name("compile", self.compile),
            "fit": {name: _name(f"fit[{name!r}]", value) for name, value in self.fit.items()},
            "where": _name("where", self.where),
        }
        plain = ("metric", "direction", "epochs", "batch_size", "max_parameters")
        return {**content, **{name: getattr(self, name) for name in plain}}

    @classmethod
    def from_names(cls, names: Mapping[str, Any]) -> "Job":
        """Rebuilds the job that `named` described, without importing anything yet."""
        space = None if names["space"] is None else SESpace.from_dict(names["space"])
        return cls(**{**names, "space": space, "data": TrialData.from_names(names["data"])})

    def _found(self, what: str, value: Any) -> Any:
        if is_reference(value):
            return resolve(what, value)
        if what == "model" and isinstance(value, str):
            return self._loaded
        return value

    @functools.cached_property
    def _loaded(self) -> keras.Model:
        return load_model(self.model)


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


def _checked(what: str, value: Any, plain: Any) -> Any:
    """Returns the plain value; raises if JSON changed more than tuples and class labels."""
    # JSON makes strings of the labels, and `fit_arguments` restores them.
    if what == "fit['class_weight']":
        return plain
    if not _has_text_keys(value):
        raise InputError(
            "What another process is told must be plain values, with texts as keys. "
            f"Received: {what}={value!r}"
        )
    return plain


def _has_text_keys(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _has_text_keys(v) for k, v in value.items())
    return all(map(_has_text_keys, value)) if isinstance(value, list | tuple) else True


def _in_words(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {str(name): _in_words(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_in_words(v) for v in value]
    # `job_file` refuses a file with this prefix, since nothing can restore the object.
    return reference_to(value) or f"a live {qualified_name(value)}"


def _name(what: str, value: Any) -> Any:
    """Returns a value that JSON can hold, or the reference by which a process finds it."""
    if what == "model" and isinstance(value, str) and not is_reference(value):
        return str(Path(value).resolve())
    try:
        # NaN and infinity are not JSON.
        plain = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError):
        reference = reference_to(value)
    else:
        return _checked(what, value, plain)
    if reference is None:
        kind = "package.module:name" + (" or a .keras file" if what == "model" else "")
        raise InputError(
            "With workers each trial has a process of its own, which finds what it needs by name, "
            f"{kind}. Received: {what}, {qualified_name(value)} of a script, a notebook or another "
            "function"
        )
    return reference
