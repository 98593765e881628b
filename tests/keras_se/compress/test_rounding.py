"""Where an int8 file rounds: the layers that quantize_aware puts there, and what the file does."""

import keras
import numpy as np
import pytest

from keras_se import SEBlock, find_sites, read_gates, to_tflite, verify
from keras_se.compress import prune, quantize_aware, strip
from keras_se.errors import InputError
from keras_se.graph.models import sublayers
from keras_se.layers import QuantizeAware, QuantizeAwareAffine, QuantizeAwareSEBlock
from keras_se.litert.convert import ConversionWarning
from keras_se.litert.graph.sites import float_operators, operator_names
from keras_se.litert.runtime import predict

layers, ops = keras.layers, keras.ops
RNG = np.random.default_rng(0)
IMAGES = RNG.random((64, 8, 8, 3)).astype("float32")
SEQUENCES = RNG.normal(size=(64, 16, 6)).astype("float32")


def wide():
    """Initializers; the converter computes equal layers once, and one object gives equal values."""
    return {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=0.4),
        "bias_initializer": keras.initializers.RandomNormal(mean=1.0, stddev=0.3),
    }


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


def functional(function, shape=(8, 8, 3)):
    inputs = keras.Input(shape)
    return keras.Model(inputs, function(inputs))


# Sequences under a mask.
LENGTHS = np.random.default_rng(1).integers(3, 17, size=(128, 1))
PADDED = np.tile(SEQUENCES, (2, 1, 1)) * (np.arange(16) < LENGTHS)[..., None]


def masked_parts(x):
    """All that hands a mask on or heeds it, in order."""
    x = layers.BatchNormalization(name="norm")(x)
    x = SEBlock(2, **wide())(layers.Dense(8, activation="relu")(x))
    x = layers.Add()([x, layers.Dense(8)(x), layers.Dense(8)(x)])
    return layers.GlobalAveragePooling1D()(SEBlock(2, squeeze="avg_max", **wide())(x))


@pytest.mark.filterwarnings("ignore:Layer 'functional.* was passed an input with a mask")
@pytest.mark.parametrize("is_nested", [False, True])
def test_under_a_mask_the_file_rounds_as_after_training(is_nested):
    keras.utils.set_random_seed(0)
    parts = functional(masked_parts, (16, 6)) if is_nested else masked_parts
    model = functional(lambda x: layers.Dense(3)(parts(layers.Masking()(x))), (16, 6))
    norm = (parts if is_nested else model).get_layer("norm")
    norm.moving_mean.assign(np.full(6, 0.2))  # so that padding is no zero after it
    aware = quantize_aware(model, PADDED)
    tflite, plain = to_tflite(aware), to_tflite(model, "int8", PADDED)
    assert float_operators(tflite) == float_operators(plain)
    assert set(float_operators(tflite)) == {"CAST"}  # of the mask
    sources = (read_gates(source, PADDED).values() for source in (model, aware, tflite))
    for gates, own, shipped in zip(*sources, strict=True):
        assert np.abs(own - gates).max() < 0.02
        assert np.quantile(np.abs(shipped - own) * 256, 0.99) <= 2
    expected, given = aware.predict(PADDED, verbose=0), predict(tflite, PADDED)
    off = np.abs(given - expected) / (np.ptp(expected) / 255)
    assert off.max() < 2.5  # an int8 division is off by a step here and there
    assert off.mean() < 0.2
    np.testing.assert_allclose(strip(aware)(PADDED), model(PADDED), atol=1e-5)
    # Training counts the steps that the mask keeps.
    for network in (model, aware):
        network(PADDED, training=True)
    inner = next(p for p in sublayers(aware) if isinstance(p, QuantizeAwareAffine)).layer
    np.testing.assert_allclose(inner.moving_mean, norm.moving_mean, atol=2e-4)


def test_a_softmax_under_a_mask_is_none_of_the_file():
    mask = np.tri(16, dtype="bool")
    model = functional(lambda x: layers.Softmax()(layers.Dense(16)(x), mask=mask[None]), (16, 6))
    aware = quantize_aware(model, PADDED)
    assert "Softmax" in kinds(aware)
    np.testing.assert_allclose(
        aware.predict(PADDED, verbose=0), model.predict(PADDED, verbose=0), atol=0.02
    )


# What other people write.


def swish(x):
    return x * ops.sigmoid(x)


def hard_swish(x):
    return x * ops.relu6(x + 3.0) / 6.0


