"""The verifier must say yes to sound files, and no to every sabotage, for the right reason."""

import copy
import dataclasses
import json

import keras
import numpy as np
import pytest
from sabotage import hold_gates

import keras_se
from keras_se import GraphSEBlock, SEBlock, read_gates, to_tflite, verify
from keras_se.errors import InputError
from keras_se.litert.graph.flatbuffer import packed, unpacked
from keras_se.litert.graph.metadata import with_metadata
from keras_se.litert.graph.sites import gate_nodes
from keras_se.litert.runtime import predict
from keras_se.verification.reports.text import described


def judged(model, source, x, **arguments):
    """The verdict on a file, or on the int8 file of a model, calibrated on other samples."""
    samples, calibration = x[:100], x[100:]
    tflite = to_tflite(source, "int8", calibration) if isinstance(source, keras.Model) else source
    return verify(model, tflite, samples, **arguments)


def copy_of(model):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def edited(model, number, change):
    """A copy of a model with the excitation of one block changed."""
    twin = copy_of(model)
    block = blocks(twin)[number]
    block.set_excitation(*change(*block.excitation()), layout="dense")
    return twin


def blocks(model):
    return [layer for layer in model.layers if isinstance(layer, SEBlock)]


def wide(stddev=2.0, seed=1):
    return keras.initializers.RandomNormal(stddev=stddev, seed=seed)


@pytest.mark.parametrize(
    ("gate", "file_format"),
    [
        ("sigmoid", "float32"),
        ("sigmoid", "int8"),
        ("sigmoid", "dynamic"),
        ("hard_sigmoid", "float16"),
        ("hard_sigmoid", "int8"),
        ("one_plus_tanh", "weight_only"),
        ("one_plus_tanh", "int8"),
        ("one_plus_tanh", "int16x8"),
    ],
)
def test_yes_to_a_sound_file(sound, gate, file_format):
    report = sound(gate, file_format)
    assert report.passed
    assert report.verdict == "the gates survive"
    assert report.work_kept > (0.999999 if file_format == "float32" else 0.95)
    assert report.unjudged == ()
    assert list(report.sites) == ["se_1", "se_2"]
    for site in report.sites.values():
        assert (site.verdict, site.gate) == ("survives", gate)
        assert site.r2 > (0.999999 if file_format == "float32" else 0.95)
        assert site.spread >= 4  # in a file whose gates hardly move a verdict means little
        assert site.slope == pytest.approx(1.0, abs=0.02)


def test_report_as_json(sound):
    content = json.loads(sound("sigmoid", "int8").to_json())
    assert content["passed"] is True
    assert content["samples"] == 100
    assert len(content["sha256"]) == 64
    assert content["runtime"].startswith("LiteRT 2.")
    assert content["sites"]["se_2"]["step"] == 1 / 256
    assert content["sites"]["se_2"]["verdict"] == "survives"


@pytest.mark.parametrize("gate", ["hard_sigmoid", "one_plus_tanh"])
def test_no_to_gates_frozen_at_their_mean(networks, images, gate):
    model = networks[gate]
    gates = read_gates(model, images[100:])
    means = {s.layer: gates[s.name].mean(axis=0) for s in keras_se.find_sites(model)}
    report = judged(model, hold_gates(model, means), images)
    assert not report.passed
    assert report.verdict == "gates are lost"
    for site in report.sites.values():
        assert site.verdict == "lost"
        assert site.reason.startswith("R² of")
        assert site.r2 < 0.1  # frozen at the mean of other images: about 0


def test_no_to_permuted_channels(networks, images):
    sabotaged = copy_of(networks["sigmoid"])
    for block in blocks(sabotaged):
        block.w2.assign(np.roll(block.w2.numpy(), 1, axis=1))
        block.b2.assign(np.roll(block.b2.numpy(), 1))
    report = judged(networks["sigmoid"], sabotaged, images)
    assert not report.passed
    assert {site.verdict for site in report.sites.values()} == {"lost"}
    assert report.work_kept < 0.5
    assert all(site.reason.startswith("R² of") for site in report.sites.values())


def test_no_to_one_frozen_channel(networks, images):
    """Pooled over the channels R² stays high; the channel's own R² gives it away."""
    model = networks["one_plus_tanh"]
    gates = read_gates(model, images)["se_2"]
    channel = int(np.argsort(gates.std(axis=0))[2])

    def frozen(w1, b1, w2, b2):
        w2, b2 = w2.copy(), b2.copy()
        w2[:, channel], b2[channel] = 0.0, np.arctanh(gates.mean(axis=0)[channel] - 1.0)
        return w1, b1, w2, b2

    report = judged(model, edited(model, 1, frozen), images)
    site = report.sites["se_2"]
    assert (site.verdict, site.blame, site.in_float) == ("weakened", "SE", "survives")
    assert site.worst_channel[0] == channel
    assert site.r2 > 0.9
    assert site.reason.startswith(f"channel {channel}: R² of")
    assert report.verdict == "SE's work is kept"
    assert report.conclusion.startswith("Ship: 9")
    assert report.conclusion.endswith("gates are weakened at se_2.")
    strict = judged(model, edited(model, 1, frozen), images, strict=True)
    assert strict.verdict == "gates are weakened"
    assert strict.conclusion == (
        "Do not ship: gates are weakened at se_2, and every site must survive."
    )
    assert "What to do: keep se_2 in float: to_tflite(..., keep_float=['se_2'])." in str(strict)
    assert "keras-se export --keep-float se_2." in described(strict, "command line")
    from_file = judged(to_tflite(model, "float32"), edited(model, 1, frozen), images, strict=True)
    assert "keras_se.repair(float_file, file, x) does" in str(from_file)


