import functools
import gc
import weakref

import keras
import numpy as np
import pytest
from keras import layers

import keras_se
from keras_se import SEBlock, compress, insert
from keras_se.compress import cluster, prune, strip
from keras_se.compress.tfmot.bridge.weights import base_name
from keras_se.errors import InputError
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.graph.sites import float_operators
from keras_se.litert.runtime import predict

quantize_aware = functools.partial(compress.quantize_aware, engine="tfmot")
WIDE = keras.initializers.RandomNormal


def variables(wrapper):
    return {base_name(v): v.numpy() for v in wrapper.weights}


def layer(model, name):
    return next(v for v in model.layers if v.name == name)


@pytest.fixture(scope="module")
def trained(task, build, fitted):
    """An original, and it after training with quantization, with the file."""
    original = build(("sigmoid", "hard_sigmoid"))
    model = fitted(quantize_aware(original, task.x[:100]), task, epochs=2)
    return original, model, keras_se.to_tflite(model)


def test_gates_of_the_file_are_those_of_the_model(trained, task):
    original, model, tflite = trained
    assert float_operators(tflite) == []
    found = delegation(tflite)
    assert found.partitions == 1
    assert all(found.delegated)
    own, shipped = (keras_se.read_gates(source, task.x_test) for source in (model, tflite))
    report = keras_se.verify(original, tflite, task.x_test, trained=model)
    assert report.passed
    for name, site in report.sites.items():
        step = 2 / 255 if own[name].max() > 1 else 1 / 256
        error = np.abs(np.minimum(own[name], shipped[name].max()) - shipped[name])
        assert np.percentile(error, 99) <= 2 * step
        assert site.verdict == "survives"
        assert site.r2 >= 0.95
        assert site.spread_kept >= 0.5


def test_the_stripped_model_has_the_trained_weights(trained, task):
    original, model, tflite = trained
    stripped = strip(model)
    assert [type(v) for v in stripped.layers] == [type(v) for v in original.layers]
    outputs = predict(tflite, {"inputs": task.x_test})
    own = stripped.predict(task.x_test, verbose=0)
    assert np.sqrt(((outputs - own) ** 2).mean()) < 0.1 * own.std()
    assert np.abs(own - original.predict(task.x_test, verbose=0)).max() > 0.1
    assert keras_se.find_sites(model) == keras_se.find_sites(original)


@pytest.fixture(scope="module")
def untrained(classifier, task):
    return quantize_aware(classifier, task.x[:100])


def test_ranges_start_where_the_data_put_them(classifier, untrained, task):
    relu = next(v for v in classifier.layers if isinstance(v, layers.ReLU))
    values = keras.Model(classifier.inputs, relu.output).predict(task.x[:100], verbose=0)
    found = variables(layer(untrained, f"quant_{relu.name}"))
    assert found["output_min"] == 0.0
    assert found["output_max"] == pytest.approx(values.max(), rel=1e-5)
    found = variables(layer(untrained, f"quant_{classifier.layers[1].name}"))
    assert "output_max" not in found  # TFLite folds what follows into it
    entry = variables(next(v for v in untrained.layers if v.name.endswith("_entry")))
    assert entry["output_max"] == pytest.approx(task.x[:100].max(), rel=1e-6)


def test_before_training_gates_differ_by_rounding_alone(classifier, untrained, task):
    """From ranges of ±6, where tfmot starts, they were off by .2."""
    own = keras_se.read_gates(classifier, task.x_test)
    for name, gates in keras_se.read_gates(untrained, task.x_test).items():
        assert np.abs(gates - own[name]).max() < 0.03


