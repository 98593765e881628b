"""Searches of a real oracle and a real folder, whose trainings take no time."""

import contextlib
from collections import deque

import keras_tuner

from tuning import SESpace, TrialRecord
from tuning.oracles.table import get_oracle
from tuning.running.project import open_tuner
from tuning.trials.records import Records

OBJECTIVE = keras_tuner.Objective("val_loss", "min")


class _GoneError(Exception):
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
        record = TrialRecord(c.id, c.label, c.values, run.seed, "completed", score_of(c.id))
        self.records.put(record)
        return [record]


def score_of(candidate):
    """A score that depends on the candidate alone."""
    return float(int(candidate, 16) % 7)


def run_search(folder, oracle, seeds, last_first, stop_after=None):
    folder.mkdir(exist_ok=True)
    records = Records(folder / "records", TrialRecord)
    tuner = open_tuner(oracle, folder, records, lambda record: {"val_loss": record.score})
    slots, done = Slots(records, last_first), []

    def on_record(record):
        done.append(record)
        if len(done) == stop_after:
            raise _GoneError

    with contextlib.suppress(_GoneError):
        tuner.search(slots, seeds, on_record)
    return tuner, slots.begun


def make_oracle(kind):
    hp = keras_tuner.HyperParameters()
    SESpace((2, 4), ("sigmoid", "one_plus_tanh")).declare(hp)
    live = {"live": keras_tuner.oracles.RandomSearchOracle(OBJECTIVE, max_trials=4, seed=1)}
    return get_oracle(live.get(kind, kind), OBJECTIVE, hp, epochs=3)