def single(gate, scale=1.0):
    block = SEBlock(width=2, gate=gate, kernel_initializer=wide(scale), name="se")
    return keras.Sequential([keras.Input((8, 8, 6)), block])


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return (rng.random((200, 8, 8, 6)) * rng.random((200, 1, 1, 6))).astype("float32")


def test_no_to_a_weaker_slope(features):
    """0.8 of the deviation: R² is 0.96, the slope says 0.8."""
    model = single("hard_sigmoid")
    gates = model.get_layer("se").gates(features)
    assert gates.min() > 0.0  # linear all the way: scaling about the mean is exact
    assert gates.max() < 1.0
    level = 6.0 * gates.mean(axis=0) - 3.0
    sabotaged = edited(model, 0, lambda w1, b1, w2, b2: (w1, b1, 0.8 * w2, 0.8 * b2 + 0.2 * level))
    site = verify(model, to_tflite(sabotaged, "float32"), features).sites["se_1"]
    assert site.r2 == pytest.approx(0.96, abs=0.005)
    assert site.reason.startswith("slope of 0.800 is not within 1 ± 0.1")


def with_channel(channel, bias):
    """A change of an excitation that makes one gate constant."""

    def change(w1, b1, w2, b2):
        w2, b2 = w2.copy(), b2.copy()
        w2[:, channel], b2[channel] = 0.0, bias
        return w1, b1, w2, b2

    return change


def test_no_to_a_newly_dead_channel(features):
    """A channel that is weak and hardly moves can die without any R² showing it."""
    model = edited(single("sigmoid", scale=2.0), 0, with_channel(4, -4.0))  # a gate of 0.018
    assert judged(model, model, features).passed
    site = judged(model, edited(model, 0, with_channel(4, -30.0)), features).sites["se_1"]
    assert site.reason == "channel 4 is dead in the file only"
    assert site.r2 > 0.9


def test_no_to_a_steady_channel_that_lost_its_level():
    """One of 64 channels: R² stays above 0.9, and nothing is dead."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 8, 8, 64)) + rng.normal(size=(200, 1, 1, 64))).astype("float32")
    block = SEBlock(2, kernel_initializer=wide(0.6))
    plain = keras.Sequential([keras.Input((8, 8, 64)), block])
    model = edited(plain, 0, with_channel(0, 3.0))  # a gate of .95
    assert judged(model, model, x).passed
    site = judged(model, edited(plain, 0, with_channel(0, -5.5)), x).sites["se_1"]  # .004
    assert site.r2 > 0.9
    assert site.reason.startswith("channel 0: its level is off by")


def test_yes_to_every_setting_of_a_block():
    settings = [
        *({"squeeze": squeeze} for squeeze in ("max", "avg_max", "std")),
        *({"gate": gate} for gate in ("tanh", "relu", "softmax")),
        {"shift": True},
        {"activation": "swish"},
    ]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 8, 8, 8)) * rng.uniform(0.3, 2, (200, 1, 1, 1))
    x = (x + 0.7 * rng.normal(size=(200, 1, 1, 8))).astype("float32")
    inputs = keras.Input((8, 8, 8))
    outputs = [
        SEBlock(2, kernel_initializer=wide(1.0, n), bias_initializer=wide(0.3, n), **chosen)(inputs)
        for n, chosen in enumerate(settings)
    ]
    report = judged(keras.Model(inputs, outputs), keras.Model(inputs, outputs), x)
    assert len(report.sites) == len(settings)
    for site in report.sites.values():
        found = (site.verdict, site.reason)
        assert found == ("survives", "follows the reference's gates sample by sample"), site


def test_gates_that_do_not_adapt_are_judged_by_their_level(features):
    """Nothing to survive is not a pass; a lost level is a loss."""
    gates = np.array([0.1, 0.9, 0.19, 0.21, 0.5, 0.05])
    model = hold_gates(single("sigmoid"), {"se": gates})
    report = judged(model, model, features)
    site = report.sites["se_1"]
    assert site.verdict == "not adaptive"
    assert site.reason.endswith("the level is kept")
    assert report.verdict == "nothing to survive"
    assert not report.passed
    assert site.suppressed == (0, 2, 5)
    assert site.suppressed_shipped == (0, 5)  # 0.19 is within the dead band
    for shift, reason in (
        (np.full(6, 0.006), "level: rms error of"),
        (np.array([0, 0, 0, 0.011, 0, 0]), "channel 3: its level is off by"),
    ):
        report = judged(model, hold_gates(model, {"se": gates + shift}), features)
        assert report.verdict == "gates are lost"
        assert report.sites["se_1"].reason.startswith(reason)


def test_no_to_nan_gates_of_the_file(networks, images, monkeypatch):
    monkeypatch.setattr("keras_se.litert.convert.check_weights", lambda *_: None)  # it refuses
    sabotaged = copy_of(networks["sigmoid"])
    blocks(sabotaged)[1].b2.assign(np.full(16, np.nan))
    report = judged(networks["sigmoid"], to_tflite(sabotaged, "float32"), images)
    assert report.sites["se_1"].verdict == "survives"
    assert report.sites["se_2"].reason == "shipped gates are NaN or infinite"
    assert json.loads(report.to_json())["sites"]["se_2"]["r2"] is None


def hidden_of(model, number, images):
    """The bottleneck's activations of a block."""
    block = blocks(model)[number]
    features = keras.Model(model.input, block.input)(images).numpy()
    w1, b1, *_ = block.excitation()
    return np.maximum(features.mean(axis=(1, 2)) @ w1 + b1, 0.0)