def test_equal_biases_and_channels_that_are_zero_throughout():
    """The converter gave the one the scale of their first channel, and lost the other."""
    model = keras.Sequential([keras.Input((6, 6, 8))])
    for bias in ("zeros", "ones"):
        model.add(layers.Conv2D(8, 3, padding="same", bias_initializer=bias))
        for gate in ("sigmoid", "hard_sigmoid", "one_plus_tanh"):
            wide = {"kernel_initializer": WIDE(stddev=0.5), "bias_initializer": bias}
            model.add(SEBlock(2, gate=gate, **wide))
    for variable in model.weights:
        if variable.name in ("kernel", "w1", "w2"):
            kernel = variable.numpy()
            kernel[..., 1:3] = 0.0
            variable.assign(kernel)
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(64, 6, 6, 8)) * rng.uniform(0.2, 2.0, (64, 1, 1, 1))).astype("float32")
    aware = quantize_aware(model, x)
    own, shipped = (keras_se.read_gates(s, x) for s in (aware, keras_se.to_tflite(aware)))
    assert len(own) == len(shipped) == 6
    for name, gates in own.items():
        assert np.abs(gates - shipped[name]).max() < 0.02
        assert np.percentile(np.abs(gates - shipped[name]), 99) < 2 / 256


def test_ranges_widen_at_once_and_narrow_slowly(task):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, use_bias=False)])
    aware = quantize_aware(model, np.full((2, 4), 2.0, "float32"))
    entry = aware.layers[1]
    seen = []
    for batch in (np.full((1, 4), 1.0), np.full((1, 4), 5.0), np.full((1, 4), -1.0)):
        aware(batch.astype("float32"), training=True)
        found = variables(entry)
        seen.append((float(found["output_min"]), float(found["output_max"])))
    assert seen[0] == pytest.approx((0.0, 2.0 - 0.01 * 1.0))
    assert seen[1] == pytest.approx((0.0, 5.0))
    assert seen[2] == pytest.approx((-1.0, 5.0 - 0.01 * 5.0))
    aware(np.full((1, 4), 50.0, "float32"), training=False)
    assert float(variables(entry)["output_max"]) == pytest.approx(seen[2][1])


