"""Gates recorded on a device: a twin of a TFLite file that gives them out, and what it gave.

A phone's delegate (GPU, NPU) does not run on this machine. So the file is given a twin with the
gates among its outputs; the twin is run on the device, its outputs are saved, and their gates are
judged like any others.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_se.data import npz_arrays
from keras_se.errors import InputError, import_extra
from keras_se.litert.graph import GateNode, TFLite, gate_nodes, read_bytes

_OUTSIDE = 1  # schema.fbs: offsets above it point to data behind the flatbuffer
_ALIGNMENT = 16  # schema.fbs: `force_align` of the data of a buffer


def probe(tflite: TFLite) -> bytes:
    """A twin of a TFLite file whose extra outputs are the gates of its SE sites.

    The twin has the same operators and weights. Its outputs are those of the file, in their order,
    and behind them the gate tensors, in the order of the sites; where the file has signatures they
    are called `gate_se_1`, `gate_se_2`, ... there. Quantized gates are given out as codes.

    An extra output is a tensor that a delegate has to write: it can keep operations from being
    fused, and change how the file is cut into partitions, and on a GPU with that the rounding. So
    gates recorded from the twin are evidence of the twin on that device; whoever reports a verdict
    on them says so. On the CPU (XNNPACK) the outputs of the two are equal bit for bit.

    Args:
        tflite: The bytes of the file, or its path.

    Returns:
        The bytes of the twin.

    Raises:
        InputError: If it is not a TFLite file, has no SE site, has data outside of its flatbuffer,
            or is a twin already.
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
    content = read_bytes(tflite)
    nodes = _nodes(content, "probe")
    model = unpacked(content)
    for index in sorted({node.subgraph for node in nodes}):
        gates = {output_name(n.site.name): n.gate_tensor for n in nodes if n.subgraph == index}
        signatures = [s for s in model.signatureDefs or () if s.subgraphIndex == index]
        if index > 0 and not signatures:
            raise InputError(
                "probe takes a file whose sites are in its main sub-graph or in that of a "
                f"signature. Received: {sorted(gates)} in sub-graph {index}, which has no outputs "
                "of its own"
            )
        for signature in signatures:
            _add_to_signature(signature, gates)
        outputs = [int(i) for i in model.subgraphs[index].outputs]
        model.subgraphs[index].outputs = list(dict.fromkeys([*outputs, *gates.values()]))
    return packed(model)


def output_name(site: str) -> str:
    """The name of the output that holds the gates of a site.

    Args:
        site: Name of the site.

    Returns:
        A name without `/`.

    Example:
        >>> output_name("se_1")
        'gate_se_1'
    """
    return f"gate_{site.replace('/', '_')}"


