"""Trials in processes of their own, with TensorFlow, as a user's script has them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tuning.running.runners import MAX_ATTEMPTS, Attempts

MODULE = """
import os
import keras, numpy as np

def parts(seed):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6, 6, 1)).astype("float32")
    y = (x.mean((1, 2, 3)) > 0).astype("int64")
    return (x[:48], y[:48]), (x[48:], y[48:])

def base():
    return keras.Sequential([
        keras.Input((6, 6, 1)), keras.layers.Conv2D(8, 3, activation="relu"),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])

def compile(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.05), loss, run_eagerly=True)

def deadly(model):
    ratio = getattr(model.layers[1], "ratio", None)
    if ratio == 2:
        print("the memory is exhausted", flush=True)
        os.kill(os.getpid(), 9)
    if ratio == 4 and not os.path.exists("once"):
        open("once", "w").close()
        os.kill(os.getpid(), 9)
    if ratio == 8:
        import time
        time.sleep(120)
    compile(model)
"""
# No main guard, on purpose.
SCRIPT = """
import json, sys
import mine, tuning
arguments = json.loads(sys.argv[1])
train, validation = mine.parts(0)
if arguments.pop("arrays", True):
    data = train, validation
else:
    data = mine.parts, None
ratios = arguments.pop("ratios", [2, 4])
compile = getattr(mine, arguments.pop("compile", "compile"))
result = tuning.search(
    mine.base, *data, tuning.SESpace(tuple(ratios), ("one_plus_tanh",)), "cheapest:0.3", epochs=2,
    compile=compile, fresh_seeds=0,
    on_trial=lambda record: print(record.label, record.seed, flush=True), **arguments)
open("answer.json", "w").write(result.to_json())
"""


def start(folder, **arguments):
    (folder / "mine.py").write_text(MODULE)
    (folder / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
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


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A search in two processes at a time that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    lines = finish(start(folder, workers=2, seeds=3, threads=1))
    return folder, lines


def test_every_trial_is_run_once(whole):
    folder, lines = whole
    assert sorted(lines) == sorted(
        f"{c} {s}" for c in ("ratio=2", "ratio=4", "no SE") for s in range(3)
    )
    records = answer(folder)["records"]
    assert [r["status"] for r in records] == ["completed"] * 9
    assert list((folder / "run" / "attempts").iterdir()) == []


def test_an_interrupted_and_killed_search_ends_like_one_that_was_not(whole, tmp_path):
    """Ctrl-C, then signal 9, in the middle of training; at equal thread count nothing differs."""
    arguments = {"workers": 2, "seeds": 3, "threads": 1}
    process = start(tmp_path, **arguments)
    lines = [process.stdout.readline().strip()]
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert list((tmp_path / "run" / "attempts").iterdir()) == []  # an interrupt is no attempt
    process = start(tmp_path, **arguments)
    lines += [process.stdout.readline().strip() for _ in range(2)]
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    records = tmp_path / "run" / "records"
    before = {path: path.stat().st_mtime_ns for path in records.iterdir()}
    assert len(before) >= len(lines)
    again = finish(start(tmp_path, **arguments))
    assert not set(again) & set(lines)
    after = {path: path.stat().st_mtime_ns for path in records.iterdir()}
    assert len(after) == 9
    assert {path: after[path] for path in before} == before
    expected, found = answer(whole[0]), answer(tmp_path)
    assert found["chosen"] == expected["chosen"]
    for record, other in zip(found["records"], expected["records"], strict=True):
        assert record["score"] == pytest.approx(other["score"], abs=1e-6)


def test_deaths_and_delays_are_recorded_and_end_nothing(tmp_path):
    arguments = {"compile": "deadly", "ratios": [2, 4, 8], "arrays": False}
    finish(start(tmp_path, workers=2, seeds=1, timeout=20, **arguments))
    causes = {r["label"]: r["cause"] for r in answer(tmp_path)["records"]}
    assert causes["ratio=2"].startswith("signal 9, in 2 attempts")
    assert "the memory is exhausted" in causes["ratio=2"]
    assert causes["ratio=4"] == ""  # it died once, and got a second attempt
    assert causes["ratio=8"] == "TimeoutError: not done after 20 s"
    assert causes["no SE"] == ""


GIVEN_UP = (
    f"{MAX_ATTEMPTS} attempts ended without a record; "
    "remove this one and attempts/k-s0-* to try again"
)


@pytest.fixture
def attempts(tmp_path):
    return Attempts(tmp_path / "attempts")


def names(attempts):
    return sorted(path.name for path in attempts.folder.iterdir())


def test_the_folder_is_made_once(tmp_path):
    Attempts(tmp_path / "a").begin("k-s0")
    assert len(Attempts(tmp_path / "a").of("k-s0")) == 1


def test_attempts_are_noted_in_order(attempts):
    paths = [attempts.begin("k-s0") for _ in range(3)]
    assert attempts.of("k-s0") == paths
    assert names(attempts) == ["k-s0-1.log", "k-s0-2.log", "k-s0-3.log"]
    assert paths[0].read_text().startswith("begun 20")


def test_keys_that_begin_alike(attempts):
    for key in ("k-s1", "k-s10", "k-s11", "kk-s1"):
        attempts.begin(key)
    assert [path.name for path in attempts.of("k-s1")] == ["k-s1-1.log"]
    attempts.forget("k-s1")
    assert names(attempts) == ["k-s10-1.log", "k-s11-1.log", "kk-s1-1.log"]


def test_forgotten_attempts_do_not_count(attempts):
    for _ in range(MAX_ATTEMPTS):
        attempts.begin("k-s0")
    assert attempts.exhausted("k-s0") is not None
    attempts.forget("k-s0")
    attempts.forget("k-s0")
    assert attempts.exhausted("k-s0") is None
    assert attempts.begin("k-s0").name == "k-s0-1.log"


def test_the_attempts_are_counted(attempts):
    for number in range(MAX_ATTEMPTS):
        assert attempts.exhausted("k-s0") is None, number
        attempts.begin("k-s0")
    assert attempts.exhausted("k-s0") == GIVEN_UP
    assert attempts.exhausted("k-s1") is None


def test_what_the_last_one_wrote(attempts):
    for number in range(MAX_ATTEMPTS):
        with attempts.begin("k-s0").open("ab") as log:
            log.write(f"first of {number}\n".encode() + b"bad \xff byte\n\nlast")
    wrote = f"first of {MAX_ATTEMPTS - 1} | bad \ufffd byte |  | last"
    assert attempts.exhausted("k-s0") == f"{GIVEN_UP}; the last one wrote: {wrote}"


def test_only_its_last_lines(attempts):
    for _ in range(MAX_ATTEMPTS):
        path = attempts.begin("k-s0")
    with path.open("a") as log:
        log.writelines(f"line {n}\n" for n in range(100))
    said = attempts.exhausted("k-s0").partition("wrote: ")[2].split(" | ")
    assert said == [f"line {n}" for n in range(80, 100)]
