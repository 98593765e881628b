"""One combination of hyperparameter values, a candidate of a search, with its id and label."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras_tuner

from tuning.space import SWITCH, is_baseline


@dataclass(frozen=True)
class Combination:
    """One combination of hyperparameter values.

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
        hp = keras_tuner.HyperParameters()
        hp.values = dict(self.values)
        return hp


def make_combination(values: Mapping[str, Any], varying: Iterable[str] = ()) -> Combination:
    """Makes the combination of some values; its label shows those in `varying`, or all."""
    # The id names files, so equal values need one id in every process: sorted keys, no `hash`.
    # A ratio may be 2 or 2.0, depending on the other ratios of its space; it is the same ratio.
    plain = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in values.items()
    }
    text = json.dumps(plain, sort_keys=True, allow_nan=False)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Combination(digest[:12], _label(plain, list(varying)), dict(values))


def _label(values: Mapping[str, Any], varying: Sequence[str]) -> str:
    is_plain = is_baseline(values)
    names = [name for name in varying if name in values]
    if not varying or not (names or is_plain):
        names = list(values)
    settings = ["no SE"] if is_plain else []
    for name in names:
        # "se_" is the scope of the whole model. The prefix stays if the user's own hyperparameter
        # has the short name: labels must differ.
        short = name.removeprefix("se_").removeprefix("tuner/")  # the epochs of Hyperband
        if not (is_plain and name.startswith(SWITCH)):
            settings.append(f"{name if short in values else short}={_shown(values[name])}")
    return " ".join(settings)


def _shown(value: Any) -> str:
    # 1e30 reads better than its thirty digits.
    is_long = isinstance(value, int) and abs(value) > 2**53 and float(value) == value
    return repr(float(value)) if is_long else str(value)
