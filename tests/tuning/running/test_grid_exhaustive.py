import random

import keras_tuner
import pytest
from keras_tuner.engine import base_tuner

from keras_se.errors import InputError
from tuning.running.grid import LIMIT, ExhaustiveOracle, combinations

MIN = keras_tuner.Objective("val_loss", "min")


def integers(most):
    hp = keras_tuner.HyperParameters()
    hp.Int("a", 1, most)
    return hp


def conditional():
    """1 + 3·2 + 3 combinations."""
    hp = keras_tuner.HyperParameters()
    hp.Choice("top", ["flat", "deep", "wide"])
    with hp.conditional_scope("top", ["deep"]):
        hp.Choice("units", [1, 2, 3])
        hp.Boolean("bias")
    with hp.conditional_scope("top", ["wide"]):
        hp.Choice("wide_units", [10, 20, 30])
    hp.Fixed("rate", 0.1)
    return hp


CONDITIONAL = list(combinations(conditional()))

REFUSAL = (
    r"An exhaustive search takes up to 200 combinations: give fewer choices, "
    r"oracle='main_effects', or one of keras_tuner.oracles. Received: a space with more than 200"
)


def test_too_large_a_space():
    assert LIMIT == 200
    with pytest.raises(InputError, match=REFUSAL):
        ExhaustiveOracle(MIN, integers(201))
    ExhaustiveOracle(MIN, integers(200))


def stored(oracle, folder):
    """As a tuner does, which gives the oracle its folder."""
    return base_tuner.BaseTuner(oracle, directory=str(folder), project_name="kt").oracle


def exhausted(oracle, tuners, fails=lambda number: False):
    """Values in the order in which they were proposed, several trials at a time."""
    rng, open_trials, proposed, stopped = random.Random(0), {}, [], set()  # noqa: S311
    while len(stopped) < len(tuners):
        name = rng.choice([t for t in tuners if t not in stopped])
        if name in open_trials:
            trial = open_trials.pop(name)
            if fails(len(proposed)):
                trial.status, trial.message = "FAILED", "no"
            else:
                oracle.update_trial(trial.trial_id, {"val_loss": rng.random()})
                trial.status = "COMPLETED"
            oracle.end_trial(trial)
            continue
        trial = oracle.create_trial(name)
        if trial.status == "RUNNING":
            open_trials[name] = trial
            proposed.append(trial.hyperparameters.values)
        elif trial.status == "STOPPED":
            stopped.add(name)
        else:
            assert (trial.status, bool(open_trials)) == ("IDLE", True)
    return proposed


def quiet(hp):
    oracle = ExhaustiveOracle(MIN, hp)
    oracle.verbose = 0
    return oracle


@pytest.mark.parametrize(
    ("tuners", "fails"),
    [
        (["tuner0"], lambda number: False),
        (["tuner0"], lambda number: True),
        (["a", "b", "c"], lambda number: number % 3),
    ],
)
def test_each_once_in_the_order_of_the_space(tmp_path, tuners, fails):
    assert exhausted(stored(quiet(conditional()), tmp_path), tuners, fails) == CONDITIONAL


def tried(oracle):
    return [oracle.trials[name].hyperparameters.values for name in sorted(oracle.trials)]


def test_it_goes_on_after_a_kill(tmp_path, capsys):
    tuner = base_tuner.BaseTuner(quiet(conditional()), directory=str(tmp_path), project_name="kt")
    tuner.save()
    first = tuner.oracle
    for name in ("a", "b"):
        trial = first.create_trial(name)
    first.update_trial(trial.trial_id, {"val_loss": 1.0})
    trial.status = "COMPLETED"
    first.end_trial(trial)
    tuner.save()  # keras-tuner itself saves before it takes the trial from those that are running
    again = stored(quiet(conditional()), tmp_path)
    assert tried(again) == CONDITIONAL[:2]
    reopened = exhausted(again, ["a", "b"])
    assert CONDITIONAL[0] in reopened  # it was cut off
    assert CONDITIONAL[1] not in reopened
    assert tried(again) == CONDITIONAL


class Tuner(base_tuner.BaseTuner):
    """Builds what it is told to, and measures nothing."""

    def run_trial(self, trial, *args, **kwargs):
        hp = trial.hyperparameters
        if self.hypermodel.build(hp) == "fails":
            raise keras_tuner.errors.FailedTrialError("no")
        return {"val_loss": float(len(hp.values))}


class Declares(keras_tuner.HyperModel):
    """Declares its hyperparameters while it is built, conditional ones too."""

    def build(self, hp):
        hp.Choice("top", ["flat", "deep"])
        with hp.conditional_scope("top", ["deep"]):
            hp.Choice("units", [1, 2, 3])
        return "fails" if hp.get("top") == "flat" else "model"


def test_the_loop_of_keras_tuner(tmp_path, capsys):
    oracle = quiet(keras_tuner.HyperParameters())
    tuner = Tuner(oracle, Declares(), directory=str(tmp_path), project_name="kt")
    tuner.search(verbose=0)
    trials = list(tuner.oracle.trials.values())
    assert [t.hyperparameters.values for t in trials] == [
        {"top": "flat"},
        *({"top": "deep", "units": units} for units in (1, 2, 3)),
    ]
    assert [t.status for t in trials] == ["FAILED", "COMPLETED", "COMPLETED", "COMPLETED"]


def test_it_waits_for_trials_that_may_declare_more(tmp_path):
    oracle = stored(quiet(integers(1)), tmp_path)
    trial = oracle.create_trial("one")
    assert oracle.create_trial("two").status == "IDLE"
    trial.hyperparameters.Choice("b", [5, 6])
    oracle.update_trial(trial.trial_id, {"val_loss": 1.0})
    trial.status = "COMPLETED"
    oracle.end_trial(trial)
    assert oracle.create_trial("two").hyperparameters.values == {"a": 1, "b": 6}
    assert tried(oracle) == [{"a": 1, "b": 5}, {"a": 1, "b": 6}]


def test_nothing_to_choose(tmp_path):
    assert exhausted(stored(quiet(keras_tuner.HyperParameters()), tmp_path), ["a"]) == [{}]


def test_all_values():
    assert list(quiet(conditional()).all_values()) == CONDITIONAL
