"""Quantization-aware training in Keras itself: what the model computes, and its way back."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, find_sites
from keras_se.compress.keras_engine import quantize_natively, strip_natively
from keras_se.errors import InputError
from keras_se.graph.models import sublayers
from keras_se.layers import FakeQuantize, QuantizeAware, QuantizeAwareSEBlock
from keras_se.layers.quantization.fake_quantize import is_quantize_aware

layers = keras.layers
WIDE = {
    "kernel_initializer": keras.initializers.RandomNormal(stddev=1.0, seed=1),
    "bias_initializer": keras.initializers.RandomNormal(stddev=0.3, seed=2),
}


def randomized(model):
    """Statistics and scales of BatchNormalization as after training, some of them negative."""
    rng = np.random.default_rng(0)
    for layer in sublayers(model):
        if isinstance(layer, layers.BatchNormalization):
            sizes = [w.shape for w in layer.get_weights()]
            layer.set_weights([rng.uniform(0.5, 1.5, s) * rng.choice([-1, 1], s) for s in sizes[:2]]
                              + [rng.uniform(0.2, 1.0, s) for s in sizes[2:]])  # fmt: skip
    return model


def residual(gate="sigmoid"):
    """A convolution with all that is fused to it, SE, a sum with its ReLU, and a classifier."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same")(x))
    y = SEBlock(2, gate=gate, **WIDE)(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Dropout(0.5)(layers.GlobalAveragePooling2D()(x))
    return randomized(keras.Model(inputs, layers.Dense(10)(x)))


def kinds(model):
    return [type(layer).__name__ for layer in model.layers]


def test_what_is_fused_is_rounded_once(images):
    assert kinds(quantize_natively(residual(), images)) == [
        "InputLayer",
        "FakeQuantize",
        *("QuantizeAware", "BatchNormalization", "ReLU", "FakeQuantize"),
        *("QuantizeAware", "BatchNormalization", "FakeQuantize"),
        "QuantizeAwareSEBlock",
        *("Add", "ReLU", "FakeQuantize"),
        *("GlobalAveragePooling2D", "FakeQuantize", "Dropout"),
        *("QuantizeAware", "FakeQuantize"),
    ]


def rounded(x, low, high):
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    scale = (high - low) / 255
    zero = np.clip(np.round(-low / scale), 0, 255)
    return (np.clip(np.floor(x / scale + zero + 0.5), 0, 255) - zero) * scale


def test_values_and_ranges_are_those_of_numpy(images):
    inputs = keras.Input((8, 8, 3))
    conv = layers.Conv2D(4, 1, use_bias=False)
    norm = layers.BatchNormalization()
    model = randomized(keras.Model(inputs, layers.ReLU()(norm(conv(inputs)))))
    found = keras.ops.convert_to_numpy(quantize_natively(model, images)(images))

    (kernel,) = conv.get_weights()
    gamma, beta, mean, variance = norm.get_weights()
    factor = gamma / np.sqrt(variance + norm.epsilon)
    folded = kernel[0, 0] * factor  # as the converter folds it
    scale = np.abs(folded).max(axis=0) / 127
    folded = np.round(folded / scale) * scale

    def outputs(x):
        return np.maximum(x @ folded + beta - mean * factor, 0)

    x = rounded(images, images.min(), images.max())
    expected = rounded(outputs(x), 0.0, outputs(images).max())
    step = outputs(images).max() / 255
    assert np.abs(found - expected).max() < 1.01 * step  # a tie may fall either way
    assert (np.abs(found - expected) < step / 100).mean() > 0.999


@pytest.mark.parametrize("gate", ["sigmoid", "hard_sigmoid", "one_plus_tanh"])
def test_strip_gives_the_very_model_back(gate, images):
    model = residual(gate)
    aware = quantize_natively(model, images)
    plain = strip_natively(aware)
    assert kinds(plain) == kinds(model)
    assert not is_quantize_aware(plain)
    np.testing.assert_array_equal(
        plain.predict(images, verbose=0), model.predict(images, verbose=0)
    )
    assert np.abs(aware.predict(images, verbose=0) - model.predict(images, verbose=0)).max() > 0


def test_the_model_is_left_as_it_was(images):
    model = residual()
    weights, config = model.get_weights(), model.get_config()
    strip_natively(quantize_natively(model, images))
    assert model.get_config() == config
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_files_load_without_custom_objects(images, tmp_path):
    aware = quantize_natively(residual(), images)
    aware.save(tmp_path / "aware.keras")
    again = keras.saving.load_model(tmp_path / "aware.keras")
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), aware.predict(images, verbose=0)
    )


