import keras_tuner
import pytest

from keras_se.errors import InputError
from tuning import SESpace


def test_size_and_defaults():
    assert SESpace(ratios=(2, 4), gates=("sigmoid",)).size == 2
    assert SESpace().size == len(SESpace().ratios) * len(SESpace().gates)


def test_lists_become_tuples():
    assert SESpace(ratios=[2, 4], gates=["sigmoid"]) == SESpace((2, 4), ("sigmoid",))


def test_settings_declare_what_the_space_holds():
    hp = keras_tuner.HyperParameters()
    assert SESpace((2, 4), ("sigmoid", "one_plus_tanh")).settings(hp) == {
        "ratio": 2,
        "gate": "sigmoid",
    }
    assert {p.name: list(p.values) for p in hp.space} == {
        "se_ratio": [2, 4],
        "se_gate": ["sigmoid", "one_plus_tanh"],
    }


def test_fractional_ratios_make_all_of_them_floats():
    hp = keras_tuner.HyperParameters()
    assert SESpace((1.5, 2)).settings(hp)["ratio"] == 1.5
    assert list(hp.space[0].values) == [1.5, 2.0]


def test_blocks_have_hyperparameters_of_their_own():
    hp = keras_tuner.HyperParameters()
    space = SESpace((2, 4))
    hp.values["b_ratio"] = 4
    assert [space.block(hp, name).ratio for name in "ab"] == [2, 4]
    assert [space.block(hp, name).name for name in "ab"] == ["a", "b"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratios": ()}, r"ratios must be a sequence of different values.*Received: ratios=\(\)"),
        ({"ratios": (2, 2)}, "different values"),
        ({"gates": "sigmoid"}, "Received: gates='sigmoid'"),
        ({"ratios": (0.5,)}, "say ratio=2"),
        ({"ratios": ("two",)}, "ratio must be a finite number"),
        ({"gates": ("gelu",)}, "gate must be one of"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        SESpace(**arguments)
