"""Which sites become constants, and what is said of it."""

import json
import math
from typing import ClassVar

import keras
import numpy as np
import pytest

from keras_se import SEBlock, compress, find_sites, fold, read_gates, worth
from keras_se.errors import InputError, PrecisionWarning
from keras_se.verification.reports.folding import FoldedSite

RNG = np.random.default_rng(0)
X = (RNG.random((64, 8, 8, 4)) * RNG.uniform(0.2, 1.0, (64, 1, 1, 1))).astype("float32")
Y = RNG.integers(0, 3, 64)


def network(shape=(8, 8, 4), dtype="float32", **arguments):
    """Sites that do nothing, a little and most, in this order."""
    keras.utils.set_random_seed(0)
    inputs = x = keras.Input(shape)
    for name, size in (("idle", 0.0), ("little", 0.3), ("most", 3.0)):
        x = keras.layers.Conv2D(8, 3, padding="same", name=f"{name}_conv", dtype=dtype)(x)
        x = keras.layers.ReLU(dtype=dtype)(x)
        kernel = keras.initializers.RandomNormal(stddev=size)
        settings = {"activation": "tanh", "dtype": dtype, **arguments}
        x = SEBlock(2, name=name, kernel_initializer=kernel, **settings)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, dtype="float32")(x))


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def folding(model):
    return fold(model, X, tolerance=0.2, y=Y)


def test_the_least_worthy_sites_go_within_the_tolerance(model, folding):
    shares = worth(model, X)
    assert shares["se_1"] < 1e-9 < shares["se_2"] < 0.2 < shares["se_3"]
    assert folding.folded == ("se_1", "se_2")
    assert folding.sites["se_1"] == FoldedSite(8, shares["se_1"], "before", ("idle_conv",), "")
    kept = folding.sites["se_3"]
    assert kept.how is None
    assert kept.reason == f"it does {kept.worth:.1%} of SE's work"
    assert [site.layer for site in find_sites(folding.model)] == ["most"]
    assert 0.8 <= folding.work_kept < 1.0 - shares["se_2"] / 10


def test_the_outputs_are_those_of_constant_gates_and_the_rest_reacts(model, folding):
    """The same layers by hand: the mean gates, and the last site as it is."""
    means = {name: gates.mean(axis=0) for name, gates in read_gates(model, X).items()}
    x = X
    for site, name in (("se_1", "idle"), ("se_2", "little")):
        x = keras.ops.relu(model.get_layer(f"{name}_conv")(x)) * means[site]
    x = model.get_layer("most")(keras.ops.relu(model.get_layer("most_conv")(x)))
    expected = model.layers[-1](keras.ops.mean(x, axis=(1, 2)))
    found = keras.ops.convert_to_numpy(folding.model(X))
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    own = keras.ops.convert_to_numpy(model(X))
    x = keras.ops.relu(model.get_layer("idle_conv")(X)) * means["se_1"]
    x = keras.ops.relu(model.get_layer("little_conv")(x)) * means["se_2"]
    x = keras.ops.relu(model.get_layer("most_conv")(x)) * means["se_3"]
    steady = keras.ops.convert_to_numpy(model.layers[-1](keras.ops.mean(x, axis=(1, 2))))
    lost = ((found - own) ** 2).sum() / ((steady - own) ** 2).sum()
    assert folding.work_kept == pytest.approx(1.0 - lost, abs=1e-4)
    assert model.get_layer("idle_conv") is not folding.model.get_layer("idle_conv")
    assert len(find_sites(model)) == 3


def test_the_report(folding):
    text = str(folding)
    kept = math.floor(1000 * folding.work_kept) / 10
    assert text.startswith(f"2 of 3 SE sites are constants now: {kept:g}% of SE's work is kept.\n")
    assert f"Accuracy: {folding.outcome.reference:.4f} before, " in text
    assert "95 % " in text
    assert "constant, in idle_conv before it" in text
    assert "\nse_3 stays: it does" in text
    content = json.loads(folding.to_json())
    assert content["folded"] == ["se_1", "se_2"]
    assert content["sites"]["se_2"]["layers"] == ["little_conv"]
    assert "model" not in content
    difference = folding.outcome.file - folding.outcome.reference
    assert content["outcome"]["difference"] == pytest.approx(difference)


