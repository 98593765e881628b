"""Trials in processes of their own, with TensorFlow, as a user's script has them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

# No main guard, on purpose, and nothing that another process could import by its name.
SCRIPT = """
import json, os, sys
import keras, numpy as np, tuning

class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x

def parts(seed=0):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 6, 1)).astype("float32")
    y = (x.mean((1, 2, 3)) > 0).astype("int64")
    return (x[:48], y[:48]), (x[48:], y[48:])

def base():
    return keras.Sequential([
        keras.Input((6, 6, 1)), keras.layers.Conv2D(8, 3, activation="relu"), Twice(),
        keras.layers.Lambda(lambda x: x + 1), keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2)])

def compile(model):
    model.compile(keras.optimizers.Adam(0.05), own_loss, run_eagerly=True)

def own_loss(y, p):
    return keras.losses.sparse_categorical_crossentropy(y, p, from_logits=True)

def deadly(model):
    ratio = getattr(model.layers[1], "ratio", None)
    if ratio == 2:
        print("the memory is exhausted", flush=True)
        os.kill(os.getpid(), 9)
    if ratio == 8:
        import time
        time.sleep(120)
    compile(model)

arguments = json.loads(sys.argv[1])
data = parts() if arguments.pop("arrays", True) else (parts, None)
ratios = arguments.pop("ratios", [2, 4])
how = arguments.pop("compile", "compile")
model = base
if arguments.pop("live", False):
    keras.utils.set_random_seed(5)
    model = base()
    compile(model)
result = tuning.search(
    model, *data, tuning.SESpace(tuple(ratios), ("one_plus_tanh",)), "cheapest:0.3", epochs=2,
    compile={"compile": compile, "deadly": deadly}[how], fresh_seeds=0,
    on_trial=lambda record: print(record.label, record.seed, flush=True), **arguments)
open("answer.json", "w").write(result.to_json())
"""


def start(folder, **arguments):
    (folder / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TMPDIR": str(folder)}
    words = json.dumps({"directory": "run", **arguments})
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "script.py", words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finish(process):
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out.splitlines()


def answer(folder):
    content = json.loads((folder / "answer.json").read_text())
    for record in content["records"]:
        del record["seconds"], record["fingerprint"]
    return content


ARGUMENTS = {"workers": 2, "seeds": 2, "threads": 1, "live": True}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search in two processes at a time that nobody disturbed, from a live model."""
    folder = tmp_path_factory.mktemp("whole")
    lines = finish(start(folder, **ARGUMENTS))
    return folder, lines


def test_every_trial_is_run_once(whole):
    folder, lines = whole
    assert sorted(lines) == sorted(
        f"{c} {s}" for c in ("ratio=2", "ratio=4", "no SE") for s in range(2)
    )
    records = answer(folder)["records"]
    assert [r["status"] for r in records] == ["completed"] * 6
    assert len((folder / "run" / "begun.log").read_text().split()) == 6


def test_an_interrupted_and_killed_search_ends_like_one_that_was_not(whole, tmp_path):
    """Ctrl-C, then signal 9, in the middle of training; at equal thread count nothing differs."""
    process = start(tmp_path, **ARGUMENTS)
    lines = [process.stdout.readline().strip()]
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    begun = (tmp_path / "run" / "begun.log").read_text().split()
    finished = {path.stem for path in (tmp_path / "run" / "records").iterdir()}
    assert set(begun) <= finished  # an interrupt by the user counts nowhere
    process = start(tmp_path, **ARGUMENTS)
    lines += [process.stdout.readline().strip() for _ in range(2)]
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    records = tmp_path / "run" / "records"
    before = {path: path.stat().st_mtime_ns for path in records.iterdir()}
    assert len(before) >= len(lines)
    again = finish(start(tmp_path, **ARGUMENTS))
    assert not set(again) & set(lines)
    after = {path: path.stat().st_mtime_ns for path in records.iterdir()}
    assert len(after) == 6
    assert {path: after[path] for path in before} == before
    expected, found = answer(whole[0]), answer(tmp_path)
    assert found["chosen"] == expected["chosen"]
    for record, other in zip(found["records"], expected["records"], strict=True):
        assert record["score"] == pytest.approx(other["score"], abs=1e-6)


def test_nothing_is_left_in_the_temporary_folder(whole):
    assert list(whole[0].glob("keras-se-*")) == []


def test_deaths_and_delays_are_recorded_and_end_nothing(tmp_path):
    arguments = {"compile": "deadly", "ratios": [2, 8], "arrays": False}
    finish(start(tmp_path, workers=2, seeds=1, timeout=12, **arguments))
    causes = {r["label"]: r["cause"] for r in answer(tmp_path)["records"]}
    said = "its process ended with SIGKILL(-9); it printed last: the memory is exhausted"
    assert causes["ratio=2"] == f"{said}, in 2 attempts"
    assert causes["ratio=8"] == "TimeoutError: not done after 12 s"
    assert causes["no SE"] == ""


def test_a_live_model_of_a_script_gives_the_same_without_workers(whole, tmp_path):
    finish(start(tmp_path, **{**ARGUMENTS, "workers": 1, "seeds": 1}))
    found = [record["score"] for record in answer(tmp_path)["records"]]
    expected = [r["score"] for r in answer(whole[0])["records"] if r["seed"] == 0]
    assert found == pytest.approx(expected, abs=1e-6)
