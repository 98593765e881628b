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

from keras_se.layers import SEBlock
from keras_se.litert.calibration import Observations
from keras_se.litert.formats import Format
from keras_se.litert.support import support_row
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
) -> str:
    """The recipe of a file as JSON text.

    Args:
        model: The model that was converted.
        tflite: The bytes that it became.
        spec: The format.
        options: The other arguments of the conversion.
        samples: The calibration data by name of the input, if there were any.
        observed: What the model does on them.

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
        "sites": sites,
        "support": {name: _support(site, spec) for name, site in sites.items()},
    }
    return json.dumps(content, indent=2) + "\n"


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
    found = {}
    for part in excitations(model):
        site, settings = part.site, {}
        if isinstance(part.source, SEBlock):
            config = part.source.get_config()
            settings = {name: config[name] for name in _SETTINGS}
        settings |= {"squeeze": part.source.squeeze, "gate": site.gate, "width": site.width}
        known = {"source": site.source, "channels": site.channels, "rank": len(part.shape)}
        found[site.name] = {**known, **settings}
    return found


def _support(site: Mapping[str, Any], spec: Format) -> Any:
    row = support_row(site["gate"], site["squeeze"], site["rank"], spec.name)
    return None if row is None else dataclasses.asdict(row)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