def test_no_to_half_of_the_samples_frozen(networks, images):
    """The bottleneck is raised until half of the samples do not reach it."""
    model = networks["one_plus_tanh"]
    median = np.median(hidden_of(model, 1, images), axis=0)
    sabotaged = edited(model, 1, lambda w1, b1, w2, b2: (w1, b1 - median, w2, b2 + median @ w2))
    site = judged(model, sabotaged, images).sites["se_2"]
    assert (site.failed, site.blame) == (True, "SE")
    assert site.reason.startswith(("R² of", "slope of"))


def test_no_to_the_stronger_half_of_the_bottleneck_zeroed(networks, images):
    model = networks["hard_sigmoid"]
    spread = hidden_of(model, 1, images).std(axis=0)

    def weakened(w1, b1, w2, b2):
        strength = spread * np.abs(w2).sum(axis=1)
        return w1, b1, w2 * (strength < np.median(strength))[:, None], b2

    report = judged(model, edited(model, 1, weakened), images)
    assert report.sites["se_1"].verdict == "survives"
    assert (report.sites["se_2"].failed, report.sites["se_2"].blame) == (True, "SE")
    assert report.sites["se_2"].reason.startswith("R² of")


@keras.saving.register_keras_serializable(package="test_verification")
def clipped(v):
    return keras.ops.minimum(keras.ops.sigmoid(v), 0.5)


@keras.saving.register_keras_serializable(package="test_verification")
def steeper(v):
    return keras.ops.clip(0.2 * v + 0.5, 0.0, 1.0)


@pytest.mark.parametrize(
    ("gate", "wrong", "reason"),
    [("sigmoid", clipped, "R² of"), ("hard_sigmoid", steeper, ("slope of", "R² of"))],
    ids=["clipped at a half", "slope of a fifth"],
)
def test_no_to_another_gate(networks, images, gate, wrong, reason):
    def replaced(layer):
        if isinstance(layer, SEBlock):
            return SEBlock.from_config({**layer.get_config(), "gate": wrong})
        return type(layer).from_config(layer.get_config())

    sabotaged = keras.models.clone_model(networks[gate], clone_function=replaced)
    sabotaged.set_weights(networks[gate].get_weights())
    site = judged(networks[gate], sabotaged, images).sites["se_1"]
    assert (site.failed, site.blame) == (True, "SE")
    assert site.reason.startswith(reason)


def rewired(model, change):
    """A copy of a model in which `change(number, block, x)` computes what the blocks did."""
    numbers = iter(range(9))

    def call(layer, *args, **kwargs):
        if isinstance(layer, SEBlock):
            return change(next(numbers), layer, args[0])
        return layer(*args, **kwargs)

    twin = keras.models.clone_model(model, call_function=call)
    for old in model.layers:
        if old.weights:
            twin.get_layer(old.name).set_weights(old.get_weights())
    return twin


def without_product(number, block, x):
    return block(x) if number == 0 else x + 0.0 * keras.ops.max(block(x))


