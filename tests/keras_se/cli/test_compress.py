import os
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


def test_qat_writes_a_plain_model_and_its_int8_file(compress, tmp_path, capsys):
    out, tflite = tmp_path / "out.keras", tmp_path / "out.tflite"
    words = "--method qat --data data.npz --engine keras --epochs 1 --tflite"
    assert compress("logits.keras", out, words, tflite) == 0
    printed = capsys.readouterr().out
    assert "loss:" in printed  # the progress of fit
    assert f"{tflite}: {tflite.stat().st_size:,} bytes" in printed
    assert float_operators(tflite.read_bytes()) == []
    model = keras.saving.load_model(out)
    assert [type(layer).__name__ for layer in model.layers][3] == "SEBlock"


def test_qat_of_a_model_of_open_sizes(compress, tmp_path):
    out, tflite = tmp_path / "out.keras", tmp_path / "out.tflite"
    words = "--method qat --data data.npz --engine keras --epochs 1 --input-shape 8,8,3 --tflite"
    assert compress("open.keras", out, words, tflite) == 0
    assert tflite.exists()
    assert keras.saving.load_model(out).inputs[0].shape == (None, 8, 8, 3)


def test_prune_over_an_old_file(compress, tmp_path, capsys):
    out = tmp_path / "out.keras"
    out.write_text("precious")
    words = "--method prune --sparsity 0.75 --schedule polynomial --batch-size 16 --data data.npz"
    assert compress("logits.keras", out, words) == 2
    assert compress("logits.keras", out, words, "--overwrite") == 0
    printed = capsys.readouterr().out
    assert "Zero weights in kernels: " in printed
    assert f"The old {out} is now {out}.1" in printed
    assert out.with_name("out.keras.1").read_text() == "precious"
    for kernel in kernels(out):
        assert (kernel == 0).mean() == pytest.approx(0.75, abs=0.07)


def test_cluster_of_a_model_with_one_unit(compress, tmp_path, capsys):
    out = tmp_path / "out.keras"
    words = "--method cluster --clusters 4 --scope se --epochs 1 --data data.npz"
    assert compress("one.keras", out, words) == 0
    assert "Kernels with at most 4 values: 2 of 4" in capsys.readouterr().out
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
