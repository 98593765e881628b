"""Operations and functions that other packages write, against the model that computes them."""

import keras
import numpy as np
import pytest
import tf_keras
from bridging import check_same, randomized, sample, saved, side_by_side
from keras import layers, ops

from keras_se.compress import cluster, from_tf_keras, prune, strip, to_tf_keras


def hard_swish(x):
    """As in keras_cv_attention_models."""
    return x * ops.relu6(x + 3) / 6


def swish(x):
    return x * ops.sigmoid(x)


def hard_sigmoid(x):
    """Named as the function of tf_keras that computes something else."""
    return ops.clip(x / 6 + 0.5, 0, 1)


ACTIVATIONS = {
    "hard_swish": hard_swish,
    "swish": swish,
    "hard_sigmoid": hard_sigmoid,
    "a layer": layers.ReLU(6.0),
    "lambda": lambda x: ops.tanh(ops.softplus(x)) * x,
    "gelu": lambda x: ops.gelu(x, approximate=True),
    "leaky": lambda x: ops.leaky_relu(x, 0.3),
    "of a module": ops.silu,
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_functions_of_other_packages(name):
    function = ACTIVATIONS[name]
    used = [layers.Activation(function), layers.Conv2D(5, 1, activation=function)]
    converted = check_same(side_by_side((4, 4, 3), used))
    kinds = {type(layer).__name__ for layer in converted.layers}
    assert not kinds & {"TFOpLambda", "SlicingOpLambda"}


REAL = {
    "transpose": lambda x: ops.transpose(x, (0, 3, 1, 2)),
    "swapaxes": lambda x: ops.swapaxes(x, 1, -1),
    "moveaxis": lambda x: ops.moveaxis(x, -1, 1),
    "expand_dims": lambda x: ops.expand_dims(x, 2),
    "squeeze": lambda x: ops.squeeze(ops.expand_dims(x, 1), 1),
    "new axis": lambda x: x[:, None, ..., None],
    "zero padding": lambda x: ops.pad(x, [[0, 0], [1, 0], [0, 2], [0, 0]]),
    "nearest": lambda x: ops.image.resize(x, (12, 8), interpolation="nearest"),
    "bilinear": lambda x: ops.image.resize(x, (5, 7)),
    "softmax": lambda x: ops.softmax(x, axis=1),
    "square": lambda x: ops.square(x) + x**2,
    "array": lambda x: (x - np.arange(3.0)) * np.ones((4, 1)) / np.array([2.0, 4.0, 8.0]),
    "maximum": lambda x: ops.maximum(x, -x),
    "clip": lambda x: ops.clip(x, -0.5, 0.75),
    "max": lambda x: ops.max(x, axis=(1, 2)),
}
OF_TENSORFLOW = {
    "slice": lambda x: x[..., 1:],
    "step": lambda x: x[:, ::2, :, :2],
    "index": lambda x: x[:, 0],
    "split": lambda x: ops.concatenate(ops.split(x, [1], axis=-1)[::-1], axis=-1),
    "unstack": lambda x: ops.unstack(x, axis=1)[1] - ops.unstack(x, axis=1)[0],
    "stack": lambda x: ops.stack([x, -x], axis=2),
    "matmul": lambda x: ops.matmul(x, ops.swapaxes(x, -1, -2)),
    "sum": lambda x: ops.sum(x, axis=-1, keepdims=True),
    "mean": lambda x: ops.mean(x, axis=[-1]),
    "sine": lambda x: ops.sin(x) / ops.sqrt(ops.square(x) + 1.0),
    "patches": lambda x: ops.image.extract_patches(x, (2, 2)),
    "reflection": lambda x: ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], mode="reflect"),
    "ranks": lambda x: x + ops.mean(x, axis=(0, 1)),
    "minimum": lambda x: ops.minimum(0.5, x),
    "batch": lambda x: ops.reshape(x, (-1, 4, 3)),
    "one over": lambda x: 2.0 / (ops.exp(x) + 1.0),
    "not a number": lambda x: ops.sqrt(x),
    "flip": lambda x: ops.flip(x, 1),
}


@pytest.mark.parametrize("name", REAL | OF_TENSORFLOW)
def test_operations(name, tmp_path):
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, (REAL | OF_TENSORFLOW)[name](inputs))
    converted = to_tf_keras(model)
    x = sample(model)
    expected, loaded = np.array(model(x)), saved(converted, tmp_path)
    np.testing.assert_allclose(converted(x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(loaded(x), converted(x))
    kinds = {type(layer).__name__ for layer in converted.layers}
    assert bool(kinds & {"TFOpLambda", "SlicingOpLambda"}) == (name in OF_TENSORFLOW)


class Scaled(layers.Layer):
    """The LayerScale of ConvNeXt, with an offset."""

    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = shape

    def build(self, shape):
        self.gamma = self.add_weight(shape=self.shape, name="gamma", initializer="random_normal")
        self.beta = self.add_weight(shape=self.shape, name="beta", initializer="random_normal")

    def call(self, inputs):
        return inputs * self.gamma + self.beta


@pytest.mark.parametrize(
    ("shape", "weight"),
    [((4, 4, 3), (3,)), ((4, 4, 3), (1, 1, 1, 3)), ((6, 3), (6, 3)), ((6, 3), ()), ((5,), (1,))],
)
def test_weights_of_raw_operations_train_and_come_back(shape, weight, tmp_path):
    model = keras.Sequential([keras.Input(shape), Scaled(weight, name="own")])
    converted = check_same(model)
    assert len(converted.trainable_weights) == 2
    for variable in converted.weights:
        variable.assign(variable * 1.5)
    back = from_tf_keras(saved(converted, tmp_path), like=model)
    for new, old in zip(back.weights, model.weights, strict=True):
        np.testing.assert_array_equal(new, old.numpy() * np.float32(1.5))


def test_layers_that_keras_applications_writes_for_itself():
    """LayerScale of ConvNeXt; CustomScaleLayer of InceptionResNetV2 is another of that kind."""
    kind = {type(layer).__name__: type(layer) for layer in _convnext().layers}["LayerScale"]
    inputs = keras.Input((4, 4, 3))
    scaled = kind(0.5, 3, name="scale")(inputs)
    converted = check_same(keras.Model(inputs, scaled))
    assert [type(layer).__name__ for layer in converted.layers[1:]] == ["DepthwiseConv2D"]


def _convnext():
    return keras.applications.ConvNeXtTiny(weights=None, input_shape=(32, 32, 3), classes=2)


def test_attention_of_keras():
    inputs = keras.Input((6, 8))
    attention = layers.MultiHeadAttention(2, 4, kernel_regularizer="l2")
    check_same(randomized(keras.Model(inputs, attention(inputs, inputs))))


@pytest.mark.parametrize("compress", [prune, cluster])
def test_operations_of_tensorflow_are_compressed_around(compress):
    inputs = keras.Input((4, 4, 8))
    x = layers.Conv2D(8, 1)(inputs)
    x = ops.concatenate([x[..., :4], ops.sin(x)], axis=-1)
    x = Scaled((12,))(ops.matmul(x, ops.swapaxes(x, -1, -2)) @ x)
    model = keras.Model(inputs, layers.Dense(3, activation=hard_swish)(x))
    compressed = compress(model)
    compressed.compile("sgd", "mse", run_eagerly=True)
    compressed.fit(sample(model), np.zeros((3, 4, 4, 3)), epochs=1, verbose=0)
    stripped = strip(compressed)
    assert [v.shape for v in stripped.weights] == [v.shape for v in model.weights]
    assert isinstance(compressed, tf_keras.Model)
