import numpy as np
import pytest

from keras_se.litert import probe, recorder


def test_probe_record_and_verify(files, tmp_path, keras_se_command, capsys):
    twin, out = tmp_path / "probe.tflite", tmp_path / "out.npz"
    assert keras_se_command("probe se.tflite", twin) == 0
    assert twin.read_bytes() == probe(files / "se.tflite")
    assert recorder.__file__ in capsys.readouterr().out
    assert keras_se_command("record", twin, out, "--data data.npz --kernels builtin") == 0
    assert "gate_se_1, gate_se_2, output_0" in capsys.readouterr().out
    x = np.load(files / "data.npz")["x_test"]
    expected = recorder.record(twin.read_bytes(), {"x": x}, "builtin")
    with np.load(out) as found:
        assert set(found.files) == set(expected)
        np.testing.assert_array_equal(found["gate_se_2"], expected["gate_se_2"])
    assert keras_se_command("verify se.keras se.tflite --data data.npz --gates", out) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"gates and outputs recorded on {recorder.processor()}" in printed
    assert "builtin kernels (" in printed
    assert "Accuracy: reference " in printed
    assert ", file 0." in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("probe se.tflite out", "TFLite file must end in .tflite. Received: 'out'"),
        ("probe text.keras out.tflite", "holds 'TFL3' at byte 4"),
        ("probe se.tflite se.tflite", "must not exist yet"),
        ("record se.tflite out --data data.npz", "recording file must end in .npz"),
        ("record se.tflite out.npz --data narrow.npz", "Received: shape (300, 4, 8, 3)"),
        ("record se.tflite out.npz --data data.npz", "that are none. Make it first with: keras-se"),
        ("record se.tflite out.npz --data data.npz --kernels gpu", "'gpu' is not one of"),
        ("record se.tflite out.npz --data data.npz --threads 0", "0 is not in the range"),
    ],
)
def test_bad_input(refused, words, sentence):
    assert sentence in refused(words)
