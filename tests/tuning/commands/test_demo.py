"""The main job, run as a user runs it, and its refusals."""

import itertools
import json
import subprocess
import sysconfig
import time
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_se
from keras_se.cli.commands import run
from tuning import SearchResult, SESpace
from tuning.commands import demo

SCRIPT = str(Path(sysconfig.get_path("scripts"), "keras-se"))
FILES = {
    *("model.keras", "model_float32.tflite", "model_int8.tflite"),
    *("model_float32.recipe.json", "model_int8.recipe.json"),
    *("plan.json", "report.json", "search"),
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The folder, the exit code, all that was printed, and the seconds until the first of it."""
    folder = tmp_path_factory.mktemp("demo")
    started = time.monotonic()
    with subprocess.Popen(
        [SCRIPT, "demo"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        first_line = process.stdout.readline()
        first_after = time.monotonic() - started
        printed = first_line + process.stdout.read()
    return folder / "runs" / "demo", process.returncode, printed, first_after


def test_passes_and_leaves_its_files(ran):
    folder, code, printed, _ = ran
    assert code == 0, printed
    assert {path.name for path in folder.iterdir()} == FILES


def test_something_is_shown_from_the_first_second(ran):
    assert ran[3] < 1.0


def test_accuracy_is_good_in_every_format(ran):
    report = json.loads((ran[0] / "report.json").read_text())
    assert report["test_images"] == 360
    assert min(report["accuracy"].values()) >= 0.95


def test_printed_text_is_the_demos_own(ran):
    """No line from TensorFlow, LiteRT or keras-tuner, and every line within 80 columns."""
    lines = ran[2].splitlines()
    assert lines[0] == "keras-se: loading Keras and TensorFlow ..."
    chatter = (
        "WARNING",
        "oneDNN",
        "Created TensorFlow Lite",
        "Trial ",
        "INFO",
        "W0000",
        "E0000",
        "cuda",
    )
    assert not [line for line in lines if any(word in line for word in chatter)]
    assert max(map(len, lines)) <= 80
    assert "…" not in ran[2]  # nothing is cut off


def test_it_says_what_it_is_and_is_not(ran):
    printed = " ".join(ran[2].split())
    for text in (
        "one seed: a screening only",
        "spread/step",
        "one_plus_tanh",
        "Gates held constant cost",
        "model_int8.tflite: the gates survive.",
    ):
        assert text in printed


def test_the_records_agree_with_each_other_and_with_the_model(ran):
    folder = ran[0]
    plan, report = (json.loads((folder / f"{n}.json").read_text()) for n in ("plan", "report"))
    result = SearchResult.from_json((folder / "search" / "result.json").read_text())
    assert len(result.records) == 6
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
    assert report["passed"] is True


def test_the_report_can_be_had_again_from_the_files(ran):
    folder = ran[0]
    split = demo.load_split(None, 0)
    model = keras.saving.load_model(folder / "model.keras")
    report = json.loads((folder / "report.json").read_text())["files"]["model_int8.tflite"]
    again = keras_se.verify(model, folder / "model_int8.tflite", split.test[0])
    assert json.loads(again.to_json())["sha256"] == report["sha256"]
    for name, site in again.sites.items():
        assert site.verdict == report["sites"][name]["verdict"]
        assert site.r2 == pytest.approx(report["sites"][name]["r2"], abs=1e-3)


def test_parts_share_no_image():
    split = demo.load_split(None, 0)
    parts = [split.fit[0], split.validation[0], split.test[0]]
    assert [len(part) for part in parts] == [1077, 360, 360]
    rows = [{image.tobytes() for image in part} for part in parts]
    for one, other in itertools.combinations(rows, 2):
        assert not one & other


def test_on_other_data_it_says_no_when_there_is_nothing_to_survive(tmp_path, capsys, monkeypatch):
    """Constant images: the gates do not move, which is not a pass."""
    monkeypatch.setattr(demo, "SPACE", SESpace((2,), ("sigmoid",), baseline=False))
    x, y = np.full((200, 6, 6), 100, "uint8"), np.arange(200) % 2
    np.savez(tmp_path / "data.npz", x=x, y=y)
    data = ["--data", str(tmp_path / "data.npz")]
    code = run_demo(tmp_path / "run", *data, "--epochs", "1")
    assert "model_int8.tflite: nothing to survive" in capsys.readouterr().out
    assert code == 1
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES


def run_demo(directory, *arguments):
    words = ["demo", "--directory", str(directory), *arguments]
    return run({"demo": demo.demo_command}, words)


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
            "at least 128 training and 32 test images, or 160 to split. Received: 20",
        ),
        ({"x": np.ones((200, 6, 6)), "y": np.zeros(199, int)}, "200 images and 199 labels"),
        ({"x": np.full((200, 6, 6), np.nan), "y": np.zeros(200, int)}, "x must be finite"),
        ({"images": np.ones((200, 6, 6))}, "Data must hold arrays"),
    ],
)
def test_bad_data_leaves_nothing(tmp_path, capsys, arrays, sentence):
    np.savez(tmp_path / "data.npz", **arrays)
    assert run_demo(tmp_path / "run", "--data", str(tmp_path / "data.npz")) == 2
    assert sentence in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["data.npz"]


@pytest.mark.parametrize("option", [("--epochs", "0"), ("--seed", "-1"), ("--ratio", "4")])
def test_wrong_use(tmp_path, option):
    assert run_demo(tmp_path / "run", *option) == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("constant", "verdict"),
    [
        (0.985, "0.50 points of accuracy: 360 images cannot tell"),
        (0.9, "9.00 points of accuracy: ad"),
    ],
)
def test_what_constant_gates_cost_is_weighed_against_the_noise(constant, verdict):
    assert verdict in demo._worth_of_adaptivity(0.99, constant, 360)
