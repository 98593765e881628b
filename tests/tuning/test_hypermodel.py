import keras
import keras_tuner
import numpy as np
import pytest

from keras_se import insert
from tuning import SEHyperModel, SESpace

SPACE = SESpace((2, 4), ("sigmoid", "one_plus_tanh"))


def base():
    layers = [keras.layers.Conv2D(8, 3), keras.layers.Conv2D(16, 3)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def compile_it(model):
    model.compile(loss="mse")


@pytest.mark.parametrize("model_or_builder", [base(), base], ids=["model", "builder"])
def test_build_inserts_as_the_hyperparameters_say(model_or_builder):
    hp = keras_tuner.HyperParameters()
    hp.values.update({"se_ratio": 4, "se_gate": "one_plus_tanh"})
    model = SEHyperModel(model_or_builder, SPACE, compile_it).build(hp)
    blocks = [layer for layer in model.layers if hasattr(layer, "ratio")]
    assert [(b.ratio, b.gate) for b in blocks] == [(4, "one_plus_tanh")] * 2
    assert model.compiled


def test_a_given_model_is_not_changed_by_builds():
    model = base()
    weights = model.get_weights()
    hypermodel = SEHyperModel(model, SPACE, compile_it)
    for _ in range(2):
        assert len(hypermodel.build(keras_tuner.HyperParameters()).layers) == 4
    assert len(model.layers) == 2
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_the_plan_builds_the_same_network():
    hypermodel = SEHyperModel(base, SPACE, compile_it)
    hp = keras_tuner.HyperParameters()
    hp.values.update({"se_ratio": 4, "se_gate": "sigmoid"})
    plan = hypermodel.plan(hp)
    assert plan == {f"se_{n}": {"ratio": 4, "gate": "sigmoid"} for n in (1, 2)}
    built, planned = hypermodel.build(hp), insert(base(), plan=plan)
    assert built.count_params() == planned.count_params()


def test_gates_that_cannot_keep_the_function_are_searched_too():
    """They start at random, and the plan says so: it builds the same kind of network."""
    hypermodel = SEHyperModel(base, SESpace((2,), ("tanh", "sigmoid")), compile_it)
    x = np.ones((2, 8, 8, 1), "float32")
    for gate, kept in (("sigmoid", True), ("tanh", False)):
        hp = keras_tuner.HyperParameters()
        hp.values.update({"se_ratio": 2, "se_gate": gate})
        plain = base()
        hypermodel.model_or_builder = plain
        same = np.array_equal(hypermodel.build(hp)(x), plain(x))
        assert same == kept
        assert ("identity_init" in hypermodel.plan(hp)["se_1"]) != kept
        insert(base(), plan=hypermodel.plan(hp))
