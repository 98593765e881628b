"""What `to_tflite` writes about a file into the file itself.

Source: the TFLite schema (`schema.fbs`): a file may hold named buffers that no operator reads.
"""

import json
from typing import Any

import numpy as np

from keras_se.errors import import_extra
from keras_se.litert.graph.flatbuffer import TFLite, TFLiteModel, packed, unpacked
from keras_se.untrusted import parse_json

_NAME = b"keras_se"


def with_metadata(content: bytes, metadata: dict[str, Any]) -> bytes:
    """Returns a file that also holds a JSON object, in place of one that it held."""
    schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
    model = unpacked(content)
    data = np.frombuffer(json.dumps(metadata, separators=(",", ":")).encode(), "uint8")
    entry = next((e for e in model.metadata or () if bytes(e.name) == _NAME), None)
    if entry is None:
        entry = schema.MetadataT()
        entry.name, entry.buffer = _NAME, len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.metadata = [*(model.metadata or ()), entry]
    model.buffers[entry.buffer].data = data
    return packed(model)


def metadata_of(tflite: TFLite) -> dict[str, Any]:
    """Returns the JSON object in a file; empty if there is none, or if it was changed."""
    found = TFLiteModel.of(tflite).metadata.get(_NAME)
    try:
        content = parse_json(found or b"{}")
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
