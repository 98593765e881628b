"""A candidate of a search: hyperparameter values with an id and a label."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from keras_se.errors import import_extra

_SWITCH = "se_placement"


@dataclass(frozen=True)
class Candidate:
    """One setting of the hyperparameters.

    Attributes:
        id: Twelve hexadecimal digits that depend on the values alone.
        label: The values that vary in the search, as text.
        values: The active hyperparameters by name.
    """

    id: str
    label: str
    values: Mapping[str, Any]

    @property
    def hyperparameters(self) -> Any:
        """New `keras_tuner.HyperParameters` with these values."""
        hp = import_extra("keras_tuner", "tuning").HyperParameters()
        hp.values = dict(self.values)
        return hp


def make_candidate(values: Mapping[str, Any], varying: Iterable[str] = ()) -> Candidate:
    """Makes the candidate of some values; its label shows those in `varying`, or all."""
    # The id names files, so equal values need one id in every process: sorted keys, no `hash`.
    plain = {name: _plain(value) for name, value in values.items()}
    text = json.dumps(plain, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Candidate(digest[:12], _label(plain, list(varying)), dict(values))


def _plain(value: Any) -> Any:
    # A ratio may be 2 or 2.0, depending on the other ratios of its space; it is the same ratio.
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
    # "se_" is the scope of the whole model. The prefix stays if the user's own hyperparameter
    # has the short name: labels must differ.
    short = name.removeprefix("se_")
    return name if short in values else short
