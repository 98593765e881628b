"""The verifier must say yes to sound files, and no to every sabotage, for the right reason."""

import json

import keras
import numpy as np
import pytest
from sabotage import hold_gates

import keras_se
from keras_se import SEBlock, read_gates, to_tflite, verify
from keras_se.errors import InputError

GATES = ["sigmoid", "hard_sigmoid", "one_plus_tanh"]
FORMATS = ["float32", "int8"]
NO_STRESS = {"stress": ()}
both = pytest.mark.parametrize("file_format", FORMATS)
every_gate = pytest.mark.parametrize("gate", GATES)


def copy_of(model):
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    return twin


def blocks(model):
    return [layer for layer in model.layers if isinstance(layer, SEBlock)]


@both
@every_gate
def test_yes_to_a_sound_file(networks, images, gate, file_format):
    tflite = to_tflite(networks[gate], file_format, images[100:])
    report = verify(networks[gate], tflite, images[:100], **NO_STRESS)
    assert report.passed
    assert report.verdict == "the gates survive"
    assert list(report.sites) == ["se_1", "se_2"]
    for site in report.sites.values():
        assert (site.verdict, site.gate) == ("survives", gate)
        assert site.r2 > (0.999999 if file_format == "float32" else 0.95)
        assert site.spread >= 4  # in a file whose gates hardly move a verdict means little
        assert site.slope == pytest.approx(1.0, abs=0.02)


@both
@every_gate
def test_no_to_gates_frozen_at_their_mean(networks, images, gate, file_format):
    model, calibration = networks[gate], images[100:]
    gates = read_gates(model, calibration)
    means = {s.layer: gates[s.name].mean(axis=0) for s in keras_se.find_sites(model)}
    frozen = to_tflite(hold_gates(model, means), file_format, calibration)
    report = verify(model, frozen, images[:100], **NO_STRESS)
    assert not report.passed
    assert report.verdict == "gates are lost"
    for site in report.sites.values():
        assert site.verdict == "fails"
        assert site.reason.startswith("R² of")
        assert site.r2 < 0.1  # frozen at the mean of other images: about 0


@both
@every_gate
def test_no_to_permuted_channels(networks, images, gate, file_format):
    sabotaged = copy_of(networks[gate])
    for block in blocks(sabotaged):
        block.w2.assign(np.roll(block.w2.numpy(), 1, axis=1))
        block.b2.assign(np.roll(block.b2.numpy(), 1))
    report = verify(
        networks[gate], to_tflite(sabotaged, file_format, images[100:]), images[:100], **NO_STRESS
    )
    assert not report.passed
    assert {site.verdict for site in report.sites.values()} == {"fails"}
    assert all(site.reason.startswith("R² of") for site in report.sites.values())


def test_no_to_one_frozen_channel(networks, images):
    """Pooled over the channels R² stays high; the channel's own R² gives it away."""
    model = networks["one_plus_tanh"]
    sabotaged = copy_of(model)
    block = blocks(sabotaged)[1]
    means = read_gates(model, images)["se_2"].mean(axis=0)
    spreads = read_gates(model, images)["se_2"].std(axis=0)
    channel = int(np.argsort(spreads)[2])
    w2, b2 = block.w2.numpy(), block.b2.numpy()
    w2[:, channel], b2[channel] = 0.0, np.arctanh(means[channel] - 1.0)
    block.w2.assign(w2)
    block.b2.assign(b2)
    site = verify(
        model, to_tflite(sabotaged, "int8", images[100:]), images[:100], **NO_STRESS
    ).sites["se_2"]
    assert site.verdict == "fails"
    assert site.r2 > 0.9
    assert site.reason.startswith(f"channel {channel}: R² of")


def single(gate, scale=1.0, width=2):
    keras.utils.set_random_seed(0)
    block = SEBlock(
        width=width,
        gate=gate,
        kernel_initializer=keras.initializers.RandomNormal(stddev=scale),
        name="se",
    )
    return keras.Sequential([keras.Input((8, 8, 6)), block])


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(0)
    return (rng.random((200, 8, 8, 6)) * rng.random((200, 1, 1, 6))).astype("float32")


