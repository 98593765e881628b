"""What Keras records inside a layer of the user's, and walks through it."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_se.graph.composites import is_composite, may_reduce, recorded_call, why_closed
from keras_se.graph.inputs import fresh_inputs
from keras_se.graph.trace import Graph
from keras_se.graph.visits import holds, walk
from keras_se.layers import SEBlock

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 6, 6, 4)).astype("float32")


class Block(layers.Layer):
    """Sub-layers, raw operations, a weight, a second input, several outputs."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(4, 1)
        self.noise = layers.GaussianNoise(1.0, seed=1)

    def build(self, shape):
        self.conv.build(shape)
        self.scale = self.add_weight(shape=(4,), initializer="ones", name="scale")

    def call(self, x, added=None, training=None, negative=False):
        y = self.noise(ops.relu(self.conv(x)), training=training) * self.scale
        y = y if added is None else y + added
        return {"map": -y if negative else y, "mean": ops.mean(y, axis=(1, 2))}


class Switch(layers.Layer):
    def call(self, x, training=None):
        return 2.0 * x if training else x


class WithTensorFlow(layers.Layer):
    def __init__(self, reduces):
        super().__init__()
        self.reduces = reduces

    def call(self, x):
        import tensorflow as tf

        return tf.reduce_mean(x, axis=1) if self.reduces else tf.nn.relu(x)


def network():
    inputs = keras.Input((6, 6, 4))
    block = Block(name="block")
    first = block(inputs, added=layers.ReLU(name="relu")(inputs))
    second = block(first["map"], negative=True)
    return keras.Model(inputs, [second["map"], first["mean"]])


def replayed(model, opens):
    names, inputs = [], fresh_inputs(model)

    def look(visit):
        names.append(f"{visit.path}{type(visit.layer).__name__}")
        return visit.outputs()

    return keras.Model(inputs, walk(Graph(model), inputs, look, opens=opens)), names


def test_an_opened_layer_is_visited_part_by_part_and_computes_the_same():
    model = network()
    closed, names = replayed(model, lambda visit: False)
    assert names == ["ReLU", "Block", "Block"]
    opened, names = replayed(model, lambda visit: True)
    assert names[:3] == ["ReLU", "block/Conv2D", "block/Relu"]
    for new in (closed, opened):
        keras.tree.map_structure(
            np.testing.assert_array_equal, new(X, training=False), model(X, training=False)
        )
        # Without an order of the user's, the mode of the outer call reaches the parts.
        assert np.abs(new(X, training=True)[0] - model(X, training=False)[0]).max() > 0.1


def test_places_say_which_layers_hold_others():
    places = {}

    def look(visit):
        places[f"{visit.path}{visit.name}"] = visit.place, visit.local
        return visit.outputs()

    graph = Graph(network())
    walk(graph, X, look, stand_in=lambda layer: layer, opens=holds([(2, 0)]))
    assert places["block"] == ((1,), (1,))
    assert places["block/" + graph.model.get_layer("block").conv.name] == ((2, 0), (2, 0))
    assert "block/relu_2" in places  # not a name that Keras makes up at each recording


def test_a_layer_in_half_precision_takes_its_inputs_in_it():
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, Block(dtype="mixed_float16")(inputs)["map"])
    opened, _ = replayed(model, lambda visit: True)
    assert opened.outputs[0].dtype == model.outputs[0].dtype
    np.testing.assert_allclose(opened(X), model(X), atol=1e-2)


class Masked(layers.Layer):
    def __init__(self):
        super().__init__(name="masked")
        self.supports_masking = True

    def call(self, x):
        return 2.0 * x


def test_an_opened_layer_hands_on_the_mask():
    inputs = keras.Input((5, 3))
    x = Masked()(layers.Masking()(inputs))
    model = keras.Model(inputs, layers.GlobalAveragePooling1D()(x))
    x = RNG.normal(size=(2, 5, 3)).astype("float32")
    x[:, 3:] = 0.0
    opened, names = replayed(model, lambda visit: True)
    assert "masked/Multiply" in names
    np.testing.assert_allclose(model(x), 2.0 * x[:, :3].mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(opened(x), model(x))


def test_which_layers_are_composite():
    i = keras.Input((4,))
    nested = keras.Model(i, layers.ReLU()(i))
    wrapped = layers.TimeDistributed(layers.ReLU())
    assert all(map(is_composite, (Block(), layers.Lambda(lambda x: x), wrapped)))
    assert not any(map(is_composite, (nested, layers.Dense(2), SEBlock(2))))


def test_what_cannot_be_recorded_has_a_reason():
    inputs = keras.Input((6, 6, 4))
    reason = recorded_call(WithTensorFlow(False), (inputs,), {})
    assert reason == "A KerasTensor cannot be used as input to a TensorFlow function"
    graph = Graph(keras.Model(inputs, WithTensorFlow(False)(inputs)))
    assert graph.look_into(0) == reason
    assert graph.looked(0) == reason
    names = []
    walk(
        graph,
        X,
        lambda v: (names.append(v.layer.name), v.outputs())[1],
        stand_in=lambda layer: layer,
        opens=lambda visit: True,
    )
    assert len(names) == 1


@pytest.mark.parametrize("reduces", [False, True])
def test_what_may_reduce(reduces):
    inputs = keras.Input((6, 6, 4))
    assert may_reduce(WithTensorFlow(reduces), (inputs,), {}) is reduces


def test_what_differs_in_training():
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, Switch()(Block()(inputs)["map"]))
    assert list(map(why_closed, Graph(model).calls)) == [None, "differs in training"]