def test_sites_and_tolerance_say_what_may_go(model):
    found = fold(model, X, ["se_1", "se_3"], math.inf)
    assert found.folded == ("se_1", "se_3")
    assert found.sites["se_2"].reason == "it was not asked for"
    assert json.loads(found.to_json())["tolerance"] is None
    assert "The class of the old model is given to" in str(found)
    none = fold(model, X, "se_2", tolerance=0.0)
    assert none.folded == ()
    assert none.work_kept == 1.0
    assert str(none).startswith("Nothing is folded: no site can go at a tolerance of 0.\n")


def test_where_se_does_nothing_every_site_goes():
    found = fold(network(bias_initializer=keras.initializers.Constant(-8.0)), X)
    assert found.folded == ("se_1", "se_2", "se_3")
    assert found.work_kept is None
    assert {site.worth for site in found.sites.values()} == {None}
    assert str(found).startswith("3 of 3 SE sites are constants now: SE does nothing")


def test_half_precision_and_open_sizes():
    half = network((None, None, 4), "mixed_float16")
    with pytest.warns(PrecisionWarning, match="fold takes the float32 twin") as warned:
        found = fold(half, X, tolerance=math.inf, input_shape=(8, 8, 4))
    assert len(warned) == 1
    assert found.model.input_shape == (None, None, None, 4)
    assert found.model.get_layer("most_conv").dtype_policy.name == "mixed_float16"
    assert [site.how for site in found.sites.values()] == ["before"] * 3


def test_bad_input(model):
    plain = keras.Sequential([keras.Input((8, 8, 4)), keras.layers.Flatten()])
    small = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2, activation="tanh")])
    aware = compress.quantize_aware(small, X)
    for arguments, sentence in [
        ((plain, X), "fold needs a model with SE sites. Received: model 'sequential"),
        ((model, X[:31]), "fold needs 32 samples or more, to know the mean gates. Received: 31"),
        ((model, X, ["se_4"]), r"sites must be of \['se_1', 'se_2', 'se_3'\]. Received: \['se_4'"),
        ((model, X, None, -1), "tolerance must be at least 0. Received: tolerance=-1"),
        ((model, X, None, math.nan), "tolerance must be at least 0. Received: tolerance=nan"),
        ((aware, X), "fold needs a plain model: strip a compressed"),
        ((np.ones(3), X), "fold needs a functional or Sequential Keras model"),
    ]:
        with pytest.raises(InputError, match=sentence):
            fold(*arguments)
    with pytest.raises(InputError, match="y must hold classes"):
        fold(model, X, y=Y + 7)
    broken = keras.models.clone_model(model)
    broken.layers[1].kernel.assign(np.full(broken.layers[1].kernel.shape, np.nan))
    with pytest.raises(InputError, match="fold needs finite weights"):
        fold(broken, X)
    huge = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2), keras.layers.Rescaling(1e38)])
    with pytest.raises(InputError, match="fold needs gates and outputs that are finite"):
        fold(huge, 1e3 * X)


class Keyed(keras.layers.Layer):
    """Remembers its factor where no copy finds it."""

    factors: ClassVar[dict] = {}

    def call(self, x):
        return x * self.factors.get(id(self), 1.0)


def test_a_copy_that_computes_something_else_is_no_result():
    keyed = Keyed()
    Keyed.factors[id(keyed)] = 3.0
    parts = [keras.layers.Conv2D(8, 3), SEBlock(2), keyed, keras.layers.GlobalAveragePooling2D()]
    with pytest.raises(InputError, match="whose folded twin gives other outputs"):
        fold(keras.Sequential([keras.Input((8, 8, 4)), *parts]), X, tolerance=math.inf)
