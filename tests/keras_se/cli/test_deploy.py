"""The commands `deploy` and `repair`."""

import json

import numpy as np
import pytest


@pytest.fixture(scope="module")
def float_file(files, networks, tmp_path_factory):
    from keras_se import to_tflite

    path = tmp_path_factory.mktemp("float") / "float.tflite"
    with np.load(files / "data.npz") as data:
        np.savez(files / "held_out.npz", x=data["x_test"])
    path.write_bytes(to_tflite(networks["sigmoid"], "float32"))
    return path


def test_deploy_writes_what_passes(float_file, files, tmp_path, keras_se_command, capsys):
    out, report, page = (tmp_path / name for name in ("a.tflite", "a.json", "a.html"))
    words = ("deploy", float_file, out, "--calibration calibrated.npz --data held_out.npz")
    assert keras_se_command(*words, "--json", report, "--html", page) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("Ship int8 (")
    assert "Inputs int8 (scale 0." in printed
    assert "the float network has float32." in printed
    assert f"{out}: int8, and {tmp_path / 'a.recipe.json'}" in printed
    content = json.loads(report.read_text())
    assert (content["passed"], content["attempts"][0]["bytes"]) == (True, out.stat().st_size)
    port = next(iter(content["inputs"].values()))
    assert (port["type"], port["float_type"]) == ("int8", "float32")
    assert content["interface"] in page.read_text()
    assert "<title>a.tflite: gates of a file of " in page.read_text()


def test_each_format_that_is_offered_is_taken(float_file, tmp_path, keras_se_command, capsys):
    """A file that is all in float is one of them; its types are those of the network."""
    out = tmp_path / "a.tflite"
    words = "--calibration calibrated.npz --data held_out.npz --format float32"
    assert keras_se_command("deploy", float_file, out, words) == 0
    assert "the float network has" not in capsys.readouterr().out


def test_deploy_says_that_nothing_passes(float_file, tmp_path, keras_se_command, capsys):
    """The labels are not what the network was trained for, so that few samples show nothing."""
    out = tmp_path / "a.tflite"
    words = "--calibration calibrated.npz --data data.npz --tolerance 0 --format int8 --html"
    page = tmp_path / "a.html"
    assert keras_se_command("deploy", float_file, out, words, page) == 1
    assert capsys.readouterr().out.startswith("Do not ship: none of ")
    assert [*tmp_path.iterdir()] == [page]
    assert "<title>a.tflite, not written: gates of a file of " in page.read_text()


def test_repair(float_file, tmp_path, keras_se_command, capsys):
    out = tmp_path / "a.tflite"
    assert keras_se_command("repair", float_file, "se.tflite", out, "--data unlabelled.npz") == 2
    error = capsys.readouterr().err
    assert "samples that are in its recipe" in error
    assert "x_train and x_test in one .npz file" in error
    assert "verify" not in error
    assert keras_se_command("repair", float_file, "se.tflite", out, "--data few.npz") == 2
    assert "at least 32 held-out samples" in capsys.readouterr().err
    data = "--data held_out.npz"
    assert keras_se_command("repair", float_file, "se.tflite", out, data) == 0
    assert f"{out}: int8\n" in capsys.readouterr().out


def test_refused_outputs(float_file, refused, tmp_path):
    words = ("--calibration calibrated.npz --data data.npz",)
    assert "must end in .tflite" in refused("deploy", float_file, tmp_path / "a.bin", *words)
    assert "must not exist yet" in refused("deploy", float_file, "se.tflite", *words)
    assert "must exist" in refused("deploy", "none.tflite", tmp_path / "a.tflite", *words)
