import copy
import itertools
import math

import keras_tuner
import pytest
from keras_tuner.engine import base_tuner
from oracles import proposals

from keras_se.errors import InputError
from tuning import MainEffects, SESpace

MIN, MAX = (keras_tuner.Objective("J", direction) for direction in ("min", "max"))
SE = SESpace((2, 4, 8, 16), ("sigmoid", "tanh"), ("avg",), ("standard", "pre"), per="stage")
SCOPES = ("stage_1", "stage_2", "stage_3")
# What each value adds to the loss; no plan with all the best ones is a single or a uniform one.
EFFECTS = {
    "se_placement": {"standard": 0.0, "pre": -1.0},
    "stage_1_ratio": {2: -3.0, 4: -1.0, 8: 0.0, 16: 2.0},
    "stage_2_ratio": {2: 1.0, 4: -2.0, 8: 0.0, 16: 3.0},
    "stage_3_ratio": {2: 4.0, 4: 3.0, 8: 0.0, 16: -0.5},
    **{
        f"{scope}_gate": {"sigmoid": 0.0, "tanh": sign * 0.25}
        for scope, sign in zip(SCOPES, (1, -1, 1), strict=True)
    },
}
BEST = {
    "se_placement": "pre",
    "stage_1_ratio": 2,
    "stage_1_gate": "sigmoid",
    "stage_1_squeeze": "avg",
    "stage_2_ratio": 4,
    "stage_2_gate": "tanh",
    "stage_2_squeeze": "avg",
    "stage_3_ratio": 16,
    "stage_3_gate": "sigmoid",
    "stage_3_squeeze": "avg",
}
PLAIN = {"se_placement": "none"}


def space(se=SE, scopes=SCOPES):
    hp = keras_tuner.HyperParameters()
    se.declare(hp, scopes)
    return hp


def of_choices(**choices):
    hp = keras_tuner.HyperParameters()
    for name, values in choices.items():
        hp.Choice(name, values)
    return hp


def additive(plan):
    if plan == PLAIN:
        return 100.0
    return sum(EFFECTS[name][value] for name, value in plan.items() if name in EFFECTS)


def driven(oracle, folder, loss=additive, tuners=("a",)):
    """Plans in the order in which they were proposed; `loss` of None is a failure."""
    oracle.verbose = 0
    base_tuner.BaseTuner(oracle, directory=str(folder), project_name="kt")
    return proposals(oracle, tuners, lambda trial, *_: ended(oracle, trial, loss))


def ended(oracle, trial, loss):
    value = loss(trial.hyperparameters.values)
    trial.status = "FAILED" if value is None else "COMPLETED"
    if value is not None:
        oracle.update_trial(trial.trial_id, {"J": float(value)})
    oracle.end_trial(trial)


def every_plan():
    names = list(BEST)
    values = [list(EFFECTS.get(name, {"avg": 0.0})) for name in names]
    for combination in itertools.product(*values):
        yield dict(zip(names, combination, strict=True))


@pytest.mark.parametrize("tuners", [("a",), ("a", "b", "c", "d", "e")])
def test_an_additive_truth_is_found(tmp_path, tuners):
    oracle = MainEffects(MIN, space())
    planned = oracle.plans()
    assert min(every_plan(), key=additive) == BEST
    assert BEST not in planned
    proposed = driven(oracle, tmp_path, tuners=tuners)
    assert proposed == [*planned, BEST]
    assert oracle.finalists()[0] == BEST


def test_the_highest_is_found(tmp_path):
    oracle = MainEffects(MAX, space())
    # The plain network is good for nothing here, too.
    assert driven(oracle, tmp_path, lambda plan: -additive(plan))[-1] == BEST


def test_the_number_of_trials(tmp_path):
    """Base, the singles (placements 2, ratios 3·3, gates 3·1), and the uniform ones (3 + 1)."""
    oracle = MainEffects(MIN, space())
    assert len(oracle.plans()) == 1 + (2 + 9 + 3) + (3 + 1)
    assert len(driven(oracle, tmp_path)) == 1 + 14 + 4 + 1
    assert len({str(plan) for plan in oracle.plans()}) == 19