class Counted(Block):
    """A call that changes the layer, in different ways."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        if how == "regularizer":
            self.activity_regularizer = keras.regularizers.L1(1.0)

    def build(self, shape):
        super().build(shape)
        self.steps = self.add_weight(shape=(4,), initializer="zeros", trainable=False)

    def call(self, x):
        y = super().call(x)["map"]
        if self.how == "values":
            self.steps.assign(self.steps + 1.0)
        if self.how == "tensors":
            self.steps.assign_add(ops.mean(y, axis=(0, 1, 2)))
        if self.how == "kernel":
            self.conv.kernel.assign(0.5 * self.conv.kernel)
        if self.how == "loss":
            self.add_loss(ops.mean(y))
        return y


@pytest.mark.parametrize(
    ("how", "effect"),
    [
        ("values", "assigns weights"),
        ("tensors", "assigns weights"),
        ("kernel", "assigns weights"),
        ("loss", "adds a loss"),
        ("regularizer", "adds a loss"),
    ],
)
def test_recording_changes_nothing(how, effect):
    layer, inputs = Counted(how), keras.Input((6, 6, 4))
    outputs = layer(inputs)
    graph = Graph(keras.Model(inputs, outputs))
    config, weights = sorted(vars(layer)), [v.numpy() for v in layer.variables]
    operators = dict(vars(keras.Variable))
    assert isinstance(graph.look_into(0), Graph)
    assert why_closed(graph.calls[0]) == effect
    may_reduce(layer, (inputs,), {})
    assert sorted(vars(layer)) == config
    assert layer.losses == []
    assert dict(vars(keras.Variable)) == operators
    keras.tree.map_structure(
        np.testing.assert_array_equal, [v.numpy() for v in layer.variables], weights
    )


class WeightFirst(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale")

    def call(self, x, other, training=None):
        return [
            *(self.scale + x, self.scale - x, self.scale * x, self.scale / other),
            *(self.scale**other, self.scale % other, self.scale // other),
            *(self.scale < x, self.scale <= x, self.scale > x, self.scale >= x),
            self.scale @ ops.transpose(other, (0, 1, 3, 2)),
            2.0 * x if training else x,
        ]


def test_weights_on_the_left_and_tensors_by_position():
    """Keras takes a second tensor by position, too: it is no order of training."""
    inputs, other = keras.Input((6, 6, 4)), keras.Input((6, 6, 4))
    model = keras.Model([inputs, other], WeightFirst()(inputs, other))
    model.layers[-1].scale.assign([1.0, 2.0, 0.5, 3.0])
    opened, names = replayed(model, lambda visit: True)
    assert "weight_first/TrueDivide" in names
    x = [X, 1.0 + np.abs(X)]
    for found, expected in zip(opened(x), model(x), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_default_is_no_order():
    inputs = keras.Input((6, 6, 4))
    x = layers.Dropout(0.5)(layers.RandomFlip()(inputs))
    x = layers.Dropout(0.5)(x, training=True)
    orders = [call.kwargs.get("training") for call in Graph(keras.Model(inputs, x)).calls]
    assert orders == [None, None, True]


def test_a_batch_of_unknown_size_in_a_reshape():
    inputs = keras.Input((6, 6, 4))
    flat = layers.Lambda(lambda x: ops.reshape(x, (ops.shape(x)[0], 36, 4)))
    opened, _ = replayed(keras.Model(inputs, flat(inputs)), lambda visit: True)
    np.testing.assert_array_equal(opened.predict(X, verbose=0), X.reshape(2, 36, 4))


def test_recording_again_changes_nothing():
    model = network()
    config, weights = model.get_config(), model.get_weights()
    expected = model(X)
    for _ in range(2):
        replayed(model, lambda visit: True)
    keras.tree.map_structure(np.testing.assert_array_equal, model(X), expected)
    assert model.get_config() == config
    assert len(model.get_weights()) == len(weights)
