"""Searches whose choice depends on the files of the candidates."""

import json
import os
import shutil
import signal
import subprocess
import sys

import keras
import keras_tuner
import numpy as np
import pytest
from sklearn.datasets import load_digits

import keras_se
from keras_se import SEBlock
from keras_se.errors import InputError
from keras_se.litert.runtime import predict
from tuning import Cheapest, DeployedRecord, SearchResult, TrialRecord, search
from tuning.cli import run as command
from tuning.deployed.samples import file_samples
from tuning.running.backends import ExecutorBackend
from tuning.running.file_judge import FileJudge
from tuning.slots.host import Host
from tuning.trials import training
from tuning.trials.combination import Combination
from tuning.trials.trained import trained_model

OUTLIER = 200.0


def digits():
    """Training and validation images of 8 x 8 and different brightness, which moves gates."""
    images, labels = load_digits(return_X_y=True)
    brightness = np.random.default_rng(0).uniform(0.1, 1.0, size=(len(images), 1))
    x = (brightness * images / 16.0).reshape(-1, 8, 8, 1).astype("float32")
    return (x[:300], labels[:300]), (x[300:700], labels[300:700])


TRAIN, VALIDATION = digits()


def network(hp, designs=("outliers", "plain")):
    """Two designs. One has two channels scaled by 200 before SE and back after it.

    SE has fixed weights, wide enough for gates that move, and undoes the scale in its squeeze. So
    both designs compute and learn the same; the plain one has a bias more, which stays zero.
    """
    design = hp.Choice("design", list(designs))
    scale = np.ones(8)
    scale[:2] = OUTLIER if design == "outliers" else 1.0
    x = inputs = keras.Input((8, 8, 1))
    zero = {"use_bias": design == "plain", "bias_constraint": keras.constraints.MaxNorm(0.0)}
    x = keras.layers.Conv2D(8, 3, padding="same", **zero)(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Rescaling(scale.tolist())(x)
    block = SEBlock(2, trainable=False)
    x = block(x)
    rng = np.random.default_rng(0)
    w1, w2 = rng.normal(size=(8, 4)), rng.normal(size=(4, 8))
    block.set_excitation(6.0 * w1 / scale[:, None], np.full(4, 0.5), 2.0 * w2, np.zeros(8))
    x = keras.layers.Rescaling((1.0 / scale).tolist())(x)
    x = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(16, 3, activation="relu")(x))
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    model.compile(
        keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        run_eagerly=True,  # tracing a graph takes longer than a trial
    )
    return model


def outliers(hp):
    return network(hp, ("outliers",))


def data():
    (x, y), (x_val, y_val) = TRAIN, VALIDATION
    return {"x_train": x, "y_train": y, "x_val": x_val, "y_val": y_val}


def run(directory, model=network, **arguments):
    given = {"epochs": 2, "fresh_seeds": 1, "deployed": "int8", "batch_size": 60, **arguments}
    objective = "cheapest:0.9:val_accuracy"
    return search(model, TRAIN, VALIDATION, None, objective, directory=directory, **given)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "a"
    return run(folder), folder


def test_the_best_float_candidate_loses_as_a_file(searched):
    result, _ = searched
    assert result.decision.chosen == "design=outliers"
    assert (result.chosen, result.passed) == ("design=plain", True)
    files = {record.label: record for record in result.deployed}
    lost, kept = files["design=outliers"], files["design=plain"]
    assert (lost.passed, lost.verdict) == (False, "gates are lost")
    assert lost.reason.startswith("gates are lost at se_1")
    assert lost.work_kept < 0.6 < 0.9 < kept.work_kept
    assert (kept.passed, kept.reason, kept.verdict) == (True, "", "the gates survive")
    assert lost.reference == pytest.approx(kept.reference, abs=0.006)  # two images of 400
    assert (
        f"The rule chose design=outliers, which is out as an int8 file: {lost.reason}. Of the tied "
        "candidates whose files pass, design=plain is the smallest." in result.sentence
    )
    # The new choice is what is confirmed and given.
    fresh = [r for r in result.records if r.is_fresh]
    assert {r.label for r in fresh} == {"design=plain"}
    assert result.values == {"design": "plain"}
    assert result.model().count_params() == kept_parameters(result)


def kept_parameters(result):
    return next(r.parameters for r in result.records if r.label == result.chosen)


def test_the_record_is_that_of_the_file(searched):
    result, folder = searched
    record = next(r for r in result.deployed if r.label == "design=plain")
    candidate = Combination(record.candidate, record.label, {"design": "plain"})
    model = trained_model(result.job, candidate, record.seed, folder)
    samples = file_samples(result.job, record.seed, "int8")
    tflite = keras_se.to_tflite(model, "int8", samples.calibration, check_range=False)
    assert record.bytes == pytest.approx(len(tflite), abs=200)  # names of layers are in it
    assert (len(record.sha256), record.samples) == (64, 400)
    x, y = VALIDATION
    for given, outputs in (
        (record.metric, predict(tflite, x)),
        (record.reference, model.predict(x, verbose=0)),
    ):
        assert given == pytest.approx((outputs.argmax(axis=1) == y).mean())
    trial = next(r for r in result.records if r.label == record.label and r.seed == record.seed)
    assert record.reference == pytest.approx(trial.score, abs=0.01)
    assert 0.0 < record.latency_low <= record.latency <= record.latency_high < 100.0
    report = keras_se.verify(model, tflite, samples.held_out)
    assert record.work_kept == pytest.approx(report.work_kept)


