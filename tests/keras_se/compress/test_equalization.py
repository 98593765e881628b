import keras
import numpy as np
import pytest
from keras import layers

import keras_se
from keras_se import SEBlock
from keras_se.compress import equalize
from keras_se.errors import InputError

OUTLIER = 200.0


def normalized(*stack, shape=(8, 8, 6)):
    """A BatchNormalization with two channels far out, and what follows."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(shape), layers.BatchNormalization(name="bn"), *stack])
    rng = np.random.default_rng(0)
    bn = model.get_layer("bn")
    bn.gamma.assign(rng.uniform(0.5, 1.5, 6) * [OUTLIER, OUTLIER, 1, 1, 1, 1])
    bn.beta.assign(rng.normal(0.0, 0.2, 6) * [OUTLIER, OUTLIER, 1, 1, 1, 1])
    return model


def images(shape=(8, 8, 6)):
    rng = np.random.default_rng(1)
    return (
        rng.normal(size=(128, *shape)) * rng.uniform(0.5, 2.0, (128, *(1,) * len(shape)))
    ).astype("float32")


FREE = {
    "convolution": lambda: [layers.ReLU(), layers.Conv2D(4, 3)],
    "no activation": lambda: [layers.Conv2D(4, 3, strides=2)],
    "leaky": lambda: [layers.LeakyReLU(0.2), layers.MaxPooling2D(2), layers.Conv2D(4, 3)],
    "depthwise": lambda: [layers.ReLU(), layers.DepthwiseConv2D(3, depth_multiplier=2)],
    "separable": lambda: [layers.Activation("relu"), layers.SeparableConv2D(4, 3)],
    "head": lambda: [layers.ReLU(), layers.GlobalAveragePooling2D(), layers.Dense(3)],
    "SE": lambda: [layers.ReLU(), SEBlock(2), layers.ZeroPadding2D(), layers.Conv2D(4, 3)],
    "SE, max": lambda: [layers.ReLU(), SEBlock(2, squeeze="avg_max"), layers.Conv2D(4, 3)],
    "SE, std": lambda: [SEBlock(2, squeeze="std", gate="one_plus_tanh"), layers.Conv2D(4, 1)],
}
BOUND = {
    "output": lambda: [],
    "output of SE": lambda: [layers.ReLU(), SEBlock(2)],
    "relu6": lambda: [layers.ReLU(6.0), layers.Conv2D(4, 3)],
    "silu": lambda: [layers.Activation("silu"), layers.Conv2D(4, 3)],
    "groups": lambda: [layers.ReLU(), layers.Conv2D(6, 3, groups=2)],
    "flattened": lambda: [layers.ReLU(), layers.Flatten(), layers.Dense(3)],
    "shift": lambda: [layers.ReLU(), SEBlock(2, shift=True), layers.Conv2D(4, 3)],
    "normalized again": lambda: [layers.BatchNormalization(name="again")],
}


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


@pytest.mark.parametrize("name", FREE)
def test_outliers_are_gone_and_the_function_is_the_same(name):
    model, x = normalized(*FREE[name]()), images()
    before = [v.numpy() for v in model.variables]
    same = equalize(model, x)
    wanted = outputs(model, x)
    np.testing.assert_allclose(
        outputs(same, x), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max()
    )
    ratios = [np.ptp(np.log(np.abs(m.get_layer("bn").gamma.numpy()))) for m in (model, same)]
    assert np.exp(ratios[0]) > 150
    assert np.exp(ratios[1]) < 30
    keras.tree.map_structure(
        np.testing.assert_array_equal, before, [v.numpy() for v in model.variables]
    )
    if name == "SE":
        own, gates = (keras_se.read_gates(m, x)["se_1"] for m in (model, same))
        np.testing.assert_allclose(gates, own, atol=1e-5)


@pytest.mark.parametrize("name", BOUND)
def test_where_a_scale_would_be_seen_nothing_changes(name):
    model = normalized(*BOUND[name]())
    same = equalize(model, images())
    for new, old in zip(same.variables, model.variables, strict=True):
        np.testing.assert_array_equal(new, old)


def test_sums_and_shared_layers_stay_and_nested_models_are_gone_through():
    inputs = keras.Input((8, 8, 6))
    x = layers.BatchNormalization(name="bn")(inputs)
    joined = layers.Add()([layers.Conv2D(6, 3, padding="same")(x), x])
    bound = keras.Model(inputs, joined)
    shared = layers.Conv2D(6, 1)
    tied = keras.Model(inputs, shared(shared(layers.BatchNormalization(name="bn")(inputs))))
    outer = keras.Sequential([keras.Input((8, 8, 6)), normalized(*FREE["SE"]()), layers.ReLU()])
    for model, changes in ((bound, False), (tied, False), (outer, True)):
        for variable in model.weights:
            if variable.name == "gamma":
                variable.assign(np.linspace(1.0, 50.0, 6))
        same = equalize(model, images())
        np.testing.assert_allclose(
            outputs(same, images()), outputs(model, images()), rtol=1e-3, atol=1e-3
        )
        changed = any(
            np.any(a.numpy() != b.numpy()) for a, b in zip(same.weights, model.weights, strict=True)
        )
        assert changed == changes


def test_ranges_are_divided_evenly_between_activations_and_kernel():
    """The factor is sqrt(range of the kernel / range of the activation), over its median."""
    model, x = normalized(*FREE["convolution"]()), images()
    same = equalize(model, x)
    conv = model.layers[-1].kernel.numpy()
    maps = keras.Model(model.inputs, model.layers[1].output).predict(x, verbose=0)
    factors = np.sqrt(np.abs(conv).max(axis=(0, 1, 3)) / maps.max(axis=(0, 1, 2)))
    factors /= np.median(factors)
    np.testing.assert_allclose(
        same.get_layer("bn").gamma, model.get_layer("bn").gamma.numpy() * factors, rtol=1e-5
    )
    np.testing.assert_allclose(same.layers[-1].kernel, conv / factors[:, None], rtol=1e-5)


def test_int8_after_training_with_and_without_it():
    stack = [
        *(layers.ReLU(), SEBlock(2, kernel_initializer="he_normal", bias_initializer="ones")),
        *(layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()),
    ]
    model = normalized(*stack)
    block, conv = model.layers[2], model.layers[3]
    block.w1.assign(block.w1.numpy() / np.array([OUTLIER, OUTLIER, 1, 1, 1, 1])[:, None])
    conv.kernel.assign(conv.kernel.numpy() / np.array([OUTLIER, OUTLIER, 1, 1, 1, 1])[:, None])
    x = images() * np.linspace(0.2, 2.0, 6, dtype="float32")
    same = equalize(model, x)
    held_out = 1.01 * x
    verdicts = [
        keras_se.verify(m, keras_se.to_tflite(m, "int8", x, check_range=False), held_out)
        .sites["se_1"]
        .r2
        for m in (model, same)
    ]
    assert verdicts[0] < 0.9 < 0.95 < verdicts[1]


def test_open_sizes_and_half_precision_are_kept():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = normalized(layers.ReLU(), layers.Conv2D(4, 3), shape=(None, None, 6))
    finally:
        keras.config.set_dtype_policy("float32")
    x = images()
    same = equalize(model, x)
    assert same.inputs[0].shape == (None, None, None, 6)
    assert same.layers[-1].dtype_policy.name == "mixed_float16"
    error = outputs(same, x).astype("float32") - outputs(model, x)
    assert np.abs(error).max() < 2e-3 * np.abs(outputs(model, x)).max()
    assert np.ptp(np.log(np.abs(same.get_layer("bn").gamma.numpy()))) < np.log(30)


def test_what_is_no_graph_is_refused():
    with pytest.raises(InputError, match=r"equalize .*functional .*Sequential"):
        equalize(None, images())
    with pytest.raises(InputError, match="calibration must"):
        equalize(normalized(), np.ones((2, 3)))
