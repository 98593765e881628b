"""Copies of layers that Keras does not know: equal, apart, trainable, and of the same class."""

import dataclasses
import functools
import threading
import warnings

import keras
import numpy as np
import pytest
from arrays import arrays
from keras import layers, ops

from keras_se import SEBlock, adopt, insert
from keras_se.errors import InputError
from keras_se.graph.models import sublayers
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Graph

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6, 6, 4)).astype("float32")


def register(kind):
    return keras.saving.register_keras_serializable(package="test_copying")(kind)


def around(layer, shape=(6, 6, 4)):
    """A model with a layer whose weights, flags included, are all different."""
    inputs = keras.Input(shape)
    outputs = layers.Dense(2)(layers.Flatten()(layer(layers.Dense(4)(inputs))))
    model = keras.Model(inputs, outputs)
    model.set_weights([varied(w) for w in model.weights])
    return model


def varied(variable):
    is_float = "float" in variable.dtype
    return RNG.uniform(0.1, 0.9, variable.shape) if is_float else variable.numpy()


def copied(model):
    return Rebuilding(Graph(model)).model()


def described(model):
    return [(v.name, v.shape, v.dtype, v.trainable) for v in model.variables]


def check(model, x=X):
    """Returns a copy that computes the same to the last bit, and shares nothing."""
    new = copied(model)
    np.testing.assert_array_equal(arrays(new(x)), arrays(model(x)))
    assert described(new) == described(model)
    assert not {id(v) for v in new.variables} & {id(v) for v in model.variables}
    for old, own in zip(model.variables, new.variables, strict=True):
        np.testing.assert_array_equal(arrays(old), arrays(own))
    return new


@register
class Liar(layers.Layer):
    """Its configuration says "valid", although it pads; so does one of kimm's layers."""

    def __init__(self, padding="valid", **kwargs):
        super().__init__(**kwargs)
        self.padding = padding

    def build(self, shape):
        self.conv = layers.Conv2D(4, 3, padding=self.padding)
        self.conv.build(shape)

    def call(self, x):
        return self.conv(x) + x

    def get_config(self):
        return super().get_config()


@register
class Many(layers.Layer):
    """Layers in lists and dictionaries, weights of its own, constants, seeds and a metric."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.stack = [layers.Dense(units, name=f"dense_{n}") for n in range(2)]
        self.parts = {"norm": layers.BatchNormalization(), "rest": [layers.Dropout(0.5)]}
        self.pair = (layers.LayerNormalization(), "a word")
        self.seeds = keras.random.SeedGenerator(3)
        self.mean = keras.metrics.Mean(name="mean")
        self.constant = np.arange(4.0, dtype="float32")
        self.tensor = ops.ones((4,))

    def build(self, shape):
        self.fixed = self.add_weight(shape=(4,), name="fixed", trainable=False)
        self.scales = [self.add_weight(shape=(4,), name=name) for name in "ab"]
        for layer in (*self.stack, self.parts["norm"], self.pair[0]):
            layer.build(shape)

    def call(self, x, training=None):
        for layer in self.stack:
            x = layer(x)
        x = self.pair[0](self.parts["norm"](x, training=training))
        x = self.parts["rest"][0](x, training=training)
        if training:
            x = x + keras.random.normal(ops.shape(x), seed=self.seeds)
        return x * self.scales[0] * self.tensor + self.scales[1] + self.fixed * self.constant

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@register
class Scaled(layers.Conv2D):
    """A subclass of a layer of Keras, with regularizers and constraints."""

    def __init__(self, filters, kernel_size, factor=1.0, **kwargs):
        super().__init__(filters, kernel_size, **kwargs)
        self.factor = factor

    def call(self, x):
        return self.factor * super().call(x)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class Functions(layers.Layer):
    """Functions, methods and objects that refer to the layer or hold parts of it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.closure = lambda x: x * self.alpha
        self.partial = functools.partial(self.scaled, 2.0)
        self.method = self.scaled
        self.holder = Holder(self, layers.Dense(4))

    def build(self, shape):
        self.alpha = self.add_weight(shape=(4,), name="alpha")
        self.holder.layer.build(shape)

    def scaled(self, factor, x):
        return factor * x * self.alpha

    def call(self, x):
        owner = self.holder.owner
        return owner.closure(x) + self.partial(x) + self.method(3.0, x) + self.holder.layer(x)