def wavy(x):
    return ops.sin(x)


@keras.saving.register_keras_serializable(package="test_rounding")
def cosine_gate(x):
    return 0.5 + 0.4 * ops.cos(x)


class ScaledSum(layers.Layer):
    def call(self, pair):
        return pair[0] + 0.3 * pair[1]


class DropPath(layers.Layer):
    def call(self, x, training=None):
        if not training:
            return x
        kept = keras.random.uniform((ops.shape(x)[0], 1, 1, 1)) > 0.5
        return x * ops.cast(kept, x.dtype)


class Block(layers.Layer):
    """A composite layer with weights, branches, an activation as an operation and SE."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(3, 3, padding="same", use_bias=False)
        self.norm = layers.BatchNormalization()
        self.se = SEBlock(1, **wide())
        self.drop = DropPath()

    def build(self, shape):
        for layer in (self.conv, self.norm, self.se):
            layer.build(shape)

    def call(self, x, training=None):
        y = ops.relu(self.norm(self.conv(x), training=training))
        return x + self.drop(self.se(y), training=training)


def after_a_convolution(*parts):
    return lambda x: keras.Sequential(parts)(layers.Conv2D(4, 3, padding="same", **wide())(x))


def before_a_convolution(function):
    return lambda x: layers.Conv2D(3, 3, **wide())(function(x))


def merged(merge, count=2):
    return lambda x: merge([layers.Conv2D(4, 3, **wide())(x) for _ in range(count)])


def preprocessed(family):
    return before_a_convolution(
        lambda x: getattr(keras.applications, family).preprocess_input(255.0 * x)
    )


def alpha(low, high):
    return keras.initializers.RandomUniform(low, high, seed=1)


def in_images():
    return {
        "leaky_relu": after_a_convolution(layers.LeakyReLU(0.1)),
        "prelu": after_a_convolution(layers.PReLU(alpha(0.1, 0.4), shared_axes=[1, 2])),
        "gelu": after_a_convolution(layers.Activation("gelu")),
        "convolution with gelu": layers.Conv2D(4, 3, activation="gelu", **wide()),
        "convolution with leaky_relu": layers.Conv2D(4, 3, activation="leaky_relu", **wide()),
        "swish of others": layers.Conv2D(4, 3, activation=swish, **wide()),
        "hard_swish of others": layers.Conv2D(4, 3, activation=hard_swish, **wide()),
        "activation of others": after_a_convolution(layers.Activation(swish)),
        "lambda": after_a_convolution(layers.Lambda(hard_swish)),
        "upsampling": after_a_convolution(layers.UpSampling2D(2)),
        "bilinear": after_a_convolution(layers.UpSampling2D(2, interpolation="bilinear")),
        "transposed": after_a_convolution(
            layers.Conv2DTranspose(5, 3, strides=2, **wide()),
            layers.BatchNormalization(),
            layers.ReLU(),
        ),
        "resizing": before_a_convolution(layers.Resizing(12, 12)),
        "crops": before_a_convolution(
            lambda x: layers.RandomCrop(6, 6)(layers.CenterCrop(7, 7)(x))
        ),
        "scaled to ±1": preprocessed("mobilenet_v2"),
        "channels turned": preprocessed("resnet"),
        "standardized": preprocessed("densenet"),
        "lambda at the front": before_a_convolution(layers.Lambda(lambda x: x / 0.3 - 1.0)),
        "RandAugment": before_a_convolution(layers.RandAugment(value_range=(0, 1))),
        "MixUp": before_a_convolution(layers.MixUp()),
        "CutMix": before_a_convolution(layers.CutMix()),
        "AugMix": before_a_convolution(layers.AugMix(value_range=(0, 1))),
        "pipeline": before_a_convolution(
            layers.Pipeline([layers.RandomFlip(), layers.Rescaling(2.0)])
        ),
        "noise": after_a_convolution(layers.AlphaDropout(0.2), layers.GaussianNoise(0.1)),
        "sum of three": merged(layers.Add(), 3),
        "product of three": merged(layers.Multiply(), 3),
        "average": lambda x: layers.ReLU()(merged(layers.Average(), 3)(x)),
        "maximum": merged(layers.Maximum()),
        "stacked": merged(lambda parts: ops.stack(parts, axis=1)),
        "layer of others": merged(ScaledSum()),
        "drop path": after_a_convolution(DropPath()),
        "composite": Block(),
        "sliced head": lambda x: layers.Dense(3)(layers.Conv2D(4, 3)(x)[:, 0, 0]),
        "transpose": lambda x: ops.transpose(layers.Conv2D(4, 3)(x), (0, 3, 1, 2)),
        "split": lambda x: layers.Add()(ops.split(layers.Conv2D(4, 3)(x), 2, axis=-1)),
        "mean": lambda x: ops.mean(layers.Conv2D(4, 3)(x), axis=(1, 2)),
        "einsum": after_a_convolution(
            layers.EinsumDense("abcd,de->abce", (None, None, 5), bias_axes="e")
        ),
        "dense on maps": after_a_convolution(layers.Dense(5, activation="relu")),
        "normalized vectors": after_a_convolution(layers.Flatten(), layers.BatchNormalization()),
        "normalized along an axis": after_a_convolution(layers.BatchNormalization(1)),
        "avg_max": after_a_convolution(SEBlock(2, squeeze="avg_max", **wide())),
        "shift": after_a_convolution(SEBlock(2, shift=True, **wide())),
        "softmax gate": after_a_convolution(SEBlock(2, gate="softmax", **wide())),
        "swish in SE": after_a_convolution(SEBlock(2, activation=swish, **wide())),
    }


def in_time():
    return {
        "convolution": lambda x: layers.ReLU()(layers.BatchNormalization()(layers.Conv1D(4, 3)(x))),
        "causal": layers.Conv1D(4, 3, padding="causal", dilation_rate=2, **wide()),
        "depthwise": layers.DepthwiseConv1D(3, strides=2),
        "separable": layers.SeparableConv1D(5, 3, activation="relu"),
        "transposed": layers.Conv1DTranspose(3, 3, strides=2),
        "SE": lambda x: SEBlock(2, **wide())(layers.Conv1D(4, 3, activation="relu")(x)),
        "pooled": lambda x: layers.GlobalMaxPooling1D()(layers.MaxPooling1D(2)(x)),
        "averaged": lambda x: layers.Dense(3)(
            layers.GlobalAveragePooling1D()(layers.Conv1D(4, 3)(x))
        ),
        "padded": lambda x: layers.Conv1D(3, 3)(layers.ZeroPadding1D()(layers.UpSampling1D(2)(x))),
        "normalized": layers.BatchNormalization(),
        "scaled": lambda x: layers.Conv1D(3, 2)(layers.Rescaling(2.0, offset=1.0)(x)),
    }


@pytest.mark.parametrize(("networks", "x"), [(in_images, IMAGES), (in_time, SEQUENCES)])
def test_what_other_people_write_becomes_integers(networks, x):
    """How far the file is from the model, in steps of the output; one output for each network."""
    keras.utils.set_random_seed(0)
    model = functional(
        lambda inputs: {name: build(inputs) for name, build in networks().items()}, x.shape[1:]
    )
    aware = quantize_aware(model, x)  # a warning would be an error
    tflite = to_tflite(aware)
    assert float_operators(tflite) == []
    expected, given = aware.predict(x, verbose=0), predict(tflite, x)
    plain, own = strip(aware).predict(x, verbose=0), model.predict(x, verbose=0)
    for name, values in expected.items():
        off = np.abs(given[name] - values) / ((max(values.max(), 0) - min(values.min(), 0)) / 255)
        assert np.quantile(off, 0.99) < 1.6, name
        assert off.mean() < 0.5, name
        np.testing.assert_array_equal(plain[name], own[name], err_msg=name)
        assert np.sqrt(((values - own[name]) ** 2).mean()) < 0.05 * own[name].std(), name


IN_FLOAT = {
    "elu": (after_a_convolution(layers.ELU(name="it")), "ELU"),
    "kernel": (layers.Conv2D(4, 3, activation=wavy, name="it", **wide()), "SIN"),
    "std": (SEBlock(1, squeeze="std", name="it", **wide()), "SQRT"),
    "gate": (SEBlock(1, gate=cosine_gate, name="it", **wide()), "COS"),
    "bottleneck": (SEBlock(1, activation="softplus", name="it", **wide()), "EXP"),
    "normalization": (after_a_convolution(layers.LayerNormalization(name="it")), "RSQRT"),
    "volumes": (
        lambda x: layers.Conv3D(2, 3, name="it")(layers.Reshape((8, 8, 3, 1))(x)),
        "CONV_3D",
    ),
}


# Of Keras, which `pytest.warns` raises anew from another module.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("name", IN_FLOAT)
def test_what_has_no_int8_form_is_rounded_where_it_begins_and_ends(name):
    build, operator = IN_FLOAT[name]
    model = functional(build)
    with pytest.warns(
        ConversionWarning, match=r"in float32\. Received: \['(\w+/)?it'\]$"
    ) as caught:
        aware = quantize_aware(model, IMAGES)
    with pytest.warns(ConversionWarning, match=f"with these operators: .*'{operator}'") as also:
        tflite = to_tflite(aware)
    assert {w.filename for w in (*caught, *also) if w.category is ConversionWarning} == {__file__}
    assert operator in operator_names(tflite)
    expected, given = aware.predict(IMAGES, verbose=0), predict(tflite, IMAGES)
    assert np.abs(given - expected).mean() < 0.6 * np.ptp(expected) / 255
    if find_sites(model):
        gates = [read_gates(source, IMAGES)["se_1"] for source in (aware, tflite)]
        assert np.abs(gates[0] - gates[1]).max() < 2.6 / 256


def test_what_no_file_can_hold_is_refused_before_the_training():
    model = functional(lambda x: layers.MaxPooling3D(2)(layers.Reshape((8, 8, 3, 1))(x)))
    with pytest.raises(InputError, match=r"^quantize_aware .*built-in .*which needs MaxPool3D$"):
        quantize_aware(model, IMAGES)
    first = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(2, 1, name="c", data_format="channels_first")]
    )
    with pytest.raises(InputError, match=r"channels last\. Received: 'c' with data_format='ch"):
        quantize_aware(first, IMAGES)


def test_pixels_of_8_bits():
    keras.utils.set_random_seed(0)
    x = (255 * IMAGES).astype("uint8")
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    for scaled in (layers.Rescaling(1 / 127.5, offset=-1.0), lambda x: ops.cast(x, "float32") / 99):
        y = layers.Conv2D(4, 3, **wide())(scaled(inputs))
        aware = quantize_aware(keras.Model(inputs, SEBlock(1)(layers.ReLU()(y))), x)
        tflite = to_tflite(aware)
        assert float_operators(tflite) == ["CAST"]
        expected, given = aware.predict(x, verbose=0), predict(tflite, x)
        assert np.quantile(np.abs(given - expected), 0.99) < 1.6 * np.ptp(expected) / 255


def test_zeros_of_a_pruned_model_stay():
    x = np.repeat(IMAGES, 4, axis=0)
    y = x.mean(axis=(1, 2))
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            SEBlock(2, **wide()),
            layers.Conv2D(3, 3, kernel_initializer="zeros", bias_initializer="ones"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    pruned = prune(model, 0.5)
    pruned.compile("adam", "mse", run_eagerly=True)
    pruned.fit(x, y, verbose=0)
    sparse = strip(pruned)
    for preserve in ("sparsity", None):
        aware = quantize_aware(sparse, x, preserve=preserve)
        aware.compile(keras.optimizers.AdamW(0.01), "mse", run_eagerly=True)
        aware.fit(x, y, verbose=0)
        again = keras.Sequential.from_config(aware.get_config())
        for one in (again, aware):
            flags = [
                part.preserves_zeros
                for part in one.layers
                if isinstance(part, QuantizeAware | QuantizeAwareSEBlock)
            ]
            # A kernel of zeros alone has not been pruned.
            expected = [True, True, False, True] if preserve else [False] * 4
            assert flags == expected
        kernels = [v for v in strip(aware).trainable_variables if len(v.shape) > 1]
        before = [v.numpy() == 0 for v in sparse.trainable_variables if len(v.shape) > 1]
        kept = [
            bool((kernel.numpy()[zeros] == 0).all()) if not zeros.all() else True
            for kernel, zeros in zip(kernels, before, strict=True)
        ]
        assert all(kept) == (preserve == "sparsity")
    assert any(kernel.numpy().any() for kernel in kernels[3:4])


def test_a_network_of_keras_applications():
    """MobileNetV3, with inline SE, hard-swish as an operation and a rescaling at the front."""
    keras.utils.set_random_seed(0)
    x = 255.0 * RNG.random((40, 32, 32, 3)).astype("float32")
    model = keras.applications.MobileNetV3Small((32, 32, 3), 0.35, weights=None, classes=3)
    aware = quantize_aware(model, x)
    tflite = to_tflite(aware)
    assert float_operators(tflite) == []
    assert len(verify(model, tflite, x[:32], trained=aware).sites) == 9
