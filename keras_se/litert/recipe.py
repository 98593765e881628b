"""The recipe of a TFLite file: a JSON record of how it was converted."""

import base64
import contextlib
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
from keras_se.graph.models import is_graph
from keras_se.graph.trace import Graph
from keras_se.layers import SEBlock
from keras_se.litert.calibration import Observations
from keras_se.litert.formats import Options
from keras_se.litert.graph.flatbuffer import TFLite, read_bytes
from keras_se.litert.graph.metadata import metadata_of, with_metadata
from keras_se.litert.support import support_row
from keras_se.sites.gated import gated_sites
from keras_se.untrusted import parse_json, read_json

_PACKAGES = ("keras-se", "keras", "tensorflow", "ai-edge-litert", "litert-quantizer", "numpy")
_MAX_RECIPE = 2**26  # bytes, for three million samples
_SHORT = 8  # of the 16 digits of a hash, in the file itself
_SETTINGS = (
    "ratio",
    "width",
    "divisor",
    "squeeze",
    "activation",
    "gate",
    "shift",
    "use_bias",
    "identity_init",
    "data_format",
)


def recipe_path(path: str | os.PathLike[str]) -> Path:
    """Returns the path of a recipe, with `.recipe.json` in place of `.tflite`."""
    path = Path(path)
    return path.with_name(f"{path.name.removesuffix('.tflite')}.recipe.json")


def row_hashes(samples: Mapping[str, np.ndarray]) -> list[str]:
    """Returns one hash per sample, the same for any dtype and input names."""
    # One dtype and byte order, so that a sample has the same hash as uint8 and as float32.
    arrays = [np.ascontiguousarray(array, "<f4") for _, array in sorted(samples.items())]
    rows = zip(*arrays, strict=True)
    return [_digest(b"".join(part.tobytes() for part in row))[:16] for row in rows]


def make_recipe(
    model: keras.Model,
    options: Options,
    samples: Mapping[str, np.ndarray] | None,
    observed: Observations | None,
    output_error: float | None,
) -> dict[str, Any]:
    """Returns how a file was converted, all but what is known of its bytes."""
    sites = _sites(model)
    return {
        "format": options.format,
        "options": {
            **_io_types(options),
            "input_shape": None if options.input_shape is None else list(options.input_shape),
            "keep_float": list(options.keep_float),
            "check_range": options.check_range,
        },
        "model": model.name,
        "versions": {"python": platform.python_version(), **_versions()},
        "calibration": None if samples is None else _calibration(samples, observed),
        "output_error": output_error,
        "sites": sites,
        "support": {name: _support(site, options.format) for name, site in sites.items()},
    }


def _io_types(options: Options) -> dict[str, str]:
    return dict(zip(("input_type", "output_type"), options.io_types, strict=True))


def file_recipe(
    source: bytes, options: Options, samples: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns how a float file was quantized, all but what is known of the bytes."""
    return {
        "format": options.format,
        "options": _io_types(options),
        "source": _digest(source),
        "versions": {"python": platform.python_version(), **_versions()},
        "calibration": _calibration(samples, None),
    }


def signed(recipe: Mapping[str, Any], tflite: bytes) -> tuple[bytes, str]:
    """Returns a file that holds the digests of its calibration samples, and its recipe as JSON."""
    calibration = recipe["calibration"]
    rows = None
    if calibration is not None:
        digits = "".join(row[:_SHORT] for row in calibration["rows"])
        rows = base64.b64encode(bytes.fromhex(digits)).decode()
    content = with_metadata(tflite, {"format": recipe["format"], "rows": rows})
    return content, recipe_text(recipe, content)


def recipe_text(recipe: Mapping[str, Any], content: bytes) -> str:
    """Returns the recipe of a file as JSON."""
    known = {**recipe, "bytes": len(content), "sha256": _digest(content)}
    return json.dumps(known, indent=2) + "\n"


def calibration_rows(tflite: TFLite, recipe: Any = None) -> set[str] | None:
    """Returns the hashes of a file's calibration samples, whole or short; `None` if unknown."""
    path = recipe
    if recipe is None:
        if not isinstance(tflite, str | os.PathLike) or not recipe_path(tflite).is_file():
            return _rows_inside(tflite)
        path = recipe_path(tflite)
    try:
        is_text = isinstance(recipe, str) and recipe.lstrip().startswith("{")
        known = parse_json(recipe) if is_text else read_json(path, _MAX_RECIPE)
        digest, calibration = known["sha256"], known["calibration"]
        rows = set() if calibration is None else set(map(str, calibration["rows"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            "A recipe must be the JSON file that to_tflite writes beside a TFLite file. "
            f"Received: {str(path)[:200]!r}, which gives {type(error).__name__}: {error}"
        ) from error
    content = read_bytes(tflite)
    if digest == _digest(content):
        return rows
    # A recipe beside the file may be stale; only one that the caller passes must match.
    if recipe is None:
        return _rows_inside(tflite)
    raise InputError(
        "A recipe must belong to the judged file. "
        f"Received: a recipe of SHA-256 {digest}, a file of {_digest(content)}"
    )


def _rows_inside(tflite: TFLite) -> set[str] | None:
    found = metadata_of(tflite)
    if "rows" not in found:
        return None
    try:
        digits = base64.b64decode(found["rows"] or "").hex()
    except (TypeError, ValueError):  # another program wrote it
        return None
    return {digits[n : n + _SHORT] for n in range(0, len(digits), _SHORT)}


def used_rows(samples: Mapping[str, np.ndarray], rows: set[str]) -> np.ndarray:
    """Returns for each sample whether it is among the hashed ones."""
    return np.array([row in rows or row[:_SHORT] in rows for row in row_hashes(samples)], bool)


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
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def _sites(model: keras.Model) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if not is_graph(model):
        return found  # a subclassed model has no graph to find sites in
    for part in gated_sites(Graph(model)):
        site, settings = part.site, {}
        if isinstance(part.source, SEBlock):
            config = part.source.get_config()
            settings = {name: config[name] for name in _SETTINGS}
        # The values of the site win: `width` of the config may be unset.
        settings |= {"squeeze": part.source.squeeze, "gate": site.gate, "width": site.width}
        known = {"source": site.source, "channels": site.channels, "rank": len(part.features.shape)}
        found[site.name] = {**known, **settings}
    return found


def _support(site: Mapping[str, Any], file_format: str) -> Any:
    row = support_row(site["gate"], site["squeeze"], site["rank"], file_format)
    return None if row is None else dataclasses.asdict(row)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
