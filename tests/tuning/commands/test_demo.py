"""The demo, run as a user runs it, and what it refuses."""

import hashlib
import itertools
import json
import subprocess
import sysconfig
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_se
from tuning import SearchResult, SESpace
from tuning.cli import run
from tuning.commands import demo

SCRIPT = str(Path(sysconfig.get_path("scripts"), "keras-se"))
FILES = {
    "model.keras",
    "model_float32.tflite",
    "model_int8.tflite",
    "model_float32.recipe.json",
    "model_int8.recipe.json",
    "plan.json",
    "report.json",
    "search",
}


# Two candidates in place of six.
SMALL = """
from tuning import SESpace
from tuning.commands import demo

demo.SPACE = SESpace((4,), ("sigmoid", "one_plus_tanh"), baseline=False)
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder of a run, shorter than the default, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "small.py").write_text(SMALL)
    words = [SCRIPT, "--import", "small", "demo", "--epochs", "9"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    # No line from Keras, TensorFlow, LiteRT or keras-tuner.
    assert done.stderr == "keras-se: loading Keras and TensorFlow ...\n"
    return folder / "runs" / "demo", done.stdout


def test_files_and_report(ran):
    folder = ran[0]
    assert {path.name for path in folder.iterdir()} == FILES
    report = json.loads((folder / "report.json").read_text())
    assert report["passed"] is True
    assert (report["test_images"], report["epochs"], report["seed"]) == (360, 9, 0)
    assert list(report["accuracy"]) == [
        "model.keras",
        "with constant gates",
        "model_float32.tflite",
        "model_int8.tflite",
    ]
    assert min(report["accuracy"].values()) >= 0.9
    for name, judged in report["files"].items():
        content = (folder / name).read_bytes()
        assert judged["sha256"] == hashlib.sha256(content).hexdigest()


def test_printed_text(ran):
    lines = ran[1].splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in ran[1]  # nothing is cut off
    assert len([line for line in lines if line.startswith("  ratio ")]) == 2
    assert len([line for line in lines if line.startswith("  epoch ")]) == 9
    assert not [line for line in lines if "WARNING" in line or "Trial " in line]
    printed = " ".join(ran[1].split())
    for text in (
        "one seed: a screening only",
        "spread: of the gates over samples",
        "one_plus_tanh",
        "Constant gates in the reference: ",
        "model_int8.tflite against model.keras Ship: the gates survive at every site",
    ):
        assert text in printed


def test_the_records_agree_with_each_other_and_with_the_model(ran):
    folder = ran[0]
    plan = json.loads((folder / "plan.json").read_text())
    result = SearchResult.from_json((folder / "search" / "result.json").read_text())
    assert len(result.records) == 2
    best = min(result.records, key=lambda record: record.score)
    assert best.score == pytest.approx(best.metrics["val_loss"])
    settings = {name: best.values[f"se_{name}"] for name in ("ratio", "gate", "squeeze")}
    assert plan == result.plan == dict.fromkeys(plan, settings)
    model = keras.saving.load_model(folder / "model.keras")
    sites = {site.name: site for site in keras_se.find_sites(model)}
    assert set(sites) == set(plan)
    for name, site in sites.items():
        assert site.gate == plan[name]["gate"]
        assert site.width == int(site.channels / plan[name]["ratio"])


def test_parts_share_no_image():
    split = demo.load_split(None, 0)
    parts = [split.fit[0], split.validation[0], split.test[0]]
    assert [len(part) for part in parts] == [1077, 360, 360]
    rows = [{image.tobytes() for image in part} for part in parts]
    for one, other in itertools.combinations(rows, 2):
        assert not one & other


def run_demo(directory, *options):
    return run(["demo", "--directory", str(directory), *options])


def test_it_fails_on_other_data_without_adaptive_gates(tmp_path, capsys, monkeypatch):
    """Images that hardly differ: the gates do not move, which is not a pass."""
    monkeypatch.setattr(demo, "SPACE", SESpace((2,), ("sigmoid",), baseline=False))
    noise = np.random.default_rng(0).integers(0, 2, (200, 6, 6))
    x, y = (100 + noise).astype("uint8"), np.arange(200) % 2
    np.savez(tmp_path / "data.npz", x=x, y=y)
    data = ("--data", str(tmp_path / "data.npz"), "--epochs", "1")
    assert run_demo(tmp_path / "run", *data) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "model_int8.tflite against model.keras Nothing to survive: no gate varies" in printed
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def test_an_existing_folder_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert run_demo(tmp_path) == 2
    assert "must not exist yet; with overwrite it is renamed aside" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        (
            {"x": np.ones((20, 6, 6)), "y": np.zeros(20, int)},
            "at least 128 training and 32 test images, or 160 to split. Received: 20 from",
        ),
        (
            {
                "x_train": np.ones((130, 6, 6)),
                "y_train": np.zeros(130, int),
                "x_test": np.ones((9, 6, 6)),
                "y_test": np.zeros(9, int),
            },
            "Received: 130 and 9 from",
        ),
        ({"images": np.ones((200, 6, 6))}, "Data must hold arrays"),
    ],
)
def test_bad_data_leaves_nothing(tmp_path, capsys, arrays, sentence):
    np.savez(tmp_path / "data.npz", **arrays)
    assert run_demo(tmp_path / "run", "--data", str(tmp_path / "data.npz")) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]
