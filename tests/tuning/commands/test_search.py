"""`keras-se search`, in this process where it can be, and as the console script."""

import importlib
import json
import os
import signal
import subprocess
import sysconfig
import textwrap
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_se
import tuning
from keras_se.cli.commands import run
from tuning import SearchResult
from tuning.commands.search import search_command

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

def nothing():
    return None

def one_output():
    return keras.Sequential([plain(), keras.layers.Dense(1)])

def hp_plain(hp):
    hp.Choice("rate", [0.1, 0.01])
    return plain()

def optional(**settings):
    return plain(**settings)


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
    compiled = printed[printed.index("Compiled with") : printed.index("[1/2]")].splitlines()
    assert max(map(len, compiled)) <= 80
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


def test_a_search_from_python_goes_on_from_its_file(home):
    mine = importlib.import_module(f"{home.name}_mine")
    tuning.search(
        mine.compiled, "images.npz", None, tuning.SESpace((2,), ("one_plus_tanh",)), epochs=1,
        seeds=1, fresh_seeds=0, timeout=60, keep_weights=1, directory="run",
    )  # fmt: skip
    before = times()
    assert keras_se_search("run/job.toml") == 0
    assert times() == before
    content = tomllib.loads(Path("run/job.toml").read_text())
    assert (content["timeout"], content["keep_weights"]) == (60, 1)


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
    assert "On 1 fresh seed: val_loss" in printed
    assert "on test data accuracy" in printed


def test_a_metric_alone_is_heeded_where_the_model_is_compiled(home):
    metric = "sparse_top_k_categorical_accuracy"
    assert keras_se_search(*flags(home, "compiled"), "--metric", metric) == 0
    result = SearchResult.from_json(Path("run/result.json").read_text())
    assert f"val_{metric}" in result.records[0].metrics


def test_a_builder_whose_arguments_are_optional_takes_no_hp(home):
    assert keras_se_search(*flags(home, "optional")) == 0


def job_file(home, *lines):
    Path("run").mkdir()
    text = [f'model = "{home.name}_mine:build"', 'data = "images.npz"', "epochs = 1", "seeds = 1"]
    text += ["fresh_seeds = 0", *lines, "[space]", "ratios = [2]", 'gates = ["one_plus_tanh"]']
    Path("run/job.toml").write_text("\n".join(text))


def test_a_file_that_says_nothing_of_compiling(home, capsys):
    job_file(home)
    for _ in range(2):
        assert keras_se_search("run/job.toml") == 0
    assert capsys.readouterr().out.count("Compiled with") == 1  # then it is in the file
    assert len(times()) == 2


def test_modules_of_a_file_are_imported_here_too(home, capsys):
    Path(f"{home.name}_layers.py").write_text("raise ValueError('I was imported')")
    job_file(home, f'modules = ["{home.name}_layers"]')
    assert keras_se_search("run/job.toml") == 2
    assert "modules of a job takes an importable module" in (err := capsys.readouterr().err)
    assert "ValueError: I was imported" in err
    assert [path.name for path in Path("run").iterdir()] == ["job.toml"]


def test_import_and_modules_of_a_file_reach_the_search(home, monkeypatch):
    for name in ("one", "two"):
        Path(f"{home.name}_{name}.py").write_text("")
    job_file(home, f'modules = ["{home.name}_one"]')
    seen = []

    def searched(**arguments):
        seen.append(arguments["modules"])
        raise KeyboardInterrupt

    monkeypatch.setattr("tuning.commands.search.search", searched)
    assert run({"search": search_command},
               ["--import", f"{home.name}_two", "search", "run/job.toml"]) == 130  # fmt: skip
    assert seen == [[f"{home.name}_one", f"{home.name}_two"]]


def test_names_in_brackets_are_no_markup(home, capsys):
    assert keras_se_search(*flags(home, directory="r[/b]un")) == 0
    assert "r[/b]un/result.json: all of it" in capsys.readouterr().out


def test_a_place_of_its_own_is_in_the_next_command(home, capsys):
    job_file(home, 'where = "conv"')
    text = Path("run/job.toml").read_text().replace("[space]", "[space]\nbaseline = false")
    Path("run/job.toml").write_text(text)
    assert keras_se_search("run/job.toml") == 0
    printed = capsys.readouterr().out
    assert "--plan run/plan.json --where conv\n" in printed
    plan = json.loads(Path("run/plan.json").read_text())
    assert list(plan) == ["se_1"]


def test_a_screening_shows_its_means(home, capsys):
    assert keras_se_search(*flags(home, seeds=2)) == 0
    printed = capsys.readouterr().out
    result = SearchResult.from_json(Path("run/result.json").read_text())
    scores = [r.score for r in result.records if r.label == "no SE"]
    row = next(line for line in printed.splitlines() if line.startswith("  no SE"))
    assert row.split()[2:] == ["50", "0", f"{np.mean(scores):.4g}", "-"]


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
        ({"model": "never"}, "return a keras.Model. Received: *, which raises ValueError: no netw"),
        ({"model": "nothing"}, "A builder must return a keras.Model. Received: NoneType from"),
        ({"model": "MODULE"}, "A search needs a keras.Model, a function that returns one"),
        ({"model": "hp_plain"}, "says itself what may be chosen"),
        ({"model": "one_output", "data": "floats.npz"}, "Without --loss a model has one output of"),
        ({"data": "one_hot.npz"}, "labels of type float64 of shape (36, 2)"),
        ({"data": "three.npz"}, "Without --loss a model has one output of classes"),
        ({"data": "tuning:data"}, "must not be named tuning, as this package is: rename it"),
        ({"directory": "taken"}, "must be new, empty, or that of a search"),
    ],
)
def test_wrong_use_of_flags(home, capsys, changes, sentence):
    Path("list.json").write_text("[]")
    Path("odd.json").write_text('{"ratios": [0.5]}')
    Path("more.json").write_text('{"gate_names": ["tanh"]}')
    Path("taken").mkdir()
    Path("taken", "mine.txt").write_text("mine")
    Path("tuning.py").write_text("")
    mine = Path(f"{home.name}_mine.py")
    mine.write_text(f"{MODULE}\nMODULE = 3\n")
    x, y = np.ones((60, 6, 6, 1), "float32"), np.arange(60)
    for name, labels in {"floats": y / 7, "one_hot": np.eye(2)[y % 2], "three": y % 3}.items():
        np.savez(f"{name}.npz", x=x, y=labels)
    given = {"model": "build", **changes}
    words = flags(home, **given)
    if ":" in given["model"] or "." in given["model"]:
        words[1] = given["model"]
    assert keras_se_search(*words) == 2
    err = " ".join(capsys.readouterr().err.split())
    assert all(part in err for part in sentence.split("*"))
    assert "Traceback" not in err
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


def test_threads_are_kept_though_a_model_computes_before(home):
    """What TensorFlow computes with is settled by the first operation of a process."""
    environment = {**os.environ, "PYTHONPATH": ""}
    words = [SCRIPT, "search", *flags(home)]
    for more in (["--workers", "2", "--threads", "1"], ["--workers", "1"]):
        done = subprocess.run([*words, *more], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
    assert json.loads(Path("run/fingerprint.json").read_text())["fingerprint"]["threads"] == 1
    assert "On record already: 2 trials" in done.stdout


def test_the_example_of_the_help_names_all_that_it_needs(capsys):
    assert keras_se_search("--help") == 0
    printed = textwrap.dedent(capsys.readouterr().out)
    for flag in ("--model", "--data", "--space", "--objective", "--seeds", "--workers", "--out"):
        assert flag in printed
