"""Trials that were under way, with several at a time, go on after the process has gone."""

import pytest
from slots import make_oracle, run_search, score_of


@pytest.mark.parametrize(
    ("kind", "last_first", "seeds", "stop_after"),
    [
        ("exhaustive", False, (0,), 1),
        ("exhaustive", True, (0, 1), 2),
        ("exhaustive", False, (0, 1), 3),
        ("main_effects", False, (0, 1), 3),
        ("main_effects", True, (0, 1), 6),
        ("hyperband", False, (0, 1), 3),
        ("hyperband", True, (0, 1), 9),
        ("random", True, (0, 1), 5),
        ("live", True, (0,), 2),
        ("live", False, (0, 1), 4),
        ("live", True, (0, 1), 1),
    ],
)
def test_it_goes_on(tmp_path, kind, last_first, seeds, stop_after):
    _, before = run_search(tmp_path, make_oracle(kind), seeds, last_first, stop_after)
    there = {path.stem for path in (tmp_path / "records").iterdir()}
    tuner, after = run_search(tmp_path, make_oracle(kind), seeds, last_first)
    assert not there & set(after)
    assert len(after) == len(set(after))
    trials = tuner.oracle.trials.values()
    assert {trial.status for trial in trials} == {"COMPLETED"}
    for trial in trials:
        assert trial.score == score_of(tuner.candidate(trial.hyperparameters.values).id)
    whole, _ = run_search(tmp_path / "b", make_oracle(kind), seeds, last_first)
    assert sorted(str(t.hyperparameters.values) for t in trials) == sorted(
        str(t.hyperparameters.values) for t in whole.oracle.trials.values()
    )
    assert not tuner.oracle.ongoing_trials
    assert run_search(tmp_path, make_oracle(kind), seeds, last_first)[1] == []
    assert set(before) | set(after) == {path.stem for path in (tmp_path / "records").iterdir()}
