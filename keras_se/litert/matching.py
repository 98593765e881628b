"""Matches the SE sites of a Keras model to those of a TFLite file.

Names do not identify a site: Keras and the converter may order parallel branches differently. So
sites are matched by value with a float32 conversion of the model. Their places in that graph then
lead to any other file of the model, whose gates may be wrong.
"""

import difflib
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.graph.inputs import packed_inputs
from keras_se.litert.gates import GateReader, Reading
from keras_se.litert.graph.sites import GateNode, main_nodes
from keras_se.sites.reading import gates_and_means

_MAX_DISTANCE = 1e-3  # between float32 runtimes after a deep trunk; small networks agree to 1e-6
_MIN_RATIO = 10.0  # of the distance to the next site over that to the matched one
_SAMPLES = 32  # one batch of a `GateReader`


def match_sites(
    model: keras.Model,
    samples: Mapping[str, np.ndarray],
    converted: bytes,
    content: bytes | None = None,
) -> tuple[dict[str, str], float]:
    """Matches the sites of a model to those of its float32 conversion, or of another file of it.

    Returns the names in that file by those in the model, without sites that it lacks, and the
    largest distance at a site between model and conversion: the RMS difference of the gates, plus
    that of the feature means relative to the RMS of the features.
    """
    few = {name: array[:_SAMPLES] for name, array in samples.items()}
    wanted = gates_and_means(model, packed_inputs(model, few.values()))
    reader = GateReader(converted, ("self",), maps=True)
    reading = next(reader.read(few)) if reader.nodes else Reading({}, {}, {})
    found = [(g, *_features(g, reading.maps[name])) for name, g in reading.gates.items()]
    distances = np.full((len(wanted), len(found)), np.inf)
    for i, (gates, means) in enumerate(wanted.values()):
        for j, values in enumerate(found):
            distances[i, j] = _distance(gates, means, *values)
    optimize: Any = import_extra("scipy.optimize", "litert")
    # SciPy raises on an assignment of infinite cost.
    finite = np.where(np.isfinite(distances), distances, 1e9)
    rows, columns = optimize.linear_sum_assignment(finite)
    matched = np.full(len(wanted), np.inf)
    matched[rows] = distances[rows, columns]
    _check(list(wanted), distances, matched, columns)
    names = {name: [*reading.gates][n] for name, n in zip(wanted, columns, strict=True)}
    error = float(matched.max())
    if content is None:
        return names, error
    places = _places(main_nodes(converted), main_nodes(content))
    return {name: places[at] for name, at in names.items() if at in places}, error


def _features(gates: np.ndarray, features: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the means of the features over positions, and the RMS of the features."""
    channels = gates.shape[1]
    last = features.shape[-1] == channels
    axes = range(1, features.ndim - 1) if last else range(2, features.ndim)
    return features.mean(axis=tuple(axes)), _rms(features)


def _distance(
    gates: np.ndarray, means: np.ndarray, found: np.ndarray, found_means: np.ndarray, size: float
) -> float:
    if gates.shape != found.shape or means.shape != found_means.shape:
        return np.inf
    # Gates alone can be equal at several sites, as with `identity_init`; the means differ.
    scale = max(size, 1e-12) if np.isfinite(size) else 1.0
    return _rms(gates - found) + _rms(means - found_means) / scale


def _rms(values: np.ndarray) -> float:
    # Squares of large float32 values overflow float32.
    mean = float((values.astype("float64") ** 2).mean())
    return float(np.sqrt(mean)) if np.isfinite(mean) else np.inf


def _check(
    names: list[str], distances: np.ndarray, matched: np.ndarray, columns: np.ndarray
) -> None:
    missing = [name for name, far in zip(names, matched > _MAX_DISTANCE, strict=True) if far]
    if missing:
        raise InputError(
            "The float32 conversion must have the gates of each site of a model; masks and values "
            f"beyond float32 prevent this. Received: no such gates for {missing}, "
            f"{distances.shape[1]} sites in the conversion"
        )
    for n, name in enumerate(names):
        # The floor keeps two exact matches, both at distance 0, from passing as distinct.
        others = np.delete(distances[n], columns[n])
        if others.size and others.min() < _MIN_RATIO * max(matched[n], 1e-9):
            raise InputError(
                "The sites of a model must differ in their values on the samples; use other "
                f"samples. Received: two sites of the conversion that match {name}"
            )


def _places(reference: list[GateNode], judged: list[GateNode]) -> dict[str, str]:
    """Maps the names of the sites of a conversion to those at the same places in another file."""
    wanted, found = (
        [(node.site.channels, node.site.width) for node in nodes] for nodes in (reference, judged)
    )
    # Without autojunk=False, difflib ignores frequent elements of long sequences.
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    pairs = {
        start + k: other + k
        for start, other, size in matcher.get_matching_blocks()
        for k in range(size)
    }
    # An alignment is ambiguous if a missing site looks like one that is present.
    absent = {size for n, size in enumerate(wanted) if n not in pairs}
    if len(pairs) < len(judged) or any(wanted[n] in absent for n in pairs):
        raise InputError(
            "verify needs a file with the sites of the model. Received: "
            f"{len(reference)} sites in the model, {len(judged)} in the file, which do not match"
        )
    return {reference[n].site.name: judged[other].site.name for n, other in pairs.items()}
