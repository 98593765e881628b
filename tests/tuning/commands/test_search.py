"""`keras-se search`, in this process where it can be, and as the console script."""

import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sysconfig
import tomllib
from contextlib import redirect_stdout
from pathlib import Path

import dask
import keras
import numpy as np
import pytest

import keras_se
import tuning
from tuning import SearchResult
from tuning.cli import run

SCRIPT = str(Path(sysconfig.get_path("scripts"), "keras-se"))
MODULE = """
import keras, numpy as np

def plain(activation=None):
    return keras.Sequential([
        keras.Input((6, 6, 1)), keras.layers.Conv2D(4, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2, activation=activation)])

def build(**settings):  # without a required argument it takes no hp
    return plain(**settings)

def probabilities():
    return plain("softmax")

def compiled():
    model = plain("softmax")
    model.compile("sgd", "sparse_categorical_crossentropy", run_eagerly=True)
    return model

@keras.saving.register_keras_serializable()
class Sometimes(keras.optimizers.SGD):
    def apply(self, *arguments):  # in training only
        import os
        if os.path.exists("is_broken"):
            raise ValueError("broken")
        return super().apply(*arguments)

def sometimes():
    model = plain("softmax")
    model.compile(Sometimes(), "sparse_categorical_crossentropy", run_eagerly=True)
    return model

def with_hp(hp):
    model = plain("softmax")
    rate = hp.Choice("rate", [0.1, 0.01])
    model.compile(keras.optimizers.SGD(rate), "sparse_categorical_crossentropy", run_eagerly=True)
    return model

def never():
    raise ValueError("no network today")

def nothing():
    return None

def one_output():
    return keras.Sequential([plain(), keras.layers.Dense(1)])

def hp_plain(hp):
    hp.Choice("rate", [0.1, 0.01])
    return plain()

def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 6, 6, 1)).astype("float32")
    return {"x": x, "y": np.arange(60) % 2}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The files of the user, valid ones and others."""
    folder = tmp_path_factory.mktemp("search")
    (folder / "search_models.py").write_text(MODULE)
    x, y = np.random.default_rng(0).normal(size=(60, 6, 6, 1)).astype("float32"), np.arange(60)
    for name, labels in {
        "images": y % 2,
        "floats": y / 7,
        "one_hot": np.eye(2)[y % 2],
    }.items():
        np.savez(folder / f"{name}.npz", x=x, y=labels)
    (folder / "space.json").write_text(json.dumps({"ratios": [2], "gates": ["one_plus_tanh"]}))
    (folder / "list.json").write_text("[]")
    (folder / "odd.json").write_text('{"ratios": [0.5]}')
    (folder / "taken").mkdir()
    (folder / "taken" / "mine.txt").write_text("mine")
    inputs = keras.Input((6, 6, 1))
    x = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    outputs = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))
    keras.Model(inputs, outputs).save(folder / "model.keras")
    return folder


@pytest.fixture(autouse=True)
def home(folder, monkeypatch):
    """Every test works in the folder of the user, in a new folder `run`."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for path in folder.glob("run*"):
        shutil.rmtree(path)


def flags(model="search_models:build", **changes):
    given = {
        "model": model,
        "data": "images.npz",
        "space": "space.json",
        "epochs": 1,
        "seeds": 1,
        "fresh-seeds": 0,
        "directory": "run",
        **changes,
    }
    return [w for k, v in given.items() if v is not None for w in (f"--{k}", str(v))]


def keras_se_search(*words):
    return run(["search", *words])


def times(folder="run"):
    return {path.name: path.stat().st_mtime_ns for path in Path(folder, "records").iterdir()}


@pytest.fixture(scope="module")
def finished(folder):
    """A finished search in the folder `[/b]one`, and what it printed."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        words = flags(seeds=2, directory="[/b]one")
        assert keras_se_search(*words, "--out", "best.keras") == 0
    return folder / "[/b]one", printed.getvalue()


@pytest.fixture
def copy(finished):
    """The folder of the finished search, to be changed."""
    shutil.copytree(finished[0], "run")
    return Path("run")