def test_no_to_a_weaker_slope(features):
    """0.8 of the deviation: R² is 0.96, the slope says 0.8."""
    model = single("hard_sigmoid")
    sabotaged = copy_of(model)
    block = sabotaged.get_layer("se")
    gates = model.get_layer("se").gates(features)
    assert gates.min() > 0.0  # linear all the way: scaling about the mean is exact
    assert gates.max() < 1.0
    mean = gates.mean(axis=0)
    block.w2.assign(0.8 * block.w2.numpy())
    block.b2.assign(0.8 * block.b2.numpy() + 0.2 * (6.0 * mean - 3.0))
    site = verify(model, to_tflite(sabotaged, "float32"), features, **NO_STRESS).sites["se_1"]
    assert site.r2 == pytest.approx(0.96, abs=0.005)
    assert site.reason.startswith("slope of 0.800 is not within 1 ± 0.1")


def test_no_to_a_newly_dead_channel(features):
    """A channel that is weak and hardly moves can die without any R² showing it."""
    model = single("sigmoid", scale=2.0)
    block = model.get_layer("se")
    w2, b2 = block.w2.numpy(), block.b2.numpy()
    w2[:, 4], b2[4] = 0.0, -4.0  # a constant gate of 0.018
    block.w2.assign(w2)
    block.b2.assign(b2)
    sabotaged = copy_of(model)
    b2[4] = -30.0
    sabotaged.get_layer("se").b2.assign(b2)
    assert verify(model, to_tflite(model, "int8", features), features, **NO_STRESS).passed
    site = verify(model, to_tflite(sabotaged, "int8", features), features, **NO_STRESS).sites[
        "se_1"
    ]
    assert site.reason == "channel 4 is dead in the file only"
    assert site.r2 > 0.9


@both
def test_no_to_a_steady_channel_that_lost_its_level(file_format):
    """One of 64 channels: R² stays above 0.9, and nothing is dead."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(164, 8, 8, 64)) + rng.normal(size=(164, 1, 1, 64))).astype("float32")
    models = []
    for bias in (3.0, -5.5):  # a gate of .95, and one of .004
        initializer = keras.initializers.RandomNormal(stddev=0.6, seed=1)
        block = SEBlock(2, kernel_initializer=initializer)
        models.append(keras.Sequential([keras.Input((8, 8, 64)), block]))
        w1, b1, w2, b2 = block.excitation()
        w2[:, 0], b2[0] = 0.0, bias
        block.set_excitation(w1, b1, w2, b2)
    model, sabotaged = models
    assert verify(model, to_tflite(model, file_format, x[:100]), x[100:], **NO_STRESS).passed
    tflite = to_tflite(sabotaged, file_format, x[:100])
    site = verify(model, tflite, x[100:], **NO_STRESS).sites["se_1"]
    assert site.r2 > 0.9
    assert site.reason.startswith("channel 0: its level is")


@both
@pytest.mark.parametrize(
    "arguments",
    [
        *({"squeeze": squeeze} for squeeze in ("max", "avg_max", "std")),
        *({"gate": gate} for gate in ("tanh", "relu", "softmax")),
        {"shift": True},
        {"activation": "swish"},
    ],
    ids=str,
)
def test_yes_to_every_setting_of_a_block(arguments, file_format):
    wide = {
        "kernel_initializer": keras.initializers.RandomNormal(stddev=1.0, seed=1),
        "bias_initializer": keras.initializers.RandomNormal(stddev=0.3, seed=2),
    }
    rng = np.random.default_rng(0)
    x = rng.normal(size=(164, 8, 8, 8)) * rng.uniform(0.3, 2, (164, 1, 1, 1))
    x = (x + 0.7 * rng.normal(size=(164, 1, 1, 8))).astype("float32")
    model = keras.Sequential([keras.Input((8, 8, 8)), SEBlock(2, **wide, **arguments)])
    tflite = to_tflite(model, file_format, x[64:])
    site = verify(model, tflite, x[:64], **NO_STRESS).sites["se_1"]
    assert (site.verdict, site.reason) == ("survives", "follows the float gates sample by sample")


def test_sites_deep_in_a_network_are_matched():
    """Differences of runtimes grow with depth and scale; the nearest gates are the site's."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same")(x)
    for _ in range(4):
        h = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
        x = x + SEBlock(2, gate="one_plus_tanh")(h)
    model = keras.Model(inputs, x)
    images = np.random.default_rng(0).integers(0, 256, size=(40, 8, 8, 3)).astype("float32")
    report = verify(model, to_tflite(model, "float32"), images)
    assert list(report.sites) == ["se_1", "se_2", "se_3", "se_4"]
    assert "fails" not in {site.verdict for site in report.sites.values()}


