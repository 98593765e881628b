"""A twin of a TFLite file that outputs its gates, to run where this machine's verdict says nothing.

The delegate of a phone does not run here, so the twin runs there: `keras_se.litert.recorder`.
"""

from collections.abc import Mapping
from typing import Any

from keras_se.errors import InputError, import_extra
from keras_se.litert.graph.flatbuffer import TFLite, TFLiteModel, add_outputs, packed, unpacked
from keras_se.litert.graph.sites import GateNode, gate_nodes
from keras_se.litert.recorder import PROBE
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
        >>> import numpy as np
        >>> from keras_se import SEBlock, to_tflite
        >>> from keras_se.litert.runtime import predict
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> twin = probe(to_tflite(model, "float32"))
        >>> sorted(predict(twin, np.zeros((1, 8, 8, 4))))
        ['gate_se_1', 'output_0']
    """
    file = TFLiteModel.of(tflite)
    nodes = probed_nodes(file)
    model = unpacked(file.content)
    for index in sorted({node.subgraph for node in nodes}):
        gates = {output_name(n.site.name): n.gate_tensor for n in nodes if n.subgraph == index}
        signatures = [s for s in model.signatureDefs or () if s.subgraphIndex == index]
        if index > 0 and not signatures:
            raise InputError(
                "probe needs each site in the main sub-graph or in the sub-graph of a signature. "
                f"Received: {sorted(gates)} in sub-graph {index}, which has no outputs of its own"
            )
        for signature in signatures:
            _add_to_signature(signature, gates)
        add_outputs(model.subgraphs[index], gates.values())
    _mark(model)
    return packed(model)


def output_name(site: str) -> str:
    """Returns the name of the output that holds the gates of a site."""
    return f"gate_{site.replace('/', '_')}"


def probed_nodes(file: TFLiteModel) -> list[GateNode]:
    """Returns the sites of a file that has some."""
    nodes = gate_nodes(file, tuple(PREFIXES))
    if not nodes:
        raise InputError(
            "probe and recorded gates need a TFLite file with SE sites. "
            f"Received: {len(file.content)} bytes without one"
        )
    return nodes


def _mark(model: Any) -> None:
    """Marks a twin, for its outputs have no names that tell without a signature."""
    schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
    entry = schema.MetadataT()
    entry.name, entry.buffer = PROBE, 0  # buffer 0 is empty in each file
    model.metadata = [*(model.metadata or ()), entry]


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
