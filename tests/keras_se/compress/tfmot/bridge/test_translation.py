import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from bridging import check_same, randomized, sample, side_by_side
from keras import layers

from keras_se import SEBlock, insert
from keras_se.compress import from_tf_keras, prune, strip, to_tf_keras
from keras_se.compress.tfmot.bridge import activations, translation
from keras_se.compress.tfmot.bridge.factory import LayerFactory
from keras_se.compress.tfmot.bridge.translation import plain_name
from keras_se.errors import InputError
from keras_se.layers import DivisiveNormalization
from keras_se.layers.gates import GATES

RandomNormal = keras.initializers.RandomNormal


# With hard-swish and inline SE, rescaling and normalization, branches and odd paddings.
APPLICATIONS = {"MobileNetV3Small": 64, "EfficientNetB0": 64, "InceptionV3": 80}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications(name):
    """With SE of their own or inserted; to_tf_keras compares the outputs."""
    size = APPLICATIONS[name]
    application = getattr(keras.applications, name)
    model = randomized(application(weights=None, input_shape=(size, size, 3), classes=10))
    if name == "MobileNetV3Small":
        check_same(model)
    if name == "InceptionV3":
        model = insert(model, 8, gate="hard_sigmoid", identity_init=False)
    converted = to_tf_keras(model)
    assert not {type(layer).__name__ for layer in converted.layers} & {"TFOpLambda", "SEBlock"}


BLOCKS = [
    *({"gate": gate} for gate in GATES),
    *({"squeeze": squeeze} for squeeze in ("max", "avg_max")),
    {"shift": True, "gate": "one_plus_tanh"},
    {"use_bias": False},
    {"activation": "silu"},
    {"activation": None},
    {"kernel_regularizer": "l2", "bias_constraint": "max_norm"},
]


@pytest.mark.parametrize("shape", [(9, 8), (6, 5, 8), (4, 3, 2, 8)])
def test_blocks(shape):
    random = {"kernel_initializer": RandomNormal(), "bias_initializer": RandomNormal()}
    blocks = [SEBlock(2, **random, **settings) for settings in BLOCKS]
    converted = check_same(side_by_side(shape, blocks))
    kinds = [type(layer).__name__ for layer in converted.layers]
    assert kinds.count("Multiply") == len(BLOCKS)
    assert kinds.count("Conv2D") == 2 * len(BLOCKS) + 1  # one of the shift
    assert len(converted.losses) == 2