def constant(value):
    model = single("sigmoid")
    return hold_gates(model, {"se": np.full(6, value)})


def test_nothing_to_survive_is_not_a_pass(features):
    model = constant(0.3)
    report = verify(model, to_tflite(model, "int8", features), features, **NO_STRESS)
    assert report.sites["se_1"].verdict == "not adaptive"
    assert report.verdict == "nothing to survive"
    assert not report.passed


@pytest.mark.parametrize(
    ("shift", "reason"),
    [
        (np.full(6, 0.006), "level: rms error of"),
        (np.array([0.011, 0, 0, 0, 0, 0]), "channel 0: its level is"),
    ],
)
def test_the_level_of_gates_that_do_not_adapt_is_checked(features, shift, reason):
    model = constant(0.3)
    shifted = hold_gates(model, {"se": 0.3 + shift})
    report = verify(model, to_tflite(shifted, "int8", features), features, **NO_STRESS)
    assert report.verdict == "gates are lost"
    assert report.sites["se_1"].reason.startswith(reason)


def test_sites_are_matched_by_value_not_by_order():
    """Keras and the converter order parallel branches differently under concatenate([B, A])."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 4))
    wide = {"kernel_initializer": keras.initializers.RandomNormal(stddev=2.0)}
    branches = [
        SEBlock(2, gate="one_plus_tanh", **wide)(keras.layers.Conv2D(4, 3, padding="same")(inputs))
        for _ in range(3)
    ]
    outputs = keras.layers.Concatenate()([branches[n] for n in (2, 0, 1)])
    model = keras.Model(inputs, outputs)
    rng = np.random.default_rng(0)
    x = (rng.random((100, 8, 8, 4)) * rng.random((100, 1, 1, 4))).astype("float32")
    for file_format in FORMATS:
        assert verify(model, to_tflite(model, file_format, x), x).passed


def test_suppressed_channels(features):
    model = single("sigmoid")
    held = hold_gates(model, {"se": [0.1, 0.9, 0.19, 0.21, 0.5, 0.05]})
    site = verify(held, to_tflite(held, "float32"), features, tau=0.2).sites["se_1"]
    assert site.suppressed == (0, 2, 5)
    assert site.suppressed_shipped == (0, 5)  # 0.19 is within the dead band


def test_report_as_json(networks, images):
    tflite = to_tflite(networks["sigmoid"], "int8", images[100:])
    report = verify(networks["sigmoid"], tflite, images[:100], **NO_STRESS)
    content = json.loads(report.to_json())
    assert content["passed"] is True
    assert content["samples"] == 100
    assert len(content["sha256"]) == 64
    assert content["runtime"].startswith("LiteRT 2.")
    assert content["sites"]["se_2"]["step"] == 1 / 256
    assert content["sites"]["se_2"]["verdict"] == "survives"


def test_nan_gates_of_the_file_fail(networks, images, monkeypatch):
    monkeypatch.setattr("keras_se.litert.convert._check_model", lambda model: None)  # it refuses
    sabotaged = copy_of(networks["sigmoid"])
    blocks(sabotaged)[1].b2.assign(np.full(16, np.nan))
    report = verify(networks["sigmoid"], to_tflite(sabotaged, "float32"), images[:50])
    assert report.sites["se_1"].verdict == "survives"
    assert report.sites["se_2"].reason == "shipped gates are NaN or infinite"
    assert json.loads(report.to_json())["sites"]["se_2"]["r2"] is None


def test_refusals(networks, images):
    model = networks["sigmoid"]
    tflite = to_tflite(model, "float32")
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3)])
    broken = copy_of(model)
    blocks(broken)[0].b2.assign(np.full(8, np.nan))
    with_nan = images[:40].copy()
    with_nan[0, 0, 0, 0] = np.nan
    cases = [
        ((model, tflite, images[:31]), r"at least 32 held-out samples in x\. Received: 31"),
        ((model, tflite, with_nan), r"x must be finite\. Received: 1 values"),
        (
            (model, tflite, np.array(["a"] * 40)),
            "x must be an array of numbers",
        ),
        ((model, tflite, images[:40], 1.5), r"tau must be between 0 and 1\. Received: tau=1\.5"),
        ((plain, tflite, images[:40]), "needs a model with SE sites; insert puts them in"),
        ((broken, tflite, images[:40]), "NaN or infinity in the Keras model's gates at se_1"),
        ((model, b"junk", images[:40]), "A TFLite file holds 'TFL3' at byte 4"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            verify(*arguments)


def edited(model, number, change):
    """A copy of a model with the excitation of one block changed."""
    twin = copy_of(model)
    block = blocks(twin)[number]
    block.set_excitation(*change(*block.excitation()), layout="dense")
    return twin


def hidden_of(model, number, images):
    """The bottleneck's activations of a block."""
    block = blocks(model)[number]
    features = keras.Model(model.input, block.input)(images).numpy()
    w1, b1, *_ = block.excitation()
    return np.maximum(features.mean(axis=(1, 2)) @ w1 + b1, 0.0)