def recorded_gates(
    tflite: TFLite, source: str | os.PathLike[str] | Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Gates that were recorded on a device, as the values that they stand for.

    Args:
        tflite: The bytes of the file that was probed, or its path; the twin will do.
        source: Path of an `.npz` file, or a mapping, with one array for each site of the file, by
            the name of the output (`gate_se_1`) or of the site (`se_1`). Shape (samples, channels)
            or as the tensor has it, such as (samples, 1, 1, channels). Integers are codes of the
            file's gate tensor, floats are gates. Other arrays are left alone. Pickled arrays are
            never loaded.

    Returns:
        By site name, float32, shape (samples, channels), as from `file_gates`. NaN and infinity are
        kept: they are a verdict's business.

    Raises:
        InputError: If the file or the recording cannot be read, or a site is missing, recorded
            twice, of another shape, of another length than the others, or in codes that its tensor
            cannot hold.
        MissingExtraError: If LiteRT is not installed.

    Example:
        >>> import keras
        >>> from keras_se import SEBlock, to_tflite
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> tflite = to_tflite(model, "float32")
        >>> recorded_gates(tflite, {"gate_se_1": np.ones((2, 1, 1, 4))})["se_1"].shape
        (2, 4)
    """
    if not isinstance(source, str | os.PathLike | Mapping):
        raise InputError(
            "Recorded gates are an .npz file or a dictionary of arrays. "
            f"Received: {type(source).__name__}"
        )
    content = read_bytes(tflite)
    nodes = _nodes(content, "recorded_gates")
    arrays = source if isinstance(source, Mapping) else _read_npz(Path(source))
    graphs = unpacked(content).subgraphs
    gates = {
        node.site.name: _recorded(node, graphs[node.subgraph].tensors[node.gate_tensor], arrays)
        for node in nodes
    }
    samples = {name: len(values) for name, values in gates.items()}
    if len(set(samples.values())) > 1:
        raise InputError(f"Recorded gates must be of the same samples. Received: {samples}")
    return gates


def unpacked(content: bytes) -> Any:
    """The tables of a TFLite file, to be changed.

    Args:
        content: The bytes of the file.

    Returns:
        The `ModelT` of LiteRT's generated schema.

    Raises:
        InputError: If the bytes hold no such tables, or data lies outside of the flatbuffer, where
            a changed file would lose it.
        MissingExtraError: If LiteRT is not installed.
    """
    schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        outside = _outside(model)
    except Exception as error:  # whatever a malformed table leads the generated reader into
        raise InputError(
            "A TFLite file must follow the schema to be changed. "
            f"Received: {len(content)} bytes; reading them gives {type(error).__name__}: {error}"
        ) from error
    if outside:
        raise InputError(
            "A TFLite file can be changed only if all of its data is inside of the flatbuffer "
            f"(files above 2 GB keep it outside). Received: a file with {outside} outside"
        )
    return model


def packed(model: Any) -> bytes:
    """The bytes of a TFLite file.

    Args:
        model: A `ModelT` from `unpacked`.

    Returns:
        The bytes, the data of each buffer at a multiple of 16, as the schema asks for.

    Raises:
        MissingExtraError: If LiteRT is not installed.
    """
    flatbuffers: Any = import_extra("flatbuffers", "litert")

    class Builder(flatbuffers.Builder):
        """Aligns vectors of bytes, which the generated `Pack` does not."""

        def StartVector(self, elemSize: int, numElems: int, alignment: int) -> Any:  # noqa: N802, N803
            alignment = _ALIGNMENT if elemSize == 1 else alignment
            return super().StartVector(elemSize, numElems, alignment)

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _nodes(content: bytes, what: str) -> list[GateNode]:
    nodes = gate_nodes(content)
    if not nodes:
        raise InputError(
            f"{what} takes a TFLite file with SE sites. Received: {len(content)} bytes without one"
        )
    return nodes


def _outside(model: Any) -> str:
    """What of a file lies outside of its flatbuffer, in words; empty if nothing does."""
    operators = [operator for graph in model.subgraphs for operator in graph.operators]
    if any(buffer.offset > _OUTSIDE for buffer in model.buffers):
        return "buffers"
    if any(operator.largeCustomOptionsOffset > _OUTSIDE for operator in operators):
        return "custom options"
    return "external buffers" if model.externalBuffers else ""


def _add_to_signature(signature: Any, gates: Mapping[str, int]) -> None:
    schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
    known = {bytes(output.name).decode("utf-8", "replace") for output in signature.outputs}
    taken = sorted(known & set(gates))
    if taken:
        raise InputError(
            "probe takes a file whose outputs are not called like gates, so no twin. "
            f"Received: a file with the outputs {taken}"
        )
    for name, tensor in gates.items():
        output = schema.TensorMapT()
        output.name, output.tensorIndex = name, tensor
        signature.outputs.append(output)


def _read_npz(path: Path) -> Mapping[str, np.ndarray]:
    if not path.is_file():
        raise InputError(f"Recorded gates must be an existing .npz file. Received: {path}")
    try:
        return npz_arrays(path)
    except Exception as error:  # zip, zlib, header and pickle faults share no base class
        raise InputError(
            "Recorded gates must be an .npz file of arrays, without pickled objects. "
            f"Received: {path}, which cannot be read: {error}"
        ) from error


def _recorded(node: GateNode, tensor: Any, arrays: Mapping[str, Any]) -> np.ndarray:
    """The gates of one site, shape (samples, channels)."""
    name = _name_in(arrays, node.site.name)
    try:
        values = np.asarray(arrays[name])
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} must be an array of numbers. Received: {error}") from error
    if values.dtype.kind not in "fiu":
        raise InputError(f"{name} must be an array of numbers. Received: dtype {values.dtype}")
    channels = node.site.channels
    if np.prod(values.shape[1:]) != channels or channels not in values.shape[1:]:
        raise InputError(
            f"{name} must have the shape (samples, {channels}) or (samples, 1, 1, {channels}). "
            f"Received: shape {values.shape}"
        )
    if len(values) == 0:
        raise InputError(f"{name} must hold samples. Received: shape {values.shape}")
    if values.dtype.kind != "f":
        values = _decoded(name, values, tensor)
    return values.astype("float32").reshape(len(values), channels)


def _name_in(arrays: Mapping[str, Any], site: str) -> str:
    names = [name for name in (output_name(site), site) if name in arrays]
    if len(names) != 1:
        raise InputError(
            f"Recorded gates must hold each site of the file once: {site} as "
            f"{output_name(site)!r} or {site!r}. Received: {sorted(map(str, arrays))}"
        )
    return names[0]


def _decoded(name: str, codes: np.ndarray, tensor: Any) -> np.ndarray:
    """The values of the codes of a quantized tensor."""
    schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
    types = schema.TensorType
    dtypes = {types.INT8: "int8", types.UINT8: "uint8", types.INT16: "int16"}
    if tensor.type not in dtypes:
        raise InputError(
            f"{name} must be floats: the gates of this file are not quantized. "
            f"Received: dtype {codes.dtype}"
        )
    limits = np.iinfo(dtypes[tensor.type])
    if codes.min() < limits.min or codes.max() > limits.max:
        raise InputError(
            f"{name} must hold codes of {limits.dtype}, as the gates of this file are. "
            f"Received: {codes.min()} to {codes.max()}"
        )
    scale, zero_point = tensor.quantization.scale[0], int(tensor.quantization.zeroPoint[0])
    return (codes.astype("float32") - zero_point) * np.float32(scale)
