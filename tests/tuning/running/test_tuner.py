"""Trials that were under way, with several at a time, go on after the process has gone."""

import contextlib
from collections import deque

import keras_tuner
import pytest

from tuning import SESpace, TrialRecord
from tuning.oracles.exhaustive import ExhaustiveOracle
from tuning.running.tuner import open_tuner
from tuning.trials.records import Records

OBJECTIVE = keras_tuner.Objective("val_loss", "min")


class GoneError(Exception):
    """The process has gone."""


class Slots:
    """A runner of two slots, whose trials end in the order in which they began, or in reverse."""

    def __init__(self, records, last_first):
        self.records, self.running, self.last_first, self.begun = records, [], last_first, []
        self.late = deque()

    def is_late(self, run):
        return False

    @property
    def free(self):
        return 2 - len(self.running)

    @property
    def busy(self):
        return len(self.running)

    def start(self, run):
        self.running.append(run)
        self.begun.append(run.key)

    def wait(self):
        run = self.running.pop(-1 if self.last_first else 0)
        c = run.candidate
        record = TrialRecord(c.id, c.label, c.values, run.seed, "completed", 1.0)
        self.records.put(record)
        return [record]


def search(folder, oracle, seeds, last_first, stop_after=None):
    records = Records(folder / "records")
    tuner = open_tuner(oracle, folder, records, lambda record: {"val_loss": record.score})
    slots, done = Slots(records, last_first), []

    def on_record(record):
        done.append(record)
        if len(done) == stop_after:
            raise GoneError

    with contextlib.suppress(GoneError):
        tuner.search(slots, seeds, on_record)
    return tuner, slots.begun


def oracle(kind):
    hp = keras_tuner.HyperParameters()
    SESpace((2, 4), ("sigmoid", "one_plus_tanh")).declare(hp)
    if kind == "exhaustive":
        return ExhaustiveOracle(OBJECTIVE, hp)
    found = keras_tuner.oracles.RandomSearchOracle(
        OBJECTIVE, max_trials=4, hyperparameters=hp, seed=1
    )
    found.max_consecutive_failed_trials = None
    return found


@pytest.mark.parametrize(
    ("kind", "last_first", "seeds", "stop_after"),
    [
        ("exhaustive", False, (0,), 1),
        ("exhaustive", True, (0, 1), 2),
        ("exhaustive", False, (0, 1), 3),
        ("random", True, (0,), 2),
        ("random", False, (0, 1), 4),
        ("random", True, (0, 1), 1),
    ],
)
def test_it_goes_on(tmp_path, kind, last_first, seeds, stop_after):
    _, before = search(tmp_path, oracle(kind), seeds, last_first, stop_after)
    there = {path.stem for path in (tmp_path / "records").iterdir()}
    tuner, after = search(tmp_path, oracle(kind), seeds, last_first)
    assert not there & set(after)
    assert len(after) == len(set(after))
    trials = tuner.oracle.trials.values()
    assert {trial.status for trial in trials} == {"COMPLETED"}
    assert {trial.score for trial in trials} == {1.0}
    assert len(trials) == (5 if kind == "exhaustive" else 4)
    assert search(tmp_path, oracle(kind), seeds, last_first)[1] == []
    assert set(before) | set(after) == {path.stem for path in (tmp_path / "records").iterdir()}
