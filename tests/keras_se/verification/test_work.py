"""The work kept, against its formula written out."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, to_tflite, worth
from keras_se.errors import InputError
from keras_se.verification.file_reference import FileReference
from keras_se.verification.keras_reference import KerasReference
from keras_se.verification.work import work_kept

RNG = np.random.default_rng(0)
X = (RNG.random((32, 8, 8, 4)) * RNG.random((32, 1, 1, 4))).astype("float32")
SAMPLES = {"inputs": X}


def network(activation="linear", units=3):
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=2.0)
    inputs = x = keras.Input((8, 8, 4))
    for name in ("first", "second"):
        x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name=f"{name}_conv")(x)
        x = SEBlock(2, kernel_initializer=wide, name=name)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    logits = keras.layers.Dense(units)(x) - 0.1
    if units > 1:  # classes know their logits up to one number for each sample
        logits -= keras.ops.mean(logits, axis=-1, keepdims=True)
    return keras.Model(inputs, keras.layers.Activation(activation)(logits))


@pytest.fixture(scope="module", params=["model", "file"])
def reference(request):
    model = network()
    return (
        KerasReference(model)
        if request.param == "model"
        else FileReference(to_tflite(model, "float32"))
    )


def test_the_formula(reference):
    own, outputs = reference.read(SAMPLES)
    means = {name: gates.mean(axis=0, dtype="float64") for name, gates in own.items()}
    constants = {name: np.tile(mean, (32, 1)).astype("float32") for name, mean in means.items()}
    shipped = {name: gates + 0.02 * RNG.normal(size=gates.shape) for name, gates in own.items()}

    def squares(gates, samples=32):
        found = reference.outputs(SAMPLES, {**own, **gates})[0]
        return ((found - outputs[0])[:samples] ** 2).sum()

    found = work_kept(reference, SAMPLES, own, outputs, shipped)
    assert found.kept == pytest.approx(1 - squares(shipped) / squares(constants), rel=1e-4)
    for name, gates in constants.items():
        share = squares({name: gates}, 16) / squares(constants, 16)
        assert found.worth[name] == pytest.approx(share, rel=1e-4)
    error = np.sqrt(squares(constants) / outputs[0].size / outputs[0].var(axis=0).mean())
    assert found.constant_error == pytest.approx(error, rel=1e-4)
    assert work_kept(reference, SAMPLES, own, outputs, own).kept == pytest.approx(1.0, abs=1e-6)
    assert work_kept(reference, SAMPLES, own, outputs, constants).kept == pytest.approx(0, abs=1e-6)


def test_missing_gates_and_gates_that_are_not_finite_have_no_work(reference):
    own, outputs = reference.read(SAMPLES)
    first, *_ = own
    assert work_kept(reference, SAMPLES, own, outputs, {first: own[first]}) is None
    nan = {**own, first: np.full_like(own[first], np.nan)}
    assert work_kept(reference, SAMPLES, own, outputs, nan) is None


@pytest.mark.parametrize(("activation", "units"), [("softmax", 3), ("sigmoid", 1)])
def test_probabilities_count_as_their_logits(activation, units):
    """Softmax and sigmoid do not change W: it is measured before them."""
    plain, bounded = (KerasReference(network(a, units)) for a in ("linear", activation))
    found = []
    for reference in (plain, bounded):
        own, outputs = reference.read(SAMPLES)
        noise = np.random.default_rng(1)
        shipped = {name: g + 0.005 * noise.normal(size=g.shape) for name, g in own.items()}
        found.append(work_kept(reference, SAMPLES, own, outputs, shipped).kept)
    assert 0.0 < found[0] < 0.999
    assert found[1] == pytest.approx(found[0], abs=1e-3)


def test_worth_for_users():
    model = network()
    found = worth(model, X)
    reference = KerasReference(model)
    own, outputs = reference.read(SAMPLES)
    squares = []
    for names in (["se_1"], ["se_2"], ["se_1", "se_2"]):
        constants = {name: np.tile(own[name].mean(axis=0), (32, 1)) for name in names}
        squares.append(
            ((reference.outputs(SAMPLES, {**own, **constants})[0] - outputs[0]) ** 2).sum()
        )
    assert list(found.values()) == pytest.approx([n / squares[2] for n in squares[:2]], rel=1e-4)
    assert list(found) == ["se_1", "se_2"]
    from_file = worth(to_tflite(model, "float32"), X)
    assert from_file == pytest.approx(found, rel=1e-3)
    with pytest.raises(InputError, match="worth needs a reference with SE sites"):
        worth(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), X)


class Linear:
    """A reference of one site whose outputs are functions of its gates."""

    def __init__(self, *outputs):
        self._functions = outputs

    def outputs(self, samples, gates):
        return [function(gates["se_1"].astype("float64")) for function in self._functions]


def work_of(*outputs):
    own = {"se_1": RNG.random((32, 2)).astype("float32")}
    shipped = {"se_1": own["se_1"] + RNG.normal(size=(32, 2)).astype("float32") * 0.02}
    reference = Linear(*outputs)
    return work_kept(reference, SAMPLES, own, reference.outputs({}, own), shipped)


def test_a_regression_between_0_and_1_is_no_probability():
    """Its own outputs are inside, those with shipped gates are a little outside."""
    own = {"se_1": RNG.random((32, 2)).astype("float32")}
    shipped = {"se_1": own["se_1"] - np.float32(0.01)}
    sums = own["se_1"].astype("float64").sum(axis=1)
    low, size = sums.min(), np.ptp(sums) + 1e-6
    reference = Linear(lambda gates: (gates.sum(axis=1, keepdims=True) - low) / size)
    outputs = reference.outputs(SAMPLES, own)
    assert outputs[0].min() >= 0.0
    assert outputs[0].max() <= 1.0
    assert work_kept(reference, SAMPLES, own, outputs, shipped).kept > 0.99


def test_an_output_that_only_rounds_does_not_count():
    """A sum of probabilities is 1 to the last bits, which no gate is there for."""
    noise = np.random.default_rng(4)
    plain = work_of(lambda gates: gates)
    assert plain.kept > 0.98
    assert work_of(lambda gates: gates, lambda g: 1 + 1e-7 * noise.random((32, 1))).kept > 0.98


def test_outputs_that_are_not_finite_have_no_work():
    found = work_of(lambda gates: np.where(gates > 0.5, gates, np.inf))
    assert (found.kept, found.constant_error, found.worth) == (None, None, {})