ACTIVATIONS = (
    *("elu", "exponential", "gelu", "hard_sigmoid", "hard_silu", "leaky_relu", "linear", "mish"),
    *("relu", "relu6", "selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "tanh"),
)


def test_activations():
    dense = [layers.Dense(6, activation=name) for name in ACTIVATIONS]
    check_same(side_by_side((5,), [*dense, *map(layers.Activation, ACTIVATIONS)]))


LAYERS = {
    (8, 3): [layers.Conv1D(4, 3, padding="causal")],
    (6, 6, 6, 3): [layers.Conv3D(4, 3)],
    (6, 6, 4): [
        layers.Conv2DTranspose(4, 3, strides=2),
        layers.DepthwiseConv2D(3, depth_multiplier=2),
        layers.Conv2D(4, 3, groups=2, dilation_rate=2, activation="hard_silu"),
        layers.SeparableConv2D(4, 3, strides=2, depth_multiplier=2, activation="relu"),
        layers.SeparableConv2D(4, 3, dilation_rate=2, use_bias=False),
        layers.GroupNormalization(2),
        layers.UpSampling2D(2, interpolation="bilinear"),
        layers.ZeroPadding2D(((1, 0), (0, 2))),
        layers.Cropping2D(1),
        layers.MaxPooling2D(2),
        layers.AveragePooling2D(2, padding="same"),
        layers.GlobalMaxPooling2D(keepdims=True),
        layers.Rescaling(0.5, offset=[1.0, 2.0, 3.0, 4.0]),
        layers.Normalization(mean=[1.0, 2.0, 3.0, 4.0], variance=[4.0, 5.0, 6.0, 7.0]),
        layers.BatchNormalization(epsilon=0.1),
    ],
    (6, 3): [
        layers.LayerNormalization(),
        layers.PReLU(),
        layers.LeakyReLU(0.1),
        layers.ReLU(4.0, negative_slope=0.2, threshold=0.5),
        layers.ELU(0.5),
        layers.Softmax(axis=1),
        layers.EinsumDense("abc,cd->abd", (None, 4), bias_axes="d"),
        layers.Permute((2, 1)),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.GaussianNoise(0.5),
        layers.UnitNormalization(),
        layers.TimeDistributed(layers.Dense(2)),
    ],
    (3,): [layers.RepeatVector(4)],
}


@pytest.mark.parametrize("shape", LAYERS)
def test_layers(shape):
    check_same(side_by_side(shape, LAYERS[shape]))


def test_merging_and_raw_operations():
    inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(3, 1)(inputs)
    y = 2.0 - x / 4.0 + 1.0
    y = keras.ops.relu6(-y * 0.5) - x
    merged = [
        kind()([x, y])
        for kind in (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum)
    ]
    pooled = keras.ops.mean(y, axis=(1, 2), keepdims=True)
    joined = layers.Concatenate()([*merged, y * pooled, x + y, keras.ops.sigmoid(x)])
    check_same(keras.Model(inputs, [joined, keras.ops.reshape(pooled, (-1, 3))]))


def test_several_inputs_by_name_and_shared_layers():
    inputs = {
        "left": keras.Input((6, 6, 3), name="left"),
        "ids": keras.Input((4,), dtype="int32", name="ids"),
    }
    shared = SEBlock(2, kernel_initializer=RandomNormal(), name="tied")
    x = layers.Conv2D(8, 3)(inputs["left"])
    once = shared(x)
    twice = shared(layers.ReLU()(once))
    tokens = layers.GlobalAveragePooling1D()(layers.Embedding(10, 8)(inputs["ids"]))
    model = keras.Model(inputs, {"maps": twice, "both": [tokens, once]})
    converted = check_same(model)
    assert len([v for v in converted.weights if "tied" in v.name]) == 4
    # The block is called twice, and its gates are read at each call.
    assert len(converted.get_layer("tied_product").inbound_nodes) == 2


def test_nested_models_are_dissolved_and_keep_their_mode():
    inner_inputs = keras.Input((6, 6, 3))
    features = layers.BatchNormalization(name="same")(layers.Conv2D(4, 3, name="c")(inner_inputs))
    inner = keras.Model(inner_inputs, SEBlock(2)(features), name="inner")
    outer = keras.Sequential([keras.Input((6, 6, 3)), inner, layers.Flatten(), layers.Dense(2)])
    converted = check_same(randomized(outer))
    assert "inner__same" in [layer.name for layer in converted.layers]
    inputs = keras.Input((6, 6, 3))
    frozen = keras.Model(inputs, inner(inputs, training=False))
    x = sample(frozen)
    same = [to_tf_keras(frozen)(x, training=mode).numpy() for mode in (False, True)]
    np.testing.assert_array_equal(*same)
    free = keras.Model(inputs, inner(inputs))
    different = [to_tf_keras(free)(x, training=mode).numpy() for mode in (False, True)]
    assert np.abs(different[0] - different[1]).max() > 0.1


def test_names_that_meet_are_told_apart():
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="b")], name="a")
    model = keras.Sequential([keras.Input((3,)), inner, layers.Dense(3, name="a__b")])
    converted = check_same(model)
    assert [layer.name for layer in converted.layers if layer.weights] == ["a__b", "a__b_1"]
    assert plain_name("a/b/", "c") == plain_name("a/b", "c") == "a__b__c"


def test_the_model_stays_as_it_was_and_trainability_is_kept(networks):
    model = keras.models.clone_model(networks["sigmoid"])
    model.layers[1].trainable = False
    model.compile("sgd", "mse")
    before = [v.numpy() for v in model.variables], model.get_config(), model.optimizer
    converted = to_tf_keras(model)
    after = [v.numpy() for v in model.variables], model.get_config(), model.optimizer
    keras.tree.map_structure(np.testing.assert_array_equal, before[0], after[0])
    assert before[1:] == after[1:]
    assert not converted.get_layer(model.layers[1].name).trainable
    for variable in converted.weights:
        variable.assign(variable + 1.0)
    keras.tree.map_structure(
        np.testing.assert_array_equal, before[0], [v.numpy() for v in model.variables]
    )


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


class Custom(layers.Layer):
    def call(self, inputs):
        return keras.ops.cumsum(inputs, axis=1)


class Standardized(layers.Layer):
    """As in NFNets: what it computes with is made of its weight."""

    def build(self, shape):
        self.gamma = self.add_weight(shape=(4,), name="gamma")

    def call(self, inputs):
        return inputs * keras.ops.reshape(self.gamma * 2.0, (1, 1, 1, 4))


def only_numbers(x):
    return np.asarray(x).clip(0)


