"""What is made of what becomes of the process of a judgement; the folder is real, it is not."""

import threading
from concurrent.futures import Future
from contextlib import contextmanager

import keras
import numpy as np
import pytest

from keras_se.errors import InputError
from tuning import DeployedRecord
from tuning.data.trial_data import TrialData
from tuning.folder.search_folder import open_folder
from tuning.running import file_judge
from tuning.running.file_judge import FileJudge, check_judging
from tuning.running.settings import SearchSettings
from tuning.slots.slot import Ended
from tuning.trials.combination import make_combination
from tuning.trials.job import Job
from tuning.trials.perform import Outcome, Run

A = make_combination({"se_ratio": 2})
X, Y = np.arange(160.0).reshape(40, 4), np.zeros((40, 1))
SETTINGS = SearchSettings((0,), 0, 1, 1, 7.5, 1, deployed="float32")


def build(hp):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model


def job(model=build):
    return Job(model, TrialData((X, Y), (X, Y)), None, "val_loss", "min", epochs=1)


class Trains:
    """A runner that trains again as it was told."""

    def __init__(self, outcome):
        self.outcome, self.runs = outcome, []

    def again(self, run):
        self.runs.append(run)
        return self.outcome


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """Judges a file in a process that does as it is told; gives the record and the calls."""

    def judge(*ends, weights=b"kept", outcome=None):
        calls, told = [], list(ends)

        class Slot:
            def submit(self, call):
                calls.append(call)
                future = Future()
                future.set_result(told.pop(0))
                return future

            def result(self, future):
                return future.result()

        @contextmanager
        def slots(*arguments):
            yield Slot()

        monkeypatch.setattr(file_judge, "open_slots", slots)
        runner = Trains(outcome)
        with open_folder(tmp_path / "a") as folder:
            if weights is not None:
                (tmp_path / "a" / "weights" / f"{A.id}-s0.weights.h5").write_bytes(weights)
            with FileJudge(job(), SETTINGS, folder, runner) as judge:
                record = judge.record(A, 0)
                assert judge.record(A, 0) is record
            assert list(folder.deployed) == [record]
        return record, calls, runner.runs

    return judge


SOUND = DeployedRecord(
    candidate=A.id, label=A.label, seed=0, format="float32", passed=True, verdict="a verdict"
)
DIED = Ended("died", "its process ended with SIGSEGV(-11)")


@pytest.mark.parametrize(
    ("ends", "reason"),
    [
        ([SOUND], ""),
        ([DIED, SOUND], ""),
        ([DIED, DIED], "its process ended with SIGSEGV(-11), in 2 attempts"),
        ([Ended("timeout")], "TimeoutError: not done after 7.5 s"),
    ],
)
def test_ends_of_a_process(judged, ends, reason):
    record, calls, trained = judged(*ends)
    assert (record.reason, record.passed) == (reason, not reason)
    assert [call.weights for call in calls] == [b"kept"] * len(ends)
    assert trained == []


@pytest.mark.parametrize(
    ("end", "message"),
    [
        (Ended("disk", "full"), "A disk must have room .*Received: the file of ratio=2: full"),
        (Ended("setup", "no module"), "must be able to load the job.*no module"),
        (Ended("raised", "MissingExtraError: x"), "deployed needs all .*Received: MissingExtra"),
    ],
)
def test_what_is_no_fault_of_the_file_has_no_record(judged, tmp_path, end, message):
    with pytest.raises(InputError, match=message):
        judged(end)
    assert list((tmp_path / "a" / "deployed").iterdir()) == []


def test_weights_that_were_not_kept_are_trained_again(judged):
    outcome = Outcome(Run(A, 0).failed(""), weights=b"again")
    record, calls, trained = judged(SOUND, weights=None, outcome=outcome)
    assert (record, [call.weights for call in calls]) == (SOUND, [b"again"])
    assert trained == [Run(A, 0)]


def test_a_training_that_fails_now_is_the_reason(judged):
    record, calls, _ = judged(weights=None, outcome=Outcome(Run(A, 0).failed("ValueError: no")))
    assert calls == []
    assert record.reason == (
        "its weights were not kept, and the same training failed: ValueError: no"
    )


def test_a_model_that_does_not_travel_is_refused():
    lock = threading.Lock()
    check_judging(job(), SETTINGS)
    with pytest.raises(InputError, match=r"deployed judges files in a process .*cannot pickle"):
        check_judging(job(lambda hp: lock and build(hp)), SETTINGS)