def test_training_learns_moves_ranges_and_is_carried_back(images):
    aware = quantize_natively(residual(), images)
    target = images.mean(axis=(1, 2)) @ np.random.default_rng(0).normal(size=(3, 10))
    aware.compile(keras.optimizers.Adam(0.01), "mse", jit_compile=False)
    before = aware.layers[-1].high.numpy()
    losses = aware.fit(images, target, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < losses[0] / 2
    assert aware.layers[-1].high.numpy() != before
    plain = strip_natively(aware)
    wrapped = [layer for layer in aware.layers if isinstance(layer, QuantizeAware)]
    for layer in wrapped:
        for old, new in zip(
            layer.layer.get_weights(), plain.get_layer(layer.name).get_weights(), strict=True
        ):
            np.testing.assert_array_equal(old, new)
    block = next(layer for layer in aware.layers if isinstance(layer, QuantizeAwareSEBlock))
    for old, new in zip(block.excitation(), plain.get_layer(block.name).excitation(), strict=True):
        np.testing.assert_array_equal(old, new)
    error = plain.predict(images, verbose=0) - aware.predict(images, verbose=0)
    assert np.sqrt((error**2).mean()) < 0.05 * plain.predict(images, verbose=0).std()


def test_a_sequential_model_stays_one(images):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.ZeroPadding2D(),
            layers.Conv2D(6, 3, activation="silu"),
            SEBlock(2, **WIDE),
            layers.Flatten(),
            layers.Dense(4, activation="softmax"),
        ]
    )
    aware = quantize_natively(model, images)
    assert isinstance(aware, keras.Sequential)
    assert kinds(aware) == [
        *("FakeQuantize", "ZeroPadding2D", "QuantizeAware", "QuantizeAwareSEBlock"),
        *("Flatten", "QuantizeAware"),
    ]
    plain = strip_natively(aware)
    assert kinds(plain) == kinds(model)
    np.testing.assert_array_equal(
        plain.predict(images, verbose=0), model.predict(images, verbose=0)
    )


def test_nested_models_and_shared_layers(images):
    relu, conv = layers.ReLU(), layers.Conv2D(3, 3, padding="same")
    body = keras.Sequential(
        [keras.Input((8, 8, 3)), conv, layers.BatchNormalization(), SEBlock(1, **WIDE)], name="body"
    )
    inputs = keras.Input((8, 8, 3))
    x = relu(body(inputs))
    x = relu(layers.Add()([conv(x), inputs]))
    model = randomized(keras.Model(inputs, body(x)))
    aware = quantize_natively(model, images)
    assert [site.name for site in find_sites(aware)] == [site.name for site in find_sites(model)]
    assert len({id(part) for part in sublayers(aware) if isinstance(part, QuantizeAware)}) == 1
    np.testing.assert_array_equal(
        strip_natively(aware).predict(images, verbose=0), model.predict(images, verbose=0)
    )


def test_frozen_layers_stay_frozen(images):
    model = residual()
    model.layers[1].trainable = False
    aware = quantize_natively(model, images)
    wrapped = next(layer for layer in aware.layers if isinstance(layer, QuantizeAware))
    assert not wrapped.trainable_variables
    assert not strip_natively(aware).layers[1].trainable


def test_se_that_is_written_out_becomes_a_block(images):
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu")(x)
    g = layers.GlobalAveragePooling2D(keepdims=True)(x)
    g = layers.Conv2D(2, 1, activation="silu", **WIDE)(g)
    model = keras.Model(inputs, x * layers.Conv2D(8, 1, activation="sigmoid", **WIDE)(g))
    plain = strip_natively(quantize_natively(model, images))
    assert kinds(plain) == ["InputLayer", "Conv2D", "SEBlock"]
    np.testing.assert_allclose(
        plain.predict(images, verbose=0), model.predict(images, verbose=0), atol=1e-5
    )


def test_several_inputs_by_name(images):
    left, right = (keras.Input((8, 8, 3), name=name) for name in ("left", "right"))
    model = keras.Model({"left": left, "right": right}, layers.Subtract()([left, right]))
    x = {"left": images, "right": 3 * images[::-1]}
    aware = quantize_natively(model, x)
    ranges = {layer.name: layer for layer in aware.layers if isinstance(layer, FakeQuantize)}
    assert float(ranges["left_range"].high) == images.max()
    assert float(ranges["right_range"].high) == np.float32(3) * images.max()


