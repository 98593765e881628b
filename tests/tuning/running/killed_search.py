"""Searches of a stub trial, killed at a point and started again; run by `test_killed_search.py`.

A process that has imported everything and computed nothing is forked for each search, since an
import takes as long as a hundred of them. Reads cases from standard input, a JSON list of
`[name, oracle, fault]`, and writes what became of each.
"""

import json
import os
import shutil
import sys
import time
import traceback
from pathlib import Path

import keras
import keras_tuner
import numpy as np
import tensorflow  # noqa: F401 (Keras imports it later, of which no child should do its own)
from faults import kill_at

import tuning
from tuning.running.stages import Stages  # noqa: F401 (before the first fork)
from tuning.trials import training
from tuning.trials.best_epoch import BestEpoch
from tuning.trials.records import TrialRecord, run_key

X, Y = np.zeros((8, 4, 4, 1), "float32"), np.zeros((8, 2), "float32")
SPACE = tuning.SESpace((2, 4), ("sigmoid", "one_plus_tanh"))
LOSS = {2: 0.100, 4: 0.104, None: 0.5}


def base():
    layers = [keras.Input((4, 4, 1)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()]
    return keras.Sequential([*layers, keras.layers.Dense(2)])


class StubModel:
    """What `BestEpoch` and the writing of weights need of a model."""

    trainable_weights = ()

    def get_weights(self):
        return [np.zeros(1)]

    def save_weights(self, path):
        Path(path).write_bytes(b"weights")


def stub_trial(job, candidate, seed, folder, *, fingerprint="", tested=False, seconds=None):
    """A trial that computes nothing: its score is a function of candidate and seed."""
    key = run_key(candidate.id, seed)
    with open(os.environ["TRAINED"], "a") as file:
        file.write(f"{key}\n")
    watch = BestEpoch(job.metric, job.direction, folder / f"curves/{key}.jsonl")
    watch.set_model(StubModel())
    noise = np.random.default_rng([seed, int(candidate.id[:6], 16)]).normal(scale=0.004)
    loss = LOSS[candidate.values.get("se_ratio")] + 0.01 * (seed % 7) + noise
    for epoch, extra in enumerate((0.1, 0.0)):
        watch.on_epoch_end(epoch, {"val_loss": loss + extra})
    training.keep_weights(StubModel(), training.weights_path(folder, key))
    if candidate.values.get("se_gate") == "one_plus_tanh" and seed == 1:
        raised = {"status": "failed", "cause": "it was told to"}
        return TrialRecord(candidate.id, candidate.label, candidate.values, seed, **raised)
    return TrialRecord(
        candidate.id,
        candidate.label,
        candidate.values,
        seed,
        "completed",
        score=watch.outcome(),
        epoch=watch.epoch,
        metrics=watch.logs,
        parameters=100 - candidate.values.get("se_ratio", 90),
        complexity=1.0,
        curve=f"curves/{key}.jsonl",
        fingerprint=fingerprint,
    )


training.run_trial = stub_trial  # also in the processes of workers, which import this module


def run(folder, oracle):
    """One search; its result goes to a file beside the folder."""
    os.environ["TRAINED"] = str(folder.with_suffix(".trained"))
    workers, oracle = (2, "exhaustive") if oracle == "workers" else (1, oracle)
    if oracle == "random":
        oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=4, seed=3)
    rule = tuning.Cheapest(0.006, max_seeds=5)
    result = tuning.search(
        base,
        (X, Y),
        (X, Y),
        SPACE,
        rule,
        epochs=2,
        compile={"loss": "mse"},
        directory=folder,
        oracle=oracle,
        fresh_seeds=2,
        workers=workers,
        threads=1,
        modules=["killed_search"],
    )
    answer = {
        "chosen": result.chosen,
        "sentence": result.sentence,
        "records": len(result.records),
        "scores": {run_key(r.candidate, r.seed): r.score for r in result.records},
        "confirmed": None if result.confirmation is None else result.confirmation.mean,
    }
    folder.with_suffix(".answer").write_text(json.dumps(answer))


def start(folder, oracle, fault=""):
    """Forks a search; returns its process."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        if fault:
            kill_at(fault)
        run(folder, oracle)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def state(folder):
    """Content and time of each record."""
    found = (folder / "records").glob("*.json") if folder.exists() else ()
    return {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in found}


def case(root, name, oracle, fault):
    """A process that kills a search at each point, starts it again, and says what it saw."""
    folder = root / name
    trained = root / f"{name}.trained"
    for point in fault.split("+"):
        status = os.waitstatus_to_exitcode(os.waitpid(start(folder, oracle, point), 0)[1])
    before = state(folder)
    done = trained.read_text().split() if trained.exists() else []
    again = os.waitstatus_to_exitcode(os.waitpid(start(folder, oracle), 0)[1])
    after, all_trained = state(folder), trained.read_text().split()
    answer = folder.with_suffix(".answer")
    trained_again = set(all_trained[len(done) :])
    report = {
        "killed": status,
        "again": again,
        "finished_before": len(before),
        "touched": [key for key, value in before.items() if after.get(key) != value],
        "trained_twice": [key for key in trained_again if f"{key}.json" in before],
        "most_trainings": max(map(all_trained.count, all_trained)),
        "answer": json.loads(answer.read_text()) if answer.exists() else None,
        "asides": sorted(path.name for path in folder.glob("keras_tuner.*")),
        "leftovers": [path.name for path in folder.rglob(".*.tmp*")],
    }
    folder.with_suffix(".report").write_text(json.dumps(report))
    shutil.rmtree(folder)


def main():
    """Two cases at a time."""
    root, cases = Path(sys.argv[1]), json.load(sys.stdin)
    # A kill, unlike a power failure, loses nothing that the system has; it takes half of the time.
    os.fsync = lambda descriptor: None
    running = set()
    for name, oracle, fault in cases:
        if len(running) == 2:
            running.discard(os.wait()[0])
        pid = os.fork()
        if not pid:
            code = 1
            try:
                case(root, name, oracle, fault)
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        running.add(pid)
        time.sleep(0.05)
    for pid in running:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
