"""A candidate of a search: hyperparameter values with an identity and a name."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_se.errors import import_extra

_SWITCH = "se_placement"


@dataclass(frozen=True)
class Candidate:
    """What a search trains: one setting of the hyperparameters.

    Attributes:
        id: Twelve hexadecimal digits that depend on the values alone, of which 2 and 2.0 are one.
        label: The values in words, those that vary in the search.
        values: The active hyperparameters by name.
    """

    id: str
    label: str
    values: Mapping[str, Any]

    @property
    def hyperparameters(self) -> Any:
        """New `keras_tuner.HyperParameters` with these values, what a hypermodel builds from."""
        hp = import_extra("keras_tuner", "tuning").HyperParameters()
        hp.values = dict(self.values)
        return hp


def make_candidate(values: Mapping[str, Any], varying: Iterable[str] = ()) -> Candidate:
    """The candidate of some hyperparameter values.

    Args:
        values: The active hyperparameters by name.
        varying: Names of the hyperparameters that the label mentions; all by default.

    Returns:
        The `Candidate`. Its label leaves out the scope of a hyperparameter that is one for the
        whole model, `se_`, and calls the network without SE so.

    Example:
        >>> candidate = make_candidate({"se_placement": "pre", "se_ratio": 4}, ["se_ratio"])
        >>> candidate.label, len(candidate.id)
        ('ratio=4', 12)
        >>> make_candidate({"se_placement": "none"}).label
        'no SE'
    """
    plain = {name: _plain(value) for name, value in values.items()}
    text = json.dumps(plain, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Candidate(digest[:12], _label(plain, list(varying)), dict(values))


def _plain(value: Any) -> Any:
    """2.0 is 2: whether a ratio is written as a float depends on the other ratios of a space."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _label(values: Mapping[str, Any], varying: Sequence[str]) -> str:
    names = [name for name in varying if name in values] if varying else list(values)
    if values.get(_SWITCH) == "none":
        others = [name for name in names if name != _SWITCH]
        return " ".join(["no SE", *_settings(others, values)])
    return " ".join(_settings(names or list(values), values))


def _settings(names: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    return [f"{_short(name, values)}={values[name]}" for name in names]


def _short(name: str, values: Mapping[str, Any]) -> str:
    """Without the scope of the whole model, unless another one has that name."""
    short = name.removeprefix("se_")
    return name if short in values else short