@dataclasses.dataclass(frozen=True)
class Holder:
    owner: layers.Layer
    layer: layers.Layer


class Models(layers.Layer):
    """Models inside: functional, Sequential and subclassed."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        inputs = keras.Input((6, 6, 4))
        conv = layers.Conv2D(4, 3, padding="same")
        self.functional = keras.Model(inputs, conv(inputs) + layers.BatchNormalization()(inputs))
        self.sequential = keras.Sequential([conv, Liar("same")])
        self.subclassed = Subclassed()

    def call(self, x, training=None):
        x = self.functional(x, training=training)
        return self.subclassed(self.sequential(x))


@register
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(4), layers.Dense(4)

    def call(self, x):
        return self.second(self.first(x))


class Tied(layers.Layer):
    """One layer under two names, and a variable of it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first = self.second = layers.Dense(4, use_bias=False)

    def build(self, shape):
        self.first.build(shape)
        self.transposed = self.first.kernel

    def call(self, x):
        return ops.matmul(self.second(x), ops.transpose(self.transposed))


class Frozen(layers.Layer):
    """A weight that is frozen by itself."""

    def build(self, shape):
        self.free = self.add_weight(shape=(4,), name="free")
        self.frozen = self.add_weight(shape=(4,), name="frozen")
        self.frozen.trainable = False

    def call(self, x):
        return x * self.free + self.frozen