@both
def test_no_to_half_of_the_samples_frozen(networks, images, file_format):
    """The bottleneck is raised until half of the samples do not reach it."""
    model = networks["one_plus_tanh"]
    hidden = hidden_of(model, 1, images)

    def raised(w1, b1, w2, b2):
        return w1, b1 - np.median(hidden, axis=0), w2, b2 + np.median(hidden, axis=0) @ w2

    sabotaged = edited(model, 1, raised)
    tflite = to_tflite(sabotaged, file_format, images[100:])
    site = verify(model, tflite, images[:100], **NO_STRESS).sites["se_2"]
    assert (site.verdict, site.blame) == ("fails", "SE")
    assert site.reason.startswith(("R² of", "slope of"))


@both
@every_gate
def test_no_to_the_stronger_half_of_the_bottleneck_zeroed(networks, images, gate, file_format):
    model = networks[gate]
    hidden = hidden_of(model, 1, images)

    def weakened(w1, b1, w2, b2):
        strength = hidden.std(axis=0) * np.abs(w2).sum(axis=1)
        strong = np.argsort(strength)[len(strength) // 2 :]
        w2 = w2.copy()
        w2[strong] = 0.0
        return w1, b1, w2, b2

    tflite = to_tflite(edited(model, 1, weakened), file_format, images[100:])
    report = verify(model, tflite, images[:100], **NO_STRESS)
    assert report.sites["se_1"].verdict == "survives"
    assert (report.sites["se_2"].verdict, report.sites["se_2"].blame) == ("fails", "SE")
    assert report.sites["se_2"].reason.startswith("R² of")


@keras.saving.register_keras_serializable(package="test_verification")
def clipped(v):
    return keras.ops.minimum(keras.ops.sigmoid(v), 0.5)


@keras.saving.register_keras_serializable(package="test_verification")
def steeper(v):
    return keras.ops.clip(0.2 * v + 0.5, 0.0, 1.0)


@both
@pytest.mark.parametrize(
    ("gate", "wrong", "reason"),
    [("sigmoid", clipped, "R² of"), ("hard_sigmoid", steeper, ("slope of", "R² of"))],
    ids=["clipped at a half", "slope of a fifth"],
)
def test_no_to_another_gate(networks, images, gate, wrong, reason, file_format):
    def replaced(layer):
        if isinstance(layer, SEBlock):
            return SEBlock.from_config({**layer.get_config(), "gate": wrong})
        return type(layer).from_config(layer.get_config())

    model = networks[gate]
    sabotaged = keras.models.clone_model(model, clone_function=replaced)
    sabotaged.set_weights(model.get_weights())
    tflite = to_tflite(sabotaged, file_format, images[100:])
    site = verify(model, tflite, images[:100], **NO_STRESS).sites["se_1"]
    assert (site.verdict, site.blame) == ("fails", "SE")
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


@both
@pytest.mark.parametrize("change", [without_product, one_corner])
def test_no_to_a_missing_product_and_to_a_squeeze_over_one_corner(
    networks, images, change, file_format
):
    model = networks["sigmoid"]
    tflite = to_tflite(rewired(model, change), file_format, images[100:])
    report = verify(model, tflite, images[:100], **NO_STRESS)
    assert report.verdict == "gates are lost"
    assert report.sites["se_1"].verdict == "survives"
    site = report.sites["se_2"]
    assert (site.reason, site.blame, site.r2) == ("the file has no such site", "SE", None)
    assert report.effect is None


def twins():
    """Two sites of one size, one after the other."""
    keras.utils.set_random_seed(3)
    wide = {"kernel_initializer": keras.initializers.RandomNormal(stddev=1.5)}
    x = inputs = keras.Input((8, 8, 3))
    for _ in range(2):
        x = keras.layers.Conv2D(8, 3, padding="same", activation="relu")(x)
        x = SEBlock(2, gate="one_plus_tanh", **wide)(x)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))


