import hashlib
import json

import keras
import numpy as np

from keras_se import SEBlock, adopt, to_tflite
from keras_se.litert.recipe import recipe_path, row_hashes
from keras_se.litert.support import support_row

X = np.random.default_rng(0).normal(size=(100, 8, 8, 4)).astype("float32")


def recipe(model, tmp_path, *arguments):
    tflite = to_tflite(model, *arguments, path=tmp_path / "m.tflite")
    return tflite, json.loads(recipe_path(tmp_path / "m.tflite").read_text())


def test_what_is_on_record(tmp_path):
    block = SEBlock(2, gate="one_plus_tanh", squeeze="max")
    inner = keras.Sequential([keras.Input((8, 8, 4)), block], name="inner")
    model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(width=1), inner], name="outer")
    tflite, content = recipe(model, tmp_path, "int8", X)
    assert content["sha256"] == hashlib.sha256(tflite).hexdigest()
    assert (content["format"], content["bytes"], content["model"]) == ("int8", len(tflite), "outer")
    assert content["options"] == {
        "input_type": "int8",
        "output_type": "int8",
        "input_shape": None,
        "keep_float": [],
        "check_range": True,
    }
    assert content["versions"]["keras"] == keras.__version__
    assert {"python", "tensorflow", "ai-edge-litert", "keras-se"} <= set(content["versions"])
    calibration = content["calibration"]
    assert calibration["samples"] == len(set(calibration["rows"])) == 100
    assert calibration["variance_ratio"].startswith("not checked: no trained BatchNormalization")
    first, second = content["sites"]["se_1"], content["sites"]["inner/se_1"]
    assert (first["width"], first["gate"], first["rank"], first["channels"]) == (1, "sigmoid", 4, 4)
    assert (second["ratio"], second["squeeze"], second["gate"]) == (2, "max", "one_plus_tanh")
    row = support_row("one_plus_tanh", "max", 4, "int8")
    assert content["support"]["inner/se_1"]["operators"] == list(row.operators)


def test_without_calibration_and_with_se_that_is_written_out(tmp_path):
    x = inputs = keras.Input((8, 8, 4))
    for name in ("first", "second"):
        gates = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
        gates = keras.layers.Conv2D(2, 1, activation="relu", name=name)(gates)
        x = x * keras.layers.Conv2D(4, 1, activation="hard_sigmoid")(gates)
    model = keras.Model(inputs, x)
    _, content = recipe(model, tmp_path, "float16")
    assert list(content["sites"]) == ["se_1", "se_2"]
    assert content["calibration"] is None
    assert {site["source"] for site in content["sites"].values()} == {"inline"}
    assert content["support"]["se_1"]["gate"] == "hard_sigmoid"
    _, adopted = recipe(adopt(model), tmp_path / "adopted", "float16")
    for name, site in content["sites"].items():
        assert all(adopted["sites"][name][key] == site[key] for key in ("width", "gate", "squeeze"))


def test_a_row_has_one_hash_wherever_it_turns_up():
    rows = row_hashes({"x": X})
    assert row_hashes({"other": X[7:8].astype("float64")}) == rows[7:8]
    assert len(set(rows)) == 100
    both = row_hashes({"b": X, "a": X + 1})
    assert row_hashes({"a": X + 1, "b": X}) == both != row_hashes({"a": X, "b": X + 1})
