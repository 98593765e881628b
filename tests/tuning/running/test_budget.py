"""What a search will cost, said before it trains."""

import keras_tuner
import pytest

from tuning import Budget, SESpace, TrialRecord
from tuning.oracles.table import get_oracle
from tuning.running.budget import plan_budget
from tuning.running.settings import SearchSettings
from tuning.trials.records import FINAL, FRESH

MIN = keras_tuner.Objective("val_loss", "min")


def settings(seeds=3, fresh_seeds=2, workers=1, **more):
    base = {"threads": 1, "timeout": None, "keep_weights": 3}
    return SearchSettings(tuple(range(seeds)), fresh_seeds, workers, **base, **more)


def records(*seeds, seconds=2.0):
    return [
        TrialRecord(f"c{n}", f"c{n}", {}, seed, "completed", 1.0, seconds=seconds)
        for n, seed in enumerate(seeds)
    ]


def oracle(kind, max_trials=None):
    hp = keras_tuner.HyperParameters()
    SESpace((2, 4), ("sigmoid", "tanh")).declare(hp)  # 5 candidates
    return get_oracle(kind, MIN, hp, 3, max_trials)


@pytest.mark.parametrize(
    ("kind", "given", "max_seeds", "planned", "at_most"),
    [
        ("exhaustive", {}, 10, 5 * 3 + 2, 5 * 10 + 2),
        ("exhaustive", {}, 0, 5 * 3 + 2, 5 * 3 + 2),  # a rule that asks for none
        ("exhaustive", {"seeds": 2}, 10, 5 * 2 + 2, 5 * 2 + 2),  # a screening
        ("random", {"fresh_seeds": 0}, 4, 5 * 3, 5 * 4),
        # Each file may need its training again.
        ("exhaustive", {"deployed": "int8"}, 0, 5 * 3 + 2, 5 * 3 + 2 + 5),
        # Base, two others, no SE, the predicted; three finalists on seeds of their own.
        ("main_effects", {}, 10, 5 * 3 + 3 * 3 + 2, 5 * 3 + 3 * 10 + 2),
        # Two rounds of 3 and 1; two with all epochs.
        ("hyperband", {}, 10, 6 * 3 + 2, 6 * 3 + 3 * 7 + 2),
    ],
)
def test_before_the_first_trial(kind, given, max_seeds, planned, at_most):
    budget = plan_budget(oracle(kind), settings(**given), max_seeds, [])
    assert (budget.planned, budget.at_most) == (planned, at_most)


@pytest.mark.parametrize(
    ("seeds", "planned", "at_most"),
    [
        ((0, 0, 1), 14, 49),
        ((0, 1, 2) * 5, 2, 37),
        ((*(0, 1, 2) * 5, 3, 3), 2, 35),
        ((*(0, 1, 2) * 5, FRESH, FRESH + 1), 0, 35),
    ],
)
def test_records_are_not_made_again(seeds, planned, at_most):
    budget = plan_budget(oracle("exhaustive"), settings(), 10, records(*seeds))
    assert (budget.planned, budget.at_most) == (planned, at_most)
    assert len(budget.records) == len(seeds)
    assert budget.seconds == 2.0


def test_records_of_finalists():
    seeds = [0, 1, 2] * 5 + [FINAL, FINAL + 1]
    budget = plan_budget(oracle("main_effects"), settings(), 10, records(*seeds))
    assert budget.planned == 7 + 2


def test_an_oracle_without_an_end():
    live = keras_tuner.oracles.HyperbandOracle("val_loss")
    budget = plan_budget(live, settings(), 10, [])
    assert (budget.planned, budget.at_most) == (None, None)
    assert str(budget) == "As many trainings to come as the oracle proposes."
    files = plan_budget(live, settings(deployed="int8"), 10, [])
    assert str(files) == "As many trainings to come as the oracle proposes, files to judge."
    assert budget.pace(1.0) == "At 1 s a training, for an unknown number of trainings."


@pytest.mark.parametrize(
    ("budget", "sentence"),
    [
        (Budget(1, 1), "1 training to come."),
        (Budget(17, 52), "17 trainings to come, at most 52."),
        (Budget(17, 57, files=5), "17 trainings to come, at most 57, at most 5 files to judge."),
        (Budget(0, 1, files=1), "0 trainings to come, at most 1, at most 1 file to judge."),
        (
            Budget(2, 37, tuple(records(0, 1, 2)), workers=2),
            "2 trainings to come, at most 37; 3 on record already, which are not run again. "
            "At 2 s a training, 2 at a time, about 0:02, at most 0:37.",
        ),
        (
            Budget(0, 35, tuple(records(0))),
            "0 trainings to come, at most 35; 1 on record already, which are not run again.",
        ),
    ],
)
def test_the_sentence(budget, sentence):
    assert str(budget) == sentence


def test_the_pace_of_what_is_left():
    budget = Budget(100, 4000)
    assert budget.seconds is None
    assert budget.pace(90.0, done=1) == ("At 90 s a training, about 2:28:30, at most 99:58:30.")
