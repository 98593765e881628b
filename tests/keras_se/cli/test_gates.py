import json

import keras
import numpy as np
import pytest

import keras_se
from keras_se.litert.graph.flatbuffer import packed, unpacked


@pytest.mark.parametrize("name", ["se.keras", "se.tflite"])
def test_gates(tmp_path, keras_se_command, capsys, name):
    report = tmp_path / "gates.json"
    assert keras_se_command("gates", name, "--data data.npz --json", report) == 0
    printed = capsys.readouterr().out
    source = keras.saving.load_model(name) if name == "se.keras" else name
    data = np.load("data.npz")
    figures = {site["name"]: site for site in json.loads(report.read_text())}
    facts = ("kind", "squeeze", "form", "gate", "channels", "width")
    for found in keras_se.find_sites(source):
        known = {fact: getattr(found, fact) for fact in facts}
        assert {fact: figures[found.name][fact] for fact in facts} == known
        assert " ".join([found.name, *map(str, known.values())]) in " ".join(printed.split())
    for site, values in keras_se.read_gates(source, data["x_test"]).items():
        assert site in printed
        assert f"{values.mean():.4f}" in printed
        for label in (0, 1):
            expected = values[data["y_test"] == label].mean(axis=0)
            np.testing.assert_allclose(figures[site]["by_class"][str(label)], expected, atol=1e-6)


def test_without_data_it_lists_the_sites(keras_se_command, capsys):
    for name in ("se.keras", "se.tflite"):
        assert keras_se_command("gates", name) == 0
        printed = capsys.readouterr().out
        assert max(map(len, printed.splitlines())) <= 80
        rows = [line.split() for line in printed.splitlines() if line.startswith(" se_1")]
        assert rows[0][:7] == ["se_1", "self", "avg", "two_matrices", "sigmoid", "8", "2"]
        assert [row[:4] for row in rows[1:]] == [["se_1", "5", "1", "none"]] * (name == "se.tflite")


def test_npu(tmp_path, keras_se_command, capsys):
    report = tmp_path / "npu.json"
    assert keras_se_command("gates se.tflite --npu ethos-u85-256 --json", report) == 0
    printed = capsys.readouterr().out
    content = json.loads(report.read_text())
    assert f"SE runs on the NPU; it takes {content['conclusion'].split('takes ')[1]}" in printed
    assert [*content["sites"]] == ["se_1", "se_2"]


def test_worth(tmp_path, keras_se_command, capsys):
    report = tmp_path / "gates.json"
    assert keras_se_command("gates se.keras --data data.npz --worth --json", report) == 0
    model, data = keras.saving.load_model("se.keras"), np.load("data.npz")
    printed = capsys.readouterr().out
    expected = keras_se.worth(model, data["x_test"])
    found = {site["name"]: site["worth"] for site in json.loads(report.read_text())}
    assert found == pytest.approx(expected)
    assert all(f"{share:.4f}" in printed for share in expected.values())
    assert "worth: share of what SE does for the outputs" in printed


def test_without_labels(tmp_path, keras_se_command, refused):
    report, plot = tmp_path / "gates.json", tmp_path / "gates.svg"
    assert keras_se_command("gates se.keras --data unlabelled.npz --json", report) == 0
    assert json.loads(report.read_text())[0]["by_class"] == {}
    assert "Curves by class need labels" in refused(
        "gates se.keras --data unlabelled.npz --plot", plot
    )
    assert not plot.exists()


def test_plot(tmp_path, keras_se_command):
    assert keras_se_command("gates se.tflite --data data.npz --plot", tmp_path / "a.png") == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("gates plain.keras", "gates needs a model with SE sites. Received: plain.keras with none"),
        ("gates no.tflite", "must exist to be read"),
        ("gates no.tflite --npu ethos-u55-128", "must exist to be read"),
        ("gates se.keras --npu ethos-u55-128", "holds 'TFL3' at byte 4. Received: se.keras"),
        ("gates se.tflite --npu ethos-u55", "'ethos-u55' is not one of"),
        ("gates se.tflite --npu ethos-u55-128 --worth", "--npu goes with --json only"),
        ("gates se.keras --data data.npz --tau -1", "--tau must be at least 0. Received: -1.0"),
        ("gates se.keras --plot a.svg", "--worth, --json and --plot need --data"),
        ("gates se.tflite --data data.npz --worth", "The reference must be a Keras model or a"),
        ("gates se.keras --json a.svg --plot ./a.svg", "--json and --plot need different files"),
        ("gates se.keras --json few.npz", "must not exist yet"),
        ("gates se.keras --data no.npz", "must be an existing .npz file"),
        ("gates se.keras --data no_such_module:f", "must be importable"),
        ("gates se.keras --data narrow.npz", "Received: shape (300, 4, 8, 3)"),
    ],
)
def test_bad_input(refused, words, sentence):
    assert sentence in refused(words)


@pytest.mark.parametrize("words", ["gates bad.tflite", "verify se.keras bad.tflite --data few.npz"])
def test_a_file_that_brings_the_runtime_down(refused, files, monkeypatch, words):
    (files / "bad.tflite").write_bytes((files / "se.tflite").read_bytes())
    crash = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
    monkeypatch.setattr("keras_se.isolation._SCRIPT", crash)
    assert "in a process of its own it ended with signal 11" in refused(words)
    (files / "bad.tflite").unlink()


def test_names_are_no_markup_and_rule_no_terminal(files, keras_se_command, capsys):
    model = unpacked((files / "se.tflite").read_bytes())
    for signature in model.signatureDefs:
        signature.signatureKey = b"[/x]\x1b[31m"
    for tensor in model.subgraphs[0].tensors:
        tensor.name = b"[/x]\x1b[31m"
    (files / "named.tflite").write_bytes(packed(model))
    assert keras_se_command("gates named.tflite") == 0
    printed = capsys.readouterr().out
    assert "[/x][31m" in printed
    assert "\x1b" not in printed
    (files / "named.tflite").unlink()