def test_what_is_tried():
    base, *others = MainEffects(MIN, space()).plans()
    assert base == oracle_base(8)
    singles, uniform = others[:14], others[14:]
    for plan in singles:
        changed = [name for name in base if plan.get(name) != base[name]]
        assert len(changed) == 1 or plan == PLAIN
    assert uniform == [
        *({**base, **dict.fromkeys([f"{s}_ratio" for s in SCOPES], r)} for r in (2, 4, 16)),
        {**base, **dict.fromkeys([f"{s}_gate" for s in SCOPES], "tanh")},
    ]


def oracle_base(ratio):
    settings = {"ratio": ratio, "gate": "sigmoid", "squeeze": "avg"}
    names = {f"{scope}_{name}": v for scope in SCOPES for name, v in settings.items()}
    return {"se_placement": "standard", **names}


def test_finalists(tmp_path):
    oracle = MainEffects(MIN, space())
    driven(oracle, tmp_path)
    uniform = [p for p in oracle.plans() if len({v for k, v in p.items() if "ratio" in k}) == 1]
    uniform = [p for p in uniform if len({v for k, v in p.items() if "gate" in k}) == 1]
    assert len(uniform) == 6  # the other placement is one of the whole model, too
    assert oracle.finalists() == [BEST, min(uniform, key=additive), PLAIN]


def test_finalists_where_the_plain_network_is_the_best(tmp_path):
    """It is among them once, and the best uniform plan stays."""
    oracle = MainEffects(MIN, space())
    driven(oracle, tmp_path, lambda plan: -100.0 if plan == PLAIN else additive(plan))
    found = oracle.finalists()
    assert [plan == PLAIN for plan in found] == [False, False, True]
    assert found[0] == BEST


def test_finalists_without_a_plain_network(tmp_path):
    se = SESpace((2, 4), ("sigmoid",), per="stage", baseline=False)
    oracle = MainEffects(MIN, space(se))
    driven(oracle, tmp_path, lambda plan: -plan["stage_1_ratio"])
    assert PLAIN not in oracle.finalists()


def test_a_prediction_that_was_tried_is_not_tried_again(tmp_path):
    hp = of_choices(a_ratio=[2, 4, 8], b_ratio=[2, 4, 8])
    oracle = MainEffects(MIN, hp)
    assert len(driven(oracle, tmp_path, lambda p: p["a_ratio"] + p["b_ratio"])) == 7
    assert oracle.finalists() == [{"a_ratio": 2, "b_ratio": 2}]


def test_a_base_that_is_given(tmp_path):
    oracle = MainEffects(MIN, space(), {"stage_1_ratio": 2, "se_placement": "pre"})
    base = oracle_base(8) | {"stage_1_ratio": 2, "se_placement": "pre"}
    assert oracle.base == oracle.plans()[0] == base
    assert driven(oracle, tmp_path)[-1] == BEST


def test_the_uniform_plans_of_an_uneven_base():
    hp = of_choices(a_ratio=[2, 4], b_ratio=[2, 4], c_ratio=[2, 4])
    plans = [tuple(p.values()) for p in MainEffects(MIN, hp, {"a_ratio": 2}).plans()]
    assert plans == [(2, 4, 4), (4, 4, 4), (2, 2, 4), (2, 4, 2), (2, 2, 2)]


@pytest.mark.parametrize(
    ("base", "received"),
    [
        ({"stage_9_ratio": 2}, "stage_9_ratio=2"),
        ({"stage_1_ratio": 3}, "stage_1_ratio=3"),
        (PLAIN, "se_placement='none'"),
    ],
)
def test_what_is_no_base(base, received):
    message = (
        rf"base must hold values of the space, \{{.*\}}, of a network with SE. Received: {received}"
    )
    with pytest.raises(InputError, match=message):
        MainEffects(MIN, space(), base)


def test_spaces_without_lists_of_values():
    hp = keras_tuner.HyperParameters()
    hp.Float("rate", 0.0, 1.0)
    with pytest.raises(InputError, match=r"with a list of values: .* Received: Float 'rate'"):
        MainEffects(MIN, hp)


def test_names_that_end_alike_are_not_one_setting():
    """The rate of dropout is no rate of learning."""
    hp = of_choices(learning_rate=[0.1, 0.01], dropout_rate=[0.1, 0.5, 0.01])
    for plan in MainEffects(MIN, hp).plans():
        assert sum(plan[name] != 0.1 for name in plan) <= 1


