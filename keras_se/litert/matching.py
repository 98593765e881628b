"""Matches the SE sites of a Keras model to those of its float32 conversion, by value.

Keras and the converter may order parallel branches differently, so names do not identify a site.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.litert.runtime import read_sites
from keras_se.sites.reading import model_means
from keras_se.sites.site import Site

MAX_DISTANCE = 1e-3  # between float32 runtimes after a deep trunk; small networks agree to 1e-6
MIN_RATIO = 10.0  # of the distance to the next site over that to the matched one


@dataclass(frozen=True)
class Matching:
    """Positions of the sites of a model in its float32 conversion.

    Attributes:
        positions: By site name, its position among the sites of the conversion.
        error: The largest distance at a site: RMS difference of the gates, plus that of the feature
            means relative to the RMS of the features.
    """

    positions: dict[str, int]
    error: float


def match_sites(
    model: keras.Model,
    sites: list[Site],
    gates: Mapping[str, np.ndarray],
    x: Any,
    arrays: Mapping[str, np.ndarray],
    converted: bytes,
) -> Matching:
    """Matches the sites of a model to those of its float32 conversion."""
    read = _conversion(converted, arrays)
    distances = _distances(sites, gates, model_means(model, x), read)
    rows, columns = _pairs(distances)
    order = dict(zip(rows, columns, strict=True))
    _check(sites, distances, order)
    positions = {site.name: order[n] for n, site in enumerate(sites)}
    return Matching(positions, float(max(distances[n, order[n]] for n in order)))


def _conversion(
    converted: bytes, arrays: Mapping[str, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Returns the gates, feature means and feature RMS of each site of the conversion."""
    rows: dict[str, list[Any]] = {}
    for readings in read_sites(converted, dict(arrays), features=True):
        for name, reading in readings.items():
            channels = reading.gates.shape[1]
            # Squares of large float32 features overflow float32.
            scale = float(np.sqrt((np.asarray(reading.features, "float64") ** 2).mean()))
            means = _means(reading.features, channels)
            rows.setdefault(name, []).append((reading.gates, means, scale))
    return [
        (
            np.concatenate([g for g, *_ in part]),
            np.concatenate([m for _, m, _ in part]),
            max(scale for *_, scale in part),
        )
        for part in rows.values()
    ]


def _means(features: Any, channels: int) -> np.ndarray:
    """Averages features over all axes except samples and channels."""
    last = features.shape[-1] == channels
    axes = range(1, features.ndim - 1) if last else range(2, features.ndim)
    values: np.ndarray = features.mean(axis=tuple(axes))
    return values


def _distances(
    sites: list[Site],
    gates: Mapping[str, np.ndarray],
    means: Mapping[str, np.ndarray],
    read: list[tuple[np.ndarray, np.ndarray, float]],
) -> np.ndarray:
    """Returns the distance of each model site to each converted site."""
    # Gates alone can be equal at several sites, as with `identity_init`; the means differ.
    distances = np.full((len(sites), len(read)), np.inf)
    for i, site in enumerate(sites):
        for j, (found, found_means, size) in enumerate(read):
            wanted, wanted_means = gates[site.name], means[site.name]
            if wanted.shape == found.shape and wanted_means.shape == found_means.shape:
                scale = max(size, 1e-12) if np.isfinite(size) else 1.0
                distances[i, j] = _rms(wanted - found) + _rms(wanted_means - found_means) / scale
    return distances


def _rms(values: np.ndarray) -> float:
    mean = float((values.astype("float64") ** 2).mean())
    return float(np.sqrt(mean)) if np.isfinite(mean) else np.inf


def _pairs(distances: np.ndarray) -> tuple[list[int], list[int]]:
    """Returns the assignment with the smallest total distance."""
    optimize: Any = import_extra("scipy.optimize", "litert")
    # SciPy raises on an assignment of infinite cost.
    finite = np.where(np.isfinite(distances), distances, 1e9)
    rows, columns = optimize.linear_sum_assignment(finite)
    return rows.tolist(), columns.tolist()


def _check(sites: list[Site], distances: np.ndarray, order: dict[int, int]) -> None:
    missing = [
        site.name
        for n, site in enumerate(sites)
        if n not in order or distances[n, order[n]] > MAX_DISTANCE
    ]
    if missing:
        raise InputError(
            "Each site of a model is found in its float32 conversion, by its gate values. "
            f"Received: no such gates for {missing}, {distances.shape[1]} sites in the conversion; "
            "a site under a mask, or with values beyond float32, is not found"
        )
    for n, site in enumerate(sites):
        # The floor keeps two exact matches, both at distance 0, from passing as distinct.
        others = np.delete(distances[n], order[n])
        if others.size and others.min() < MIN_RATIO * max(distances[n, order[n]], 1e-9):
            raise InputError(
                "The sites of a model are told apart by their values on samples. "
                f"Received: two places in the conversion that may be {site.name}; use other samples"
            )