class Untracked(layers.Layer):
    """A layer that Keras is not to see, as one is kept out of the weights."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.__dict__["hidden"] = layers.Dense(4)
        self.hidden.build((None, 4))

    def call(self, x):
        return self.hidden(x)


FOREIGN = {
    "a configuration that lies": lambda: Liar("same"),
    "all kinds of parts": Many,
    "a subclass": lambda: Scaled(
        4, 3, 2.0, padding="same", kernel_regularizer="l2", bias_constraint="non_neg"
    ),
    "functions": Functions,
    "models": Models,
    "tied weights": Tied,
    "a frozen weight": Frozen,
    "untracked": Untracked,
    "a subclassed model": Subclassed,
    "an activation of one's own": lambda: layers.Dense(4, activation=lambda x: 2.0 * x),
    "a wrapper around one": lambda: layers.SpectralNormalization(Scaled(4, 3, padding="same")),
    "a pipeline of one": lambda: layers.Pipeline([layers.Rescaling(2.0), Frozen()]),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_copies_compute_the_same_with_variables_of_their_own(name):
    layer = FOREIGN[name]()
    model = around(layer)
    new = check(model)
    twin = new.layers[2]
    assert type(twin) is type(layer)
    assert twin is not layer
    for kind in ("weights", "trainable_weights", "non_trainable_weights", "losses"):
        assert len(getattr(twin, kind)) == len(getattr(layer, kind))
    paths = [v.path for v in layer.weights]
    if name != "models":  # these are built anew, under the paths of their own layers
        assert [v.path for v in twin.weights] == paths
    twin.trainable = layer.trainable = False
    assert twin.trainable_weights == []
    assert len(twin.non_trainable_weights) == len(layer.weights)
    flags = [[part.trainable for part in sublayers(each)] for each in (layer, twin)]
    assert flags[0] == flags[1]


def test_copies_train_and_leave_the_original():
    inputs = keras.Input((6, 6, 4))
    outputs = inputs
    for make in (*FOREIGN.values(), layers.GlobalAveragePooling2D):
        outputs = make()(outputs)
    model = keras.Model(inputs, outputs)
    before = [v.numpy() for v in model.variables]
    new = copied(model)
    new.compile("sgd", "mse", run_eagerly=True)
    new.fit(X, np.ones((4, 4)), verbose=0)
    for old, own, value in zip(model.variables, new.variables, before, strict=True):
        np.testing.assert_array_equal(old, value)
        if own.trainable:
            assert np.abs(own.numpy() - value).max() > 0


def test_wrappers_recurrent_layers_and_attention():
    x = RNG.normal(size=(2, 5, 4)).astype("float32")
    for layer in (
        layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)]),
        layers.TimeDistributed(layers.Dense(3)),
    ):
        new = check(around(layer, (5, 4)), x)
        assert [v.path for v in new.layers[2].weights] == [v.path for v in layer.weights]


def closures():
    weight, dense = keras.Variable(1.5, name="weight"), layers.Dense(4)
    dense.build((None, 4))
    number = 2.5
    return weight, {
        "number": layers.Lambda(lambda x: x * number),
        "variable": layers.Lambda(lambda x: x * weight),
        "default": layers.Lambda(lambda x, weight=weight: x * weight),
        "layer": layers.Lambda(lambda x: dense(x)),
        "arguments": layers.Lambda(lambda x, by: x * by, arguments={"by": 3.0}),
    }


@pytest.mark.parametrize("name", ["number", "variable", "default", "layer", "arguments"])
def test_lambdas_take_copies_of_what_they_close_over(name):
    weight, made = closures()
    model = around(made[name])
    new = check(model)
    expected = np.asarray(model(X))
    weight.assign(100.0)
    np.testing.assert_array_equal(new(X), expected)


def test_a_variable_that_two_functions_close_over_stays_one():
    weight = keras.Variable(2.0)
    inputs = keras.Input((4,))
    first, second = (layers.Lambda(lambda x: x * weight) for _ in range(2))
    new = copied(keras.Model(inputs, second(first(inputs))))
    cells = [layer.function.__closure__[0].cell_contents for layer in new.layers[1:]]
    assert cells[0] is cells[1] is not weight


def test_functions_of_modules_are_not_copied():
    inputs = keras.Input((4,))
    layer = layers.Lambda(ops.relu)
    assert copied(keras.Model(inputs, layer(inputs))).layers[1].function is ops.relu


@register
class OfTensorFlow(layers.Layer):
    def __init__(self, **kwargs):
        import tensorflow as tf

        super().__init__(**kwargs)
        self.variable, self.constant = tf.Variable(2.0), tf.constant([1.0, 2.0, 3.0, 4.0])

    def call(self, x):
        return x * self.variable * self.constant


def test_variables_and_constants_of_tensorflow():
    layer = OfTensorFlow()
    model = around(layer)
    new, expected = check(model), np.asarray(model(X))
    layer.variable.assign(100.0)
    np.testing.assert_array_equal(new(X), expected)


@pytest.mark.parametrize("name", ["all kinds of parts", "a subclass", "a subclassed model"])
def test_what_could_be_saved_still_can(name, tmp_path):
    model = around(FOREIGN[name]())
    copied(model).save(tmp_path / "copy.keras")
    again = keras.saving.load_model(tmp_path / "copy.keras")
    np.testing.assert_array_equal(again(X), model(X))


def test_a_default_configuration_goes_over():
    @register
    class Plain(layers.Layer):
        def __init__(self, factor, **kwargs):
            super().__init__(**kwargs)
            self.factor = factor

        def call(self, x):
            return self.factor * x

    new = copied(around(Plain(3.0, name="plain")))
    assert new.get_layer("plain").get_config()["factor"] == 3.0


def test_training_does_not_go_over():
    part = Subclassed()
    part.compile("adam", "mse", metrics=["mae"], run_eagerly=True)
    part.fit(X, X, verbose=0)
    part.custom = "kept"
    twin = check(around(part)).layers[2]
    assert not twin.compiled
    assert twin.custom == "kept"
    assert twin.metrics == []


@register
class Backbone(keras.Model):
    """A functional model of a class of its own, with a weight and references to its parts."""

    def __init__(self, filters=4, **kwargs):
        inputs = keras.Input((6, 6, 4))
        self.stem = layers.Conv2D(filters, 3, padding="same", name="stem")
        super().__init__(inputs, Liar("same", name="liar")(self.stem(inputs)), **kwargs)
        self.filters = filters
        self.temperature = self.add_weight(shape=(), name="temperature")


def test_a_nested_model_of_a_custom_class_is_copied_with_its_attributes():
    backbone = Backbone(name="backbone")
    backbone.compile("sgd", "mse")
    twin = check(around(backbone)).get_layer("backbone")
    assert type(twin) is Backbone
    assert (twin.filters, twin.compiled) == (4, False)
    assert twin.stem is twin.get_layer("stem") is not backbone.stem
    assert twin.temperature is not backbone.temperature


@register
class Stack(keras.Sequential):
    def __init__(self, layers=None, name=None, factor=1.0):
        super().__init__(layers, name=name)
        self.factor = factor


def test_a_nested_stack_of_a_custom_class():
    stack = Stack([keras.Input((6, 6, 4)), layers.Dense(4), layers.Lambda(ops.relu)], factor=2.0)
    twin = check(around(stack)).layers[2]
    assert (type(twin), twin.factor) == (Stack, 2.0)
    assert [layer.name for layer in twin.layers] == [layer.name for layer in stack.layers]


def test_a_frozen_weight_of_a_layer_of_keras_stays_frozen():
    layer = layers.Dense(4)
    model = around(layer)
    layer.kernel.trainable = False
    assert check(model).layers[2].bias.trainable


class Locked(layers.Layer):
    """No copy from life: a lock has none."""

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor, self.lock = factor, threading.Lock()
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.factor * self.dense(x)


class LockedWithoutConfig(Locked):
    def __init__(self, lock, **kwargs):
        super().__init__(**kwargs)


class LockedLiar(Locked):
    """Its configuration gives other weights."""

    def __init__(self, units=4, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(units)

    def get_config(self):
        return {"name": self.name, "units": 8}


def test_what_cannot_be_copied_from_life_is_made_from_its_configuration():
    assert check(around(Locked(3.0))).layers[2].factor == 3.0
    inside = layers.Pipeline([Locked(3.0)])
    assert check(around(inside)).layers[2].layers[0].factor == 3.0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            lambda: LockedWithoutConfig(threading.Lock(), name="locked"),
            r"layer 'locked' \(LockedWithoutConfig\), which raises: cannot pickle .*; Object L",
        ),
        (
            lambda: LockedLiar(name="liar"),
            r"that of its weights\. Received: layer 'liar' \(LockedLiar\): ",
        ),
    ],
)
def test_layers_that_have_no_copy_are_named(layer, message):
    with pytest.raises(InputError, match=message):
        copied(around(layer()))


def test_a_layer_shared_with_one_made_from_its_configuration_is_refused():
    locked, inputs = Locked(name="locked"), keras.Input((4,))
    locked.build((None, 4))
    model = keras.Model(inputs, locked.dense(locked(inputs)))
    with pytest.raises(InputError, match=r"used elsewhere in the model\. Received: 'dense\w*' ins"):
        copied(model)


def test_models_with_layers_of_kimm():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kimm = pytest.importorskip("kimm")
    inputs = keras.Input((8, 8, 4))
    x = kimm.layers.ReparameterizableConv2D(8, 3, strides=2, has_skip=False)(inputs)
    gates = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gates = layers.Conv2D(2, 1, activation="relu")(gates)
    gates = layers.Conv2D(8, 1, activation="sigmoid")(gates)
    model = keras.Model(inputs, x * gates)
    model.set_weights([varied(w) for w in model.weights])
    x = RNG.normal(size=(2, 8, 8, 4)).astype("float32")
    new = adopt(model)
    assert any(isinstance(layer, SEBlock) for layer in new.layers)
    np.testing.assert_allclose(new(x), model(x), rtol=1e-5)
    plain = keras.Model(inputs, layers.Conv2D(4, 1)(model.layers[1].output))
    np.testing.assert_array_equal(insert(plain, 2, where="conv")(x), plain(x))
