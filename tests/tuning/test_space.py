import itertools
import json

import keras
import keras_tuner
import pytest

from keras_se import SEBlock
from keras_se.errors import InputError
from keras_se.layers import gates
from tuning import SESpace
from tuning.oracles.grid import combinations
from tuning.space import is_baseline
from tuning.trials.combination import make_combination

SMALL = SESpace((2, 4), ("sigmoid", "one_plus_tanh"))


def declared(space, **values):
    hp = keras_tuner.HyperParameters()
    hp.values.update(values)
    space.declare(hp)
    return hp


def names_and_values(hp):
    return [(parameter.name, list(parameter.values)) for parameter in hp.space]


def test_names_and_order():
    space = SESpace((2, 4), ("sigmoid",), ("avg", "max"), ("standard", "post"))
    assert names_and_values(declared(space)) == [
        ("se_placement", ["standard", "post", "none"]),
        ("se_ratio", [2, 4]),
        ("se_gate", ["sigmoid"]),
        ("se_squeeze", ["avg", "max"]),
    ]


def test_each_scope_has_its_own():
    hp = keras_tuner.HyperParameters()
    SMALL.declare(hp, ["stage_1", "inner/se_1"])
    kinds = ("ratio", "gate", "squeeze")
    assert [parameter.name for parameter in hp.space] == [
        "se_placement",
        *(f"stage_1_{kind}" for kind in kinds),
        *(f"inner/se_1_{kind}" for kind in kinds),
    ]


def test_what_has_one_value_is_declared_too():
    space = SESpace((2,), ("sigmoid",), baseline=False)
    names = ["se_placement", "se_ratio", "se_gate", "se_squeeze"]
    assert [len(values) for _, values in names_and_values(declared(space))] == [1] * len(names)


def distinct(space, scopes=("se",)):
    """The candidates that keras-tuner sees: the values of what is active."""
    hp = keras_tuner.HyperParameters()
    space.declare(hp, scopes)
    names = [parameter.name for parameter in hp.space]
    found = set()
    for values in itertools.product(*(parameter.values for parameter in hp.space)):
        one = hp.copy()
        one.values = dict(zip(names, values, strict=True))
        active = [p.name for p in one.space if one.is_active(p)]
        found.add(tuple((name, one.values[name]) for name in active))
    return found


@pytest.mark.parametrize(
    ("baseline", "scopes"), [(True, ("se",)), (False, ("se",)), (True, ("se_1", "se_2"))]
)
def test_the_size_is_the_number_of_distinct_candidates(baseline, scopes):
    space = SESpace((2, 4), ("sigmoid",), ("avg", "max"), ("standard", "pre"), baseline=baseline)
    expected = baseline + 2 * (2 * 1 * 2) ** len(scopes)
    assert space.size_for(len(scopes)) == len(distinct(space, scopes)) == expected


def test_sizes():
    assert SESpace().size == 1 + 5 * 3
    assert SESpace(baseline=False).size == 5 * 3
    assert SMALL.size == SMALL.size_for(1) == 5


def test_settings():
    hp = keras_tuner.HyperParameters()
    assert SMALL.settings(hp) == {"ratio": 2, "gate": "sigmoid", "squeeze": "avg"}
    assert SMALL.placement(hp) == "standard"
    assert hp.values["se_ratio"] == 2


def test_the_baseline_has_no_settings():
    hp = declared(SMALL, se_placement="none")
    assert SMALL.placement(hp) is None
    assert SMALL.settings(hp) == {}
    assert hp.values == {"se_placement": "none"}


def test_fractional_ratios_make_all_of_them_floats():
    space = SESpace((1.5, 2))
    assert space.settings(keras_tuner.HyperParameters())["ratio"] == 1.5
    assert names_and_values(declared(space))[1] == ("se_ratio", [1.5, 2.0])


@pytest.mark.parametrize("ratios", [(2, 4), (2.0, 4.0)])
def test_whole_ratios_are_read_back_as_integers(ratios):
    hp = declared(SESpace(ratios), se_ratio=4.0)
    ratio = SESpace(ratios).settings(hp)["ratio"]
    assert (ratio, type(ratio)) == (4, int)


def test_lists_and_functions_become_tuples_of_names():
    space = SESpace([2, 4], [gates.sigmoid], ["avg"], ["standard"])
    assert space == SESpace((2, 4), ("sigmoid",))
    assert hash(space) == hash(SESpace((2, 4), ("sigmoid",)))


def test_blocks_have_hyperparameters_of_their_own():
    hp = keras_tuner.HyperParameters()
    hp.values["b_ratio"] = 4
    blocks = [SMALL.block(hp, name) for name in "ab"]
    assert [(block.name, block.ratio, type(block)) for block in blocks] == [
        ("a", 2, SEBlock),
        ("b", 4, SEBlock),
    ]


