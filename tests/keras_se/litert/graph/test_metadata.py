import base64
import json

import numpy as np

from keras_se.litert.graph.flatbuffer import unpacked
from keras_se.litert.graph.metadata import metadata_of, with_metadata
from keras_se.litert.runtime import predict


def test_metadata_goes_with_the_file_and_changes_nothing(files, images):
    tflite = files["sigmoid", "int8"]
    other = with_metadata(tflite, {"a": [1, "é"]})
    assert metadata_of(other) == {"a": [1, "é"]}  # the last one counts
    np.testing.assert_array_equal(predict(other, images[:4]), predict(tflite, images[:4]))
    names = [bytes(entry.name) for entry in unpacked(other).metadata]
    assert b"min_runtime_version" in names  # the converter's own stay
    model = unpacked(other)
    for content in (b"{", b"[1]", b"\xff"):
        changed = with_metadata(tflite, {}).replace(b"{}", content[:2].ljust(2))
        assert metadata_of(changed) == {} or json.loads(content) == [1]
    assert model.metadata[-1].name == b"keras_se"


def test_to_tflite_writes_the_digests_of_its_calibration(files):
    assert metadata_of(files["sigmoid", "float32"]) == {"format": "float32", "rows": None}
    found = metadata_of(files["sigmoid", "int8"])
    assert found["format"] == "int8"
    assert len(base64.b64decode(found["rows"])) == 4 * 200
