import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

import keras_se
from keras_se import SEBlock
from keras_se.cli.commands import COMMANDS, run
from keras_se.litert.graph.sites import float_operators


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A small classifier, one with probabilities, and labelled images."""
    folder = tmp_path_factory.mktemp("compress")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(160, 8, 8, 3)) * rng.uniform(0.3, 2.0, (160, 1, 1, 1))
    y = (np.abs(x).mean(axis=(1, 2, 3)) > 0.9).astype("int64")
    x = x.astype("float32")
    np.savez(folder / "data.npz", x_train=x[:128], y_train=y[:128], x_test=x[128:], y_test=y[128:])
    np.savez(folder / "unlabelled.npz", x=x)
    for name, units, activation in (
        ("logits", 3, None),
        ("one", 1, "sigmoid"),
        ("p", 2, "softmax"),
    ):
        keras.utils.set_random_seed(0)
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                keras.layers.Conv2D(8, 3, use_bias=False),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.ReLU(),
                SEBlock(2, bias_initializer="ones"),
                keras.layers.GlobalAveragePooling2D(),
                keras.layers.Dense(units, activation=activation),
            ]
        )
        model.save(folder / f"{name}.keras")
    return folder


def compress(*arguments):
    return run(COMMANDS, ["compress", *map(str, arguments)])


def kernels(path):
    model = keras.saving.load_model(path)
    return [v.numpy() for v in model.trainable_variables if len(v.shape) > 1]


@pytest.mark.parametrize("engine", ["tfmot", "keras"])
def test_qat_writes_a_plain_model_and_its_int8_file(files, tmp_path, capsys, engine):
    out, tflite = tmp_path / "out.keras", tmp_path / "out.tflite"
    arguments = ("--method", "qat", "--data", files / "data.npz", "--engine", engine, "--epochs", 1)
    assert compress(files / "logits.keras", out, *arguments, "--tflite", tflite) == 0
    printed = capsys.readouterr().out
    assert "loss:" in printed  # the progress of fit
    assert f"{tflite}: {tflite.stat().st_size:,} bytes" in printed
    assert float_operators(tflite.read_bytes()) == []
    model = keras.saving.load_model(out)
    assert [type(layer).__name__ for layer in model.layers][3] == "SEBlock"
    data = np.load(files / "data.npz")
    original = keras.saving.load_model(files / "logits.keras")
    report = keras_se.verify(original, tflite, data["x_test"], reference=model)
    assert report.verdict != "gates are lost"


def test_prune(files, tmp_path, capsys):
    out = tmp_path / "out.keras"
    arguments = ("--method", "prune", "--sparsity", 0.75, "--schedule", "polynomial")
    data = ("--data", files / "data.npz", "--epochs", 2, "--batch-size", 16)
    assert compress(files / "p.keras", out, *arguments, *data) == 0
    assert "zero." in capsys.readouterr().out
    for kernel in kernels(out):
        assert (kernel == 0).mean() == pytest.approx(0.75, abs=0.07)


def test_cluster_of_a_model_with_one_output(files, tmp_path, capsys):
    out = tmp_path / "out.keras"
    arguments = ("--method", "cluster", "--clusters", 4, "--scope", "se", "--epochs", 1)
    assert compress(files / "one.keras", out, *arguments, "--data", files / "data.npz") == 0
    assert "Of 4 kernels 2 have 4 values or fewer." in capsys.readouterr().out
    assert [np.unique(kernel).size <= 4 for kernel in kernels(out)] == [False, True, True, False]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("logits", ("--method", "prune", "--sparsity", 1), "below 1. Received: 1.0"),
        ("logits", ("--method", "cluster", "--clusters", 1), "2 or more. Received: 1"),
        ("logits", ("--method", "prune", "--tflite", "a.tflite"), "--tflite is for --method qat"),
        ("logits", ("--method", "qat", "--tflite", "a.lite"), "must end in .tflite. Received"),
        ("logits", ("--method", "qat", "--data", "no.npz"), "existing .npz file or"),
        ("logits", ("--method", "qat", "--data", "unlabelled.npz"), "need labels y_train or y"),
        ("missing", ("--method", "qat"), "must be an existing .keras file"),
    ],
)
def test_bad_input_is_a_sentence_and_writes_nothing(
    files, tmp_path, capsys, monkeypatch, name, arguments, message
):
    monkeypatch.chdir(files)
    before = sorted(os.listdir(files))
    given = arguments if "--data" in arguments else (*arguments, "--data", "data.npz")
    assert compress(f"{name}.keras", tmp_path / "out.keras", *given) == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
    assert sorted(os.listdir(files)) == before


def test_what_exists_is_refused_before_any_work_and_else_kept(files, tmp_path, capsys):
    out = tmp_path / "out.keras"
    out.write_text("precious")
    arguments = ("--method", "prune", "--data", files / "data.npz", "--epochs", 1)
    started = time.monotonic()
    assert compress(files / "logits.keras", out, *arguments) == 2
    assert time.monotonic() - started < 5
    assert compress(files / "logits.keras", out, *arguments, "--overwrite") == 0
    assert out.with_name("out.keras.1").read_text() == "precious"
    assert compress(files / "logits.keras", "out.h5", *arguments) == 2
    assert "must end in .keras" in capsys.readouterr().err


def test_an_interrupted_run_leaves_nothing(files, tmp_path):
    code = "import sys, keras_se.cli.commands as c; sys.exit(c.run(c.COMMANDS, sys.argv[1:]))"
    arguments = ("--method", "prune", "--data", files / "data.npz", "--epochs", "100000")
    process = subprocess.Popen(
        [
            sys.executable,
            "-u",
            "-c",
            code,
            "compress",
            files / "logits.keras",
            "o.keras",
            *arguments,
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    while b"loss" not in process.stdout.read(64):  # it is training
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Interrupted." in errors
    assert b"Traceback" not in errors
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("missing", ["tf_keras", "tensorflow_model_optimization"])
def test_a_missing_package_names_its_extra(files, tmp_path, missing):
    code = (
        f"import sys; sys.modules[{missing!r}] = None; import keras_se.cli.commands as c; "
        "sys.exit(c.run(c.COMMANDS, sys.argv[1:]))"
    )
    arguments = ("--method", "prune", "--data", files / "data.npz")
    done = subprocess.run(
        [sys.executable, "-c", code, "compress", files / "logits.keras", "o.keras", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert f"needs the package `{missing}`" in done.stderr
    assert "pip install 'keras-se[compress]'" in done.stderr