def test_settings_of_different_lists():
    hp = of_choices(a_ratio=[2, 4], b_ratio=[8, 4])
    plans = [tuple(plan.values()) for plan in MainEffects(MIN, hp).plans()]
    assert plans == [(4, 4), (2, 4), (4, 8), (2, 8)]


def test_none_may_be_the_best_of_other_hyperparameters(tmp_path):
    hp = of_choices(norm=["batch", "none"], units=[1, 2])
    oracle = MainEffects(MIN, hp)
    loss = {"batch": 1.0, "none": 0.0, 1: 1.0, 2: 0.0}
    assert driven(oracle, tmp_path, lambda p: sum(map(loss.get, p.values())))[-1] == {
        "norm": "none",
        "units": 2,
    }


def test_numbers_with_a_step(tmp_path):
    hp = keras_tuner.HyperParameters()
    hp.Int("units", 1, 3)
    hp.Float("rate", 0.0, 0.3, step=0.1)
    hp.Boolean("bias")
    hp.Fixed("depth", 2)
    oracle = MainEffects(MIN, hp)
    found = driven(oracle, tmp_path, lambda p: -p["units"] - p["rate"] + p["bias"])
    assert found[-1] == {"units": 3, "rate": 0.3, "bias": False, "depth": 2}
    assert len(found) == 1 + 2 + 3 + 1 + 1


def test_failed_trials_do_not_stop_it(tmp_path):
    oracle = MainEffects(MIN, space())
    lost = [oracle_base(8) | {"stage_1_ratio": 2}, oracle_base(16)]
    proposed = driven(oracle, tmp_path, lambda p: None if p in lost else additive(p))
    assert proposed[:-1] == oracle.plans()
    assert proposed[-1] == BEST | {"stage_1_ratio": 4}  # the best that is known
    assert lost[1] not in oracle.finalists()


def test_where_all_have_failed(tmp_path):
    oracle = MainEffects(MIN, space())
    assert driven(oracle, tmp_path, lambda plan: None) == oracle.plans()
    assert oracle.finalists() == [oracle_base(8), PLAIN]


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_a_score_that_is_not_finite_is_none(tmp_path, broken):
    """keras-tuner keeps the score of a trial that it takes for a failure."""
    oracle = MainEffects(MIN, space())
    driven(oracle, tmp_path)
    oracle.trials["0000"].score = broken
    assert oracle.finalists()[0] != BEST  # the base is the best of stage 3's gates, but for that
    assert oracle.finalists()[0]["stage_1_ratio"] == 2
    assert oracle.finalists()[0]["stage_3_gate"] == "tanh"


def test_it_waits_for_all_before_it_predicts(tmp_path):
    oracle = MainEffects(MIN, of_choices(a_ratio=[2, 4, 8], b_ratio=[2, 4, 8]))
    oracle.verbose = 0
    base_tuner.BaseTuner(oracle, directory=str(tmp_path), project_name="kt")
    trials = [oracle.create_trial(name) for name in "0123456"]
    for trial in trials:
        assert oracle.create_trial("last").status == "IDLE"
        ended(oracle, trial, lambda p: p["a_ratio"] - p["b_ratio"])
    last = oracle.create_trial("last")
    assert (last.status, last.hyperparameters.values) == ("RUNNING", {"a_ratio": 2, "b_ratio": 8})
    assert oracle.create_trial("another").status == "IDLE"
    ended(oracle, last, lambda p: 0.0)
    assert oracle.create_trial("another").status == "STOPPED"


def test_hyperparameters_that_the_base_does_not_have(tmp_path):
    """They keep their defaults."""
    hp = of_choices(optimizer=["sgd", "adam"])
    with hp.conditional_scope("optimizer", ["adam"]):
        hp.Choice("beta", [0.9, 0.99])
    plans = MainEffects(MIN, hp).plans()
    assert plans == [{"optimizer": "sgd"}, {"optimizer": "adam", "beta": 0.9}]


def test_a_copy_plans_alike():
    oracle = MainEffects(MIN, space())
    assert copy.deepcopy(oracle).plans() == oracle.plans()


def test_nothing_to_choose(tmp_path):
    assert driven(MainEffects(MIN, keras_tuner.HyperParameters()), tmp_path, lambda p: 1.0) == [{}]
