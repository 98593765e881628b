import keras
import numpy as np
import pytest

import keras_se
from keras_se import SEBlock, to_tflite
from keras_se.errors import InputError
from keras_se.litert.matching import by_value, is_chain, match_sites

RNG = np.random.default_rng(0)


def wide(seed):
    return keras.initializers.RandomNormal(stddev=2.0, seed=seed)


def convolution(filters, **arguments):
    return keras.layers.Conv2D(filters, 3, padding="same", **arguments)


def matched(model, x):
    return by_value(model, {"x": x}, to_tflite(model, "float32"))


def test_sites_deep_in_a_network():
    """Differences of runtimes grow with depth and scale; the nearest gates are the site's."""
    inputs = keras.Input((8, 8, 3))
    x = convolution(8)(inputs)
    for _ in range(4):
        x = x + SEBlock(2, gate="one_plus_tanh")(convolution(8, activation="relu")(x))
    images = RNG.integers(0, 256, size=(40, 8, 8, 3)).astype("float32")
    model = keras.Model(inputs, x)
    expected = {f"se_{n}": f"se_{n}" for n in (1, 2, 3, 4)}
    assert matched(model, images) == expected
    # Each site depends on the one before: nothing needs to be converted.
    file = to_tflite(model, "float32")
    assert is_chain(file)
    assert match_sites(model, {"x": images}, pytest.fail, file) == expected


@pytest.fixture(scope="module")
def parallel():
    """Keras and the converter order parallel branches differently under concatenate([B, A])."""
    inputs = keras.Input((8, 8, 4))
    x = (RNG.random((100, 8, 8, 4)) * RNG.random((100, 1, 1, 4))).astype("float32")
    maps = [
        SEBlock(width=width, kernel_initializer=wide(seed))(convolution(4)(inputs))
        for seed, width in enumerate((1, 2, 2))
    ]
    models = {
        kept: keras.Model(inputs, keras.layers.Concatenate()([maps[n] for n in kept]))
        for kept in ((2, 0, 1), (2, 1), (2, 0))
    }
    return models, x, {kept: to_tflite(model, "float32") for kept, model in models.items()}


def test_sites_are_matched_by_value_and_not_by_order(parallel):
    models, x, files = parallel
    model = models[2, 0, 1]
    assert not is_chain(files[2, 0, 1])
    names = match_sites(model, {"x": x}, lambda: files[2, 0, 1])
    gates, found = keras_se.read_gates(model, x), keras_se.read_gates(files[2, 0, 1], x)
    for name, name_in_file in names.items():
        np.testing.assert_allclose(found[name_in_file], gates[name], atol=1e-5)
    assert sorted(names.values()) == sorted(names) != list(names.values())


def test_a_site_that_another_file_lacks(parallel):
    models, x, files = parallel
    model = models[2, 0, 1]
    names = match_sites(model, {"x": x}, lambda: files[2, 0, 1], files[2, 1])
    widths = {site.name: site.width for site in keras_se.find_sites(model)}
    assert {widths[name] for name in names} == {2}
    with pytest.raises(
        InputError, match=r"needs a file with the sites .* 3 sites .* 2 in the file"
    ):
        match_sites(
            model, {"x": x}, lambda: files[2, 0, 1], files[2, 0]
        )  # which of two is missing?
    more = match_sites(models[2, 1], {"x": x}, lambda: files[2, 1], files[2, 0, 1])
    widths = {site.name: site.width for site in keras_se.find_sites(files[2, 0, 1])}
    assert {widths[name] for name in more.values()} == {2}


def test_a_conversion_with_other_gates_is_refused(parallel):
    models, x, files = parallel
    model = models[2, 0, 1]
    with pytest.raises(InputError, match=r"gates of each site .* for \['se_\d'\], 2 sites in"):
        match_sites(model, {"x": x}, lambda: files[2, 1])


def test_sites_that_cannot_be_told_apart_are_refused():
    """Two blocks on one map with all but the same weights."""
    inputs = keras.Input((8, 8, 3))
    features = convolution(8)(inputs)
    bias = [keras.initializers.Constant(value) for value in (0.0, 1e-9)]
    parts = [SEBlock(2, kernel_initializer=wide(1), bias_initializer=b)(features) for b in bias]
    model = keras.Model(inputs, keras.layers.Concatenate()(parts))
    with pytest.raises(InputError, match=r"must differ in their values .* that match se_1"):
        matched(model, RNG.random((40, 8, 8, 3)).astype("float32"))


def test_gates_that_are_all_one_are_told_apart_by_what_they_gate():
    layers = [keras.layers.Conv2D(8, 3, activation="relu") for _ in "ab"]
    plain = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    model = keras_se.insert(plain, 2, bias_initializer="ones")
    names = matched(model, RNG.random((40, 8, 8, 3)).astype("float32"))
    assert names == {"se_1": "se_1", "se_2": "se_2"}


def test_maps_whose_means_vanish():
    """After an instance normalization the means of the maps are rounding errors."""
    layers = [
        convolution(8),
        keras.layers.GroupNormalization(groups=8),
        SEBlock(2, squeeze="max", kernel_initializer=wide(1)),
        keras.layers.GlobalMaxPooling2D(),
    ]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    assert matched(model, RNG.normal(size=(64, 8, 8, 3)).astype("float32")) == {"se_1": "se_1"}
