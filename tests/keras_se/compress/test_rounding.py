"""Where an int8 file rounds, by the layers that quantize_aware with engine='keras' puts there."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock
from keras_se.compress import quantize_aware
from keras_se.errors import InputError

layers = keras.layers
IMAGES = np.random.default_rng(0).random((40, 8, 8, 3)).astype("float32")


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_fused_layers_are_rounded_once(aware):
    assert kinds(aware) == [
        "InputLayer",
        "FakeQuantize",
        *("QuantizeAware", "BatchNormalization", "ReLU", "FakeQuantize"),
        *("QuantizeAware", "BatchNormalization", "FakeQuantize"),
        "QuantizeAwareSEBlock",
        *("Add", "ReLU", "FakeQuantize"),
        *("GlobalAveragePooling2D", "FakeQuantize", "Dropout"),
        *("QuantizeAware", "FakeQuantize"),
    ]


def built(*parts, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *parts])


def functional(function, shape=(8, 8, 3)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: built(layers.LeakyReLU(name="l")), r"in int8, .*Received: 'l' \(LeakyReLU\)$"),
        (lambda: built(layers.ReLU(4.0, name="r")), r"Received: 'r' \(ReLU\)$"),
        (lambda: built(layers.Softmax(1, name="s")), r"Received: 's' \(Softmax\)$"),
        (
            lambda: built(layers.Activation("gelu", name="a")),
            r"activations among .*Received: 'a' \(Activation\)$",
        ),
        (
            lambda: functional(lambda x: layers.Add(name="sum")([x] * 3)),
            r"of two tensors\. Received: 'sum' \(Add\)$",
        ),
        (lambda: functional(keras.ops.exp), r"Received: 'exp' \(Exp\)$"),
        (
            lambda: built(layers.Conv2D(2, 1, name="c", data_format="channels_first")),
            r"channels last\. Received: 'c' with data_format='channels_first'$",
        ),
        # The layers that the plan asks for refuse these themselves.
        (lambda: built(layers.Dense(2, activation="gelu")), r"the activations .*: 'gelu'$"),
        (lambda: built(SEBlock(1, squeeze="std")), r"with a squeeze among .*squeeze='std'"),
        # A softmax gate is C times softmax, which is not the activation of that name.
        (lambda: built(SEBlock(1, gate="softmax")), r"a gate among .*gate='softmax'"),
        (lambda: built(SEBlock(1, shift=True)), r"without shift .*shift=True"),
        (
            lambda: built(layers.BatchNormalization(1, name="b")),
            r"over the last axis of maps.*Received: layer 'b'",
        ),
    ],
)
def test_layers_without_an_int8_form_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        quantize_aware(build(), IMAGES, engine="keras")
