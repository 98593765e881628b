"""Which gate of a TFLite file belongs to which SE site of the Keras model.

Keras and the converter may order parallel branches differently, so that sites are matched by value:
a float32 conversion of the model is run beside it, and the gates and the means of what they gate
must agree. From that conversion they are carried to the judged file by their place in the graph.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.litert.convert import to_tflite
from keras_se.litert.graph import GateNode, main_nodes
from keras_se.litert.runtime import read_sites
from keras_se.sites import Site, model_means

MAX_DISTANCE = 1e-3  # of float32 runtimes after a deep trunk; small networks agree to 1e-6
MIN_RATIO = 10.0  # how much nearer the site must be than the next


@dataclass(frozen=True)
class Assignment:
    """Sites of the model, and where they are in the file.

    Attributes:
        nodes: By site name, the node of the judged file; `None` where it has no such site.
        error: The largest distance between the model and its float32 conversion at a site:
            root mean square of the gates, and of the means of the features over their scale.
    """

    nodes: dict[str, GateNode | None]
    error: float


def assign(
    model: keras.Model,
    sites: list[Site],
    gates: Mapping[str, np.ndarray],
    x: Any,
    arrays: Mapping[str, np.ndarray],
    content: bytes,
) -> Assignment:
    """Finds the sites of a model in a file.

    Args:
        model: The Keras model.
        sites: Its sites.
        gates: Their gates on the samples.
        x: The samples, as the model takes them.
        arrays: The same by the names of the file's inputs.
        content: The bytes of the file.

    Returns:
        The `Assignment`.

    Raises:
        InputError: If a site cannot be told from another, or is not found in the conversion.
    """
    converted = to_tflite(model, "float32")
    read = _conversion(converted, arrays)
    means = model_means(model, x)
    distances = _distances(sites, gates, means, read)
    rows, columns = _pairs(distances)
    order = dict(zip(rows, columns, strict=True))
    _check(sites, distances, order)
    reference, judged = main_nodes(converted), main_nodes(content)
    places = _places(reference, judged)
    nodes = {site.name: places[order[n]] for n, site in enumerate(sites)}
    return Assignment(nodes, max(distances[row, column] for row, column in order.items()))


def _conversion(
    converted: bytes, arrays: Mapping[str, np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The gates of the conversion, and the means of what they gate over its positions."""
    rows: dict[str, list[Any]] = {}
    for readings in read_sites(converted, dict(arrays), features=True):
        for name, reading in readings.items():
            channels = reading.gates.shape[1]
            rows.setdefault(name, []).append((reading.gates, _means(reading.features, channels)))
    return [
        (np.concatenate([g for g, _ in part]), np.concatenate([m for _, m in part]))
        for part in rows.values()
    ]


def _means(features: Any, channels: int) -> np.ndarray:
    """Means over all axes but those of samples and channels, wherever the latter is."""
    last = features.shape[-1] == channels
    axes = range(1, features.ndim - 1) if last else range(2, features.ndim)
    values: np.ndarray = features.mean(axis=tuple(axes))
    return values


def _distances(
    sites: list[Site],
    gates: Mapping[str, np.ndarray],
    means: Mapping[str, np.ndarray],
    read: list[tuple[np.ndarray, np.ndarray]],
) -> np.ndarray:
    """Of each site of the model to each of the conversion; infinite where shapes differ."""
    distances = np.full((len(sites), len(read)), np.inf)
    for i, site in enumerate(sites):
        for j, (found, found_means) in enumerate(read):
            wanted, wanted_means = gates[site.name], means[site.name]
            if wanted.shape == found.shape and wanted_means.shape == found_means.shape:
                scale = max(float(np.sqrt((wanted_means**2).mean())), 1e-12)
                distances[i, j] = _rms(wanted - found) + _rms(wanted_means - found_means) / scale
    return distances


def _rms(values: np.ndarray) -> float:
    mean = float((values.astype("float64") ** 2).mean())
    return float(np.sqrt(mean)) if np.isfinite(mean) else np.inf


def _pairs(distances: np.ndarray) -> tuple[list[int], list[int]]:
    """The assignment of the least total distance."""
    optimize: Any = import_extra("scipy.optimize", "litert")
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
            "verify finds each site of the model in its float32 conversion, by its gate values. "
            f"Received: no such gates for {missing}, {distances.shape[1]} sites in the conversion"
        )
    for n, site in enumerate(sites):
        others = np.delete(distances[n], order[n])
        if others.size and others.min() < MIN_RATIO * max(distances[n, order[n]], 1e-9):
            raise InputError(
                "verify tells the sites of a model apart by their values on the samples. "
                f"Received: two places in the conversion that may be {site.name}; use other samples"
            )


def _places(reference: list[GateNode], judged: list[GateNode]) -> dict[int, GateNode | None]:
    """For each node of the conversion, the one at its place in the judged file.

    Where sites are missing, the others are aligned by their channels and widths, if that can be
    done in one way only.
    """
    if [_figures(n) for n in reference] == [_figures(n) for n in judged]:
        return dict(enumerate(judged))
    wanted, found = [_figures(n) for n in reference], [_figures(n) for n in judged]
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    places: dict[int, GateNode | None] = dict.fromkeys(range(len(reference)))
    for start, other, size in matcher.get_matching_blocks():
        places |= {start + k: judged[other + k] for k in range(size)}
    absent = {wanted[n] for n, node in places.items() if node is None}
    extra = len(judged) - sum(node is not None for node in places.values())
    if extra or any(wanted[n] in absent for n, node in places.items() if node is not None):
        raise InputError(
            "verify needs a file with the sites of the model. Received: "
            f"{len(reference)} sites in the model, {len(judged)} in the file, not to be told apart"
        )
    return places


def _figures(node: GateNode) -> tuple[int, int]:
    return node.site.channels, node.site.width
