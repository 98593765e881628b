import itertools

import keras_tuner
import pytest

from keras_se.errors import InputError
from tuning import SESpace
from tuning.running.grid import ExhaustiveOracle, combinations, listed_values

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
