"""Matches the SE sites of a reference to those of a TFLite file.

Names do not identify a site: Keras and the converter may order parallel branches differently. Where
each site depends on the one before, in both, there is one order only. Else sites are matched by
value with a float32 conversion of the model, whose places lead to any other file of it: there the
gates may be wrong.
"""

import difflib
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.trace import trace
from keras_se.litert.gates import GateReader
from keras_se.litert.graph.flatbuffer import TFLite, TFLiteModel
from keras_se.litert.graph.sites import GateNode, main_nodes
from keras_se.sites.gated import Search, search
from keras_se.sites.reading import gates_and_means
from keras_se.sites.site import PREFIXES, Site

_MAX_DISTANCE = 1e-3  # between float32 runtimes after a deep trunk; small networks agree to 1e-6
_MIN_RATIO = 10.0  # of the distance to the next site over that to the matched one
_MUCH_BETTER = 0.5  # of the distance in the order of the operators
_SAMPLES = 32  # one batch of a `GateReader`


def match_sites(
    model: keras.Model,
    samples: Mapping[str, np.ndarray],
    convert: Callable[[], bytes],
    file: TFLite | None = None,
    found: Search | None = None,
) -> dict[str, str]:
    """Matches the sites of a model to those of its float32 conversion, or of another file of it.

    Returns the names in that file by those in the model, without sites that it lacks. Converts only
    where the order of the sites does not tell.
    """
    found = found or search(trace(model, "Finding SE sites"))
    steps, sites = found.flow.steps, {part.place: part.site for part in found.sites}
    calls = [([*map(id, step.inputs)], [*map(id, step.outputs)]) for step in steps]
    marked = [n for n, step in enumerate(steps) if step.place in sites]
    if _are_chained(calls, marked):
        judged = TFLiteModel(convert()) if file is None else TFLiteModel.of(file)
        if is_chain(judged):
            return places([*sites.values()], main_sites(judged))
        converted = judged.content if file is None else convert()
    else:
        converted = convert()
    names = by_value(model, samples, converted)
    if file is None:
        return names
    found_at = matched_files(converted, file, samples)
    return {name: found_at[at] for name, at in names.items() if at in found_at}


def matched_files(
    reference: TFLite, judged: TFLite, samples: Mapping[str, np.ndarray]
) -> dict[str, str]:
    """Matches the sites of two files of a network, whose operators may be in another order.

    Where sites of one size are in parallel, those belong together that gate the same map: the gates
    themselves may be wrong.
    """
    files = [TFLiteModel.of(reference), TFLiteModel.of(judged)]
    found = places(*map(main_sites, files))
    if all(map(is_chain, files)):
        return found
    few = {name: array[:_SAMPLES] for name, array in samples.items()}
    wanted, given = (_map_means(file, few) for file in files)
    sites = {site.name: (site.kind, site.channels, site.width) for site in main_sites(reference)}
    for size in set(sites.values()):
        names = [name for name in found if sites[name] == size]
        others = [found[name] for name in names]
        if len(names) < 2:
            continue
        far = _distances([wanted[name] for name in names], [given[other] for other in others])
        found |= {names[n]: others[at] for n, at in in_order(far).items()}
    return found


def _map_means(file: TFLiteModel, samples: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns, by site, the means over positions of the maps that are gated."""
    reading = next(GateReader(file, maps="feature_tensor").read(samples))
    return {name: _features(g, reading.maps[name])[0] for name, g in reading.gates.items()}


def _distances(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([[min(_rms(w - f) / max(_rms(w), 1e-12), 1e6) for f in found] for w in wanted])


def in_order(far: np.ndarray) -> dict[int, int]:
    """Returns which columns belong to rows by their distances: in order, unless that is far worse.

    Two that are all but the same are not told apart by their distances.
    """
    optimize: Any = import_extra("scipy.optimize", "litert")
    rows, columns = optimize.linear_sum_assignment(far)
    if far[rows, columns].sum() < _MUCH_BETTER * np.trace(far):
        return dict(zip(rows.tolist(), columns.tolist(), strict=True))
    return {n: n for n in range(min(far.shape))}


def main_sites(tflite: TFLite) -> list[Site]:
    """Returns the sites of the main sub-graph, of all kinds."""
    return [node.site for node in _nodes(tflite)]


def _nodes(tflite: TFLite) -> list[GateNode]:
    return main_nodes(tflite, tuple(PREFIXES))


def is_chain(tflite: TFLite) -> bool:
    """Returns whether each site of a file depends on the one before."""
    file = TFLiteModel.of(tflite)
    operators = file.graphs[0].operators
    calls = [(operator.inputs, operator.outputs) for operator in operators]
    return _are_chained(calls, [node.positions[-1] for node in _nodes(file)])


_Call = tuple[Iterable[Hashable], Iterable[Hashable]]  # its input and output tensors


def _are_chained(calls: Sequence[_Call], marked: Sequence[int]) -> bool:
    """Returns whether each marked call depends on the one that is marked before it."""
    bits, before = {call: 1 << n for n, call in enumerate(marked)}, dict[Hashable, int]()
    for n, (inputs, outputs) in enumerate(calls):
        known = 0
        for tensor in inputs:
            known |= before.get(tensor, 0)
        if n in bits and known != bits[n] - 1:
            return False
        before |= dict.fromkeys(outputs, known | bits.get(n, 0))
    return True


def by_value(
    model: keras.Model, samples: Mapping[str, np.ndarray], converted: bytes
) -> dict[str, str]:
    """Matches sites by their gates, and by the means of the maps that these gate."""
    few = {name: array[:_SAMPLES] for name, array in samples.items()}
    wanted = gates_and_means(model, packed_inputs(model, few.values()))
    reader = GateReader(converted, maps="feature_tensor")
    reading = next(reader.read(few))
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
    return {name: [*reading.gates][n] for name, n in zip(wanted, columns, strict=True)}


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


def places(reference: Sequence[Site], judged: Sequence[Site]) -> dict[str, str]:
    """Maps the names of sites to those at the same places in a file, which may lack or add some."""
    wanted, found = (
        [(site.kind, site.channels, site.width) for site in sites] for sites in (reference, judged)
    )
    # Without autojunk=False, difflib ignores frequent elements of long sequences.
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    pairs = {
        start + k: other + k
        for start, other, size in matcher.get_matching_blocks()
        for k in range(size)
    }
    # An alignment is ambiguous if a site without a partner looks like one that has one.
    taken = set(pairs.values())
    alone = {size for n, size in enumerate(wanted) if n not in pairs}
    alone |= {size for n, size in enumerate(found) if n not in taken}
    if not pairs or any(wanted[n] in alone for n in pairs):
        raise InputError(
            "verify needs a file with the sites of the reference. Received: "
            f"{len(reference)} sites in the reference, {len(judged)} in the file, which do not "
            "match"
        )
    return {reference[n].name: judged[other].name for n, other in pairs.items()}
