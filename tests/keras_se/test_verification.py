"""The verifier must say yes to sound files, and no to every sabotage, for the right reason."""

import json

import keras
import numpy as np
import pytest

import keras_se
from keras_se import SEBlock, read_gates, to_tflite, verify
from keras_se.errors import InputError
from keras_se.surgery import hold_gates

GATES = ["sigmoid", "hard_sigmoid", "one_plus_tanh"]
FORMATS = ["float32", "int8"]
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
    report = verify(networks[gate], tflite, images[:100])
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
    report = verify(model, frozen, images[:100])
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
    report = verify(networks[gate], to_tflite(sabotaged, file_format, images[100:]), images[:100])
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
    site = verify(model, to_tflite(sabotaged, "int8", images[100:]), images[:100]).sites["se_2"]
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
    site = verify(model, to_tflite(sabotaged, "float32"), features).sites["se_1"]
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
    assert verify(model, to_tflite(model, "int8", features), features).passed
    site = verify(model, to_tflite(sabotaged, "int8", features), features).sites["se_1"]
    assert site.reason == "channel 4 is dead in the file only"
    assert site.r2 > 0.9


@both
def test_no_to_a_steady_channel_that_lost_its_level(file_format):
    """One of 64 channels: R² stays above 0.9, and nothing is dead."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(128, 8, 8, 64)) + rng.normal(size=(128, 1, 1, 64))).astype("float32")
    models = []
    for bias in (3.0, -5.5):  # a gate of .95, and one of .004
        initializer = keras.initializers.RandomNormal(stddev=0.6, seed=1)
        block = SEBlock(2, kernel_initializer=initializer)
        models.append(keras.Sequential([keras.Input((8, 8, 64)), block]))
        w1, b1, w2, b2 = block.excitation()
        w2[:, 0], b2[0] = 0.0, bias
        block.set_excitation(w1, b1, w2, b2)
    model, sabotaged = models
    assert verify(model, to_tflite(model, file_format, x[:64]), x[64:]).passed
    site = verify(model, to_tflite(sabotaged, file_format, x[:64]), x[64:]).sites["se_1"]
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
    x = rng.normal(size=(128, 8, 8, 8)) * rng.uniform(0.3, 2, (128, 1, 1, 1))
    x = (x + 0.7 * rng.normal(size=(128, 1, 1, 8))).astype("float32")
    model = keras.Sequential([keras.Input((8, 8, 8)), SEBlock(2, **wide, **arguments)])
    site = verify(model, to_tflite(model, file_format, x[64:]), x[:64]).sites["se_1"]
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
    report = verify(model, to_tflite(model, "int8", features), features)
    assert report.sites["se_1"].verdict == "not adaptive"
    assert report.verdict == "nothing to survive"
    assert not report.passed


@pytest.mark.parametrize(
    ("shift", "reason"),
    [
        (np.full(6, 0.01), "level: rms error of"),
        (np.array([0.009, 0, 0, 0, 0, 0]), "level: a channel is"),
    ],
)
def test_the_level_of_gates_that_do_not_adapt_is_checked(features, shift, reason):
    model = constant(0.3)
    shifted = hold_gates(model, {"se": 0.3 + shift})
    report = verify(model, to_tflite(shifted, "int8", features), features)
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
    assert site.suppressed == site.suppressed_shipped == (0, 2, 5)


def test_report_as_json(networks, images):
    tflite = to_tflite(networks["sigmoid"], "int8", images[100:])
    report = verify(networks["sigmoid"], tflite, images[:100])
    content = json.loads(report.to_json())
    assert content["passed"] is True
    assert content["samples"] == 100
    assert len(content["sha256"]) == 64
    assert content["runtime"].startswith("LiteRT 2.")
    assert content["sites"]["se_2"]["step"] == 1 / 256
    assert content["sites"]["se_2"]["verdict"] == "survives"


def test_nan_gates_of_the_file_fail(networks, images):
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
        ((model, tflite, images[:31]), r"at least 32 held-out samples\. Received: 31"),
        ((model, tflite, with_nan), r"x must be finite\. Received: 1 values"),
        (
            (model, tflite, np.array(["a"] * 40)),
            "x must be an array of numbers",
        ),
        ((model, tflite, images[:40], 1.5), r"tau must be between 0 and 1\. Received: tau=1\.5"),
        ((plain, tflite, images[:40]), "needs a model with SE sites; insert puts them in"),
        ((model, to_tflite(plain, "float32"), images[:40]), "2 sites in the model, 0 in the file"),
        ((broken, tflite, images[:40]), "NaN or infinity in the Keras model's gates at se_1"),
        ((model, b"junk", images[:40]), "A TFLite file holds 'TFL3' at byte 4"),
    ]
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            verify(*arguments)