def test_without_se_blocks_are_identities():
    hp = keras_tuner.HyperParameters()
    hp.values["se_placement"] = "none"
    blocks = [SMALL.block(hp, name) for name in "ab"]
    assert [(block.name, type(block)) for block in blocks] == [
        ("a", keras.layers.Identity),
        ("b", keras.layers.Identity),
    ]
    assert hp.values == {"se_placement": "none"}
    assert len(hp.space) == 1 + 2 * 3


def test_a_block_inside_of_what_is_not_active():
    """keras-tuner runs the code of all branches, with `None` for what is not chosen."""
    hp = keras_tuner.HyperParameters()
    hp.Choice("kind", ["plain", "se"])
    with hp.conditional_scope("kind", ["se"]):
        assert isinstance(SMALL.block(hp, "a"), keras.layers.Identity)
    assert hp.values == {"kind": "plain"}


def test_blocks_in_several_conditional_scopes():
    def declare(hp):
        kind = hp.Choice("kind", ["a", "b", "plain"])
        for name in "ab":
            with hp.conditional_scope("kind", [name]):
                block = SMALL.block(hp, f"se_{name}")
                assert isinstance(block, SEBlock) == (kind == name)

    hp = keras_tuner.HyperParameters()
    declare(hp)
    names = [parameter.name for parameter in hp.space]
    assert len(set(names)) == len(names) == 1 + 2 * 4
    assert {"se_placement if kind=a", "se_placement if kind=b"} < set(names)
    found = list(combinations(hp))
    # Each with SE and without, and the third kind once.
    assert len(found) == 2 * SMALL.size + 1
    for values in found:
        again = keras_tuner.HyperParameters()
        again.values = dict(values)
        if values["kind"] == "plain" or not is_baseline(values):
            declare(again)
            assert again.values == values
    labels = [make_combination(values, ["kind", "se_a_ratio"]).label for values in found]
    assert labels.count("no SE kind=a") == 1


@pytest.mark.parametrize(
    "space",
    [
        SESpace(),
        SESpace((1.5, 2), ("tanh",), ("max", "std"), ("pre", "post"), "stage", False),
    ],
)
def test_json_round_trip(space):
    assert SESpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_a_part_of_a_dictionary_is_enough():
    assert SESpace.from_dict({"per": "site"}) == SESpace(per="site")
    assert list(SESpace().to_dict()) == [
        "ratios",
        "gates",
        "squeezes",
        "placements",
        "per",
        "baseline",
    ]


@keras.saving.register_keras_serializable(package="test_space")
def own_gate(v):
    return v


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratios": ()}, r"ratios must be a sequence of different values.*Received: ratios=\(\)"),
        ({"ratios": 4}, "Received: ratios=4"),
        ({"ratios": (2, 2)}, "different values"),
        ({"ratios": (2, 2.0)}, "different values"),
        ({"gates": "sigmoid"}, "Received: gates='sigmoid'"),
        ({"gates": ("sigmoid", gates.sigmoid)}, "gates must be a sequence of different values"),
        ({"ratios": (0.5,)}, "use ratio=2"),
        ({"ratios": ("two",)}, "ratio must be a finite number"),
        ({"gates": ("gelu",)}, "gate must be one of"),
        (
            {"gates": (own_gate,)},
            "must hold gates and squeezes by name. Received: <function own_gate",
        ),
        ({"squeezes": ("median",)}, "squeeze must be one of"),
        ({"squeezes": ()}, r"squeezes must be a sequence.*Received: squeezes=\(\)"),
        ({"placements": ("before",)}, "placements must be among.*Received: 'before'"),
        ({"placements": "standard"}, "Received: placements='standard'"),
        ({"per": "block"}, r"per must be one of \['model', 'stage', 'site'\]. Received: per='bl"),
        ({"baseline": 1}, "baseline must be True or False. Received: baseline=1"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        SESpace(**arguments)


@pytest.mark.parametrize("values", [{"ratio": [2]}, ["ratios"], None])
def test_from_dict_names_its_keys(values):
    with pytest.raises(InputError, match=r"keys among \['ratios', .*'baseline'\]. Received: "):
        SESpace.from_dict(values)


def test_other_sizes_need_the_model():
    with pytest.raises(InputError, match=r"use SEHyperModel\(...\).size. Received: per='site'"):
        _ = SESpace(per="site").size


def test_a_block_knows_no_placements():
    space = SESpace(placements=("standard", "pre"))
    with pytest.raises(
        InputError,
        match=r"needs a space with one placement: .* Received: placements=\('standard', 'pr",
    ):
        space.block(keras_tuner.HyperParameters(), "a")
