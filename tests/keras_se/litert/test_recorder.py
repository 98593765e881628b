"""The recorder as it runs on a device: a copied file, in a process of its own."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from keras_se.litert import probe, recorder
from keras_se.litert.gates import file_gates
from keras_se.litert.graph.flatbuffer import packed, unpacked
from keras_se.litert.runtime import Runner, predict


@pytest.fixture(scope="module")
def device(tmp_path_factory, files, images):
    """A folder with the recorder, the probe of an int8 file, and samples."""
    folder = tmp_path_factory.mktemp("device")
    shutil.copy(recorder.__file__, folder / "recorder.py")
    (folder / "probe.tflite").write_bytes(probe(files["sigmoid", "int8"]))
    (folder / "int8.tflite").write_bytes(files["sigmoid", "int8"])
    np.savez(folder / "samples.npz", x_test=images[:40], y_test=np.zeros(40), x_train=images)
    return folder


def run(device, *words):
    command = [sys.executable, "recorder.py", *words]
    return subprocess.run(command, cwd=device, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def recording(device):
    done = run(device, "probe.tflite", "out.npz", "--data", "samples.npz")
    assert done.returncode == 0, done.stderr
    with np.load(device / "out.npz") as archive:
        return dict(archive)


def test_it_needs_numpy_alone_and_an_old_python():
    tree = ast.parse(Path(recorder.__file__).read_text(), feature_version=(3, 9))
    modules = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    others = {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert others == {"numpy"}


def test_it_records_what_the_file_computes(recording, files, images):
    tflite, x = files["sigmoid", "int8"], images[:40]
    runner = Runner(tflite)
    scale, zero = runner.interpreter.get_output_details()[0]["quantization"]
    assert recording["output_0"].dtype == np.int8
    found = (recording["output_0"].astype("float32") - zero) * np.float32(scale)
    np.testing.assert_array_equal(found, runner.run(x)[0])
    for site, gates in file_gates(tflite, x).items():
        codes = recording[f"gate_{site}"].reshape(gates.shape)
        np.testing.assert_array_equal((codes.astype("float32") + 128) / 256, gates)


def test_it_says_where_that_was(recording, device):
    notes = json.loads(recording["recorder"].item())
    assert notes["processor"] == recorder.processor()
    assert notes["runtime"].startswith("ai-edge-litert ")
    assert (notes["kernels"], notes["threads"], notes["runs"]) == ("default", 1, 50)
    latency = [notes["latency"][name] for name in ("p10", "p50", "p90", "p99")]
    assert latency[0] > 0.0
    assert latency == sorted(latency)


def test_other_kernels_are_other_code(device, recording, images):
    twin = (device / "probe.tflite").read_bytes()
    found = recorder.record(twin, {"x": images[:40]}, "reference")
    assert json.loads(found["recorder"].item())["kernels"] == "reference"
    steps = np.abs(found["gate_se_1"].astype(int) - recording["gate_se_1"])
    assert steps.max() <= 3
    own = recorder.record(twin, {"x": images[:40]})
    np.testing.assert_array_equal(own["gate_se_1"], recording["gate_se_1"])


def test_a_file_without_signatures(files, images):
    """Then the outputs have the names of their tensors, which do not tell that it is a probe."""
    tflite = files["sigmoid", "float32"]
    model = unpacked(tflite)
    model.signatureDefs = None
    (name,) = (d["name"] for d in Runner(packed(model)).interpreter.get_output_details())
    found = recorder.record(probe(packed(model)), {"any": images[:3]})
    np.testing.assert_allclose(found[name], predict(tflite, images[:3]), atol=1e-6)
    with pytest.raises(recorder.RecordingError, match=r"needs a probe, .* Make it first with: ker"):
        recorder.record(packed(model), {"any": images[:3]})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("no.tflite", "o.npz", "--data", "samples.npz"), "No such file or directory"),
        (("recorder.py", "o.npz", "--data", "samples.npz"), "Error: "),
        (("int8.tflite", "o.npz", "--data", "samples.npz"), "Error: Recording needs a probe, the "),
        (("probe.tflite", "o.npz", "--data", "labels.npz"), "must hold x_test or x. Received: ['y"),
        (("probe.tflite", "o.npz", "--data", "small.npz"), "shape (samples, 8, 8, 3). Received: f"),
    ],
)
def test_refusals(device, images, words, sentence):
    np.savez(device / "labels.npz", y=np.zeros(3))
    np.savez(device / "small.npz", x=images[:, :4])
    done = run(device, *words)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (device / "o.npz").exists()


def test_refusals_of_arguments(device, images, monkeypatch):
    twin, x = (device / "probe.tflite").read_bytes(), images[:2]
    with pytest.raises(recorder.RecordingError, match=r"^kernels must be one of .*: 'gpu'$"):
        recorder.record(twin, {"x": x}, "gpu")
    with pytest.raises(recorder.RecordingError, match=r"the inputs \['inputs'\]\. Received: \['a"):
        recorder.record(twin, {"a": x, "b": x})
    for name in ("ai_edge_litert", "tflite_runtime"):
        monkeypatch.setitem(sys.modules, f"{name}.interpreter", None)
    with pytest.raises(recorder.RecordingError, match=r"none of .* pip install ai-edge-litert$"):
        recorder.record(twin, {"x": x})