def built(*parts, shape=(8, 8, 3)):
    return keras.Sequential([keras.Input(shape), *parts])


class Own(keras.Model):
    def call(self, x):
        return x


def functional(function, *shapes):
    inputs = [keras.Input(shape) for shape in shapes]
    return keras.Model(inputs, function(inputs))


IMAGES = np.random.default_rng(0).random((40, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Own, r"^Quantization-aware training takes functional .*Received: Own$"),
        (lambda: built(layers.LeakyReLU(name="l")), r"in int8, .*Received: 'l' \(LeakyReLU\)$"),
        (lambda: built(layers.ReLU(4.0, name="r")), r"Received: 'r' \(ReLU\)$"),
        (lambda: built(layers.Softmax(1, name="s")), r"Received: 's' \(Softmax\)$"),
        (
            lambda: built(layers.Activation("gelu", name="a")),
            r"activations among .*Received: 'a' \(Activation\)$",
        ),
        (
            lambda: built(layers.Dense(2, activation="gelu")),
            r"the activations .*Received: 'gelu'$",
        ),
        (lambda: built(SEBlock(1, squeeze="std")), r"squeeze by one of .*squeeze='std'"),
        (
            lambda: built(layers.BatchNormalization(1, name="b")),
            r"over the last axis of maps.*Received: layer 'b'",
        ),
        (
            lambda: functional(lambda t: layers.Add(name="sum")([t[0]] * 3), (8, 8, 3)),
            r"of two tensors\. Received: 'sum' \(Add\)$",
        ),
        (
            lambda: functional(lambda t: keras.ops.exp(t[0]), (8, 8, 3)),
            r"Received: 'exp' \(Exp\)$",
        ),
        (
            lambda: built(layers.Conv2D(2, 1, name="c", data_format="channels_first")),
            r"channels last\. Received: 'c' with data_format='channels_first'$",
        ),
        (
            lambda: built(layers.Dense(2, name="half", dtype="mixed_float16")),
            r"compute in float32\. Received: layer 'half' in float16$",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 3), dtype="uint8"), layers.Flatten()]),
            r"inputs of float32\. Received: \['uint8'\]$",
        ),
        (
            lambda: built(layers.Conv2D(2, 1, kernel_initializer="zeros")),
            r"every activation is somewhere not zero\. Received: .*empty: \['.*conv2d.*_range'\]$",
        ),
    ],
)
def test_refused(build, message):
    with pytest.raises(InputError, match=message):
        quantize_natively(build(), IMAGES)


def test_calibration_is_needed_and_checked():
    model = built(layers.Conv2D(2, 1))
    with pytest.raises(InputError, match=r"starts from calibration.*Received: calibration=None$"):
        quantize_natively(model, None)
    with pytest.raises(InputError, match=r"calibration must have the shape \(samples, 8, 8, 3\)"):
        quantize_natively(model, np.zeros((4, 8, 8, 1)))
    dead = built(SEBlock(1, kernel_initializer="zeros"))
    with pytest.raises(InputError, match="bottleneck of each SE site is somewhere not zero"):
        quantize_natively(dead, IMAGES)
    loud = built(layers.Conv2D(2, 1, kernel_initializer=keras.initializers.Constant(3e38)))
    with pytest.raises(InputError, match="Received: data on which an output is NaN or infinite"):
        quantize_natively(loud, 9 * IMAGES)


def test_neither_twice_nor_of_nothing():
    model = built(layers.Conv2D(2, 1))
    with pytest.raises(InputError, match=r"strip it first\. Received: .*holds ranges already$"):
        quantize_natively(quantize_natively(model, IMAGES), IMAGES)
    with pytest.raises(InputError, match=r"takes a quantize-aware model\. Received: .*no ranges$"):
        strip_natively(model)
    with pytest.raises(InputError, match=r"^Stripping takes functional .*Received: str$"):
        strip_natively("model")


@pytest.mark.parametrize("settings", [{"gate": "softmax"}, {"shift": True}, {"squeeze": "std"}])
def test_blocks_that_are_not_known_in_int8_are_refused(settings):
    """A softmax gate is C times softmax, which is not the activation of that name."""
    model = built(SEBlock(2, **settings))
    with pytest.raises(InputError, match="Quantization-aware training takes SE blocks"):
        quantize_natively(model, np.ones((4, 8, 8, 3), "float32"))