@both
def test_no_to_the_gates_of_two_sites_swapped(images, file_format):
    model = twins()
    sabotaged = copy_of(model)
    first, second = (block.excitation() for block in blocks(model))
    for block, other in zip(blocks(sabotaged), (second, first), strict=True):
        block.set_excitation(*other, layout="dense")
    assert verify(model, to_tflite(model, file_format, images), images[:64], **NO_STRESS).passed
    tflite = to_tflite(sabotaged, file_format, images)
    report = verify(model, tflite, images[:64], **NO_STRESS)
    assert {site.verdict for site in report.sites.values()} == {"fails"}


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
    site = verify(model, to_tflite(model, "int8", images[100:]), images[:100], **NO_STRESS).sites[
        "se_1"
    ]
    assert (site.verdict, site.blame) == ("fails", "trunk")
    assert site.trunk_r2 < 0.9
    cured = to_tflite(model, "int16x8", images[100:])
    assert verify(model, cured, images[:100], **NO_STRESS).passed


@pytest.mark.parametrize("gate", ["sigmoid", "one_plus_tanh"])
def test_what_se_itself_lost_is_rescued_in_float(networks, images, gate):
    """One unit of the bottleneck is 200 times larger; the function is the same."""

    def larger(w1, b1, w2, b2):
        scale = np.array([200.0, *[1.0] * (w1.shape[1] - 1)])
        return w1 * scale, b1 * scale, w2 / scale[:, None], b2

    model = edited(networks[gate], 1, larger)
    plain = to_tflite(model, "int8", images[100:])
    report = verify(model, plain, images[:100], **NO_STRESS)
    assert (report.sites["se_2"].verdict, report.sites["se_2"].blame) == ("fails", "SE")
    kept = to_tflite(model, "int8", images[100:], keep_float=["se_2"])
    report = verify(model, kept, images[:100], **NO_STRESS)
    assert report.passed
    assert report.sites["se_2"].r2 > 0.99
    assert report.sites["se_2"].step == report.sites["se_1"].step  # the trunk is still of 8 bits
    assert len(plain) < len(kept) < 1.3 * len(plain)


@every_gate
def test_no_to_calibration_ten_times_too_dark(networks, images, gate):
    dark = to_tflite(networks[gate], "int8", 0.1 * images[100:])
    report = verify(networks[gate], dark, images[:100], **NO_STRESS)
    assert not report.passed
    assert {site.blame for site in report.sites.values()} <= {"trunk", ""}


@every_gate
@pytest.mark.parametrize("file_format", ["float16", "dynamic", "weight_only", "int16x8"])
def test_yes_to_every_format(networks, images, gate, file_format):
    tflite = to_tflite(networks[gate], file_format, images[100:])
    report = verify(networks[gate], tflite, images[:100], **NO_STRESS)
    assert report.passed
    assert min(site.r2 for site in report.sites.values()) > 0.95
    assert report.assignment_error < 1e-5


def test_se_that_is_written_out_and_nested(images):
    """MobileNetV3 of keras.applications, its excitations widened until the gates move."""
    keras.utils.set_random_seed(0)
    inner = keras.applications.MobileNetV3Small(
        input_shape=(32, 32, 3), weights=None, include_top=False, pooling="avg"
    )
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
    x = x.astype("float32")
    for judged in (model, keras_se.adopt(model)):
        report = verify(judged, to_tflite(judged, "float32"), x, **NO_STRESS)
        assert report.passed
        assert list(report.sites) == [f"MobileNetV3Small/se_{n}" for n in range(1, 10)]
        assert all(site.trunk_r2 is None or site.trunk_r2 > 0.99 for site in report.sites.values())


def test_several_inputs(images):
    image, gain = keras.Input((8, 8, 3), name="image"), keras.Input((2,), name="gain")
    wide = keras.initializers.RandomNormal(stddev=2.0, seed=1)
    block = SEBlock(2, kernel_initializer=wide, bias_initializer="ones")
    x = block(keras.layers.Conv2D(8, 3, activation="relu")(image))
    x = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(x), gain])
    model = keras.Model({"image": image, "gain": gain}, keras.layers.Dense(2)(x))
    given = {"image": images[:100], "gain": np.ones((100, 2), "float32")}
    for file_format in FORMATS:
        report = verify(model, to_tflite(model, file_format, given), given)
        assert report.passed
        assert report.effect.own == 0.0 < report.effect.constant