def test_the_same_call_makes_no_file_again(searched, monkeypatch):
    result, folder = searched
    monkeypatch.setattr(Host, "run", lambda *_: pytest.fail("a file is made again"))
    assert run(folder) == result
    names = sorted(path.name for path in (folder / "deployed").iterdir())
    assert names == sorted(f"{r.candidate}-s0-int8.json" for r in result.deployed)
    assert SearchResult.from_json(result.to_json()) == result
    assert SearchResult.from_folder(folder) == result
    # Without files the rule decides.
    monkeypatch.undo()
    assert run(folder, deployed=None).chosen == "design=outliers"


def test_another_format_adds_records(searched):
    result, folder = searched
    floats = run(folder, deployed="float32")
    assert floats.chosen == "design=outliers"
    assert floats.sentence.endswith(" Its float32 file passes: the gates survive.")
    assert [r.format for r in floats.deployed] == ["float32"] * 2
    assert len(list((folder / "deployed").glob("*-int8.json"))) == 2
    again = run(folder)
    assert (again.chosen, again.deployed) == (result.chosen, result.deployed)


# The search is killed while its second file is judged.
KILLED = f"""
import os, signal, sys, time
from {__name__} import run
from tuning.deployed.judging import Judgement
from tuning.running.backends import ExecutorBackend

submit, judged = ExecutorBackend.submit, []

def killing(self, call):
    future = submit(self, call)
    judged.append(call)
    if len(judged) == 2:
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    return future

ExecutorBackend.submit = killing
run(sys.argv[1])
"""


def test_a_search_that_is_killed_while_files_are_judged_goes_on(searched, tmp_path, monkeypatch):
    result, folder = tmp_path / "a", searched[1]
    shutil.copytree(folder, result)
    (result / "result.json").unlink()
    for path in (result / "deployed").iterdir():
        path.unlink()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, result],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (first,) = (result / "deployed").glob("*.json")
    before = first.read_bytes(), first.stat().st_mtime_ns
    # Weights that were not kept are those of the same training again.
    second = searched[0].deployed[1]
    (result / "weights" / f"{second.candidate}-s{second.seed}.weights.h5").unlink()
    calls, real = [], ExecutorBackend.submit

    def submit(self, call):
        calls.append(call)
        return real(self, call)

    monkeypatch.setattr(ExecutorBackend, "submit", submit)
    again, whole = run(result), searched[0]
    assert [call.candidate.label for call in calls] == [second.label]
    assert (first.read_bytes(), first.stat().st_mtime_ns) == before
    assert (again.chosen, again.sentence) == (whole.chosen, whole.sentence)
    for one, other in zip(again.deployed, whole.deployed, strict=True):
        names = ("label", "verdict", "metric", "reference", "work_kept", "error")
        assert [getattr(one, n) for n in names] == [getattr(other, n) for n in names]


class Deadly(keras_tuner.HyperModel):
    """Its smaller design kills each process but the one of the search; nothing is trained."""

    def __init__(self, pid):
        super().__init__()
        self.pid = pid

    def build(self, hp):
        dies = hp.Choice("design", ["deadly", "sound"]) == "deadly"
        if dies and os.getpid() != self.pid:
            os.write(2, b"native code failed\n")
            os._exit(7)
        layers = [keras.layers.Conv2D(2, 3), keras.layers.Flatten(), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((8, 8, 1)), *layers[dies:]])
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    def fit(self, hp, model, *arguments, **further):
        return {"deadly": 0.5, "sound": 0.4}[hp.get("design")]


def test_what_kills_the_process_of_a_judgement_ends_it_alone(tmp_path):
    budgets = []

    def judged():
        return search(
            Deadly(os.getpid()), *(TRAIN, VALIDATION), epochs=1, seeds=1, fresh_seeds=0,
            deployed="float32", directory=tmp_path / "a", on_start=budgets.append,
        )  # fmt: skip

    result = judged()
    sound, deadly = result.deployed
    assert (sound.label, sound.passed) == (result.chosen, True) == ("design=sound", True)
    assert (deadly.label, deadly.passed, deadly.completed) == ("design=deadly", False, False)
    how = "its process ended with EXIT(7); it printed last: native code failed, in 2 attempts"
    assert deadly.reason == how
    assert judged() == result
    assert [budget.files for budget in budgets] == [2, 0]
    assert str(budgets[0]) == "2 trainings to come, at most 4, at most 2 files to judge."


