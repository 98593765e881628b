"""Gates recorded on a device, with a twin of a TFLite file that outputs them.

The delegate of a phone does not run here, so the twin runs there, and its outputs are read here.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_se.data import npz_arrays
from keras_se.errors import InputError, import_extra
from keras_se.litert.graph.flatbuffer import (
    SubGraph,
    TFLite,
    TFLiteModel,
    add_outputs,
    dequantized,
    packed,
    unpacked,
)
from keras_se.litert.graph.sites import GateNode, gate_nodes
from keras_se.sites.site import PREFIXES


def probe(tflite: TFLite) -> bytes:
    """Returns a twin of a TFLite file that also outputs the gates of its SE sites.

    The operators and weights are the same. The gates follow the outputs of the file, in the order
    of the sites, as `gate_se_1`, `gate_se_2`, ... in a signature; quantized gates are codes.

    A delegate must write each extra output. This can prevent fusion, and change the partitions and,
    on a GPU, the rounding. So recorded gates are evidence about the twin on that device; say so
    with a verdict. On the CPU (XNNPACK) both files have equal outputs, bit for bit.

    Args:
        tflite: The bytes of the file, or its path.

    Returns:
        The bytes of the twin.

    Raises:
        InputError: If it is not a TFLite file, has no SE site, has data outside its flatbuffer, or
            is already a twin.
        MissingExtraError: If LiteRT is not installed.

    Example:
        >>> import keras
        >>> from keras_se import SEBlock, to_tflite
        >>> from keras_se.litert.runtime import predict
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> twin = probe(to_tflite(model, "float32"))
        >>> sorted(predict(twin, np.zeros((1, 8, 8, 4))))
        ['gate_se_1', 'output_0']
    """
    file = TFLiteModel.of(tflite)
    nodes = _nodes(file)
    model = unpacked(file.content)
    for index in sorted({node.subgraph for node in nodes}):
        gates = {_output_name(n.site.name): n.gate_tensor for n in nodes if n.subgraph == index}
        signatures = [s for s in model.signatureDefs or () if s.subgraphIndex == index]
        if index > 0 and not signatures:
            raise InputError(
                "probe needs each site in the main sub-graph or in the sub-graph of a signature. "
                f"Received: {sorted(gates)} in sub-graph {index}, which has no outputs of its own"
            )
        for signature in signatures:
            _add_to_signature(signature, gates)
        add_outputs(model.subgraphs[index], gates.values())
    return packed(model)


def _output_name(site: str) -> str:
    return f"gate_{site.replace('/', '_')}"


def recorded_gates(
    tflite: TFLite, source: str | os.PathLike[str] | Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Returns recorded gates by site name, dequantized, as (samples, channels) arrays."""
    if not isinstance(source, str | os.PathLike | Mapping):
        raise InputError(
            "Recorded gates must be an .npz file or a dictionary of arrays. "
            f"Received: {type(source).__name__}"
        )
    file = TFLiteModel.of(tflite)
    nodes = _nodes(file)
    arrays = source if isinstance(source, Mapping) else _read_npz(Path(source))
    gates = {node.site.name: _recorded(node, file.graphs[node.subgraph], arrays) for node in nodes}
    samples = {name: len(values) for name, values in gates.items()}
    if len(set(samples.values())) > 1:
        raise InputError(
            f"Recorded gates must have one number of samples at all sites. Received: {samples}"
        )
    return gates


def _nodes(file: TFLiteModel) -> list[GateNode]:
    nodes = gate_nodes(file, tuple(PREFIXES))
    if not nodes:
        raise InputError(
            "probe and recorded gates need a TFLite file with SE sites. "
            f"Received: {len(file.content)} bytes without one"
        )
    return nodes


def _add_to_signature(signature: Any, gates: Mapping[str, int]) -> None:
    schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
    known = {bytes(output.name).decode("utf-8", "replace") for output in signature.outputs}
    taken = sorted(known & set(gates))
    if taken:
        raise InputError(
            "probe needs a file without gates among its outputs, so no twin. "
            f"Received: a file with the outputs {taken}"
        )
    for name, tensor in gates.items():
        output = schema.TensorMapT()
        output.name, output.tensorIndex = name, tensor
        signature.outputs.append(output)


def _read_npz(path: Path) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"Recorded gates must be an existing .npz file. Received: {path}")
    return npz_arrays("Recorded gates", path)


def _recorded(node: GateNode, graph: SubGraph, arrays: Mapping[str, Any]) -> np.ndarray:
    """Returns the gates of one site, of shape (samples, channels)."""
    name = _name_in(arrays, node.site.name)
    try:
        values = np.asarray(arrays[name])
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} must be an array of numbers. Received: {error}") from error
    if values.dtype.kind not in "fiu":
        raise InputError(f"{name} must be an array of numbers. Received: dtype {values.dtype}")
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
        values = _decoded(name, values, graph, node.gate_tensor)
    # NaN and infinity pass: the verdict reports them.
    return values.astype("float32").reshape(len(values), channels)


def _name_in(arrays: Mapping[str, Any], site: str) -> str:
    names = [name for name in (_output_name(site), site) if name in arrays]
    if len(names) != 1:
        raise InputError(
            f"Recorded gates must hold each site of the file once: {site} as "
            f"{_output_name(site)!r} or {site!r}. Received: {sorted(map(str, arrays))}"
        )
    return names[0]


def _decoded(name: str, codes: np.ndarray, graph: SubGraph, tensor: int) -> np.ndarray:
    if graph.scale(tensor) == 0.0:
        raise InputError(
            f"{name} must be floats: the gates of this file are not quantized. "
            f"Received: dtype {codes.dtype}"
        )
    limits = np.iinfo(graph.type(tensor).lower())
    if codes.min() < limits.min or codes.max() > limits.max:
        raise InputError(
            f"{name} must hold codes of {limits.dtype}, as the gates of this file are. "
            f"Received: {codes.min()} to {codes.max()}"
        )
    return dequantized(codes, graph.scale(tensor), graph.zero_point(tensor))