def test_samples_of_the_calibration_are_refused(networks, images, tmp_path):
    model, path = networks["sigmoid"], tmp_path / "m.tflite"
    tflite = to_tflite(model, "int8", images[100:], path=path)
    report = verify(model, path, images[:40], **NO_STRESS)
    assert report.held_out == "compared with the 200 calibration samples of the recipe"
    with pytest.raises(InputError, match=r"not calibrated on\. Received: 7 of 47 that are"):
        verify(model, path, images[60:107], **NO_STRESS)
    recipe = tmp_path / "m.recipe.json"
    with pytest.raises(InputError, match="Received: 40 of 40"):
        verify(model, tflite, images[100:140], recipe=recipe)
    assert verify(model, tflite, images[100:140], **NO_STRESS).held_out.startswith("not checked")
    plain = tmp_path / "plain.tflite"
    other = to_tflite(model, "float32", path=plain)
    report = verify(model, plain, images[:40], **NO_STRESS)
    assert report.held_out == "by its recipe the file was not calibrated"
    with pytest.raises(InputError, match="of the very bytes that are judged"):
        verify(model, other, images[:40], recipe=recipe)
    recipe.write_text("{")
    with pytest.raises(InputError, match=r"A recipe is the JSON file .* JSONDecodeError"):
        verify(model, path, images[:40])


def test_stress_shows_ranges_that_clip(networks, images):
    """Calibrated on the darker half: the gates hold there, and not on brighter images."""
    model = networks["one_plus_tanh"]
    bright = images.mean(axis=(1, 2, 3))
    order = np.argsort(bright)
    tflite = to_tflite(model, "int8", images[order[:150:1]])
    x = images[order[:64]]
    report = verify(model, tflite, x, stress={"bright": images[order[-64:]], "same": x})
    assert report.passed
    assert list(report.stress) == ["bright", "same"]
    assert report.stress["bright"].verdict == "gates are lost"
    assert report.stress["same"].sites["se_1"] == ("survives", report.sites["se_1"].r2)
    assert list(verify(model, tflite, x).stress) == ["times 0.5", "times 1.5"]


def test_the_effect_on_the_model_beside_two_controls(networks, images):
    model = networks["one_plus_tanh"]
    labels = model.predict(images[:100], verbose=0).argmax(axis=-1)
    tflite = to_tflite(model, "int8", images[100:])
    report = verify(model, tflite, images[:100], y=labels, **NO_STRESS)
    assert (report.effect.metric, report.effect.own) == ("accuracy", 1.0)
    assert report.effect.shipped > 0.97
    assert report.effect.constant < 0.95
    assert report.effect.constant_costs
    unlabelled = verify(model, tflite, images[:100], **NO_STRESS).effect
    assert unlabelled.metric == "output error"
    assert unlabelled.own == 0.0 < unlabelled.shipped < 0.05 < unlabelled.constant


def test_gates_that_do_nothing_are_said_to_do_nothing(features):
    """What is gated hardly counts."""
    model = single("sigmoid", scale=2.0)
    gated, inputs = keras.layers.GlobalAveragePooling2D()(model.outputs[0]), model.inputs[0]
    outputs = 1e-4 * gated + keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, outputs)
    report = verify(model, to_tflite(model, "float32"), features, **NO_STRESS)
    assert report.passed
    assert not report.effect.constant_costs
    assert report.effect.sentence.endswith(
        "constant gates cost nothing, so that SE does nothing here."
    )


def test_gates_recorded_on_a_device(networks, images, tmp_path):
    model = networks["sigmoid"]
    tflite = to_tflite(model, "int8", images[100:])
    recorded = read_gates(tflite, images[:64])
    np.savez(tmp_path / "device.npz", **recorded)
    report = verify(model, tflite, images[:64], gates=tmp_path / "device.npz")
    here = verify(model, tflite, images[:64], **NO_STRESS)
    assert report.passed
    assert report.runtime.startswith("gates recorded on a device")
    assert report.sites["se_1"].r2 == here.sites["se_1"].r2
    frozen = {name: np.tile(g.mean(axis=0), (64, 1)) for name, g in recorded.items()}
    report = verify(model, tflite, images[:64], gates=frozen)
    assert {(s.verdict, s.blame) for s in report.sites.values()} == {("fails", "unknown")}
    with pytest.raises(InputError, match="must be of the 64 samples in x"):
        verify(model, tflite, images[:64], gates={k: v[:5] for k, v in recorded.items()})


