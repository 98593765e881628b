"""SE inside layers of the user's own: every stage sees it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_se import SEBlock, adopt, cost, find_sites, insert, read_gates, to_tflite, verify
from keras_se.compress import quantize_aware
from keras_se.errors import InputError, SiteWarning
from keras_se.litert.convert import ConversionWarning

RNG = np.random.default_rng(0)
X = RNG.uniform(size=(128, 8, 8, 3)).astype("float32")
HELD_OUT = RNG.uniform(size=(64, 8, 8, 3)).astype("float32")


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A convolution, BatchNormalization and SE, as packages of networks have them."""

    def __init__(self, filters=8, scaled="", dropout=0.0, switched=False, **kwargs):
        super().__init__(**kwargs)
        self.settings = {"filters": filters, "scaled": scaled, "dropout": dropout}
        self.settings["switched"] = switched
        self.conv = layers.Conv2D(filters, 3, padding="same", use_bias=False)
        self.normalization = layers.BatchNormalization(momentum=0.5)
        self.reduce = layers.Conv2D(filters // 2, 1, activation="relu")
        self.expand = layers.Conv2D(filters, 1, activation="sigmoid")
        self.dropout = layers.Dropout(dropout)

    def build(self, shape):
        filters = self.settings["filters"]
        self.conv.build(shape)
        self.normalization.build((*shape[:-1], filters))
        self.reduce.build((None, 1, 1, filters))
        self.expand.build((None, 1, 1, filters // 2))
        if self.settings["scaled"]:
            self.scale = self.add_weight(shape=(filters,), initializer="ones", name="scale")

    def call(self, x, training=None):
        x = ops.relu(self.normalization(self.conv(x), training=training))
        if self.settings["scaled"] == "weight":
            x = x * self.scale
        if self.settings["scaled"] == "function":
            x = ops.square(self.scale) * x
        if self.settings["scaled"] == "counted":
            self.scale.assign(self.scale + 1.0)
        x = x * self.expand(self.reduce(ops.mean(x, axis=(1, 2), keepdims=True)))
        x = self.dropout(x, training=training)
        return 2.0 * x if training and self.settings["switched"] else x

    def get_config(self):
        return {**super().get_config(), **self.settings}


def network(**settings):
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(inputs)
    x = Block(name="block_2", **settings)(Block(name="block_1", **settings)(x))
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    for variable in model.trainable_variables:
        if len(variable.shape) > 1:
            variable.assign(RNG.normal(size=variable.shape) * 0.5)
    return model


class SqueezeExcite(layers.Layer):
    """SE alone, which gates what goes into the layer."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = layers.Conv2D(2, 1, activation="relu"), layers.Conv2D(8, 1)

    def build(self, shape):
        self.block[0].build((None, 1, 1, 8))
        self.block[1].build((None, 1, 1, 2))

    def call(self, x):
        reduce, expand = self.block
        return ops.sigmoid(expand(reduce(ops.mean(x, axis=(1, 2), keepdims=True)))) * x


NAMES = ["block_1/se_1", "block_2/se_1"]


@pytest.fixture(scope="module")
def model():
    model = network(dropout=0.3)
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(X, np.zeros((128, 3)), epochs=4, verbose=0)
    return model


def test_sites_gates_and_costs(model):
    sites = find_sites(model)
    assert [site.name for site in sites] == NAMES
    assert {(s.channels, s.width, s.gate, s.source) for s in sites} == {(8, 4, "sigmoid", "inline")}
    block = model.get_layer("block_1")
    x = keras.Model(model.inputs[0], model.get_layer("stem").output)(HELD_OUT)
    x = ops.relu(block.normalization(block.conv(x), training=False))
    expected = block.expand(block.reduce(ops.mean(x, axis=(1, 2), keepdims=True)))
    gates = read_gates(model, HELD_OUT)
    np.testing.assert_allclose(gates["block_1/se_1"], expected[:, 0, 0], atol=1e-6)
    report = cost(model)
    assert [site.parameters for site in report.sites] == [8 * 4 + 4 + 4 * 8 + 8] * 2
    # The convolutions inside of the layers are counted, too.
    inside = 2 * 36 * (9 * 8 * 8 + 0) + 2 * 64
    assert report.macs == 36 * 9 * 3 * 8 + inside + 8 * 3
    assert report.uncounted == ()


def test_files_are_judged(model):
    report = verify(model, to_tflite(model, "int8", X, check_range=False), HELD_OUT)
    assert list(report.sites) == NAMES
    assert report.work_kept is not None
    assert all(site.r2 > 0.9 for site in report.sites.values())


def test_adopted_with_the_layers_opened(model):
    new = adopt(model)
    assert [site.name for site in find_sites(new)] == ["se_1", "se_2"]
    assert new.count_params() == model.count_params()
    np.testing.assert_allclose(
        new.predict(X, verbose=0), model.predict(X, verbose=0), rtol=1e-5, atol=1e-6
    )
    kinds = [type(layer).__name__ for layer in new.layers]
    assert kinds.count("SEBlock") == kinds.count("Dropout") == 2
    assert "Block" not in kinds
    # Training goes on as before: BatchNormalization by batches, with dropout.
    assert len(new.trainable_variables) == len(model.trainable_variables)


# Of Keras, which `pytest.warns` raises anew from another module.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"scaled": "weight"}, "'block_1', which has weights of its own"),
        ({"scaled": "function"}, "'block_1', which has weights of its own"),
        ({"scaled": "counted"}, "'block_1', which assigns weights"),
        ({"switched": True}, "'block_1', which differs in training"),
    ],
)
def test_layers_that_cannot_be_opened(settings, reason):
    model = network(**settings)
    assert [site.name for site in find_sites(model)] == NAMES
    with pytest.raises(InputError, match=f"block_1/se_1: it is inside the layer {reason}"):
        adopt(model)
    with pytest.warns(ConversionWarning, match=r"in float32\. Received: \['block_1', 'block_2'\]$"):
        quantize_aware(model, X)
    if settings != {"scaled": "weight"}:  # for tf_keras a layer with one weight a channel
        with pytest.raises(InputError, match="Received: 'block_1"):
            quantize_aware(model, X, engine="tfmot")


@pytest.mark.parametrize("engine", ["keras", "tfmot"])
def test_quantize_aware(model, engine):
    aware = quantize_aware(model, X, engine=engine)
    aware.compile("sgd", "mse")
    aware.fit(X, np.zeros((128, 3)), verbose=0)
    report = verify(model, to_tflite(aware), HELD_OUT, trained=aware)
    assert len(report.sites) == 2
    assert all(site.r2 > 0.9 and site.spread_kept > 0.5 for site in report.sites.values())


# Of Keras, which `pytest.warns` raises anew from another module.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_insert_leaves_out_the_places_that_have_se(model):
    # The layers hold convolutions before their SE, so the place before them is free.
    assert [site.name for site in find_sites(insert(model, 4))] == ["se_1", *NAMES]
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="free")(inputs)
    x = SqueezeExcite(name="own")(layers.Conv2D(8, 3, name="taken")(x))
    partly = keras.Model(inputs, layers.Conv2D(4, 1, name="last")(x))
    with pytest.warns(SiteWarning, match=r"adds SE beside that which .* already: \['own/se_1'\]"):
        assert len(find_sites(insert(partly, 4, where=["taken"]))) == 2
    taken = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(8, 3), SqueezeExcite(name="own")]
    )
    with pytest.raises(InputError, match=r"has SE at each place: \['own/se_1'\]"):
        insert(taken)
    with pytest.warns(SiteWarning, match="insert skips the places of the SE which model"):
        new = insert(partly, 4)
    assert [s.after for s in find_sites(new) if s.source == "SEBlock"] == ["free", "last"]
    np.testing.assert_array_equal(new(HELD_OUT), partly(HELD_OUT))


def test_blocks_beside_blocks():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, name="a"),
            SEBlock(2),
            layers.Conv2D(8, 3, name="b"),
        ]
    )
    with pytest.warns(SiteWarning, match=r"skips .*\['se_1'\]"):
        new = insert(model, 2)
    assert [site.after for site in find_sites(new)] == ["a", "b"]
