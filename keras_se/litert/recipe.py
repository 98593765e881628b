"""What went into a TFLite file, on record beside it."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.layers import SEBlock
from keras_se.litert.calibration import Observations
from keras_se.litert.formats import Format
from keras_se.litert.graph import TFLite
from keras_se.litert.support import support_row
from keras_se.replay import is_graph
from keras_se.sites import excitations

_PACKAGES = ("keras-se", "keras", "tensorflow", "ai-edge-litert", "litert-quantizer", "numpy")
_SETTINGS = (
    *("ratio", "width", "divisor", "squeeze", "activation", "gate", "shift", "use_bias"),
    *("identity_init", "data_format"),
)


def recipe_path(path: str | os.PathLike[str]) -> Path:
    """Where the recipe of a TFLite file lies.

    Args:
        path: The file.

    Returns:
        Its name with `.recipe.json` in place of `.tflite`.

    Example:
        >>> recipe_path("model.tflite").name
        'model.recipe.json'
    """
    path = Path(path)
    name = path.name.removesuffix(".tflite")
    return path.with_name(f"{name}.recipe.json")


def row_hashes(samples: Mapping[str, np.ndarray]) -> list[str]:
    """A hash for each sample, the same wherever the sample turns up.

    Args:
        samples: By name of the input, arrays of shape (samples, *shape); names do not count.

    Returns:
        The first 16 hexadecimal digits of SHA-256 over the float32 bytes of all inputs.

    Example:
        >>> row_hashes({"inputs": np.zeros((1, 2))}) == row_hashes({"x": np.zeros((1, 2), "uint8")})
        True
    """
    arrays = [np.ascontiguousarray(array, "<f4") for _, array in sorted(samples.items())]
    rows = zip(*arrays, strict=True)
    return [_digest(b"".join(part.tobytes() for part in row))[:16] for row in rows]


def make_recipe(
    model: keras.Model,
    tflite: bytes,
    spec: Format,
    options: Mapping[str, Any],
    samples: Mapping[str, np.ndarray] | None,
    observed: Observations | None,
    output_error: float | None,
) -> str:
    """The recipe of a file as JSON text.

    Args:
        model: The model that was converted.
        tflite: The bytes that it became.
        spec: The format.
        options: The other arguments of the conversion.
        samples: The calibration data by name of the input, if there were any.
        observed: What the model does on them.
        output_error: On a few of them, the error of the outputs over their spread.

    Returns:
        JSON text: versions, format, options, SHA-256 of the bytes, hashes of the calibration rows,
        the settings of each SE site, and the rows of the table of support that apply.
    """
    sites = _sites(model)
    content = {
        "format": spec.name,
        "options": dict(options),
        "model": model.name,
        "bytes": len(tflite),
        "sha256": _digest(tflite),
        "versions": {"python": platform.python_version(), **_versions()},
        "calibration": None if samples is None else _calibration(samples, observed),
        "output_error": output_error,
        "sites": sites,
        "support": {name: _support(site, spec) for name, site in sites.items()},
    }
    return json.dumps(content, indent=2) + "\n"


def calibration_rows(tflite: TFLite, content: bytes, recipe: Any = None) -> set[str] | None:
    """The hashes of the samples that a file was calibrated on, from its recipe.

    Args:
        tflite: The file or its bytes.
        content: The bytes.
        recipe: The recipe: a path, JSON text as `make_recipe` gives it, or `None` for the one
            beside the file, if there is one of these very bytes.

    Returns:
        The hashes, none for a file that was not calibrated; `None` without a recipe.

    Raises:
        InputError: If a recipe is given that is none, or is of other bytes.
    """
    path = recipe
    if recipe is None:
        if isinstance(tflite, bytes | bytearray) or not recipe_path(tflite).is_file():
            return None
        path = recipe_path(tflite)
    try:
        text = recipe if isinstance(recipe, str) and recipe.lstrip().startswith("{") else None
        known = json.loads(Path(path).read_text() if text is None else text)
        digest, calibration = known["sha256"], known["calibration"]
        rows = set() if calibration is None else set(map(str, calibration["rows"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            "A recipe is the JSON file that lies beside a converted TFLite file. "
            f"Received: {str(path)[:200]!r}, which gives {type(error).__name__}: {error}"
        ) from error
    if digest == _digest(content):
        return rows
    if recipe is None:
        return None
    raise InputError(
        "A recipe must be of the very bytes that are judged. "
        f"Received: one of SHA-256 {digest}, and a file of {_digest(content)}"
    )


def _calibration(samples: Mapping[str, np.ndarray], observed: Observations | None) -> Any:
    rows = row_hashes(samples)
    ratio = None if observed is None else observed.variance_ratio
    return {
        "samples": len(rows),
        "variance_ratio": "not checked: no trained BatchNormalization" if ratio is None else ratio,
        "rows": rows,
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _sites(model: keras.Model) -> dict[str, Any]:
    """By name of the site, what it is: the arguments of `SEBlock`, or what was recognized."""
    found: dict[str, Any] = {}
    if not is_graph(model):
        return found  # the graph of a subclassed model says nothing of its sites
    for part in excitations(model):
        site, settings = part.site, {}
        if isinstance(part.source, SEBlock):
            config = part.source.get_config()
            settings = {name: config[name] for name in _SETTINGS}
        settings |= {"squeeze": part.source.squeeze, "gate": site.gate, "width": site.width}
        known = {"source": site.source, "channels": site.channels, "rank": len(part.features.shape)}
        found[site.name] = {**known, **settings}
    return found


def _support(site: Mapping[str, Any], spec: Format) -> Any:
    row = support_row(site["gate"], site["squeeze"], site["rank"], spec.name)
    return None if row is None else dataclasses.asdict(row)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