class OfTensorFlow(layers.Layer):
    def call(self, inputs, training=None):
        return tf.nn.relu(inputs)


class InTraining(layers.Layer):
    def call(self, inputs, training=None):
        return inputs * 2.0 if training else inputs


def sequential(*stack, shape=(6, 6, 4)):
    return keras.Sequential([keras.Input(shape), *stack])


def masked_block():
    inputs = keras.Input((6, 4))
    mask = keras.Input((6,), dtype="bool")
    return keras.Model([inputs, mask], SEBlock(2)(inputs, mask=mask))


def block_that_returns_gates():
    inputs = keras.Input((6, 6, 4))
    return keras.Model(inputs, SEBlock(2)(inputs, return_gates=True)[0])


def test_a_model_in_half_precision_is_converted_in_float32(half_network, networks, images, twins):
    converted = to_tf_keras(half_network)
    assert str(twins[0].message).startswith("to_tf_keras takes the float32 twin of model ")
    expected = networks["sigmoid"].predict(images[:8], verbose=0)
    np.testing.assert_allclose(converted(images[:8]), expected, rtol=1e-4, atol=1e-5)
    back = from_tf_keras(converted, like=half_network)
    np.testing.assert_array_equal(back(images[:8]), networks["sigmoid"](images[:8]))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Subclassed, "functional .*Sequential.* Received: Subclassed"),
        (lambda: keras.Sequential([layers.Dense(2)]), "built.* not built"),
        (
            lambda: sequential(Custom(name="own")),
            "built-in layers.* Received: 'own/cumsum_1' .Cumsum.",
        ),
        (
            lambda: sequential(InTraining(name="own")),
            "built-in layers.* Received: 'own' .InTraining., which differs in training",
        ),
        (
            lambda: sequential(OfTensorFlow(name="own")),
            "Received: 'own' .OfTensorFlow., which Keras cannot record: A KerasTensor cannot",
        ),
        (lambda: sequential(layers.LSTM(2), shape=(6, 4)), r"Received: 'lstm\w*' .LSTM."),
        (lambda: sequential(layers.Masking(), shape=(6, 4)), r"Received: 'masking\w*' .Masking."),
        (lambda: sequential(layers.Embedding(5, 2, mask_zero=True), shape=(6,)), "Embedding"),
        (
            lambda: sequential(layers.Dense(2, activation=np.tanh)),
            r"Received: 'dense\w*' .Dense., whose activation 'tanh' Keras cannot record: ",
        ),
        (
            lambda: sequential(layers.Activation(only_numbers, name="a")),
            "Received: 'a' .Activation., whose activation 'only_numbers' Keras cannot record: ",
        ),
        (
            lambda: sequential(layers.Activation(layers.PReLU(), name="a")),
            "Received: 'a' .Activation., with weights in its activation 'PReLU'",
        ),
        (
            lambda: sequential(Standardized(name="own")),
            "weights that a layer of tf_keras trains. Received: '.*own/gamma'",
        ),
        (lambda: sequential(SEBlock(2, squeeze="std", name="b")), "'b' with .*squeeze='std'"),
        (
            lambda: sequential(SEBlock(2, gate=DivisiveNormalization())),
            "gate=DivisiveNormalization",
        ),
        (
            lambda: sequential(SEBlock(2, data_format="channels_first")),
            "data_format='channels_first'",
        ),
        (masked_block, "called without a mask"),
        (block_that_returns_gates, "without return_gates"),
    ],
)
def test_unsupported_layers_are_refused_by_name(build, message):
    with pytest.raises(InputError, match=message):
        to_tf_keras(build())


class Inner(layers.Layer):
    def __init__(self):
        super().__init__(name="inner")
        self.block, self.matrix = SEBlock(2), layers.Dense(4)

    def build(self, shape):
        self.block.build(shape)
        self.matrix.build(shape)

    def call(self, inputs):
        x = self.block(keras.ops.relu(self.matrix(inputs)))
        return layers.Lambda(lambda t: t * 2.0)(x)


def test_layers_of_the_users_own_are_looked_into():
    converted = check_same(sequential(Inner(), layers.Lambda(lambda x: x + 1.0)))
    assert {"inner__" + name for name in ("dense", "relu_2")} <= {
        layer.name.rstrip("_0123456789") if "dense" in layer.name else layer.name
        for layer in converted.layers
    }