def test_adaptivity_lost_in_training(networks, images):
    """A compressed model whose gates hardly move is faithful to itself, and fails."""
    original = networks["one_plus_tanh"]
    compressed = edited(original, 1, lambda w1, b1, w2, b2: (w1, b1, 0.3 * w2, b2))
    tflite = to_tflite(compressed, "int8", images[100:])
    alone = verify(compressed, tflite, images[:100], **NO_STRESS)
    assert alone.passed
    report = verify(original, tflite, images[:100], reference=compressed, **NO_STRESS)
    assert report.sites["se_1"].verdict == "survives"
    site = report.sites["se_2"]
    assert site.verdict == "fails"
    assert site.reason.startswith("adaptivity lost in training: 0.")
    assert site.spread_kept < 0.5
    assert site.blame == "training"
    assert verify(original, tflite, images[:100], reference=original, **NO_STRESS).passed is False
    other = keras.Sequential([keras.Input((8, 8, 3)), SEBlock(1)])
    with pytest.raises(InputError, match="has the sites of the original model"):
        verify(other, tflite, images[:100], reference=compressed)


def test_sites_that_cannot_be_told_apart_are_refused(images):
    """Two blocks on one map with all but the same weights."""
    inputs = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(8, 3)(inputs)
    wide = keras.initializers.RandomNormal(stddev=2.0, seed=1)
    bias = [keras.initializers.Constant(value) for value in (0.0, 1e-9)]
    parts = [SEBlock(2, kernel_initializer=wide, bias_initializer=b)(features) for b in bias]
    model = keras.Model(inputs, keras.layers.Concatenate()(parts))
    tflite = to_tflite(model, "float32")
    with pytest.raises(InputError, match=r"told apart by their values .* that may be se_1; use"):
        verify(model, tflite, images[:40])


def test_fresh_gates_are_told_apart_by_what_they_gate(images):
    """All gates are 1: nothing to survive, and each site is still found."""
    layers = [keras.layers.Conv2D(8, 3, activation="relu") for _ in "ab"]
    plain = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    model = keras_se.insert(plain, 2, bias_initializer="ones")
    report = verify(model, to_tflite(model, "int8", images[100:]), images[:64], **NO_STRESS)
    assert report.verdict == "nothing to survive"
    assert {site.verdict for site in report.sites.values()} == {"not adaptive"}


def exported(model, shape, tmp_path):
    """A file as Keras exports it, with an input name of its own and a dynamic batch fixed to 1."""
    path = tmp_path / "exported.tflite"
    signature = [keras.InputSpec(shape=(1, *shape), dtype="float32")]
    model.export(str(path), format="litert", verbose=False, input_signature=signature)
    return path


@pytest.mark.filterwarnings("ignore")
def test_files_that_keras_exported_are_judged_too(networks, images, tmp_path):
    path = exported(networks["sigmoid"], (8, 8, 3), tmp_path)
    assert verify(networks["sigmoid"], path, images[:40], **NO_STRESS).passed


def test_maps_whose_means_vanish(images):
    """After an instance normalization the means of the maps are rounding errors."""
    wide = keras.initializers.RandomNormal(stddev=2.0, seed=1)
    layers = [
        keras.layers.Conv2D(8, 3, padding="same"),
        keras.layers.GroupNormalization(groups=8),
        SEBlock(2, squeeze="max", kernel_initializer=wide),
        keras.layers.GlobalMaxPooling2D(),
    ]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8, 8, 3)).astype("float32")
    assert verify(model, to_tflite(model, "float32"), x, **NO_STRESS).passed


def test_a_nested_model_called_on_its_own_output_has_a_verdict_without_effect(images):
    wide = keras.initializers.RandomNormal(stddev=2.0, seed=1)
    inner_inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", activation="relu")(inner_inputs)
    inner = keras.Model(inner_inputs, SEBlock(1, kernel_initializer=wide)(x), name="inner")
    inputs = keras.Input((8, 8, 3))
    outputs = keras.layers.GlobalAveragePooling2D()(inner(inner(inputs)))
    report = verify(
        keras.Model(inputs, outputs),
        to_tflite(keras.Model(inputs, outputs), "float32"),
        images[:40],
        **NO_STRESS,
    )
    assert list(report.sites) == ["inner/se_1", "inner/se_2"]
    assert report.effect is None