def test_rounding_is_that_of_numpy():
    """A dense kernel as a whole, a convolution by channel: 127 steps each way."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((5, 5, 3)), layers.Conv2D(4, 1, use_bias=False)])
    kernel = rng.normal(size=(1, 1, 3, 4)) * [1.0, 10.0, 0.1, 1.0]
    model.layers[0].kernel.assign(kernel)
    x = rng.uniform(-1.0, 1.0, (50, 5, 5, 3)).astype("float32")
    aware = quantize_aware(model, x)

    def rounded(values, low, high, levels):
        step = (high - low) / levels
        zero = np.round(-low / step)
        return step * (np.clip(np.round(values / step) + zero, 0, levels) - zero)

    largest = np.abs(kernel).max(axis=(0, 1, 2))
    steps = largest / 127
    weights = np.round(kernel / steps) * steps
    inputs = rounded(x, x.min(), x.max(), 255)
    outputs = inputs @ weights[0, 0]
    exact = x @ kernel[0, 0]
    wanted = rounded(outputs, exact.min(), exact.max(), 255)
    step = (exact.max() - exact.min()) / 255
    given = aware(x, training=False).numpy()
    assert np.abs(given - wanted).max() <= 1.001 * step
    assert (np.abs(given - wanted) < 0.01 * step).mean() > 0.99


def convolved(*stack):
    return lambda x: keras.Sequential([layers.Conv2D(8, 3), *stack, SEBlock(2)])(x)


def nested(x):
    return layers.ReLU()(keras.Sequential([keras.Input(x.shape[1:]), layers.Conv2D(8, 3)])(x))


# The shape of the input, and by name networks on it: one output each.
IN_INT8 = {
    "activations": (
        (10, 10, 3),
        {
            "silu": convolved(layers.Activation("silu")),
            "hard_silu": convolved(layers.Activation("hard_silu")),
            "hard_sigmoid": convolved(layers.Activation("hard_sigmoid")),
            "gelu": convolved(layers.Activation("gelu")),
            "leaky_relu": convolved(layers.LeakyReLU(0.1)),
            "relu6": convolved(layers.ReLU(6.0)),
            "softmax": convolved(layers.GlobalAveragePooling2D(keepdims=True), layers.Softmax()),
        },
    ),
    "maps": (
        (10, 10, 3),
        {
            "one BatchNormalization after another": convolved(
                layers.BatchNormalization(), layers.BatchNormalization(), layers.ReLU()
            ),
            "BatchNormalization of the input": lambda x: layers.Conv2D(4, 1)(
                layers.BatchNormalization()(x)
            ),
            "rescaled input": lambda x: layers.Conv2D(4, 1)(layers.Rescaling(1 / 127.5, -1.0)(x)),
            "separable": convolved(layers.SeparableConv2D(8, 3), layers.BatchNormalization()),
            "pooling": convolved(layers.MaxPooling2D(2), layers.AveragePooling2D(2)),
            "padding": convolved(layers.ZeroPadding2D(1), layers.Conv2D(8, 3), layers.Dropout(0.5)),
            "upsampling": convolved(layers.UpSampling2D(2), layers.Identity()),
            "nested": nested,
        },
    ),
    "dense": (
        (8,),
        {
            "dense": lambda x: layers.Dense(3)(
                layers.ReLU()(layers.BatchNormalization()(layers.Dense(6)(x)))
            )
        },
    ),
    "sequence": (
        (16, 8),
        {
            "sequence": lambda x: keras.Sequential(
                [
                    *(layers.Conv1D(8, 3), layers.BatchNormalization(), layers.ReLU(), SEBlock(2)),
                    *(layers.MaxPooling1D(2), layers.Conv1D(4, 3)),
                    layers.GlobalAveragePooling1D(),
                ]
            )(x)
        },
    ),
    "blocks": (
        (6, 6, 4),
        {
            "squeeze max": lambda x: SEBlock(2, squeeze="max")(x),
            "squeeze avg_max": lambda x: SEBlock(2, squeeze="avg_max", shift=True)(x),
            "gate relu": lambda x: SEBlock(1, gate="relu")(x),
            "gate softmax": lambda x: SEBlock(1, gate="softmax")(x),
            "gate tanh": lambda x: SEBlock(1, gate="tanh")(x),
        },
    ),
}


@pytest.mark.parametrize("group", IN_INT8)
def test_what_becomes_int8_throughout(group):
    keras.utils.set_random_seed(1)
    shape, networks = IN_INT8[group]
    inputs = keras.Input(shape)
    model = keras.Model(inputs, [network(inputs) for network in networks.values()])
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    x = rng.normal(size=(64, *shape)).astype("float32")
    aware = quantize_aware(model, x)
    tflite = keras_se.to_tflite(aware)
    assert float_operators(tflite) == []
    shipped = predict(tflite, x)
    shipped = list(shipped.values()) if isinstance(shipped, dict) else [shipped]
    exact, wanted = (keras.tree.flatten(m(x, training=False)) for m in (model, aware))
    for name, file, own, original in zip(networks, shipped, wanted, exact, strict=True):
        scale = np.abs(own.numpy()).max()
        assert np.abs(file - own.numpy()).max() <= 0.05 * scale, name
        assert np.abs(original.numpy() - own.numpy()).max() <= 0.1 * scale, name


def test_merging_layers_and_several_inputs():
    inputs = [keras.Input((6, 6, 3), name="a"), keras.Input((6, 6, 3), name="b")]
    x, y = (layers.Conv2D(4, 3)(i) for i in inputs)
    merged = [kind()([x, y]) for kind in (layers.Subtract, layers.Average, layers.Maximum)]
    model = keras.Model(inputs, SEBlock(2)(layers.Concatenate()([*merged, x * 2.0 + y])))
    rng = np.random.default_rng(0)
    x = [rng.normal(size=(40, 6, 6, 3)).astype("float32") for _ in inputs]
    aware = quantize_aware(model, x)
    tflite = keras_se.to_tflite(aware)
    assert float_operators(tflite) == []
    gates = [keras_se.read_gates(s, dict(zip("ab", x, strict=True))) for s in (aware, tflite)]
    np.testing.assert_allclose(gates[0]["se_1"], gates[1]["se_1"], atol=3 / 256)


def test_inline_se_and_inserted_blocks_of_an_application():
    model = keras.applications.MobileNetV3Small(
        weights=None, input_shape=(48, 48, 3), include_top=False, include_preprocessing=False
    )
    model = keras.Model(model.inputs, model.get_layer("expanded_conv_2_add").output)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if "squeeze_excite" in variable.path and "kernel" in variable.path:
            variable.assign(rng.normal(size=variable.shape, scale=0.5))
        elif "squeeze_excite" in variable.path:
            variable.assign(rng.uniform(0.2, 0.5, size=variable.shape))
    x = (rng.normal(size=(64, 48, 48, 3)) * rng.uniform(0.3, 2, (64, 1, 1, 1))).astype("float32")
    own, rounded = keras_se.read_gates(model, x), keras_se.read_gates(quantize_aware(model, x), x)
    assert list(own) == list(rounded)
    for name, gates in rounded.items():
        assert gates.shape == own[name].shape
        assert np.abs(gates - own[name]).max() < 0.15


def test_inserted_identity_gates_come_alive(classifier, task, fitted):
    """Their pre-activations are zero at first: a range of no width must not hold them there."""
    model = insert(keras_se.remove(classifier), 2)
    aware = fitted(quantize_aware(model, task.x), task, epochs=12)
    for gates in keras_se.read_gates(aware, task.x_test).values():
        assert gates.std(axis=0).max() > 1 / 128
    assert float_operators(keras_se.to_tflite(aware)) == []


@pytest.mark.parametrize("preserve", ["sparsity", "clusters", "both"])
def test_sparsity_and_clusters_are_preserved(sparse_and_clustered, task, fitted, preserve):
    start = sparse_and_clustered
    aware = fitted(quantize_aware(start, task.x[:100], preserve=preserve), task)
    stripped = strip(aware)
    for block, old in zip(stripped.layers, start.layers, strict=True):
        if isinstance(block, SEBlock):
            kernel, before = block.w1.numpy(), old.w1.numpy()
            if preserve != "clusters":
                np.testing.assert_array_equal(kernel == 0, before == 0)
            if preserve != "sparsity":
                channels = zip(kernel.T, before.T, strict=True)
                assert all(np.unique(a).size <= max(4, np.unique(b).size) for a, b in channels)
    if preserve == "both":
        assert float_operators(keras_se.to_tflite(aware)) == []


def test_the_model_passed_in_stays_and_is_let_go(build):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    before = [v.numpy() for v in model.variables]
    x = np.random.default_rng(0).normal(size=(32, 6)).astype("float32")
    aware = quantize_aware(model, x)
    aware.compile("sgd", "mse")
    aware.fit(x, np.zeros((32, 4)), verbose=0)
    keras.tree.map_structure(
        np.testing.assert_array_equal, before, [v.numpy() for v in model.variables]
    )
    kept = weakref.ref(model)
    del model, aware
    gc.collect()
    gc.collect()  # the original, which went with the quantize-aware model
    assert kept() is None


def dense(*stack, shape=(4,)):
    return keras.Sequential([keras.Input(shape), *stack])


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (
            lambda: dense(layers.Dense(9)),
            {"preserve": "sparsity"},
            "preserve needs a pruned or clustered model",
        ),
        (
            lambda: dense(layers.Dense(9)),
            {"preserve": "clusters"},
            "preserve needs a pruned or clustered model",
        ),
        (lambda: dense(layers.Dense(2, activation="elu")), {}, r"in int8. Received: .*\(elu\)"),
        (lambda: dense(layers.LayerNormalization()), {}, "Received: .*LayerNormalization"),
        (
            lambda: dense(layers.Activation("relu"), layers.BatchNormalization(name="n")),
            {},
            "BatchNormalization of maps, .* Received: 'n'",
        ),
        (lambda: dense(layers.Dense(2)), {"calibration": np.zeros((3, 5))}, "calibration must"),
        (
            lambda: dense(layers.Dense(2)),
            {"calibration": np.full((3, 4), np.nan)},
            "calibration must be finite",
        ),
    ],
)
def test_refused(build, arguments, message):
    calibration = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")
    with pytest.raises(InputError, match=message):
        quantize_aware(build(), **{"calibration": calibration, **arguments})


def test_the_file_a_recipe_and_other_formats(trained, tmp_path, task):
    original, model, tflite = trained
    path = tmp_path / "aware.tflite"
    assert keras_se.to_tflite(model, path=path) == tflite
    assert '"calibration": null' in path.with_name("aware.recipe.json").read_text()
    stripped = strip(model)
    assert keras_se.verify(original, path, task.x_test, trained=stripped).passed
    for settings in ({"format": "float16"}, {"keep_float": ["se_1"]}):
        with pytest.raises(InputError, match=r"strip it first"):
            keras_se.to_tflite(model, **settings)


def test_dead_gates_are_seen_against_the_original(trained, task):
    """Against the trained model alone gates that died in training look perfect."""
    original, model, _ = trained
    for wrapper in model.layers:
        if wrapper.name.endswith("_reduce"):
            wrapper.layer.set_weights([0.0 * w for w in wrapper.layer.get_weights()])
            kernel = {base_name(v): v for v in wrapper.weights}["kernel"]
            kernel.assign(kernel * 1e-3)
    tflite = keras_se.to_tflite(model)
    report = keras_se.verify(original, tflite, task.x_test, trained=model)
    assert not report.passed
    assert {s.blame for s in report.sites.values()} == {"training"}
    assert "adaptivity lost in training" in report.to_json()


def test_frozen_layers_stay_and_come_back(task, fitted):
    """The wrapper of tfmot trained frozen kernels."""
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            layers.Conv2D(8, 3, name="conv"),
            layers.BatchNormalization(momentum=0.5),
            layers.ReLU(),
            layers.Conv2D(8, 3, name="free"),
            layers.BatchNormalization(name="bn", momentum=0.5),
            SEBlock(2, name="se", bias_initializer="ones"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4, name="head"),
        ]
    )
    frozen = [model.get_layer(name) for name in ("conv", "bn", "se")]
    for part in frozen:
        part.trainable = False
    with pytest.warns(UserWarning, match=r"leaves frozen kernels .* \['conv', 'se_reduce'"):
        wrapped = prune(model, 0.5), cluster(model, 4)
    aware = (quantize_aware(model, task.x[:50], engine=engine) for engine in ("tfmot", "keras"))
    for compressed in (*wrapped, *aware):
        stripped = strip(fitted(compressed, task))
        for part in frozen:
            for new, old in zip(stripped.get_layer(part.name).weights, part.weights, strict=True):
                np.testing.assert_array_equal(new, old.numpy())
        for name in ("free", "head"):
            moved = stripped.get_layer(name).kernel.numpy() - model.get_layer(name).kernel.numpy()
            assert np.abs(moved).max() > 0


@pytest.mark.parametrize("engine", ["tfmot", "keras"])
def test_losses_by_the_names_of_the_outputs(engine):
    inputs = keras.Input((6,))
    hidden = layers.Dense(8, activation="relu")(inputs)
    outputs = [layers.Dense(3, activation="softmax", name="kind")(hidden)]
    outputs.append(layers.Dense(1, name="size")(hidden))
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 6)).astype("float32")
    aware = quantize_aware(model, x, engine=engine)
    losses = {"kind": "sparse_categorical_crossentropy", "size": "mse"}
    aware.compile("adam", losses, run_eagerly=True)
    targets = {"kind": rng.integers(0, 3, 64), "size": rng.normal(size=(64, 1))}
    history = aware.fit(x, targets, verbose=0).history
    assert {"kind_loss", "size_loss"} <= set(history)


def test_a_normalization_that_two_calls_share_is_refused_at_once():
    shared = layers.BatchNormalization(name="n")
    inputs = keras.Input((6, 6, 3))
    model = keras.Model(inputs, shared(layers.Conv2D(3, 1)(shared(inputs))))
    with pytest.raises(InputError, match=r"called once, .* Received: 'n', called 2 times"):
        quantize_aware(model, np.ones((4, 6, 6, 3), "float32"))


def test_gates_need_finite_weights():
    model = keras.Sequential([keras.Input((6, 6, 4)), layers.Conv2D(4, 1, name="c"), SEBlock(2)])
    x = np.random.default_rng(0).normal(size=(100, 6, 6, 4)).astype("float32")
    aware = quantize_aware(model, x, engine="tfmot")
    values = aware.get_weights()
    aware.set_weights([np.full_like(v, np.nan) if v.ndim == 4 else v for v in values])
    with pytest.raises(InputError, match=r"read_gates needs finite weights\. Received: NaN or inf"):
        keras_se.read_gates(aware, x)