def bent():
    x = inputs = keras.Input((8, 8, 4))
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="hard_sigmoid", name="map")(x)
    x = layers.BatchNormalization(epsilon=1e-3, name="norm")(x)
    x = layers.LeakyReLU(0.2, name="leaky")(x)
    x = layers.ReLU(6.0, name="relu6")(x)
    x = layers.Dense(8, name="square")(layers.GlobalAveragePooling2D()(x))
    return randomized(keras.Model(inputs, layers.Dense(3, activation="softmax")(x)))


WRONG = {
    "map_activation": {"activation": "hard_sigmoid"},  # by name: tf_keras has another
    "map": {"padding": "valid"},
    "norm": {"epsilon": 1.1e-3},
    "leaky": {"alpha": 0.3},
    "relu6": {"max_value": 6.001},
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_translation_is_refused_with_the_first_layer_that_differs(monkeypatch, name):
    right = LayerFactory.__call__

    def wrong(self, kind, called, **settings):
        return right(self, kind, called, **settings | (WRONG[name] if called == name else {}))

    def by_name(new_layer, called):
        return new_layer("Activation", called, activation="sigmoid")

    model = bent()
    to_tf_keras(model)
    monkeypatch.setattr(LayerFactory, "__call__", wrong)
    if name == "map_activation":
        monkeypatch.setitem(activations._WRITTEN_OUT, "hard_sigmoid", by_name)
    layer = name.removesuffix("_activation")
    with pytest.raises(
        InputError, match=rf"rounding of float32.*, where '{layer}' .* is the first"
    ):
        to_tf_keras(model)


def test_a_kernel_in_another_order_is_refused(monkeypatch):
    def transposed(layer, variables):
        set_weights(layer, variables)
        if layer.name == "square":
            kernel, bias = layer.get_weights()
            layer.set_weights([kernel.T, bias])

    set_weights = translation._set_weights
    monkeypatch.setattr(translation, "_set_weights", transposed)
    with pytest.raises(InputError, match=r"'square' .Dense. is the first layer that differs, by"):
        to_tf_keras(bent())


def test_parts_that_agree_in_a_model_that_does_not_are_refused(monkeypatch):
    model = bent()
    monkeypatch.setattr(translation, "first_difference", lambda *arguments: None)
    to_tf_keras(model)
    monkeypatch.setattr(translation, "_set_weights", lambda *arguments: None)
    with pytest.raises(InputError, match="where no layer differs alone"):
        to_tf_keras(model)


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_sound_models_of_any_scale_and_depth_agree(scale):
    """The outputs are tiny, or saturate the softmax."""
    x = inputs = keras.Input((8, 8, 3))
    for _ in range(12):
        x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
        x = layers.LeakyReLU(0.1)(x)
    x = layers.Rescaling(scale)(x)
    model = keras.Model(inputs, [x, layers.Dense(5, activation="softmax")(layers.Flatten()(x))])
    to_tf_keras(randomized(model))


def test_the_process_stays_as_it_was():
    strip(prune(keras.Sequential([keras.Input((3,)), layers.Dense(2)])))
    assert "TF_USE_LEGACY_KERAS" not in os.environ  # which tfmot sets
    code = """
import os
os.environ["TF_USE_LEGACY_KERAS"] = "0"
was = dict(os.environ)
import keras, numpy as np
import keras_se
from keras_se.compress import to_tf_keras, prune, strip
model = keras.Sequential([keras.Input((8, 8, 4)), keras_se.SEBlock(2)])
config = model.get_config()
to_tf_keras(model)
strip(prune(model))
assert dict(os.environ) == was, set(os.environ.items()) ^ set(was.items())
import tensorflow as tf
assert tf.keras.__version__.startswith("3."), tf.keras.__version__
assert tf.keras.Model is keras.Model
assert model.get_config() == config
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_names_that_tensorflow_does_not_take():
    names = ("conv 1", "é", "_x", "a:0", "a+b")
    model = keras.Sequential([keras.Input((3,), name="my input")], name="a+b")
    for name in names:
        model.add(layers.Dense(2, name=name))
    check_same(model)


@pytest.mark.parametrize(
    "operation", [lambda x: x + np.ones((2, 1, 4, 3), "float32"), lambda x: x / 0.0]
)
def test_arithmetic_that_is_not_known_is_refused(operation):
    inputs = keras.Input((4, 4, 3))
    with pytest.raises(InputError, match="built-in layers and arithmetic"):
        to_tf_keras(keras.Model(inputs, operation(inputs)))


def test_weights_that_are_not_finite_are_said():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="d")])
    model.layers[0].kernel.assign(np.full((3, 2), np.nan))
    with pytest.raises(
        InputError, match=r"needs finite weights. Received: NaN or infinity in .* 'd'"
    ):
        to_tf_keras(model)
