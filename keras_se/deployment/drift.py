"""Where a quantized file departs from the float file that it comes from, tensor by tensor."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from keras_se.display.progress import step
from keras_se.litert.graph.flatbuffer import SubGraph, TFLiteModel, with_outputs
from keras_se.litert.graph.selective import counterparts
from keras_se.litert.graph.sites import main_nodes
from keras_se.litert.inputs import Samples
from keras_se.litert.runtime import Runner

_SAMPLES = 32


def drifts(
    float32: bytes, quantized: bytes, samples: Samples, sites: Sequence[str] = ()
) -> list[tuple[str, float]]:
    """Returns the tensors that are codes, with the error that these add, the largest first.

    The error of a tensor is the mean over its channels of the mean square error over the variance,
    at most 1 each; what it adds is the rest behind the largest one of the tensors it is made of.

    Args:
        float32: The float file.
        quantized: The quantized file, whose tensors have the same names.
        samples: Inputs by their names in the float file.
        sites: Sites of the float file: the tensors that their maps are made of come first, and
            those inside of them are left out.
    """
    file, other = TFLiteModel(float32), TFLiteModel(quantized)
    graph, pairs = file.graphs[0], _pairs(file, other)
    few = {name: array[:_SAMPLES] for name, array in samples.items()}
    with step("where the file departs from the float one"):
        errors = dict(zip(pairs, _errors(file, other, pairs, few), strict=True))
    nodes = [node for node in main_nodes(file) if node.site.name in sites]
    first = set(_ancestors(graph, [node.feature_tensor for node in nodes]))
    inside = {n: node.product_tensor for node in nodes for n in node.positions}
    found = []
    for operator in graph.operators:
        given = max((errors.get(i, 0.0) for i in operator.inputs), default=0.0)
        for tensor in operator.outputs:
            is_inside = inside.get(operator.position, tensor) != tensor
            if tensor in errors and not is_inside:
                found.append((tensor, errors[tensor] - given))
    found.sort(key=lambda item: (item[0] not in first, -item[1]))
    return [(graph.name(tensor), added) for tensor, added in found]


def _pairs(float32: TFLiteModel, quantized: TFLiteModel) -> dict[int, int]:
    """The activations of the float file that are codes in the other."""
    graph, other = float32.graphs[0], quantized.graphs[0]
    made = {i for operator in graph.operators for i in operator.outputs} - graph.constants
    return {
        i: n
        for i, n in counterparts(float32, quantized).items()
        if i in made and "FLOAT" in graph.type(i) and other.scale(n) > 0.0
    }


def _errors(
    float32: TFLiteModel, quantized: TFLiteModel, pairs: dict[int, int], samples: Samples
) -> list[float]:
    if not pairs:
        return []
    own = Runner(with_outputs(float32, pairs)).read(samples, pairs, size=1)
    others = Runner(with_outputs(quantized, pairs.values())).read(samples, pairs.values(), size=1)
    sums: list[list[np.ndarray]] = [[] for _ in pairs]
    for wanted, found in zip(own, others, strict=True):
        for n, (w, f) in enumerate(zip(wanted, found, strict=True)):
            sums[n].append(_moments(w, f))
    return [_error(np.sum(parts, axis=0)) for parts in sums]


def _moments(wanted: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Count, sum, sum of squares and sum of squared errors, by channel; the first axis is those."""
    rows = wanted.reshape(-1, wanted.shape[-1]).astype("float64")
    squared = (found.reshape(rows.shape) - rows) ** 2
    count = np.full(rows.shape[1], float(len(rows)))
    return np.stack([count, rows.sum(0), (rows**2).sum(0), squared.sum(0)])


def _error(moments: np.ndarray) -> float:
    count, total, squares, errors = moments
    variance = np.maximum(squares / count - (total / count) ** 2, 0.0)
    varies = variance > 0.0
    shares = np.minimum(errors[varies] / count[varies] / variance[varies], 1.0)
    return float(shares.mean()) if shares.size else 0.0


def _ancestors(graph: SubGraph, tensors: Iterable[int]) -> Iterator[int]:
    seen, to_visit = set[int](), list(tensors)
    while to_visit:
        tensor = to_visit.pop()
        if tensor not in seen:
            seen.add(tensor)
            yield tensor
            operator = graph.producers.get(tensor)
            to_visit += [] if operator is None else [i for i in operator.inputs if i >= 0]
