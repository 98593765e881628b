import json

import keras
import numpy as np
import pytest

import keras_se


def test_fold(files, tmp_path, keras_se_command, capsys):
    out, report = tmp_path / "folded.keras", tmp_path / "fold.json"
    data = np.load(files / "data.npz")
    labels = {"y_train": np.arange(len(data["x_train"])) % 2}
    np.savez(tmp_path / "labelled.npz", **{**data, **labels})
    words = ("--data", tmp_path / "labelled.npz", "--tolerance inf --json", report)
    assert keras_se_command("fold se.keras", out, *words) == 0
    printed = capsys.readouterr().out
    content = json.loads(report.read_text())
    assert content["folded"] == list(content["sites"])
    assert content["samples"] == len(data["x_train"])  # never the test part
    count = len(content["folded"])
    assert f"{count} of {count} SE sites are constants now: " in printed
    assert f"Accuracy: {content['outcome']['reference']:.4f} before, " in printed
    folded = keras.saving.load_model(out)
    assert keras_se.find_sites(folded) == []
    before = keras.saving.load_model(files / "se.keras").count_params()
    assert f"SE sites: 0, parameters: {folded.count_params():,} (before: {before:,})" in printed


def test_nothing_to_fold_writes_no_model(tmp_path, keras_se_command, capsys):
    out, report = tmp_path / "folded.keras", tmp_path / "fold.json"
    words = ("fold se.keras", out, "--data unlabelled.npz --tolerance 0 --site se_1 --json", report)
    assert keras_se_command(*words) == 1
    assert "Nothing is folded: no site can go at a tolerance of 0." in capsys.readouterr().out
    assert json.loads(report.read_text())["folded"] == []
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("fold se.keras out --data data.npz", "model file must end in .keras. Received: 'out'"),
        ("fold se.keras plain.keras --data data.npz", "must not exist yet; with overwrite"),
        ("fold plain.keras out.keras --data data.npz", "needs a model with SE sites. Received: "),
        ("fold se.keras out.keras --data few.npz", "fold needs 32 samples or more"),
        ("fold se.keras out.keras --data data.npz --site se_9", "Received: ['se_9']"),
        ("fold se.keras out.keras --data data.npz --tolerance -1", "-1"),
        ("fold se.keras out.keras", "Missing option '--data'"),
    ],
)
def test_bad_input(refused, words, sentence):
    assert sentence in refused(words)
