"""Oracles by name: what each proposes, until when, and what it asks for."""

import sys

import keras_tuner
import pytest
from keras_tuner.engine import base_tuner
from oracles import proposals

from keras_se.errors import InputError, MissingExtraError
from tuning import SESpace
from tuning.oracles.stateless import plain
from tuning.oracles.table import NAMES, expected_trials, get_oracle

MIN, MAX = (keras_tuner.Objective("val_loss", direction) for direction in ("min", "max"))


def grid(**choices):
    hp = keras_tuner.HyperParameters()
    for name, values in choices.items():
        hp.Choice(name, values)
    return hp


FORTY = {"a": list(range(10)), "b": [1, 2, 3, 4]}


def loss_of(values):
    return float(values.get("a", 0) + values.get("b", 0))


def driven(oracle, folder, loss=loss_of, tuners=("a",)):
    """Values in the order in which they were proposed; a loss of None is a failure."""

    def end(trial, *_):
        value = loss(trial.hyperparameters.values)
        trial.status = "FAILED" if value is None else "COMPLETED"
        if value is not None:
            oracle.update_trial(trial.trial_id, {"val_loss": value})
        oracle.end_trial(trial)

    oracle.verbose = 0
    base_tuner.BaseTuner(oracle, directory=str(folder), project_name="kt").save()
    return proposals(oracle, tuners, end)


def named(name, hp, epochs=9, max_trials=None, objective=MIN):
    return get_oracle(name, objective, hp, epochs, max_trials)


@pytest.mark.parametrize("tuners", [("a",), ("a", "b", "c")])
@pytest.mark.parametrize("name", ["random", "exhaustive"])
def test_the_whole_space_is_tried_and_nothing_twice(tmp_path, name, tuners):
    """keras-tuner's own random search ended after 37 of 40."""
    oracle = named(name, grid(**FORTY), max_trials=100)
    proposed = driven(oracle, tmp_path, tuners=tuners)
    assert len(proposed) == len(set(map(plain, proposed))) == 40
    assert expected_trials(oracle) == (40, 40)


def test_bayesian_repeats_nothing(tmp_path):
    """keras-tuner's own proposed 12 different ones in 40 trials."""
    oracle = named("bayesian", grid(a=[1, 2, 3, 4], b=[1, 2, 3]), max_trials=100)
    proposed = driven(oracle, tmp_path)
    assert len(proposed) == len(set(map(plain, proposed))) == 12


def test_bayesian_is_led_by_the_scores(tmp_path):
    """Of 400 combinations the best one is found with far fewer trials."""
    hp = grid(a=list(range(20)), b=list(range(20)))
    proposed = driven(named("bayesian", hp), tmp_path)
    assert len(proposed) == 20
    early, late = proposed[:6], proposed[6:]
    assert min(map(loss_of, late)) < min(map(loss_of, early))
    assert min(map(loss_of, late)) <= 1


@pytest.mark.parametrize("name", NAMES)
def test_the_same_in_every_process(tmp_path, name):
    both = []
    for number in "12":
        hp = keras_tuner.HyperParameters()
        SESpace((2, 4, 8), ("sigmoid", "tanh"), ("avg", "max")).declare(hp)
        both.append(driven(named(name, hp, max_trials=8), tmp_path / number, lambda _: 1.0))
    assert both[0] == both[1]
    assert 0 < len(both[0]) <= 8


@pytest.mark.parametrize("name", NAMES)
def test_three_failures_in_a_row_end_nothing(tmp_path, name):
    proposed = driven(named(name, grid(a=[1, 2, 3, 4, 5])), tmp_path, lambda _: None)
    assert {values["a"] for values in proposed} == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("name", NAMES)
def test_a_cap_is_kept_and_may_be_raised(tmp_path, name):
    hp = grid(a=[1, 2, 3, 4], b=[1, 2])
    first = driven(named(name, hp, max_trials=3), tmp_path)
    assert len(first) == 3
    further = driven(named(name, hp, max_trials=5), tmp_path)
    # keras-tuner saves a trial that ends as one that still runs, and tries it once more.
    assert len([values for values in further if values not in first]) == 2


def test_a_cap_makes_a_large_space_exhaustible():
    oracle = named("exhaustive", grid(a=list(range(1000)), b=list(range(1000))), max_trials=2)
    assert list(oracle.all_values()) == [{"a": 0, "b": 0}, {"a": 0, "b": 1}]


def test_a_default_number_of_trials(tmp_path):
    for name in ("random", "bayesian"):
        assert named(name, grid(**FORTY)).max_trials == 20
        assert expected_trials(named(name, grid(a=[1, 2]))) == (2, 2)
    for name in ("exhaustive", "main_effects", "hyperband"):
        assert named(name, grid(**FORTY)).max_trials is None


