"""What a runner makes of what a backend gives it: the search folder is real, the trials are not."""

import pickle
from concurrent.futures import Future

import pytest

from keras_se.errors import InputError
from tuning import SearchWarning, TrialRecord
from tuning.folder.kept_weights import KeptWeights
from tuning.folder.search_folder import open_folder
from tuning.running.runners import Runner, execute
from tuning.running.settings import SearchSettings
from tuning.slots.slot import Ended
from tuning.trials.combination import make_combination
from tuning.trials.perform import Outcome, Run
from tuning.trials.records import FRESH

A, B = (make_combination({"se_ratio": ratio}) for ratio in (2, 4))
DIED = Ended("died", "its process ended with EXIT(3)")


def completed(run, score=1.0):
    c = run.candidate
    record = TrialRecord(c.id, c.label, c.values, run.seed, "completed", score)
    return Outcome(record, b"a curve", b"weights" if run.weights else None)


class Scripted:
    """Gives what it was told of a trial, one after the other, and then completes it."""

    capacity = 2

    def __init__(self, **script):
        self.script, self.runs = {key: list(ends) for key, ends in script.items()}, []

    def submit(self, run):
        self.runs.append(run)
        ends = self.script.get(run.candidate.label.replace("=", "_"))
        future = Future()
        future.set_result(ends.pop(0) if ends else pickle.dumps(completed(run)))
        return future

    def result(self, future):
        return future.result()


@pytest.fixture
def run(tmp_path):
    def ran(backend, *runs, **changes):
        given = {"seeds": (0,), "fresh_seeds": 0, "workers": 2, "threads": 1, "timeout": 7.5}
        settings = SearchSettings(**{**given, "keep_weights": 2, **changes})
        todo, done = list(runs), []
        with (
            open_folder(tmp_path / "a") as folder,
            Runner(backend, settings, folder, "min") as runner,
        ):
            execute(runner, lambda: todo.pop(0) if todo else None, done.append)
            assert list(folder.records) == done
        return {(r.label, r.seed): r for r in done}

    return ran


def test_outcomes_become_files(run, tmp_path):
    backend = Scripted()
    records = run(backend, Run(A, 0), Run(B, 0))
    assert [record.status for record in records.values()] == ["completed"] * 2
    for folder, content in (("curves", b"a curve"), ("weights", b"weights")):
        found = [path.read_bytes() for path in (tmp_path / "a" / folder).iterdir()]
        assert found == [content] * 2
    assert [r.timeout for r in backend.runs] == [7.5] * 2


@pytest.mark.parametrize(
    ("ends", "cause"),
    [([DIED, Ended("lost")], ""), ([DIED] * 2, "its process ended with EXIT(3), in 2 attempts")],
)
def test_a_trial_runs_again_for_its_weights_and_leaves_nothing(tmp_path, ends, cause):
    settings = SearchSettings((0,), 0, 2, 1, 7.5, 0)
    backend = Scripted(ratio_2=ends)
    with open_folder(tmp_path / "a") as folder, Runner(backend, settings, folder, "min") as runner:
        outcome = runner.again(Run(A, 0))
        assert list(folder.records) == []
    assert (outcome.weights, outcome.record.cause) == (None if cause else b"weights", cause)
    assert len(backend.runs) == (2 if cause else 3)
    assert list((tmp_path / "a" / "weights").iterdir()) == []


@pytest.mark.parametrize("direction", ["min", "max"])
def test_weights_stay_of_the_best(tmp_path, direction):
    def made(number, score, seed=0):
        c = make_combination({"n": number})
        return TrialRecord(c.id, c.label, c.values, seed, "completed", score)

    def there():
        return {path.read_bytes() for path in (tmp_path / "weights").iterdir()}

    (tmp_path / "weights").mkdir()
    sign = 1 if direction == "min" else -1
    scores = [5.0, 3.0, 4.0, 1.0, 2.0]
    records = [made(n, sign * score) for n, score in enumerate(scores)]
    kept, seen = KeptWeights(tmp_path, 2, direction, ()), []
    for record, score in zip(records, scores, strict=True):
        kept.add(record, b"%d" % score)
        seen.append(there())
    kept.add(made(9, sign * 99.0, seed=FRESH), b"fresh")
    assert seen == [{b"5"}, {b"5", b"3"}, {b"3", b"4"}, {b"3", b"1"}, {b"1", b"2"}]
    assert there() == {b"1", b"2", b"fresh"}
    KeptWeights(tmp_path, 1, direction, [*records, made(9, sign * 99.0, seed=FRESH)])
    assert there() == {b"1", b"fresh"}


def test_weights_travel_only_where_some_are_kept(run):
    backend = Scripted()
    run(backend, Run(A, 0), Run(A, FRESH), keep_weights=0)
    assert [r.weights for r in backend.runs] == [False, True]


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        ([DIED], ""),
        ([DIED, DIED], "its process ended with EXIT(3), in 2 attempts"),
        ([Ended("timeout")], "TimeoutError: not done after 7.5 s"),
        ([Ended("raised", "SystemExit: 3")], "SystemExit: 3"),
        ([Ended("lost")] * 9, ""),
        ([DIED, Ended("lost"), DIED], "its process ended with EXIT(3), in 2 attempts"),
        ([DIED, Ended("raised", "an error")], "an error"),
    ],
)
def test_how_a_trial_ends_that_does_not_return(run, ends, cause):
    records = run(Scripted(ratio_2=ends), Run(A, 0), Run(B, 0))
    assert records["ratio=2", 0].cause == cause
    assert records["ratio=4", 0].completed


@pytest.mark.parametrize(
    ("ended", "message"),
    [
        (Ended("disk", "OSError: full"), r"must have room .*: ratio=2, seed 0: OSError: full$"),
        (Ended("setup", "no module"), r"must be able to load the job.*failed: no module$"),
    ],
)
def test_what_is_no_fault_of_the_trial_ends_the_search(run, tmp_path, ended, message):
    with pytest.raises(InputError, match=message):
        run(Scripted(ratio_2=[ended]), Run(A, 0))
    assert list((tmp_path / "a" / "records").iterdir()) == []
    assert run(Scripted(), Run(A, 0))["ratio=2", 0].completed


def test_a_trial_that_ends_machines_runs_last(run):
    fatal = Ended("fatal", "4 workers died")
    backend = Scripted(ratio_2=[fatal])
    with pytest.warns(SearchWarning, match="runs last. Received: ratio=2, seed 0: 4 workers"):
        run(backend, Run(A, 0), *(Run(B, seed) for seed in range(4)))
    assert backend.runs[-1].candidate == A
    with (
        pytest.warns(SearchWarning),
        pytest.raises(InputError, match=r"again when it ran after all others: .*: 4 workers"),
    ):
        run(Scripted(ratio_2=[fatal] * 2), Run(A, 9), Run(B, 9))
