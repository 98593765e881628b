"""What a probe computed on a device: gates, outputs, and where that was."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_se.data import npz_arrays
from keras_se.display.text import printable
from keras_se.errors import InputError
from keras_se.litert.devices.probing import output_name, probe, probed_nodes
from keras_se.litert.graph.flatbuffer import SubGraph, TFLite, TFLiteModel, dequantized
from keras_se.litert.graph.sites import GateNode
from keras_se.litert.inputs import Samples, thinned
from keras_se.litert.recorder import NOTES, digest
from keras_se.untrusted import parse_json

_WORDS = ("processor", "runtime", "kernels", "file", "samples")  # of the notes
_LONGEST = 200  # characters of one of them


@dataclass(frozen=True)
class Recording:
    """What was recorded.

    Attributes:
        gates: By site name, dequantized, shape (samples, channels).
        outputs: The outputs of the file, dequantized, of large maps some positions; empty if they
            were not recorded.
        origin: Where that was, in words.
    """

    gates: dict[str, np.ndarray]
    outputs: list[np.ndarray]
    origin: str


def read_recording(
    tflite: TFLite,
    source: str | os.PathLike[str] | Mapping[str, Any],
    samples: Samples | None = None,
    outputs: Mapping[str, int] | None = None,
) -> Recording:
    """Returns what was recorded with the probe of a file.

    Args:
        tflite: The file, or its probe.
        source: What `keras_se.litert.recorder` wrote or returned, or only gates, by the names of
            the outputs of the probe or of the sites.
        samples: By the names of the inputs, what must have been recorded.
        outputs: The tensors of the outputs of the file, by name.
    """
    if not isinstance(source, str | os.PathLike | Mapping):
        raise InputError(
            "Recorded gates must be an .npz file or a dictionary of arrays. "
            f"Received: {type(source).__name__}"
        )
    file = TFLiteModel.of(tflite)
    nodes = probed_nodes(file)
    arrays = source if isinstance(source, Mapping) else _read_npz(Path(source))
    gates = {node.site.name: _gates(node, file.graphs[node.subgraph], arrays) for node in nodes}
    counts = {name: len(values) for name, values in gates.items()}
    if len(set(counts.values())) > 1:
        raise InputError(
            f"Recorded gates must have one number of samples at all sites. Received: {counts}"
        )
    count = next(iter(counts.values()))
    if samples is not None and count != len(next(iter(samples.values()))):
        wanted = len(next(iter(samples.values())))
        raise InputError(f"Recorded gates must be of the {wanted} samples in x. Received: {counts}")
    found: list[np.ndarray] = []
    if outputs and all(name in arrays for name in outputs):
        found = [*_outputs(file.graphs[0], arrays, outputs, count)]
    what = "gates and outputs" if found else "gates"
    where = "given as arrays" if isinstance(source, Mapping) else f"from {source}"
    place = _place(file, arrays, samples)
    return Recording(gates, found, f"{what} recorded on {place}, {where}")


def _read_npz(path: Path) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"Recorded gates must be an existing .npz file. Received: {path}")
    return npz_arrays("Recorded gates", path)


def _numbers(name: str, arrays: Mapping[str, Any]) -> np.ndarray:
    try:
        values = np.asarray(arrays[name])
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} must be an array of numbers. Received: {error}") from error
    if values.dtype.kind not in "fiu":
        raise InputError(f"{name} must be an array of numbers. Received: dtype {values.dtype}")
    return values


def _gates(node: GateNode, graph: SubGraph, arrays: Mapping[str, Any]) -> np.ndarray:
    """Returns the gates of one site, of shape (samples, channels)."""
    name = _name_in(arrays, node, graph)
    values = _numbers(name, arrays)
    channels = node.site.channels
    # The product alone would accept (samples, 2, 2) for 4 channels.
    if np.prod(values.shape[1:]) != channels or channels not in values.shape[1:]:
        raise InputError(
            f"{name} must have the shape (samples, {channels}) or (samples, 1, 1, {channels}). "
            f"Received: shape {values.shape}"
        )
    if len(values) == 0:
        raise InputError(f"{name} must hold samples. Received: shape {values.shape}")
    if values.dtype.kind != "f":
        values = _decoded(name, values, graph, node.gate_tensor, "gates")
    # NaN and infinity pass: the verdict reports them.
    return values.astype("float32").reshape(len(values), channels)


def _name_in(arrays: Mapping[str, Any], node: GateNode, graph: SubGraph) -> str:
    site = node.site.name
    names = [name for name in (output_name(site), site) if name in arrays]
    # The outputs of a file without a signature have the names of their tensors.
    tensor = graph.name(node.gate_tensor)
    if not names and tensor in arrays:
        return tensor
    if len(names) != 1:
        raise InputError(
            f"Recorded gates must hold each site of the file once: {site} as "
            f"{output_name(site)!r} or {site!r}. Received: {sorted(map(str, arrays))}"
        )
    return names[0]


def _decoded(name: str, codes: np.ndarray, graph: SubGraph, tensor: int, what: str) -> np.ndarray:
    if graph.scale(tensor) == 0.0:
        raise InputError(
            f"{name} must be floats: the {what} of this file are not quantized. "
            f"Received: dtype {codes.dtype}"
        )
    limits = np.iinfo(graph.type(tensor).lower())
    if codes.min() < limits.min or codes.max() > limits.max:
        raise InputError(
            f"{name} must hold codes of {limits.dtype}, as the {what} of this file are. "
            f"Received: {codes.min()} to {codes.max()}"
        )
    return dequantized(codes, graph.scale(tensor), graph.zero_point(tensor))


def _outputs(
    graph: SubGraph, arrays: Mapping[str, Any], outputs: Mapping[str, int], count: int
) -> Iterator[np.ndarray]:
    for name, tensor in outputs.items():
        values, shape = _numbers(name, arrays), graph.shape(tensor)
        # That of a file for one sample may have no axis for it.
        fits = any(
            len(values.shape[1:]) == len(wanted)
            and all(w in (-1, size) for w, size in zip(wanted, values.shape[1:], strict=True))
            for wanted in (shape[1:], shape)
        )
        if len(values) != count or not fits:
            raise InputError(
                f"The recorded output {name!r} must have {count} samples of the shape {shape[1:]}. "
                f"Received: shape {values.shape}"
            )
        if values.dtype.kind != "f" and graph.scale(tensor):
            values = _decoded(name, values, graph, tensor, "outputs")
        yield thinned(values.astype("float32"))


def _place(file: TFLiteModel, arrays: Mapping[str, Any], samples: Samples | None) -> str:
    """Says where a recording was made, if it tells; raises if it is of something else."""
    if NOTES not in arrays:
        return "a device"
    notes = _notes(arrays[NOTES])
    if notes["file"] not in _digests(file):
        raise InputError(
            "A recording must be made with the probe of this file: make it again with keras-se "
            f"probe. Received: one of a file of the digest {notes['file']}"
        )
    if samples is not None and notes["samples"] != digest(dict(samples)):
        raise InputError(
            "A recording must be made on the samples in x, all of them in this order. Received: "
            "one on others"
        )
    words = {name: printable(notes[name])[:_LONGEST] for name in _WORDS}
    median, slow = (notes["latency"][name] for name in ("p50", "p90"))
    return (
        f"{words['processor']}, with {words['runtime']}, {words['kernels']} kernels "
        f"({median:.2f} ms an inference, 90 % within {slow:.2f})"
    )


def _digests(file: TFLiteModel) -> Iterator[str]:
    yield hashlib.sha256(file.content).hexdigest()
    with contextlib.suppress(InputError):  # the file may be a probe itself
        yield hashlib.sha256(probe(file)).hexdigest()


def _notes(value: Any) -> dict[str, Any]:
    text = np.asarray(value)
    try:
        notes: Any = parse_json(text.item() if text.dtype.kind == "S" and text.ndim == 0 else b"")
        known = all(isinstance(notes[name], str) for name in _WORDS)
        if not known or not all(math.isfinite(notes["latency"][name]) for name in ("p50", "p90")):
            raise ValueError("values of other types")
    except (ValueError, KeyError, TypeError, OverflowError) as error:
        raise InputError(
            f"The array {NOTES!r} of a recording must be what recorder.py writes. "
            f"Received: {type(error).__name__}: {error}"
        ) from error
    return dict(notes)
