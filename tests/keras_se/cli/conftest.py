"""Files that the tests of the commands share, and the command line itself."""

import keras
import numpy as np
import pytest

import keras_se
from tuning.cli import run


@pytest.fixture(scope="session")
def files(tmp_path_factory, networks, half_network, images):
    """Models with and without SE, an int8 file, images, and files that commands must refuse."""
    folder = tmp_path_factory.mktemp("files")
    networks["sigmoid"].save(folder / "se.keras")
    half_network.save(folder / "half.keras")
    plain = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3, activation="relu", name="conv")]
    )
    plain.save(folder / "plain.keras")
    code = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Lambda(lambda x: x)])
    code.save(folder / "code.keras")
    (folder / "text.keras").write_text("not a model")
    y = (images.mean(axis=(1, 2, 3)) > 0.25).astype("int64")
    parts = {"x_train": images[100:], "y_train": y[100:], "x_test": images[:100]}
    np.savez(folder / "data.npz", **parts, y_test=y[:100])
    np.savez(folder / "unlabelled.npz", x=images)
    np.savez(folder / "few.npz", x=images[:8])
    np.savez(folder / "narrow.npz", x=images[:, :4])
    np.savez(folder / "calibrated.npz", x=images[100:])
    keras_se.to_tflite(networks["sigmoid"], "int8", images[100:], path=folder / "se.tflite")
    return folder


@pytest.fixture
def keras_se_command(files, monkeypatch):
    """Runs a command in the folder of the files and returns its exit code."""
    monkeypatch.chdir(files)
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *words: run([part for word in words for part in str(word).split()])


@pytest.fixture
def refused(files, keras_se_command, capsys):
    """Runs a command that must fail with one sentence and change nothing; returns the sentence."""

    def check(*words):
        before = {path: path.read_bytes() for path in files.iterdir() if path.is_file()}
        assert keras_se_command(*words) == 2
        assert {p: p.read_bytes() for p in files.iterdir() if p.is_file()} == before
        return capsys.readouterr().err

    return check