def continuous():
    hp = keras_tuner.HyperParameters()
    hp.Float("rate", 1e-4, 1e-1, sampling="log")
    hp.Choice("a", [1, 2])
    return hp


@pytest.mark.parametrize("name", ["random", "bayesian", "hyperband"])
def test_continuous_hyperparameters(tmp_path, name):
    oracle = named(name, continuous(), max_trials=9)
    proposed = driven(oracle, tmp_path, lambda values: values["rate"])
    assert len(proposed) == expected_trials(oracle)[0] == 9
    assert all(1e-4 <= values["rate"] <= 1e-1 for values in proposed)


def test_conditional_values_are_active_ones(tmp_path):
    hp = keras_tuner.HyperParameters()
    hp.Choice("top", ["flat", "deep"])
    with hp.conditional_scope("top", ["deep"]):
        hp.Choice("units", [1, 2])
    proposed = driven(named("random", hp), tmp_path)
    assert sorted(map(plain, proposed)) == sorted(
        map(plain, [{"top": "flat"}, {"top": "deep", "units": 1}, {"top": "deep", "units": 2}])
    )


def epochs_of(proposed):
    return [values["tuner/epochs"] for values in proposed]


@pytest.mark.parametrize("tuners", [("a",), ("a", "b", "c", "d")])
@pytest.mark.parametrize("objective", [MIN, MAX])
def test_hyperband_takes_the_best_third(tmp_path, tuners, objective):
    """Brackets of 9, 5 and 3 candidates: 9 + 3 + 1, 5 + 2 and 3 trials."""
    oracle = named("hyperband", grid(**FORTY), objective=objective)
    proposed = driven(oracle, tmp_path, tuners=tuners)
    assert sorted(epochs_of(proposed)) == sorted(
        [1] * 9 + [3] * 3 + [9] + [3] * 5 + [9] * 2 + [9] * 3
    )
    assert expected_trials(oracle) == (len(proposed), 6)
    first = [v for v in proposed if v["tuner/bracket"] == 2]
    sign = 1 if objective is MIN else -1
    for number in (0, 1):
        here, after = ([v for v in first if v["tuner/round"] == n] for n in (number, number + 1))
        worst = max(sign * loss_of(values) for values in after)
        dropped = [v for v in here if plain(v) not in set(map(plain, after))]
        assert worst <= min(sign * loss_of(values) for values in dropped)


def test_hyperband_in_a_small_space(tmp_path):
    """keras-tuner's own ended with four trials of one epoch."""
    oracle = named("hyperband", grid(a=[1, 2, 3, 4]))
    proposed = driven(oracle, tmp_path)
    assert epochs_of(proposed) == [1, 1, 1, 1, 3, 3, 9]
    assert expected_trials(oracle) == (7, 1)
    assert proposed[-1]["a"] == 1


def test_hyperband_goes_on_past_failures(tmp_path):
    """keras-tuner's own waited for candidates that had failed."""
    proposed = driven(
        named("hyperband", grid(a=[1, 2, 3, 4, 5, 6, 7, 8, 9])),
        tmp_path,
        lambda values: None if values["a"] < 6 else loss_of(values),
    )
    assert epochs_of(proposed) == [1] * 9 + [3] * 2 + [9]
    assert proposed[-1]["a"] == 6


@pytest.mark.parametrize(("epochs", "brackets"), [(1, 1), (2, 1), (3, 2), (9, 3), (27, 4), (80, 4)])
def test_the_brackets_of_hyperband(epochs, brackets):
    assert named("hyperband", grid(**FORTY), epochs).brackets == brackets


def test_bayesian_names_the_package_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    message = r"needs the package `sklearn`, .*pip install 'keras-se\[tuning\]'"
    with pytest.raises(MissingExtraError, match=message):
        named("bayesian", grid(**FORTY))


def test_an_unknown_name():
    message = (
        r"oracle must be one of \['exhaustive', 'main_effects', 'random', 'bayesian', 'hyperband'\]"
        r" or a keras_tuner.Oracle. Received: oracle='greedy'"
    )
    with pytest.raises(InputError, match=message):
        named("greedy", grid(**FORTY))


def test_a_live_oracle_keeps_the_smaller_number_of_trials():
    for own, given, both in ((5, None, 5), (5, 3, 3), (3, 5, 3), (None, 4, 4)):
        live = keras_tuner.oracles.RandomSearchOracle("val_loss", max_trials=own)
        assert get_oracle(live, MIN, grid(**FORTY), 9, given).max_trials == both
        assert expected_trials(live) == (both, both)
