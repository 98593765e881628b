"""The metrics of each epoch of a trial, as its file in the folder of a search has them."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_se.untrusted import parse_json, read_file

_MAX_CURVE = 2**24  # bytes of the file of a curve


def read_curve(path: Path) -> list[dict[str, float]]:
    """Returns the metrics of the epochs, NaN where none was finite; empty if it is no curve."""
    try:
        return [_numbers(parse_json(line)) for line in read_file(path, _MAX_CURVE).splitlines()]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _numbers(line: Any) -> dict[str, float]:
    if not isinstance(line, Mapping):
        raise ValueError("it is no object")
    numbers = {name: math.nan if v is None else float(v) for name, v in line.items()}
    return {"epoch": numbers["epoch"], "score": numbers["score"], **numbers}