def test_a_choice_that_was_ruled_out_by_its_scores_is_confirmed(tmp_path, monkeypatch):
    """The smallest design, on the front, is the only one that passes; it has no further seeds."""
    losses = {"small": 0.5, "middle": 0.104, "large": 0.1}
    sizes = dict(zip(losses, (10, 20, 30), strict=True))

    def trial(job, candidate, seed, folder, **given):
        design = candidate.values["design"]
        noise = np.random.default_rng([seed, sizes[design]]).normal(scale=0.004)
        return TrialRecord(
            candidate.id, candidate.label, candidate.values, seed, "completed",
            losses[design] + noise, parameters=sizes[design],
        )  # fmt: skip

    def judge(self, candidate, seed):
        passed = candidate.values["design"] == "small"
        return DeployedRecord(
            candidate=candidate.id, label=candidate.label, seed=seed, format="int8",
            passed=passed, reason="" if passed else "no", verdict="a verdict", metric=0.5,
        )  # fmt: skip

    monkeypatch.setattr(training, "run_trial", trial)
    monkeypatch.setattr(FileJudge, "record", judge)

    def builder(hp):
        hp.Choice("design", list(losses))
        return outliers(keras_tuner.HyperParameters())

    rule = Cheapest(0.006, max_seeds=5)
    given = {"epochs": 1, "batch_size": 60, "fresh_seeds": 2, "deployed": "int8"}
    result = search(builder, TRAIN, VALIDATION, None, rule, directory=tmp_path / "a", **given)
    assert result.chosen == "design=small"
    assert result.decision.seeds > 3
    own = [r.score for r in result.records if r.label == result.chosen]
    assert len(own) == 3 + 2
    assert result.confirmation.chosen_mean == pytest.approx(np.mean(own[:3]))
    assert SearchResult.from_json(result.to_json()) == result


def test_a_search_under_way_shows_its_files(searched, tmp_path):
    result, folder = searched
    shutil.copytree(folder, tmp_path / "a")
    (tmp_path / "a" / "result.json").unlink()
    so_far = SearchResult.from_folder(tmp_path / "a")
    assert {r.label: r.verdict for r in so_far.deployed} == {
        r.label: r.verdict for r in result.deployed
    }
    assert "design=outliers is out as an int8 file: gates are lost" in str(so_far)


def test_the_page_and_the_text_have_the_files(searched, tmp_path):
    from browser import opened

    result, _ = searched
    text = str(result)
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "int8 file, seed 0" in text
    record = next(r for r in result.deployed if r.label == "design=plain")
    result.to_html(tmp_path / "a.html")
    page = opened(tmp_path / "a.html", width=360)
    assert (page.console, page.requests) == ([], [])
    table = page.tables[1]
    row = next(row for row in table if row[0] == "design=plain")
    assert row[1:4] == [f"{record.reference:.4g}", f"{record.metric:.4g}", f"{record.latency:.3g}"]
    quartiles = f"{record.latency_low:.3g} to {record.latency_high:.3g}"
    assert row[4:6] == [quartiles, f"{record.bytes / 1000:.1f}"]
    assert row[6:] == [f"{record.work_kept:.2f}", "the gates survive", "chosen, on the front"]
    assert next(row for row in table if row[0] == "design=outliers")[-1] == "out"
    labels = [picture["aria-label"] for picture in page.pictures]
    for cost in ("latency", "size"):
        assert any(f"val_accuracy as a file against {cost}: design=outliers" in a for a in labels)
    files = [row for row in result.table() if row["file:format"]]
    assert {row["label"]: (row["seed"], row["file:bytes"]) for row in files} == {
        r.label: (r.seed, r.bytes) for r in result.deployed
    }


def test_the_command_fails_if_no_file_passes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = f"search --model {__name__}:outliers --data {__name__}:data --epochs 1 --seeds 1"
    words += " --objective cheapest:0.9:val_accuracy --fresh-seeds 0 --directory a --batch-size 60"
    assert command([*words.split(), "--deployed", "int8"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "No int8 file passes, of 1 that were judged: design=outliers stays, whose file" in said
    # The job file of the folder says it.
    assert 'deployed = "int8"' in (tmp_path / "a" / "job.toml").read_text()
    assert command(["search", "a/job.toml"]) == 1
    content = json.loads((tmp_path / "a" / "result.json").read_text())
    assert [(r["format"], r["passed"]) for r in content["deployed"]] == [("int8", False)]


def test_wrong_use_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match=r"deployed must be one of .*Received: deployed='int4'"):
        run(tmp_path / "a", deployed="int4")
    few = tuple(part[:31] for part in VALIDATION)
    with pytest.raises(InputError, match=r"at least 32 validation samples .* Received: 31"):
        search(network, TRAIN, few, epochs=1, directory=tmp_path / "a", deployed="int8")
    # Those that calibrate do not judge.
    with pytest.raises(InputError, match=r"at least 32 validation samples .* Received: 0"):
        search(network, few, few, epochs=1, directory=tmp_path / "a", deployed="int8")
    assert not (tmp_path / "a").exists()