def one_corner(number, block, x):
    if number == 0:
        return block(x)
    size = x.shape[1]
    _, gates = block(x[:, : size // 2, : size // 2], return_gates=True)
    return x * keras.ops.reshape(gates, (-1, 1, 1, x.shape[-1]))


@pytest.mark.parametrize("change", [without_product, one_corner])
def test_no_to_a_missing_product_and_to_a_squeeze_over_one_corner(networks, images, change):
    report = judged(networks["sigmoid"], rewired(networks["sigmoid"], change), images)
    assert report.verdict == "gates are lost"
    assert report.sites["se_1"].verdict == "survives"
    site = report.sites["se_2"]
    assert (site.reason, site.blame, site.r2) == ("the file has no such site", "SE", None)
    assert report.work_kept is None


def test_no_to_the_gates_of_two_sites_swapped(images):
    """Two sites of one size, one after the other."""
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((8, 8, 3))
    for _ in range(2):
        x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
        x = SEBlock(2, gate="one_plus_tanh", kernel_initializer=wide(1.5, seed=None))(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    sabotaged = copy_of(model)
    first, second = (block.excitation() for block in blocks(model))
    for block, other in zip(blocks(sabotaged), (second, first), strict=True):
        block.set_excitation(*other, layout="dense")
    assert judged(model, model, images).passed
    report = judged(model, sabotaged, images)
    assert {site.verdict for site in report.sites.values()} == {"lost"}


def scaled_up(model, factor):
    """The same function, two channels of the first map that much larger."""
    twin = copy_of(model)
    first, second = (x for x in twin.layers if isinstance(x, keras.layers.Conv2D))
    block = blocks(twin)[0]
    scale = np.ones(8)
    scale[[1, 5]] = factor
    first.set_weights([w * scale for w in first.get_weights()])
    kernel, bias = second.get_weights()
    second.set_weights([kernel / scale[:, None], bias])
    w1, b1, w2, b2 = block.excitation()
    block.set_excitation(w1 / scale[:, None], b1, w2, b2, layout="dense")
    return twin


def test_no_to_outlier_channels_and_the_trunk_is_blamed(networks, images):
    """Two channels are 200 times larger: one scale for the map leaves nothing of the others."""
    model = scaled_up(networks["one_plus_tanh"], 200.0)
    expected = networks["one_plus_tanh"].predict(images[:8], verbose=0)
    np.testing.assert_allclose(model.predict(images[:8], verbose=0), expected, rtol=1e-3, atol=1e-3)
    site = judged(model, model, images).sites["se_1"]
    assert (site.failed, site.blame) == (True, "trunk")
    assert site.trunk_r2 < 0.9
    assert judged(model, to_tflite(model, "int16x8", images[100:]), images).passed


def test_what_se_itself_lost_is_rescued_in_float(networks, images):
    """One unit of the bottleneck is 200 times larger; the function is the same."""

    def larger(w1, b1, w2, b2):
        scale = np.array([200.0, *[1.0] * (w1.shape[1] - 1)])
        return w1 * scale, b1 * scale, w2 / scale[:, None], b2

    model = edited(networks["one_plus_tanh"], 1, larger)
    plain = to_tflite(model, "int8", images[100:])
    report = judged(model, plain, images)
    assert (report.sites["se_2"].failed, report.sites["se_2"].blame) == (True, "SE")
    kept = to_tflite(model, "int8", images[100:], keep_float=["se_2"])
    report = judged(model, kept, images)
    assert report.passed
    assert report.sites["se_2"].r2 > 0.99
    assert report.sites["se_2"].step == report.sites["se_1"].step  # the trunk is still of 8 bits
    assert len(plain) < len(kept) < 1.3 * len(plain)


def test_no_to_calibration_ten_times_too_dark(networks, images):
    dark = to_tflite(networks["sigmoid"], "int8", 0.1 * images[100:])
    report = judged(networks["sigmoid"], dark, images)
    assert not report.passed
    assert {site.blame for site in report.sites.values()} <= {"trunk", ""}


@pytest.mark.parametrize("file_format", ["float32", "int8"])
def test_no_to_a_product_that_nothing_reads(networks, images, converted, file_format):
    """All gates of the file are right, but the layers after its last site read the map."""
    source = converted("sigmoid", file_format).read_bytes()
    node, parsed = gate_nodes(source)[-1], unpacked(source)
    graph = parsed.subgraphs[0]
    graph.outputs = [node.feature_tensor if i == node.product_tensor else i for i in graph.outputs]
    for signature in parsed.signatureDefs:
        for output in signature.outputs:
            if output.tensorIndex == node.product_tensor:
                output.tensorIndex = node.feature_tensor
    for operator in graph.operators:
        operator.inputs = [
            node.feature_tensor if i == node.product_tensor else i for i in operator.inputs
        ]
    for reference in (networks["sigmoid"], converted("sigmoid", "float32")):
        site = judged(reference, packed(parsed), images).sites["se_2"]
        assert (site.verdict, site.reason) == ("lost", "the file has no such site")


def test_advice_on_a_float32_file_names_no_calibration(networks, images):
    for number in (0, 1):
        wrong = edited(networks["sigmoid"], number, lambda w1, b1, w2, b2: (w1, b1, 0 * w2, b2))
        report = str(judged(networks["sigmoid"], to_tflite(wrong, "float32"), images))
        assert "check that the file is of this network" in report.replace("\n", " ")
        assert "calibrate on" not in report
        assert "float16" not in report


def test_the_level_of_steady_gates_is_blamed_on_who_lost_it(images):
    """Where gates hardly vary R² of the replay is noise: the replayed level says who it was."""
    layers = [keras.layers.Conv2D(8, 3, padding="same", activation="relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, SEBlock(2, name="se")])
    steady = (0.5 + 0.001 * images).astype("float32")
    sabotaged = edited(model, 0, lambda w1, b1, w2, b2: (w1, b1, w2, b2 + 0.3))
    site = judged(model, sabotaged, steady).sites["se_1"]
    assert (site.failed, site.blame) == (True, "SE")


def test_nan_in_the_trunk_is_the_trunks(networks, images, converted, monkeypatch):
    monkeypatch.setattr("keras_se.litert.convert.check_weights", lambda *_: None)  # it refuses
    sabotaged = copy_of(networks["sigmoid"])
    conv = next(x for x in sabotaged.layers if isinstance(x, keras.layers.Conv2D))
    conv.bias.assign(np.full(8, np.nan))
    tflite = to_tflite(sabotaged, "float32")
    for reference in (networks["sigmoid"], converted("sigmoid", "float32")):
        report = judged(reference, tflite, images)
        assert {(s.verdict, s.blame, s.trunk_r2) for s in report.sites.values()} == {
            ("lost", "trunk", None)
        }
        json.loads(report.to_json())


def test_adaptivity_lost_in_training(networks, images):
    """A compressed model whose gates hardly move is faithful to itself, and fails."""
    original = networks["one_plus_tanh"]
    compressed = edited(original, 1, lambda w1, b1, w2, b2: (w1, b1, 0.3 * w2, b2))
    tflite = to_tflite(compressed, "int8", images[100:])
    report = judged(original, tflite, images, trained=compressed)
    assert report.sites["se_1"].verdict == "survives"
    site = report.sites["se_2"]
    assert (site.verdict, site.blame) == ("lost", "training")
    assert site.reason.startswith("adaptivity lost in training: 0.")
    assert site.r2 > 0.9
    assert site.spread_kept < 0.5
    other = keras.Sequential([keras.Input((8, 8, 3)), SEBlock(1)])
    with pytest.raises(InputError, match="trained must have the sites of the reference"):
        judged(other, tflite, images, trained=compressed)


def test_se_that_is_written_out_and_nested():
    """The start of MobileNetV3, its excitations widened until the gates move."""
    whole = keras.applications.MobileNetV3Small((32, 32, 3), weights=None, include_top=False)
    products = [x for x in whole.layers if x.name.endswith("squeeze_excite_mul")]
    pooled = keras.layers.GlobalAveragePooling2D()(products[2].output)
    inner = keras.Model(whole.input, pooled, name="inner")
    rng = np.random.default_rng(0)
    for layer in inner.layers:
        if "squeeze_excite_conv" in layer.name:
            kernel, bias = layer.get_weights()
            scale = 1.5 if layer.name.endswith("conv_1") else 8.0
            layer.set_weights([scale * kernel, rng.normal(0, 0.5, bias.shape)])
        elif isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([gamma, rng.normal(0, 0.3, beta.shape), mean, 0.01 + 0 * variance])
    model = keras.Sequential([keras.Input((32, 32, 3)), inner, keras.layers.Dense(3)])
    x = rng.uniform(0, 255, size=(40, 1, 1, 3)) + rng.normal(0, 40, size=(40, 32, 32, 3))
    report = judged(model, to_tflite(model, "float32"), x.astype("float32"))
    assert report.passed
    assert list(report.sites) == ["inner/se_1", "inner/se_2", "inner/se_3"]
    assert all(site.trunk_r2 is None or site.trunk_r2 > 0.99 for site in report.sites.values())


def test_several_inputs(images):
    image, gain = keras.Input((8, 8, 3), name="image"), keras.Input((2,), name="gain")
    block = SEBlock(2, kernel_initializer=wide(), bias_initializer="ones")
    x = block(keras.layers.Conv2D(8, 3, activation="relu")(image))
    x = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(x), gain])
    model = keras.Model({"image": image, "gain": gain}, keras.layers.Dense(2)(x))
    given = {"image": images[:100], "gain": np.ones((100, 2), "float32")}
    others = {"image": images[100:], "gain": np.ones((200, 2), "float32")}
    tflite = to_tflite(model, "int8", others)
    report = verify(model, tflite, given)
    assert report.passed
    assert report.stress == {}
    assert report.constant_error > 0.05
    from_file = verify(to_tflite(model, "float32"), tflite, given)
    assert from_file.sites["se_1"].r2 == pytest.approx(report.sites["se_1"].r2, abs=1e-5)
    assert from_file.work_kept == pytest.approx(report.work_kept, abs=1e-5)


def test_a_nested_model_called_on_its_own_output(images):
    inner_inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(inner_inputs)
    inner = keras.Model(inner_inputs, SEBlock(1, kernel_initializer=wide())(x), name="inner")
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.GlobalAveragePooling2D()(inner(inner(inputs)))
    model = keras.Model(inputs, outputs)
    report = judged(model, to_tflite(model, "float32"), images)
    assert report.passed
    assert list(report.sites) == ["inner/se_1", "inner/se_2"]
    assert report.work_kept == pytest.approx(1.0, abs=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_files_that_keras_exported_are_judged_too(networks, images, tmp_path):
    """They have an input name of their own, and here a dynamic batch fixed to 1."""
    path = tmp_path / "exported.tflite"
    signature = [keras.InputSpec(shape=(1, 8, 8, 3), dtype="float32")]
    networks["sigmoid"].export(str(path), format="litert", verbose=False, input_signature=signature)
    assert judged(networks["sigmoid"], path, images).passed


def test_bytes_as_inputs_do_not_make_a_file_coarse():
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    x = SEBlock(1, kernel_initializer=wide())(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    rng = np.random.default_rng(0)
    pixels = (rng.random((40, 8, 8, 3)) * rng.uniform(50, 255, (40, 1, 1, 3))).astype("uint8")
    report = judged(model, to_tflite(model, "float32"), pixels)
    assert report.passed
    assert report.sites["se_1"].step == 1e-5


def test_samples_of_the_calibration_are_refused(networks, images, converted, sound, tmp_path):
    model, path = networks["sigmoid"], converted("sigmoid", "int8")
    held_out = sound("sigmoid", "int8").held_out
    assert held_out == "none of the 200 calibration samples of the recipe among them"
    held_out = sound("sigmoid", "float32").held_out
    assert held_out == "by its recipe the file was not calibrated"
    with pytest.raises(InputError, match=r"not calibrated on\. Received: 7 of 47 samples that are"):
        verify(model, path, images[60:107])
    with pytest.raises(InputError, match=r"Received: 7 of 47 samples that are in its recipe"):
        verify(model, path.read_bytes(), images[60:107])  # the bytes carry it
    exported = with_metadata(path.read_bytes(), {})  # as another converter leaves it
    held_out = verify(model, exported, images[:40]).held_out
    assert held_out == "not checked against calibration data: the file has no recipe"
    recipe = path.with_name("sigmoid_int8.recipe.json")
    with pytest.raises(InputError, match="Received: 40 of 40"):
        verify(model, path.read_bytes(), images[100:140], recipe=recipe)
    with pytest.raises(InputError, match="A recipe must belong to the judged file"):
        verify(model, converted("sigmoid", "float32"), images[:40], recipe=recipe)
    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(InputError, match=r"A recipe must be the JSON file .* JSONDecodeError"):
        verify(model, path, images[:40], recipe=broken)


def test_stress_shows_ranges_that_clip(networks, images):
    """Calibrated on the darker half: the gates hold there, and not on brighter images."""
    model = networks["one_plus_tanh"]
    order = np.argsort(images.mean(axis=(1, 2, 3)))
    tflite = to_tflite(model, "int8", images[order[1:200:2]])
    x = images[order[:128:2]]
    report = judged(model, tflite, x, stress={"bright": images[order[-64:]], "same": x})
    assert report.passed
    assert list(report.stress) == ["bright", "same"]
    assert report.stress["bright"].verdict == "gates are lost"
    assert report.stress["same"].sites["se_1"] == ("survives", report.sites["se_1"].r2)
    assert report.stress["same"].work_kept == report.work_kept
    assert "On bright: gates are lost, " in str(report)


def test_accuracy_of_reference_file_and_constant_gates(networks, images, converted, sound):
    model = networks["one_plus_tanh"]
    path = converted("one_plus_tanh", "int8")
    labels = model.predict(images[:100], verbose=0).argmax(axis=-1)
    labels[:10] = (labels[:10] + 1) % 3
    right = float((predict(path, images[:100]).argmax(axis=-1) == labels).mean())
    report = judged(model, path, images, y=labels)
    outcome = report.outcome
    assert (outcome.metric, outcome.reference, outcome.file) == ("accuracy", 0.9, right)
    assert outcome.difference == pytest.approx(right - 0.9)
    assert outcome.interval[0] < outcome.difference < outcome.interval[1]
    assert outcome.constant < 0.86
    assert f"Accuracy: reference 0.9000, file {right:.4f}" in str(report)
    assert outcome.commonest == np.bincount(labels).max() / 100
    assert "commonest class" not in str(report)
    wrong = judged(model, path, images, y=np.arange(100) % 10)
    assert "not shown to be better than its commonest class" in " ".join(str(wrong).split())
    assert "(0.1000): is it trained" in " ".join(str(wrong).split())
    for shape in ((100, 1), "one-hot"):
        given = np.eye(labels.max() + 1)[labels] if shape == "one-hot" else labels.reshape(shape)
        assert judged(model, path, images, y=given).outcome == outcome
    unlabelled = sound("one_plus_tanh", "int8").outcome
    assert (unlabelled.metric, unlabelled.reference) == ("agreement", 1.0)
    assert unlabelled.file > 0.85
    assert unlabelled.difference is None
    assert unlabelled.error < 0.05


def test_labels_of_one_logit(networks, images):
    model = networks["one_plus_tanh"]
    logit = keras.layers.Dense(1)(model.output)
    binary = keras.Model(model.input, logit)
    logits = binary.predict(images[:100], verbose=0)[:, 0]
    binary.layers[-1].bias.assign(-np.median(logits)[None])
    labels = (logits > np.median(logits)).astype(int)
    tflite = to_tflite(binary, "float32")
    outcome = judged(binary, tflite, images, y=labels).outcome
    assert outcome.reference > 0.98
    assert outcome.constant < outcome.reference
    with pytest.raises(InputError, match=r"y must hold classes .* the label 5 for an output"):
        judged(binary, tflite, images, y=np.full(100, 5))


def test_se_that_does_nothing_says_so(features):
    """Gates that vary, and outputs that do not follow them."""
    block = SEBlock(width=2, kernel_initializer=wide(), name="se")
    layers = [block, keras.layers.Rescaling(0.0), keras.layers.GlobalAveragePooling2D()]
    model = keras.Sequential([keras.Input((8, 8, 6)), *layers])
    report = judged(model, to_tflite(model, "float32"), features)
    assert report.verdict == "the gates survive"
    assert report.work_kept is None
    assert "SE does nothing for these samples: " in str(report)


def test_a_site_that_the_reference_does_not_have_is_no_pass(networks, images):
    """A file of a network with one site more: that site is named, and nothing passes."""
    model = networks["sigmoid"]
    first = keras.Model(model.input, blocks(model)[0].output)
    tflite = to_tflite(keras.Model(model.input, blocks(model)[1].output), "float32")
    report = judged(first, tflite, images)
    assert report.verdict == "judged in part"
    assert not report.passed
    (unjudged,) = report.unjudged
    assert unjudged.startswith("se_2 (tensor '")
    assert report.conclusion == f"Do not ship: the reference has no site for {unjudged}."


def test_a_file_of_another_network_is_refused(networks, images):
    other = keras.Sequential([keras.Input((8, 8, 3)), SEBlock(1)])
    with pytest.raises(
        InputError, match=r"sites of the reference\. Received: 2 sites in the refer"
    ):
        judged(networks["sigmoid"], to_tflite(other, "float32"), images)


@pytest.mark.parametrize("file_format", ["float32", "float16", "dynamic", "int8", "int16x8"])
def test_file_against_file(networks, images, converted, sound, file_format):
    """The float file gives the verdict that the model gives."""
    gate = "hard_sigmoid"
    float32, path = converted(gate, "float32"), converted(gate, file_format)
    report, expected = verify(float32, path, images[:100]), sound(gate, file_format)
    assert (report.verdict, report.unjudged) == (expected.verdict, ())
    assert report.work_kept == pytest.approx(expected.work_kept, abs=1e-4)
    assert report.outcome.file == expected.outcome.file
    for name, site in report.sites.items():
        assert site.verdict == expected.sites[name].verdict
        assert site.r2 == pytest.approx(expected.sites[name].r2, abs=1e-4)
        assert site.worth == pytest.approx(expected.sites[name].worth, abs=1e-3)


def test_sabotage_file_against_file(networks, images, converted):
    """Frozen, permuted, dead and halved gates, and what they are blamed on."""
    model, float32 = networks["one_plus_tanh"], converted("one_plus_tanh", "float32")
    gates = read_gates(model, images)["se_2"]
    channel = int(np.argsort(gates.std(axis=0))[-1])
    level = np.arctanh(np.clip(gates.mean(axis=0) - 1.0, -0.999, 0.999))
    median = np.median(hidden_of(model, 1, images), axis=0)
    sabotages = {
        "frozen": lambda w1, b1, w2, b2: (w1, b1, 0.0 * w2, level),
        "permuted": lambda w1, b1, w2, b2: (w1, b1, np.roll(w2, 1, 1), np.roll(b2, 1)),
        "a channel": with_channel(channel, level[channel]),
        "half of the samples": lambda w1, b1, w2, b2: (w1, b1 - median, w2, b2 + median @ w2),
    }
    for name, change in sabotages.items():
        tflite = to_tflite(edited(model, 1, change), "int8", images[100:])
        report = verify(float32, tflite, images[:100], strict=True)
        site = report.sites["se_2"]
        assert not report.passed, name
        assert (report.sites["se_1"].verdict, site.failed) == ("survives", True), name
        assert (site.blame, site.in_float) == ("SE", "survives"), name
    dark = to_tflite(model, "int8", 0.1 * images[100:], check_range=False)
    report = verify(float32, dark, images[:100])
    assert report.verdict == "gates are lost"
    assert {site.blame for site in report.sites.values()} <= {"trunk", ""}


def test_a_reference_file_must_be_in_float(converted, images):
    with pytest.raises(InputError, match=r"float TFLite file\. Received: a file with integer"):
        verify(converted("sigmoid", "int8"), converted("sigmoid", "int8"), images[:40])


def test_graph_blocks_are_refused_by_name(converted, images):
    nodes, segments = keras.Input((4,)), keras.Input((), dtype="int32")
    block = GraphSEBlock(2, name="pooled")
    model = keras.Model([nodes, segments], block((nodes, segments)))
    with pytest.raises(InputError, match=r"of a graph in a union.*GraphSEBlocks \['se_1'\]"):
        verify(model, converted("sigmoid", "float32"), images[:40])


def test_a_report_fits_80_columns_and_starts_with_its_conclusion(sound):
    lines = str(sound("sigmoid", "int8")).splitlines()
    assert lines[0].startswith("Ship: the gates survive at every site; ")
    assert max(map(len, lines)) <= 80


def test_gates_recorded_on_a_device(networks, images, converted, sound, tmp_path):
    model, tflite = networks["sigmoid"], converted("sigmoid", "int8").read_bytes()
    recorded = read_gates(tflite, images[:100])
    np.savez(tmp_path / "device.npz", **recorded)
    report = judged(model, tflite, images, gates=tmp_path / "device.npz")
    assert report.passed
    assert report.runtime.startswith("gates recorded on a device, from ")
    assert report.held_out == "none of the 200 calibration samples of the recipe among them"
    assert report.sites["se_1"].r2 == sound("sigmoid", "int8").sites["se_1"].r2
    frozen = {name: np.tile(g.mean(axis=0), (100, 1)) for name, g in recorded.items()}
    report = judged(model, tflite, images, gates=frozen)
    assert {(s.verdict, s.blame) for s in report.sites.values()} == {("lost", "unknown")}
    assert report.runtime == "gates recorded on a device, given as arrays"
    with pytest.raises(InputError, match="must be of the 100 samples in x"):
        judged(model, tflite, images, gates={k: v[:5] for k, v in recorded.items()})


def test_recorded_gates_of_cross_sites(images):
    inputs = keras.Input(images.shape[1:])
    low = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    high = keras.layers.Conv2D(8, 3, strides=2, activation="relu")(low)
    x = keras.layers.GlobalAveragePooling2D(keepdims=True)(high)
    x = keras.layers.Conv2D(8, 1, activation="sigmoid", kernel_initializer=wide(4.0))(x)
    model = keras.Model(inputs, keras.layers.Conv2D(3, 1)(low * x))
    tflite = to_tflite(model, "int8", images[100:])
    twin = predict(keras_se.litert.probe(tflite), images[:100])
    for recorded in (twin, read_gates(tflite, images[:100])):
        report = judged(model, tflite, images, gates=recorded)
        assert [*report.sites] == ["cross_1"]
        assert report.passed


def test_outputs_that_are_not_finite(networks, images):
    model = networks["sigmoid"]
    logs = keras.Model(model.input, keras.ops.log(keras.layers.Dense(2)(model.output)))
    report = judged(logs, to_tflite(logs, "float32"), images, strict=np.True_)
    assert (report.work_kept, report.constant_error) == (None, None)
    assert "SE's work is not known: outputs of the reference are NaN or infinite." in str(report)
    assert "SE does nothing" not in str(report)
    assert json.loads(report.to_json())["strict"] is True


def test_half_precision_and_open_sizes(half_network, images, converted, sound, twins):
    """The verdict is that on the network in float32 with fixed inputs."""
    arguments = (half_network, converted("sigmoid", "int8"), images[:100])
    report = verify(*arguments, input_shape=(8, 8, 3))
    expected = sound("sigmoid", "int8")
    assert report == dataclasses.replace(expected, reference=report.reference)
    (warning,) = twins
    assert str(warning.message).startswith("verify takes the float32 twin of model ")
    assert warning.filename == __file__
    with pytest.raises(InputError, match=r"^verify needs .* known size: give input_shape, that "):
        verify(*arguments)
    with pytest.raises(InputError, match=r"input_shape must fit .* Received: input_shape=\(8, 8\)"):
        verify(*arguments, input_shape=(8, 8))


def test_a_refused_conversion_names_verify():
    """Only parallel sites need one: else their order tells which is which."""
    inputs = keras.Input((4, 4, 4))
    both = [SEBlock(2, kernel_initializer=wide(seed=n))(inputs) for n in range(2)]
    x = keras.layers.Concatenate()(both)
    matrix = keras.ops.eye(4) + 0.0 * both[0]
    model = keras.Model(inputs, [x, keras.ops.cholesky(matrix)])
    with pytest.raises(InputError, match=r"^verify supports built-in .* which needs Cholesky"):
        verify(model, to_tflite(keras.Model(inputs, x), "float32"), np.ones((32, 4, 4, 4)))


def test_refusals(networks, images, converted):
    model, tflite = networks["sigmoid"], converted("sigmoid", "float32")
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    broken = copy_of(model)
    blocks(broken)[0].b2.assign(np.full(8, np.nan))
    with_nan = images[:40].copy()
    with_nan[0, 0, 0, 0] = np.nan
    cases = [
        ((model, tflite, images[:31]), r"at least 32 held-out samples in x\. Received: 31"),
        ((model, tflite, with_nan), r"x must be finite\. Received: 1 values"),
        ((model, tflite, np.array(["a"] * 40)), "x must be an array of numbers"),
        (
            (plain, tflite, images[:40]),
            "needs a reference with SE sites; add them to a model w",
        ),
        ((broken, tflite, images[:40]), "NaN or infinity in the reference's gates at se_1"),
        ((model, b"junk", images[:40]), "A TFLite file holds 'TFL3' at byte 4"),
    ]
    for tflite in (None, 3, memoryview(b"TFL3TFL3")):
        cases.append(((model, tflite, images[:40]), "given as bytes or as a path"))
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            verify(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": "0.2"}, "tau must be between 0 and 1"),
        ({"tau": None}, "tau must be between 0 and 1"),
        ({"tau": 1.5}, r"tau must be between 0 and 1\. Received: tau=1\.5"),
        ({"y": "abc"}, "y must hold one integer label"),
        ({"y": [[1], [1, 2]]}, "y must be an array of labels"),
        ({"stress": 0.5}, r"stress must be a dictionary of inputs by name.*Received: float"),
        ({"stress": [0.5]}, r"stress must be a dictionary of inputs by name.*Received: list"),
        ({"stress": {"dim": np.ones((3, 8, 8, 3))}}, "at least 32 held-out samples in stress"),
        ({"gates": 5}, r"an \.npz file or a dictionary of arrays\. Received: int"),
        ({"recipe": 5}, "A recipe must be the JSON file"),
    ],
)
def test_odd_arguments(networks, images, converted, arguments, message):
    with pytest.raises(InputError, match=message):
        verify(networks["sigmoid"], converted("sigmoid", "float32"), images[:40], **arguments)


def parallel():
    """Two branches of one size, which nothing but their values tells apart."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((8, 8, 3))
    maps = [
        SEBlock(2, kernel_initializer=wide(seed=n))(
            keras.layers.Conv2D(8, 3, activation="relu", kernel_initializer=wide(0.5, n))(inputs)
        )
        for n in range(2)
    ]
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()(maps))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def reordered(tflite):
    """The same file with its operators in another order that computes the same."""
    model = unpacked(tflite)
    graph = model.subgraphs[0]
    made = {int(i) for operator in graph.operators for i in operator.outputs}
    left, order, known = list(graph.operators), [], set()
    while left:
        ready = [o for o in left if {int(i) for i in o.inputs} & made <= known]
        order.append(ready[-1])
        known |= {int(i) for i in ready[-1].outputs}
        left.remove(ready[-1])
    graph.operators = order
    return packed(model)


def test_parallel_sites_in_another_order(images):
    model = parallel()
    float32 = to_tflite(model, "float32")
    int8 = to_tflite(model, "int8", images[100:])
    assert read_gates(float32, images[:4])["se_1"].shape == (4, 8)
    for reference in (model, float32):
        for tflite in (int8, reordered(int8)):
            report = judged(reference, tflite, images)
            assert report.passed, str(report)
    swapped = copy_of(model)
    for block, other in zip(blocks(swapped), blocks(model)[::-1], strict=True):
        block.set_excitation(*other.excitation(), layout="dense")
    for reference in (model, float32):
        report = judged(reference, to_tflite(swapped, "float32"), images)
        assert {site.verdict for site in report.sites.values()} == {"lost"}


def test_sites_of_other_sub_graphs_are_not_judged(networks, images, converted):
    tflite = converted("sigmoid", "float32").read_bytes()
    model = unpacked(tflite)
    model.subgraphs.append(copy.deepcopy(model.subgraphs[0]))
    report = judged(networks["sigmoid"], packed(model), images)
    assert report.verdict == "judged in part"
    assert [name.partition(" ")[0] for name in report.unjudged] == [
        "subgraph_1/se_1",
        "subgraph_1/se_2",
    ]


def test_layers_in_training_are_refused_by_name(images):
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Dropout(0.3, name="noise")(x, training=True)
    block = SEBlock(2, kernel_initializer=wide())
    model, quiet = keras.Model(inputs, block(x)), keras.Model(inputs, block(inputs))
    with pytest.raises(InputError, match=r"with training=True\. Received: noise$"):
        judged(model, to_tflite(quiet, "float32"), images)


def test_one_gate_for_two_products():
    """The worth of a site is that of its own product, in both kinds of reference."""
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    images = rng.random((32, 8, 8, 3)) * rng.uniform(0.2, 1.0, (32, 1, 1, 3))
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    g = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
    g = keras.layers.Conv2D(4, 1, activation="relu", kernel_initializer=wide(6.0))(g)
    g = keras.layers.Conv2D(8, 1, activation="sigmoid", kernel_initializer=wide(6.0, 2))(g)
    other = keras.layers.Conv2D(8, 3, padding="same")(x)
    both = keras.layers.Concatenate()([x * g, 3.0 * (other * g)])
    y = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(both))
    model = keras.Model(inputs, y)
    float32 = to_tflite(model, "float32")
    found, expected = (keras_se.worth(source, images) for source in (float32, model))
    assert len(expected) == 2
    assert sorted(found.values()) == pytest.approx(sorted(expected.values()), rel=0.02)


def test_a_file_that_is_worse_for_other_reasons_does_not_read_ship(networks, images):
    model = networks["one_plus_tanh"]
    worse = copy_of(model)
    head = next(x for x in worse.layers if isinstance(x, keras.layers.Dense))
    head.kernel.assign(-head.kernel)
    labels = model.predict(images[:100], verbose=0).argmax(axis=-1)
    report = judged(model, to_tflite(worse, "float32"), images, y=labels)
    assert report.passed
    assert report.conclusion.startswith("The file is worse than its reference, though the gates su")


def test_stress_needs_a_run(networks, images, converted):
    tflite = converted("sigmoid", "float32")
    gates = read_gates(tflite, images[:40])
    with pytest.raises(InputError, match="judge stress without them"):
        verify(networks["sigmoid"], tflite, images[:40], gates=gates, stress={"a": images[:40]})
