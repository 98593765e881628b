"""`keras-se search`, in this process where it can be, and as the console script."""

import json
import os
import signal
import subprocess
import sysconfig
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_se
from keras_se.cli import run
from tuning import SearchResult
from tuning.search_command import search_command

SCRIPT = str(Path(sysconfig.get_path("scripts"), "keras-se"))
MODULE = """
import keras, numpy as np

def plain(activation=None):
    return keras.Sequential([
        keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation=activation)])

def build():
    return plain()

def probabilities():
    return plain("softmax")

def compiled():
    model = plain("softmax")
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    return model

def with_hp(hp):
    model = plain("softmax")
    rate = hp.Choice("rate", [0.1, 0.01])
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", jit_compile=False)
    return model

def never():
    raise ValueError("no network today")


def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6, 6, 1)).astype("float32")
    return {"x": x, "y": np.arange(60) % 2}
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path(f"{tmp_path.name}_mine.py").write_text(MODULE)
    x = np.random.default_rng(0).normal(size=(60, 6, 6, 1)).astype("float32")
    np.savez("images.npz", x=x, y=np.arange(60) % 2)
    Path("space.json").write_text(json.dumps({"ratios": [2], "gates": ["one_plus_tanh"]}))
    return tmp_path


def flags(home, model="build", **changes):
    module = f"{home.name}_mine"
    given = {
        "model": f"{module}:{model}", "data": "images.npz", "space": "space.json", "epochs": 1,
        "seeds": 1, "fresh-seeds": 0, "directory": "run", **changes,
    }  # fmt: skip
    return [w for k, v in given.items() if v is not None for w in (f"--{k}", str(v))]


def keras_se_search(*words):
    return run({"search": search_command}, ["search", *words])


def times(folder="run"):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder, "records").iterdir()}


def test_by_flags_and_again_by_the_file_that_they_wrote(home, capsys):
    assert keras_se_search(*flags(home), "--out", "best.keras") == 0
    printed = capsys.readouterr().out
    assert '"from_logits": true' in " ".join(printed.split())
    assert "[1/2] placement=standard ratio=2 gate=one_plus_tanh squeeze=avg, seed 0: " in printed
    assert "a screening" in " ".join(printed.split())
    result = SearchResult.from_json(Path("run/result.json").read_text())
    assert json.loads(Path("run/plan.json").read_text()) == result.plan
    best = keras.saving.load_model("best.keras")
    assert len(keras_se.find_sites(best)) == len(result.plan)
    before = times()
    assert keras_se_search("run/job.toml") == 0
    assert "On record already: 2 trials" in capsys.readouterr().out
    assert times() == before
    assert SearchResult.from_json(Path("run/result.json").read_text()) == result


def test_a_different_job_is_refused_with_the_difference(home, capsys):
    assert keras_se_search(*flags(home)) == 0
    before = times()
    assert keras_se_search(*flags(home, epochs=2)) == 2
    assert "training.epochs: 1 -> 2" in capsys.readouterr().err
    assert times() == before
    assert keras_se_search(*flags(home, epochs=2), "--accept-change") == 0
    assert times() == before
    assert keras_se_search(*flags(home, epochs=3), "--overwrite") == 0
    assert times("run.1") == before


def test_more_seeds_and_another_rule_beside_a_file(home, capsys):
    assert keras_se_search(*flags(home)) == 0
    before = times()
    assert keras_se_search("run/job.toml", "--seeds", "3", "--objective", "risk:0.001") == 0
    assert {name: times()[name] for name in before} == before
    assert len(times()) == 6
    assert "has the lowest J" in " ".join(capsys.readouterr().out.split())


def test_a_terminal_shows_a_table(home, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert keras_se_search(*flags(home, seeds=3)) == 0
    printed = capsys.readouterr().out
    assert "best so far, of 2 candidates" in printed
    assert "time left" in printed
    assert "loses at most" in printed


def test_probabilities_and_data_of_a_function(home, capsys):
    words = flags(home, "probabilities", data=f"{home.name}_mine:data", **{"fresh-seeds": 1})
    assert keras_se_search(*words, "--metric", "accuracy", "--learning-rate", "0.01") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert '"from_logits": false' in printed
    assert '"learning_rate": 0.01' in printed
    assert "On 1 fresh seeds: val_loss" in printed
    assert "on test data accuracy" in printed


@pytest.mark.parametrize("compiled", [True, False])
def test_a_model_file(home, capsys, compiled):
    inputs = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    if compiled:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, jit_compile=False)
    model.save("model.keras")
    assert keras_se_search(*flags(home, model="x")[2:], "--model", "model.keras") == 0
    printed = capsys.readouterr().out
    assert ("Compiled with" in printed) == (not compiled)
    result = SearchResult.from_json(Path("run/result.json").read_text())
    if result.plan:
        assert "keras-se insert model.keras OUT.keras --plan run/plan.json" in printed
    else:
        assert "nothing to insert" in printed


def test_a_builder_of_hyperparameters(home, capsys):
    assert keras_se_search(*flags(home, "with_hp", space=None)) == 0
    assert "rate=0.1, seed 0" in capsys.readouterr().out
    assert keras_se_search("run/job.toml") == 0


def test_no_candidate_finishes(home, capsys):
    words = flags(home, "compiled", **{"max-parameters": 1})
    for _ in range(2):
        assert keras_se_search(*words) == 1
        printed = capsys.readouterr()
        assert "parameters, at most 1 are allowed" in printed.err


def test_a_damaged_record_is_said(home, capsys):
    assert keras_se_search(*flags(home)) == 0
    path = next(Path("run/records").iterdir())
    path.write_text("{")
    assert keras_se_search(*flags(home)) == 0
    assert f"Warning: A record of a search must be a whole JSON file. Received: {path}" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "search takes a JOB.toml, or --model, --data, --epochs and --directory"),
        (["--model", "a:b", "--epochs", "1"], "Received: no --data, --directory"),
        (["run.toml", "--epochs", "1"], "only how it is run can be given beside it"),
        (["missing.toml"], "A job must be a TOML file. Received: 'missing.toml'"),
        (["broken.toml"], "A job must be a TOML file. Received: 'broken.toml'"),
        (["unknown.toml"], "Received: speed in 'unknown.toml'"),
        (["wrong.toml"], "epochs of a job must be int. Received: 'two' in 'wrong.toml'"),
        (["true.toml"], "epochs of a job must be int. Received: True"),
        (["little.toml"], "A job needs model, data. Received: 'little.toml' without"),
        (["live.toml"], "can only go on from there. Received: model = 'a live base'"),
        (["text.toml"], "Received: '9' in 'text.toml'"),
    ],
)
def test_wrong_use_of_a_file(home, capsys, words, sentence):
    for name, text in {
        "broken": "epochs = = 2", "unknown": "speed = 1", "wrong": 'epochs = "two"',
        "true": "epochs = true", "little": "epochs = 1", "run": "epochs = 1",
        "live": 'model = "a live base"\nepochs = 1', "text": 'seeds = "9"',
    }.items():  # fmt: skip
        Path(f"{name}.toml").write_text(text)
    assert keras_se_search(*words) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "nowhere:build"}, "model given as package.module:name must be importable"),
        ({"model": "no.keras"}, "A model must be an existing .keras file. Received: 'no.keras'"),
        ({"data": "no.npz"}, "the name of an existing .npz file"),
        ({"space": "no.json"}, "A space must be a JSON file. Received: 'no.json'"),
        ({"space": "list.json"}, "A space is a JSON object with arguments of SESpace"),
        ({"space": "odd.json"}, "ratio is a divisor"),
        ({"space": "more.json"}, "gate_names"),
        ({"space": None}, "A search needs --space"),
        ({"objective": "cheapest"}, "An objective is cheapest:TOLERANCE"),
        ({"objective": "cheapest:0.1:val_magic"}, "direction of a metric that Keras does not know"),
        ({"out": "best.h5"}, "must end in .keras. Received: 'best.h5'"),
        ({"epochs": 0}, "is not in the range"),
        ({"directory": "taken"}, "must be new, empty, or that of a search"),
    ],
)
def test_wrong_use_of_flags(home, capsys, changes, sentence):
    Path("list.json").write_text("[]")
    Path("odd.json").write_text('{"ratios": [0.5]}')
    Path("more.json").write_text('{"gate_names": ["tanh"]}')
    Path("taken").mkdir()
    Path("taken", "mine.txt").write_text("mine")
    given = {"model": "build", **changes}
    words = flags(home, **given)
    if ":" in given["model"] or "." in given["model"]:
        words[1] = given["model"]
    assert keras_se_search(*words) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())
    assert not Path("run").exists()
    assert [path.name for path in Path("taken").iterdir()] == ["mine.txt"]


def test_an_interrupt_loses_nothing(home):
    """The console script, two processes at a time, a real signal, and a module named tuning."""
    Path("tuning.py").write_text("def build():\n    pass\n")
    words = flags(home, seeds=3, workers=2)
    words[1] = f"{home.name}_mine:build"
    environment = {**os.environ, "PYTHONPATH": ""}
    with subprocess.Popen(
        [SCRIPT, "search", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment,
    ) as process:  # fmt: skip
        while not (line := process.stdout.readline()).startswith("[1/6]"):
            assert line
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "The same command goes on from" in err
    assert "Interrupted." in err
    assert f"Warning: {home / 'tuning.py'} has the name of this package" in err
    before = times()
    assert 0 < len(before) < 6
    again = subprocess.run(
        [SCRIPT, "search", "run/job.toml"], capture_output=True, text=True, env=environment
    )
    assert again.returncode == 0, again.stderr
    assert f"On record already: {len(before)} trials" in again.stdout
    assert {name: times()[name] for name in before} == before
    assert len(times()) == 6
    chatter = [line for line in again.stdout.splitlines() if "oneDNN" in line or "Trial " in line]
    assert chatter == []


def test_the_example_of_the_help_names_all_that_it_needs(capsys):
    assert keras_se_search("--help") == 0
    printed = textwrap.dedent(capsys.readouterr().out)
    for flag in ("--model", "--data", "--space", "--objective", "--seeds", "--workers", "--out"):
        assert flag in printed