def test_a_search_by_flags(finished):
    path, printed = finished
    assert '"from_logits": true' in " ".join(printed.split())
    compiled = printed[printed.index("Compiled with") : printed.index("[1/4]")].splitlines()
    assert max(map(len, compiled)) <= 80
    assert "[1/4] placement=standard ratio=2 gate=one_plus_tanh squeeze=avg, seed 0: " in printed
    assert "a screening" in " ".join(printed.split())
    assert "[/b]one/result.json: the whole result" in printed  # brackets are no markup
    result = SearchResult.from_json((path / "result.json").read_text())
    scores = [r.score for r in result.records if r.label == "no SE" and not r.is_fresh]
    row = next(line for line in printed.splitlines() if line.startswith(" no SE "))
    mean, deviation = f"{np.mean(scores):.4g}", f"{np.std(scores, ddof=1):.2g}"
    (flops,) = {r.flops for r in result.records if r.label == "no SE"}
    expected = ["50", f"{flops / 1e6:.4g}", "0", str(len(scores)), mean, deviation]
    assert row.split()[2:] == expected
    assert json.loads((path / "plan.json").read_text()) == result.plan
    best = keras.saving.load_model("best.keras")
    assert len(keras_se.find_sites(best)) == len(result.plan)


def test_more_seeds_and_another_rule_from_its_file_on_a_terminal(copy, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    before = times()
    words = ("run/job.toml", "--seeds", "3", "--objective", "risk:0.001")
    assert keras_se_search(*words) == 0
    assert {name: times()[name] for name in before} == before
    assert len(times()) == 6
    printed = " ".join(capsys.readouterr().out.split())
    for text in (
        "2 trainings to come; 4 on record already",
        "has the lowest J",
        "best so far, of",
        "time left",
    ):
        assert text in printed
    assert "loses ≤" in printed


def test_an_oracle_by_name_with_a_cap(capsys):
    assert keras_se_search(*flags(**{"oracle": "random", "max-trials": 1, "max-seeds": 3})) == 0
    assert "1 training to come." in capsys.readouterr().out
    assert len(times()) == 1
    assert keras_se_search("run/job.toml", "--max-trials", "2") == 0
    assert "1 training to come; 1 on record already" in capsys.readouterr().out
    assert len(times()) == 2


def test_a_different_job_is_refused_with_the_difference(copy, capsys):
    before = times()
    assert keras_se_search(*flags(seeds=2, epochs=2)) == 2
    assert "training.epochs: 1 -> 2" in capsys.readouterr().err
    assert keras_se_search(*flags(seeds=2, epochs=2), "--accept-change") == 0
    assert times() == before
    assert keras_se_search(*flags(epochs=2), "--overwrite") == 0
    assert times("run.1") == before


def test_a_damaged_record_is_a_warning(copy, capsys):
    path = next(Path("run/records").iterdir())
    path.write_text("{")
    assert keras_se_search("run/job.toml") == 0
    assert f"Warning: A record of a search must be a whole JSON file. Received: {path}" in (
        capsys.readouterr().err
    )


def test_a_search_from_python_resumes_from_its_file():
    tuning.search(
        importlib.import_module("search_models").compiled,
        "images.npz",
        None,
        tuning.SESpace((2,), ("one_plus_tanh",), baseline=False),
        epochs=1,
        seeds=1,
        fresh_seeds=0,
        timeout=60,
        keep_weights=1,
        directory="run",
    )
    before = times()
    assert keras_se_search("run/job.toml") == 0
    assert times() == before
    content = tomllib.loads(Path("run/job.toml").read_text())
    assert (content["timeout"], content["keep_weights"]) == (60, 1)


def test_probabilities_and_data_of_a_function(capsys):
    words = flags("search_models:probabilities", data="search_models:data", **{"fresh-seeds": 1})
    assert keras_se_search(*words, "--metric", "accuracy", "--learning-rate", "0.01") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert '"from_logits": false' in printed
    assert '"learning_rate": 0.01' in printed
    assert "On 1 fresh seed: val_loss" in printed
    assert "on test data accuracy" in printed


def test_a_metric_for_a_compiled_model():
    metric = "sparse_top_k_categorical_accuracy"
    assert keras_se_search(*flags("search_models:compiled"), "--metric", metric) == 0
    result = SearchResult.from_json(Path("run/result.json").read_text())
    assert f"val_{metric}" in result.records[0].metrics


def test_a_model_file_and_the_next_command(capsys):
    Path("run").mkdir()
    lines = [
        'model = "model.keras"',
        'data = "images.npz"',
        "epochs = 1",
        "seeds = 1",
        "fresh_seeds = 0",
        'where = "conv"',
        "[space]",
        "ratios = [2]",
        'gates = ["one_plus_tanh"]',
        "baseline = false",
    ]
    Path("run/job.toml").write_text("\n".join(lines))
    for _ in range(2):
        assert keras_se_search("run/job.toml") == 0
    printed = capsys.readouterr().out
    assert printed.count("Compiled with") == 1  # then it is in the file
    command = "keras-se insert model.keras OUT.keras --plan run/plan.json --where conv\n"
    assert printed.count(command) == 2
    assert list(json.loads(Path("run/plan.json").read_text())) == ["se_1"]


def test_a_builder_of_hyperparameters(capsys):
    assert keras_se_search(*flags("search_models:with_hp", space=None)) == 0
    assert "rate=0.1, seed 0" in capsys.readouterr().out


def test_no_candidate_finishes(capsys):
    words = flags("search_models:compiled", **{"max-parameters": 1})
    for _ in range(2):
        assert keras_se_search(*words) == 1
        assert "parameters, at most 1 are allowed" in capsys.readouterr().err


def test_failed_trials_run_again_where_asked(capsys):
    words = flags("search_models:sometimes")
    Path("is_broken").touch()
    assert keras_se_search(*words) == 1
    capsys.readouterr()
    Path("is_broken").unlink()
    assert keras_se_search(*words) == 1  # they have records
    assert keras_se_search("run/job.toml", "--retry-failed") == 0
    assert len(list(Path("run/records").glob("*.failed.1"))) == 2
    assert len(list(Path("run/records").glob("*.json"))) == 2


def test_a_scheduler_that_is_not_there(folder, capsys):
    (folder / "scheduler.json").write_text("[]")
    for name in ("scheduler.json", "no.json", "tcp://127.0.0.1:1", "nonsense"):
        with dask.config.set({"distributed.comm.timeouts.connect": "0.2s"}):
            assert keras_se_search(*flags(), "--dask", name) == 2
        assert "--dask takes tcp://HOST:PORT of a running Dask sched" in capsys.readouterr().err
    assert keras_se_search(*flags(), "--dask", "scheduler.json", "--workers", "2") == 2
    assert "Give --workers or --dask, not both" in capsys.readouterr().err


def test_import_and_modules_of_a_file_reach_the_search(folder, monkeypatch, capsys):
    for name, text in {"one": "", "two": "", "bad": "raise ValueError('I was imported')"}.items():
        (folder / f"search_{name}.py").write_text(text)
    job = 'model = "search_models:compiled"\ndata = "images.npz"\nepochs = 1\n'
    job += 'modules = ["search_{}"]\n[space]\nratios = [2]\ngates = ["sigmoid"]\n'
    Path("run").mkdir()
    Path("run/job.toml").write_text(job.format("bad"))
    assert keras_se_search("run/job.toml") == 2
    errors = capsys.readouterr().err
    assert "modules of a job takes an importable module" in errors
    assert "ValueError: I was imported" in errors
    Path("run/job.toml").write_text(job.format("one"))
    seen = []

    def searched(**arguments):
        seen.append(arguments["modules"])
        raise KeyboardInterrupt

    monkeypatch.setattr("tuning.commands.search.search", searched)
    assert run(["--import", "search_two", "search", "run/job.toml"]) == 130
    assert seen == [["search_one", "search_two"]]


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        (None, [], "search needs a JOB.toml, or --model, --data, --epochs and --directory"),
        (None, ["--model", "a:b", "--epochs", "1"], "Received: no --data, --directory"),
        (None, ["run.toml"], "A job must be a TOML file. Received: 'run.toml'"),
        ("epochs = 1", ["run.toml", "--epochs", "1"], "belong in the job file: --epochs. Received"),
        ("speed = 1", ["run.toml"], "Received: speed in 'run.toml'"),
        ("epochs = 1", ["run.toml"], "A job needs model, data. Received: 'run.toml' without"),
    ],
)
def test_wrong_use_of_a_file(tmp_path, monkeypatch, capsys, text, words, sentence):
    monkeypatch.chdir(tmp_path)
    if text is not None:
        Path("run.toml").write_text(text)
    assert keras_se_search(*words) == 2
    assert sentence in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "nowhere:build"}, "model given as package.module:name must be importable"),
        ({"model": "no.keras"}, "A model must be an existing .keras file. Received: 'no.keras'"),
        ({"data": "no.npz"}, "must be an existing .npz file"),
        ({"space": "no.json"}, "A space must be a JSON file. Received: 'no.json'"),
        ({"space": "list.json"}, "A space must be a JSON object with arguments of SESpace"),
        ({"space": "odd.json"}, "ratio is a divisor"),
        ({"space": None}, "A search needs --space FILE.json"),
        ({"objective": "cheapest"}, "cheapest:TOLERANCE"),
        ({"out": "best.h5"}, "must end in .keras. Received: 'best.h5'"),
        ({"epochs": 0}, "is not in the range"),
        ({"max-seeds": 1}, "it takes to tell candidates apart; a screening has fewer seeds, and"),
        ({"model": "search_models:never"}, "a keras.Model. Received: *raises ValueError: no netw"),
        ({"model": "search_models:nothing"}, "must return a keras.Model. Received: NoneType from"),
        ({"model": "search_models:hp_plain"}, "or a HyperModel, defines its own space"),
        ({"model": "search_models:one_output", "data": "floats.npz"}, "Without --loss the model"),
        ({"data": "one_hot.npz"}, "labels of type float64 of shape (36, 2)"),
        ({"directory": "taken"}, "must be new, empty, or the folder of a search"),
    ],
)
def test_wrong_use_of_flags(capsys, changes, sentence):
    assert keras_se_search(*flags(**changes)) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert all(part in err for part in sentence.split("*"))
    assert not Path("run").exists()
    assert [path.name for path in Path("taken").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("directory", ["images.npz/run", "x" * 300])
def test_a_folder_that_cannot_be_used(capsys, directory):
    assert keras_se_search(*flags(directory=directory)) == 2
    assert "The folder of a search must be one that can be read" in capsys.readouterr().err


def test_an_interrupt_loses_nothing_and_threads_are_kept(folder):
    """The console script, two processes at a time, and a real signal.

    On resuming, TensorFlow gets the threads of the search before a model computes.
    """
    words = [*flags(seeds=3), "--workers", "2", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": ""}
    with subprocess.Popen(
        [SCRIPT, "search", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        while not (line := process.stdout.readline()).startswith("[1/6]"):
            assert line
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    before = times()
    assert 0 < len(before) < 6
    lines = errors.splitlines()  # between them those of the progress, after ten seconds
    assert lines[0] == "keras-se: loading Keras and TensorFlow ..."
    assert f"The same command resumes from {len(before)} records." in lines
    assert lines[-1] == "Interrupted."
    again = subprocess.run(
        [SCRIPT, "search", "run/job.toml", "--workers", "1"],
        capture_output=True,
        text=True,
        env=environment,
    )
    assert again.returncode == 0, again.stderr
    assert f"{len(before)} on record already" in again.stdout
    assert {name: times()[name] for name in before} == before
    assert len(times()) == 6
    assert json.loads(Path("run/fingerprint.json").read_text())["fingerprint"]["threads"] == 1