def test_the_level_of_steady_gates_is_blamed_on_who_lost_it(images):
    """Where gates hardly vary R² of the replay is noise: the replayed level says who it was."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, padding="same", activation="relu") for _ in range(4)]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers, SEBlock(2, name="se")])
    steady = (0.5 + 0.001 * images).astype("float32")
    sabotaged = copy_of(model)
    sabotaged.get_layer("se").b2.assign(model.get_layer("se").b2.numpy() + 0.3)
    tflite = to_tflite(sabotaged, "int8", steady[100:])
    site = verify(model, tflite, steady[:64], **NO_STRESS).sites["se_1"]
    assert (site.verdict, site.blame) == ("fails", "SE")


def test_nan_in_the_trunk_is_the_trunks(networks, images, monkeypatch):
    monkeypatch.setattr("keras_se.litert.convert._check_model", lambda model: None)  # it refuses
    sabotaged = copy_of(networks["sigmoid"])
    conv = next(x for x in sabotaged.layers if isinstance(x, keras.layers.Conv2D))
    conv.bias.assign(np.full(8, np.nan))
    report = verify(networks["sigmoid"], to_tflite(sabotaged, "float32"), images[:40], **NO_STRESS)
    assert {(s.verdict, s.blame, s.trunk_r2) for s in report.sites.values()} == {
        ("fails", "trunk", None)
    }
    json.loads(report.to_json())


def test_bytes_as_inputs_do_not_make_a_file_coarse():
    inputs = keras.Input((8, 8, 3), dtype="uint8")
    wide = keras.initializers.RandomNormal(stddev=2.0, seed=1)
    x = SEBlock(1, kernel_initializer=wide)(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    rng = np.random.default_rng(0)
    pixels = (rng.random((40, 8, 8, 3)) * rng.uniform(50, 255, (40, 1, 1, 3))).astype("uint8")
    report = verify(model, to_tflite(model, "float32"), pixels, **NO_STRESS)
    assert report.passed
    assert report.sites["se_1"].step == 1e-5


def test_labels_of_one_logit(networks, images):
    model = networks["one_plus_tanh"]
    logit = keras.layers.Dense(1)(model.output)
    binary = keras.Model(model.input, logit)
    logits = binary.predict(images[:100], verbose=0)[:, 0]
    binary.layers[-1].bias.assign(-np.median(logits)[None])
    labels = (logits > np.median(logits)).astype(int)
    tflite = to_tflite(binary, "float32")
    effect = verify(binary, tflite, images[:100], y=labels, **NO_STRESS).effect
    assert effect.own > 0.98
    assert effect.constant < effect.own
    with pytest.raises(InputError, match=r"y is for models whose .* labels up to 5 for an output"):
        verify(binary, tflite, images[:100], y=np.full(100, 5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tau": "0.2"}, "tau must be between 0 and 1"),
        ({"tau": None}, "tau must be between 0 and 1"),
        ({"y": "abc"}, "y must hold one integer label"),
        ({"y": [[1], [1, 2]]}, "y must be an array of labels"),
        ({"stress": 0.5}, "stress is a list of factors"),
        ({"stress": "ab"}, "stress is a list of factors"),
        ({"stress": (np.nan,)}, "stress is a list of factors"),
        (
            {"stress": {"dim": np.ones((3, 8, 8, 3))}},
            r"at least 8 held-out samples in stress",
        ),
        ({"gates": 5}, r"an \.npz file or a dictionary of arrays\. Received: int"),
        ({"recipe": 5}, "A recipe is the JSON file"),
    ],
)
def test_odd_arguments(networks, images, arguments, message):
    tflite = to_tflite(networks["sigmoid"], "float32")
    with pytest.raises(InputError, match=message):
        verify(networks["sigmoid"], tflite, images[:40], **arguments)


@pytest.mark.parametrize("tflite", [None, 3, memoryview(b"TFL3TFL3")])
def test_files_that_are_none(networks, images, tflite):
    with pytest.raises(InputError, match="given as bytes or as a path"):
        verify(networks["sigmoid"], tflite, images[:40])
