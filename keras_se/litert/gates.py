"""Reads the gates of a TFLite file while it runs."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_se.errors import InputError
from keras_se.litert.graph.flatbuffer import TFLite, read_bytes
from keras_se.litert.graph.sites import GateNode, main_nodes
from keras_se.litert.runtime import load, runs, runtime_errors, tensor_value
from keras_se.sites.site import PREFIXES

_BATCH = 32
_CHECKED = 4  # samples on which to compare with a plain run


@dataclass(frozen=True)
class Reading:
    """Values at one SE site of a file, for some samples.

    Attributes:
        gates: Float32, shape (samples, channels).
        features: The gated maps, float32, shape (samples, *map shape); `None` if not requested.
    """

    gates: np.ndarray
    features: np.ndarray | None


def file_gates(tflite: TFLite, x: Any) -> dict[str, np.ndarray]:
    """Returns the gates of each SE site of a TFLite file, as (samples, channels) arrays."""
    rows: dict[str, list[np.ndarray]] = {}
    for readings in read_sites(tflite, x, kinds=tuple(PREFIXES)):
        for name, reading in readings.items():
            rows.setdefault(name, []).append(reading.gates)
    return {name: np.concatenate(values) for name, values in rows.items()}


def read_sites(
    tflite: TFLite, x: Any, features: bool = False, kinds: Collection[str] = ("self",)
) -> Iterator[dict[str, Reading]]:
    """Yields the gates of each SE site, and its maps if requested, up to 32 samples at a time."""
    content = read_bytes(tflite)
    nodes = main_nodes(content, kinds)
    with runtime_errors(content):
        plain, kept = load(content), load(content, preserve_all_tensors=True)
        details = {d["index"]: d for d in kept.get_tensor_details()}
        rows: list[list[Reading]] = []
        for n, feed in enumerate(runs(kept, x)):
            if n < _CHECKED:
                _check_outputs(plain, kept, feed)
                for node in nodes:
                    _check_product(kept, node, details)
            rows.append([_reading(kept, node, details, features) for node in nodes])
            if len(rows) == _BATCH:
                yield _batch(nodes, rows)
                rows = []
        if rows:
            yield _batch(nodes, rows)


def _reading(
    interpreter: Any, node: GateNode, details: Mapping[int, Any], features: bool
) -> Reading:
    gates = tensor_value(interpreter, details[node.gate_tensor])
    maps = tensor_value(interpreter, details[node.feature_tensor]) if features else None
    return Reading(gates.reshape(1, node.site.channels), maps)


def _batch(nodes: list[GateNode], rows: list[list[Reading]]) -> dict[str, Reading]:
    return {
        node.site.name: Reading(
            np.concatenate([reading.gates for reading in readings]),
            None
            if readings[0].features is None
            else np.concatenate([reading.features for reading in readings]),
        )
        for node, readings in zip(nodes, zip(*rows, strict=True), strict=True)
    }


def _check_outputs(plain: Any, kept: Any, feed: Mapping[int, np.ndarray]) -> None:
    for index, value in feed.items():
        plain.set_tensor(index, value)
    plain.invoke()
    for output in plain.get_output_details():
        wanted, found = (i.get_tensor(output["index"]) for i in (plain, kept))
        # As bytes, because NaN does not equal NaN.
        if wanted.tobytes() != found.tobytes():
            raise InputError(
                "Reading gates must not change what a file computes. Received: a file whose "
                f"output {output['name']!r} differs when its tensors are kept"
            )


def _check_product(interpreter: Any, node: GateNode, details: Mapping[int, Any]) -> None:
    gate, feature, product = (
        tensor_value(interpreter, details[index])
        for index in (node.gate_tensor, node.feature_tensor, node.product_tensor)
    )
    expected = gate * feature
    dtype = details[node.product_tensor]["dtype"]
    step, zero_point = details[node.product_tensor]["quantization"]
    if step and np.issubdtype(dtype, np.integer):
        # Integer products saturate.
        limits = np.iinfo(dtype)
        low, high = limits.min - zero_point, limits.max - zero_point
        expected = np.clip(expected, low * step, high * step)
    if not np.isfinite(expected).all():
        return  # NaN fits no tolerance; the verdict reports it
    tolerance = 1.01 * step if step else 1e-5 * max(1.0, float(np.abs(expected).max()))
    # The converter may fuse a ReLU or ReLU6 into the product.
    fused = (expected, np.maximum(expected, 0.0), np.clip(expected, 0.0, 6.0))
    error = min(float(np.abs(product - values).max()) for values in fused)
    if error > tolerance:
        raise InputError(
            "The product of an SE site must be its gate times its feature map. Received: "
            f"site {node.site.name} with a difference of {error:.3g}"
        )
