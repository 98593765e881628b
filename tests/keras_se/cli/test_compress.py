import json
import os
import shlex
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_se import SEBlock
from keras_se.compress.tfmot.bridge import environment
from keras_se.litert.graph.sites import float_operators
from keras_se.litert.runtime import predict
from tuning.cli import run

SCRIPT = str(Path(sysconfig.get_path("scripts"), "keras-se"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Small classifiers, and labelled images."""
    folder = tmp_path_factory.mktemp("compress")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 8, 8, 3)) * rng.uniform(0.3, 2.0, (160, 1, 1, 1))
    y = (np.abs(x).mean(axis=(1, 2, 3)) > 0.9).astype("int64")
    x = x.astype("float32")
    np.savez(folder / "data.npz", x_train=x[:128], y_train=y[:128], x_test=x[128:], y_test=y[128:])
    np.savez(folder / "unlabelled.npz", x=x)
    np.savez(folder / "unsplit.npz", x=x[:128], y=y[:128])
    held_out = {"x_test": x[128:], "y_test": y[128:]}
    np.savez(folder / "held out.npz", **held_out)
    training = {"x_train": x[:128], "y_train": y[:128]}
    np.savez(folder / "strange.npz", **training, x_test=x[128:], y_test=np.full(32, 7))
    np.savez(folder / "half.npz", **training, y_test=y[128:])
    np.savez(folder / "few.npz", **training, x_test=x[150:], y_test=y[150:])
    np.savez(folder / "mixed.npz", **training, x_test=x[120:], y_test=y[120:])
    one = np.concatenate([np.tile(x[128:], (4, 1, 1, 1)), x[100:101]])
    np.savez(folder / "nearly.npz", **training, x_test=one, y_test=np.r_[np.tile(y[128:], 4), 0])
    for name, units, size in (("logits", 3, 8), ("one", 1, 8), ("open", 3, None)):
        keras.utils.set_random_seed(0)
        activation = "sigmoid" if name == "one" else None
        model = keras.Sequential(
            [
                keras.Input((size, size, 3)),
                keras.layers.Conv2D(8, 3, use_bias=False),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.ReLU(),
                SEBlock(2, bias_initializer="ones"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(units, activation=activation),
            ]
        )
        model.save(folder / f"{name}.keras")
    inputs = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(inputs)
    two = [keras.layers.Dense(3)(flat), keras.layers.Dense(3)(flat)]
    keras.Model(inputs, two).save(folder / "two.keras")
    return folder


@pytest.fixture
def compress(folder, monkeypatch):
    """Runs the command in the folder of the files and returns its exit code."""
    monkeypatch.chdir(folder)
    return lambda *words: run(["compress", *(p for word in words for p in str(word).split())])


def kernels(path):
    model = keras.saving.load_model(path)
    return [v.numpy() for v in model.trainable_variables if len(v.shape) > 1]


def test_prune_over_an_old_file(compress, tmp_path, capsys):
    out = tmp_path / "out.keras"
    out.write_text("precious")
    words = "--method prune --sparsity 0.75 --schedule polynomial --batch-size 16 --data data.npz"
    assert compress("logits.keras", out, words) == 2
    assert compress("logits.keras", out, words, "--overwrite") in (0, 1)
    printed = capsys.readouterr().out
    assert "in the 4 kernels with more zeros than before" in printed
    assert "asked for 75.0%." in printed
    assert f"The old {out} is now {out}.1" in printed
    assert out.with_name("out.keras.1").read_text() == "precious"
    for kernel in kernels(out):
        assert (kernel == 0).mean() == pytest.approx(0.75, abs=0.07)


def test_cluster_of_a_model_with_one_unit(compress, tmp_path, capsys):
    out = tmp_path / "out.keras"
    words = "--method cluster --clusters 4 --scope se --epochs 1 --data data.npz"
    assert compress("one.keras", out, words) == 0
    words = " ".join(capsys.readouterr().out.split())
    assert "2 of 4 kernels have fewer than before, 2 of them at most the 4 asked for." in words
    assert [np.unique(kernel).size <= 4 for kernel in kernels(out)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("logits --method prune --sparsity 1", "below 1. Received: sparsity=1.0"),
        ("logits --method prune --tflite a.tflite", "--tflite needs --method qat"),
        ("logits --method prune --schedule polynomial --batch-size 128", "Received: 2 steps"),
        ("logits --method cluster --input-shape 8,8,3", "--input-shape needs --method qat; the"),
        ("open --method qat", "quantize_aware needs a model with inputs of known size: give input"),
        ("logits --method qat --tflite a.lite", "must end in .tflite. Received"),
        ("logits --method qat --data no.npz", "existing .npz file or"),
        ("logits --method qat --data unlabelled.npz", "needs labels, y_train or y, that are cla"),
        ("two --method qat", "needs a classifier with one output. Received: model"),
        ("logits --method prune --learning-rate 1e38 --epochs 1", "leave the weights finite"),
        ("missing --method qat", "must be an existing .keras file"),
        ("logits --method prune --sparsity -0.1", "at least 0 and below 1. Received: sparsity=-0"),
        ("logits --method cluster --clusters 1", "at least 2. Received: clusters=1"),
        ("logits --method qat --clusters 4", "--clusters needs --method cluster. Received: --meth"),
        ("logits --method cluster --sparsity 0.5", "--sparsity needs --method prune. Received: -"),
        ("logits --method qat --scope se", "--scope needs --method prune or cluster. Received"),
        ("logits --method prune --engine keras", "--engine needs --method qat. Received: --meth"),
        ("logits --method qat --data strange.npz", "needs labels, y_test or y, that are classes"),
        ("logits --method qat --data half.npz", "Data must hold x or input_layer"),
        ("logits --method qat --data mixed.npz", "Received: 8 of 40 samples that are used there"),
        ("logits --method prune --data mixed.npz", "Received: 8 of 40 samples that are used th"),
        ("logits --method prune --held-out data.npz --data data.npz --epochs 0", "0 is not in the"),
        ("logits --method prune --held-out no.npz --data data.npz", "existing .npz file or"),
        ("logits --method prune --json two.keras", "must not exist yet"),
        ("logits --method prune --json ../none/\0", "must be the name of a file"),
    ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(
    compress, folder, tmp_path, capsys, words, message
):
    before = sorted(os.listdir(folder))
    name, _, options = words.partition(" ")
    data = "" if "--data" in words else "--data data.npz"
    assert compress(f"{name}.keras", tmp_path / "out.keras", options, data) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
    assert sorted(os.listdir(folder)) == before


def test_one_output_is_not_two_files(compress, tmp_path, capsys):
    out = tmp_path / "out.keras"
    assert compress("logits.keras", out, "--method prune --data data.npz --json", out) == 2
    assert "--json needs a file of its own. Received: " in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_the_table_and_the_json_hold_the_same_figures(compress, tmp_path, capsys):
    """Both are of the written file, on x_test."""
    out, tflite, path = (tmp_path / name for name in ("out.keras", "out.tflite", "r.json"))
    words = "--method qat --data data.npz --engine keras --tflite"
    assert compress("logits.keras", out, words, tflite, "--json", path) == 0
    printed, report = capsys.readouterr().out, json.loads(path.read_text())
    assert f"{tflite}: {tflite.stat().st_size:,} bytes" in printed
    assert float_operators(tflite.read_bytes()) == []
    model = keras.saving.load_model(out)
    assert [type(layer).__name__ for layer in model.layers][3] == "SEBlock"
    with np.load("data.npz") as data:
        x, y = data["x_test"], data["y_test"]
    accuracy = (predict(tflite, x).argmax(axis=1) == y).mean()
    assert report["stages"]["file"]["outcome"]["file"] == accuracy
    assert report["stages"]["file"]["tflite_size"]["plain"] == tflite.stat().st_size
    table = {line[:14].strip(): line[14:].split() for line in printed.splitlines()}
    assert table["accuracy"][-1] == f"{accuracy:.4f}"
    assert table["lowest R²"] == [f"{report['lowest_r2']:.3f}"]
    assert " ".join(report["conclusion"].split()) in " ".join(printed.split())
    assert report["samples"] == 32
    assert report["next_step"] in printed.splitlines()[-1]
    words = next_command(printed)
    assert (words[0], run(words)) == ("verify", 0)


def next_command(printed):
    (line,) = (line for line in printed.splitlines() if line.startswith("Next: "))
    program, *words = shlex.split(line.removeprefix("Next: "))
    assert program == "keras-se"
    return words


@pytest.mark.parametrize(
    ("model", "words", "command"),
    [
        ("logits", "--method prune --scope trunk --data data.npz", "export"),
        ("open", "--method cluster --scope trunk --data unsplit.npz", "export"),
        ("open", "--method qat --data data.npz --engine tfmot --input-shape 8,8,3 --tflite", "ver"),
    ],
)
def test_the_next_command_runs_as_it_is_printed(
    folder, tmp_path, capsys, monkeypatch, model, words, command
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some folder").mkdir()
    out = "some folder/out of it.keras"
    given = [word if ".npz" not in word else str(folder / word) for word in words.split()]
    if given[-1] == "--tflite":
        given.append("some folder/its file.tflite")
    else:
        Path("some folder/out of it.tflite").write_text("precious")
    given += ["--held-out", str(folder / "held out.npz")] if "data" in words else []
    assert run(["compress", str(folder / f"{model}.keras"), out, *given]) == 0
    printed = capsys.readouterr().out
    words = next_command(printed)
    assert words[0].startswith(command)
    assert run(words) == 0
    if command == "export":
        assert float_operators(Path("some folder/out of it.tflite").read_bytes()) == []
        assert Path("some folder/out of it.tflite.1").read_text() == "precious"
    else:
        assert keras.saving.load_model(out).inputs[0].shape == (None, 8, 8, 3)


def test_trained_ranges_are_not_lost_in_silence(compress, tmp_path, capsys):
    words = "--method qat --data data.npz --epochs 1"
    assert compress("logits.keras", tmp_path / "out.keras", words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "has not the ranges that were trained: --tflite writes the file." in printed
    assert "Next:" not in printed


def test_lost_gates_exit_with_1_and_nothing_is_lost(compress, tmp_path, capsys):
    out, path = tmp_path / "out.keras", tmp_path / "report.json"
    words = "--method prune --sparsity 0.97 --scope se --data data.npz --json"
    assert compress("logits.keras", out, words, path) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "Do not ship: gates are lost at se_1, of whose spread as little as " in printed
    assert "Or leave SE as it is, with --scope trunk, or prune to a lower sparsity." in printed
    assert "Next: " not in printed
    assert json.loads(path.read_text())["passed"] is False
    assert keras.saving.load_model(out).count_params() > 0


def test_without_held_out_data_the_table_says_so(compress, tmp_path, capsys):
    words = "--method prune --data unsplit.npz"
    assert compress("logits.keras", tmp_path / "out.keras", words) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Not judged, for want of held-out samples: accuracy " in printed
    assert "train accuracy" in printed
    assert "On 128 training samples." in printed
    assert "Held-out samples are x_test and y_test in --data, or those of --held-out." in printed


def test_few_held_out_samples_and_some_of_the_training(compress, tmp_path, capsys):
    words = "--method prune --scope trunk --data"
    assert compress("logits.keras", tmp_path / "a.keras", words, "few.npz") == 0
    assert "Gates were not judged: that needs 32 samples or more." in capsys.readouterr().out
    assert compress("logits.keras", tmp_path / "b.keras", words, "nearly.npz") == 0
    expected = "Of the held-out samples 1 are among the training samples, too."
    assert expected in capsys.readouterr().out


@pytest.mark.parametrize("method", ["qat --engine keras", "prune"])
def test_piped_progress_is_plain_lines(compress, tmp_path, capsys, monkeypatch, method):
    words = f"--data unsplit.npz --epochs 3 --method {method}"
    assert compress("logits.keras", tmp_path / "piped.keras", words) == 0
    printed = capsys.readouterr().out
    assert "\r" not in printed
    assert "\x1b" not in printed
    assert "\x08" not in printed
    assert sum("loss:" in line for line in printed.splitlines()) == 3
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert compress("logits.keras", tmp_path / "shown.keras", words) == 0
    printed = capsys.readouterr().out
    assert "\r" in printed or "\x08" in printed  # the bar of Keras


@pytest.mark.parametrize("missing", ["tf_keras", "tensorflow_model_optimization"])
def test_a_missing_package_names_its_extra(compress, monkeypatch, tmp_path, capsys, missing):
    environment._loaded.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    words = "--method prune --data data.npz"
    assert compress("logits.keras", tmp_path / "o.keras", words) == 2
    message = capsys.readouterr().err
    assert f"needs the package `{missing}`" in message
    assert "pip install 'keras-se[compress]'" in message


def test_an_interrupted_run_leaves_nothing_and_libraries_are_silent(folder, tmp_path):
    words = "--method prune --epochs 100000 --data"
    process = subprocess.Popen(
        [
            SCRIPT,
            "compress",
            folder / "logits.keras",
            "o.keras",
            *words.split(),
            folder / "data.npz",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while b"loss" not in process.stdout.read(64):  # it is training
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == b"keras-se: loading Keras and TensorFlow ...\n\nInterrupted.\n"
    assert os.listdir(tmp_path) == []
