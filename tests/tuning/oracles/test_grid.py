import itertools

import keras_tuner
import pytest
from keras_tuner.engine import base_tuner
from oracles import proposals

from keras_se.errors import InputError
from tuning import SESpace
from tuning.oracles.exhaustive import LIMIT, ExhaustiveOracle
from tuning.oracles.grid import combinations, listed_values

MIN = keras_tuner.Objective("val_loss", "min")


def space(*declarations):
    hp = keras_tuner.HyperParameters()
    for kind, *arguments in declarations:
        keywords = arguments.pop() if isinstance(arguments[-1], dict) else {}
        getattr(hp, kind)(*arguments, **keywords)
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


CONDITIONAL = [
    {"top": "flat", "rate": 0.1},
    *(
        {"top": "deep", "units": u, "bias": b, "rate": 0.1}
        for u in (1, 2, 3)
        for b in (True, False)
    ),
    *({"top": "wide", "wide_units": u, "rate": 0.1} for u in (10, 20, 30)),
]


def test_against_itertools():
    hp = space(
        ("Choice", "a", [3, 1, 2]),
        ("Boolean", "b"),
        ("Int", "c", 2, 8, {"step": 3}),
        ("Float", "d", 0.1, 0.3, {"step": 0.1}),
        ("Fixed", "e", "x"),
    )
    product = itertools.product([3, 1, 2], [True, False], [2, 5, 8], [0.1, 0.2, 0.3], ["x"])
    assert list(combinations(hp)) == [dict(zip("abcde", values, strict=True)) for values in product]


def test_conditional_spaces():
    assert list(combinations(conditional())) == CONDITIONAL


def test_conditions_of_conditions():
    hp = keras_tuner.HyperParameters()
    hp.Choice("a", ["x", "y"])
    with hp.conditional_scope("a", ["x"]):
        hp.Choice("b", [1, 2])
        with hp.conditional_scope("b", [2]):
            hp.Choice("c", [7, 8])
        with hp.conditional_scope("b", [1]):
            hp.Choice("d", [5, 6])
    expected = [
        {"a": "x", "b": 1, "d": 5},
        {"a": "x", "b": 1, "d": 6},
        {"a": "x", "b": 2, "c": 7},
        {"a": "x", "b": 2, "c": 8},
        {"a": "y"},
    ]
    assert list(combinations(hp)) == expected


@pytest.mark.parametrize(
    ("se", "scopes"),
    [
        (SESpace(), ["se"]),
        (SESpace((2, 4), ("sigmoid",), placements=("pre", "post")), ["stage_1", "stage_2"]),
        (SESpace((2,), ("tanh",), baseline=False), ["se"]),
    ],
)
def test_the_size_of_a_space(se, scopes):
    hp = keras_tuner.HyperParameters()
    se.declare(hp, scopes)
    found = list(combinations(hp))
    assert len(found) == se.size_for(len(scopes))
    assert sum(values == {"se_placement": "none"} for values in found) == se.baseline


@pytest.mark.parametrize(
    ("declaration", "values"),
    [
        (("Int", "a", 1, 10, {"step": 4}), [1, 5, 9]),
        (("Int", "a", 3, 3), [3]),
        (("Int", "a", 2, 16, {"step": 2, "sampling": "log"}), [2, 4, 8, 16]),
        (("Int", "a", 1, 27, {"step": 3, "sampling": "reverse_log"}), [27, 25, 19, 1]),
        (("Float", "a", 0.0, 0.3, {"step": 0.1}), [0.0, 0.1, 0.2, 0.3]),
        (("Float", "a", 0.1, 0.9, {"step": 0.2}), [0.1, 0.3, 0.5, 0.7, 0.9]),
        (("Float", "a", 1e-3, 1, {"step": 10, "sampling": "log"}), [0.001, 0.01, 0.1, 1.0]),
        (("Choice", "a", [2, 4, 2]), [2, 4]),
        (("Choice", "a", [0.5]), [0.5]),
        (("Boolean", "a"), [True, False]),
        (("Fixed", "a", 3), [3]),
    ],
)
def test_lists_of_values(declaration, values):
    hp = space(declaration)
    found = list(listed_values(hp.space[0]))
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]
    assert list(combinations(hp)) == [{"a": value} for value in values]


@pytest.mark.parametrize(
    ("declaration", "kind"),
    [
        (("Float", "a", 0.0, 1.0), "Float"),
        (("Float", "a", 0.1, 1.0, {"sampling": "log"}), "Float"),
        (("Int", "a", 1, 100, {"sampling": "log"}), "Int"),
    ],
)
def test_what_has_no_list_of_values(declaration, kind):
    hp = space(("Choice", "b", [1]), declaration)
    message = rf"needs hyperparameters with a list of values: .* Received: {kind} 'a'"
    with pytest.raises(InputError, match=message):
        list(combinations(hp))
    with pytest.raises(InputError, match=message):
        ExhaustiveOracle(MIN, hp)


def test_a_name_under_two_conditions():
    """keras-tuner drops the value of one, so that no trial would ever count as tried."""
    hp = keras_tuner.HyperParameters()
    hp.Choice("top", ["a", "b"])
    for top, values in (("a", [1, 2]), ("b", [3])):
        with hp.conditional_scope("top", [top]):
            hp.Choice("units", values)
    hp.values = {"top": "a", "units": 2}
    hp.ensure_active_values()
    assert hp.values == {"top": "a"}
    message = r"declared once, under one condition: .* different names. Received: 'units' twice"
    with pytest.raises(InputError, match=message):
        ExhaustiveOracle(MIN, hp)


def test_counting_ends():
    with pytest.raises(InputError, match="Received: a space with more than 200"):
        ExhaustiveOracle(MIN, space(*(("Int", name, 1, 1000) for name in "abc")))


def integers(most):
    hp = keras_tuner.HyperParameters()
    hp.Int("a", 1, most)
    return hp


REFUSAL = (
    r"An exhaustive search takes up to 200 combinations: give fewer choices, "
    r"max_trials, or another oracle, such as 'main_effects' or 'random'. "
    r"Received: a space with more than 200"
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

    def end(trial, number, rng):
        if fails(number):
            trial.status, trial.message = "FAILED", "no"
        else:
            oracle.update_trial(trial.trial_id, {"val_loss": rng.random()})
            trial.status = "COMPLETED"
        oracle.end_trial(trial)

    return proposals(oracle, tuners, end)


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
