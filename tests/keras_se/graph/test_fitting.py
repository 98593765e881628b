"""The float32 twin of a model, and that with inputs of a fixed size."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from keras_se import SEBlock
from keras_se.errors import InputError
from keras_se.graph.fitting import fitted
from keras_se.graph.models import sublayers
from keras_se.graph.precision import in_float32, other_precisions

RNG = np.random.default_rng(0)
POLICIES = ("mixed_float16", "mixed_bfloat16", "float16", "float64")


class Own(layers.Layer):
    """Weights, layers and a constant in the precision of the layer."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(4,), name="scale")
        self.half = ops.cast(0.5, self.compute_dtype)
        self.conv, self.norm = layers.Conv2D(4, 3, padding="same"), layers.BatchNormalization()
        self.conv.build(shape)
        self.norm.build(shape)

    def call(self, x, training=None):
        return self.norm(self.conv(x), training=training) * self.scale * self.half


def convolutional():
    j = keras.Input((None, None, 4))
    inner = keras.Model(j, layers.Conv2D(4, 3, padding="same")(j) + 2.0 * j, name="inner")
    x = inputs = keras.Input((None, None, 3))
    x = layers.Normalization(mean=[0.1, 0.2, 0.3], variance=[1.3, 1.1, 0.7])(x)
    for layer in (layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization(), inner):
        x = layer(x)
    for squeeze in ("avg", "std"):
        x = SEBlock(2, squeeze=squeeze)(Own()(x))
    x = layers.GlobalAveragePooling2D()(ops.relu(layers.Lambda(lambda x: 0.3 * x)(x)))
    return keras.Model(inputs, layers.Softmax(dtype="float32")(layers.Dense(3)(x)))


def recurrent():
    return keras.Sequential(
        [
            keras.Input((6, 4)),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True)),
            layers.TimeDistributed(layers.Dense(4)),
            layers.RNN([layers.LSTMCell(3), layers.GRUCell(4)]),
        ]
    )


def attention():
    inputs = keras.Input((6, 4))
    return keras.Model(inputs, layers.MultiHeadAttention(2, 2)(inputs, inputs))


def cast():
    inputs = keras.Input((6, 4))
    policy = keras.config.dtype_policy().compute_dtype
    return keras.Model(inputs, layers.Dense(3)(ops.cast(inputs, policy)))


MODELS = {
    convolutional: (8, 8, 3),
    recurrent: (6, 4),
    attention: (6, 4),
    cast: (6, 4),
}


def under(policy, build):
    keras.config.set_dtype_policy(policy)
    try:
        return build()
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("build", MODELS)
def test_the_twin_is_the_model_built_in_float32(build, policy, twins):
    model, plain = under(policy, build), build()
    for old, new in zip(model.weights, plain.weights, strict=True):
        if "float" in old.dtype:
            old.assign(RNG.uniform(0.1, 0.3, old.shape))
        new.assign(old.numpy().astype(new.dtype))
    twin = fitted(model, "a test")
    (warning,) = twins
    assert warning.filename == __file__
    assert str(warning.message) == (
        f"a test takes the float32 twin of model {model.name!r}, which computes in {policy}."
    )
    x = RNG.normal(size=(2, *MODELS[build])).astype("float32")
    outputs = twin(x)
    np.testing.assert_array_equal(outputs, plain(x))
    error = np.abs(outputs - ops.convert_to_numpy(ops.cast(model(x), "float32"))).max()
    assert error < {"mixed_bfloat16": 0.02, "float64": 1e-6}.get(policy, 0.005)
    assert other_precisions(twin) == []
    assert {v.dtype for v in twin.weights if "float" in v.dtype} == {"float32"}
    assert not {id(v) for v in twin.variables} & {id(v) for v in model.variables}
    assert other_precisions(model) == [policy]
    assert type(twin) is type(model)


def test_one_layer_a_nested_model_and_an_input_in_half_precision(twins):
    inputs = keras.Input((6, 6, 3), dtype="bfloat16")
    j = keras.Input((6, 6, 4))
    inner = keras.Model(j, layers.Conv2D(4, 1, dtype="float16")(j), name="inner")
    outputs = layers.Conv2D(2, 1)(inner(layers.Conv2D(4, 1, dtype="mixed_float16")(inputs)))
    model = keras.Model(inputs, outputs)
    assert other_precisions(model) == ["bfloat16", "float16", "mixed_float16"]
    twin = fitted(model, "a test")
    assert "in bfloat16, float16, mixed_float16." in str(twins[0].message)
    assert other_precisions(twin) == []
    assert twin.inputs[0].dtype == "float32"
    assert {layer.compute_dtype for layer in sublayers(twin)} == {"float32"}
    x = RNG.normal(size=(2, 6, 6, 3)).astype("float32")
    assert np.abs(twin(x) - np.asarray(model(x))).max() < 0.05


def test_a_fixed_size():
    model = convolutional()
    twin = fitted(model, "a test", (8, 8, 3))
    assert twin.inputs[0].shape == (None, 8, 8, 3)
    assert twin.layers[2].output.shape == (None, 6, 6, 4)
    x = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(twin(x), model(x))
    assert model.inputs[0].shape == (None, None, None, 3)


def test_what_needs_no_change_is_the_model_itself():
    model = keras.Sequential([keras.Input((8, 8, 3)), SEBlock(1)])
    assert fitted(model, "a test") is fitted(model, "a test", (8, 8, 3)) is model
    assert fitted(convolutional, "a test") is convolutional
    unbuilt = keras.Sequential([SEBlock(1)])
    assert fitted(unbuilt, "a test", (8, 8, 3)) is unbuilt


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8), r"fit the input of the model, \(None, None, 3\)\. Received: input_shape=\(8, 8\)"),
        ((8, 8, 1), r"fit the input of the model, .* Received: input_shape=\(8, 8, 1\)"),
        ((8, 0, 3), r"such as \(224, 224, 3\)\. Received: input_shape=\(8, 0, 3\)"),
        ((8, None, 3), r"such as \(224, 224, 3\)\. Received: input_shape=\(8, None, 3\)"),
        (8, r"such as \(224, 224, 3\)\. Received: input_shape=8"),
    ],
)
def test_other_shapes_are_refused(shape, message):
    with pytest.raises(InputError, match=message):
        fitted(convolutional(), "a test", shape)


def test_policies_in_float32():
    pairs = {
        "mixed_float16": "float32",
        "bfloat16": "float32",
        "int8_from_mixed_bfloat16": "int8_from_float32",
        "int64": "int64",
        "bool": "bool",
        None: None,
    }
    assert {dtype: in_float32(dtype) for dtype in pairs} == pairs


def test_a_size_that_the_model_cannot_compute():
    model = keras.Sequential([keras.Input((None, None, 3)), layers.Conv2D(4, 3)], name="small")
    message = (
        r"input_shape must be one that model 'small' can compute\. Received: "
        r"input_shape=\(2, 2, 3\), for which Keras raises: Computed output size would be"
    )
    with pytest.raises(InputError, match=message):
        fitted(model, "to_tflite", (2, 2, 3))
