"""docs/porting.md: its code, and the blocks that it calls the same as those of other libraries.

The rules of the libraries stand here as they are in their sources; those that can be installed are
run by benchmarks/porting.py, those of Keras here.
"""

import math

import keras
import numpy as np
import pages
import pytest

import keras_se
from keras_se.layers.bottleneck import bottleneck_width

PAGE = (pages.DOCS / "porting.md").read_text()
CHANNELS = (16, 24, 36, 40, 72, 96, 176, 240, 672, 960)


def rounded(value, divisor=8, limit=0.9):
    """`make_divisible` of timm, `_make_divisible`, `_depth` and `adjust_channels` of others."""
    new = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return new + divisor if new < limit * value else new


RULES = {  # of C and e
    "senet.pytorch `SELayer`": lambda c, e: c // 16,
    "fastai `SEModule`": lambda c, e: math.ceil(c // 16 / 8) * 8,
    "torchvision `SqueezeExcitation`": lambda c, e: 5,
    "torchvision MobileNetV3": lambda c, e: rounded(c // 4),
    "torchvision EfficientNet": lambda c, e: max(1, c // e // 4),
    "timm `SEModule`, `SqueezeExcite`": lambda c, e: rounded(c * (1 / 16), limit=0.0),
    "timm MobileNetV3": lambda c, e: rounded(c * 0.25),
    "timm EfficientNet": lambda c, e: round(c * (0.25 / e)),
    "Keras MobileNetV3": lambda c, e: rounded(c * 0.25),
    "Keras EfficientNet, V2": lambda c, e: max(1, int(c // e * 0.25)),
    "KerasCV `SqueezeAndExcite2D`": lambda c, e: c // 4,
    "KerasHub MobileNet": lambda c, e: rounded(c * 0.25),
    "kimm `apply_se_block`": lambda c, e: round(c * 0.25),
    "TF Model Garden `SqueezeExcitation`": lambda c, e: rounded(max(1, int(c * 0.25)), divisor=1),
}


def rows():
    return {row[0]: row[1:] for row in pages.table(PAGE, "library")}


def block_of(library, channels, expansion=1):
    """The block in the last cell of a row."""
    names = {"SEBlock": keras_se.SEBlock, "C": channels, "e": expansion, "squeeze_channels": 5}
    return eval(rows()[library][-1].strip("`"), {**names, "max": max, "int": int})  # noqa: S307


def test_each_library_has_a_rule():
    assert set(rows()) == set(RULES)


@pytest.mark.parametrize("library", RULES)
def test_the_block_of_a_row_has_as_many_units(library):
    for channels in CHANNELS:
        for expansion in (1, 4, 6) if "EfficientNet" in library else (1,):
            # Of these networks C / e is a multiple of 4, as their rules round in other ways.
            c = channels * expansion
            block = block_of(library, c, expansion)
            units = bottleneck_width(c, block.ratio, width=block.width, divisor=block.divisor)
            assert units == RULES[library](c, expansion), (c, expansion)


@pytest.mark.parametrize("library", RULES)
def test_the_block_of_a_row_has_its_bias_and_functions(library):
    _, _, bias, functions, _ = rows()[library]
    block = block_of(library, 64)
    gate = block.gate
    assert block.use_bias == {"yes": True, "no": False}[bias]
    assert f"{block.activation.__name__}, {gate}" == functions


def test_the_sentence_about_176_channels():
    assert "176 channels give 8 units, `SEBlock(16, divisor=8)` has 16" in " ".join(PAGE.split())
    assert RULES["timm `SEModule`, `SqueezeExcite`"](176, 1) == 8
    assert bottleneck_width(176, 16, divisor=8) == 16


def expansion_of(network, site):
    """C over the channels that go into the unit around a site."""
    prefix = site.layer.removesuffix("se_excite")
    try:
        return site.channels // network.get_layer(f"{prefix}expand_conv").input.shape[-1]
    except ValueError:
        return 1  # the first stage does not expand


@pytest.mark.parametrize(
    ("library", "name"),
    [
        ("Keras MobileNetV3", "MobileNetV3Small"),
        ("Keras EfficientNet, V2", "EfficientNetB0"),
        ("Keras EfficientNet, V2", "EfficientNetV2B0"),
    ],
)
def test_the_networks_of_keras(library, name):
    network = getattr(keras.applications, name)(weights=None, input_shape=(32, 32, 3))
    sites = keras_se.find_sites(network)
    assert len(sites) >= 8
    is_mobilenet = "MobileNet" in library
    for site in sites:
        expansion = 1 if is_mobilenet else expansion_of(network, site)
        block = block_of(library, site.channels, expansion)
        arguments = {"width": block.width, "divisor": block.divisor}
        assert site.width == bottleneck_width(site.channels, block.ratio, **arguments)
        assert site.gate == block.gate
    if not is_mobilenet:
        assert {expansion_of(network, site) for site in sites} <= {1, 4, 6}


def reference(x, w1, b1, w2, b2, gate):
    """SE in NumPy, of matrices in the layout of Dense."""
    h = np.maximum(x.mean(axis=(1, 2)) @ w1 + b1, 0)
    return x * gate(h @ w2 + b2)[:, None, None, :]


@pytest.fixture(scope="module")
def functions():
    """Those of the page, whose code prints what the page says."""
    return pages.run_page(PAGE)[0]


@pytest.fixture
def weights():
    rng = np.random.default_rng(0)
    return [rng.normal(size=size) for size in ((16, 4), (4,), (4, 16), (16,))]


@pytest.fixture
def x():
    return np.random.default_rng(1).normal(size=(8, 4, 4, 16)).astype("float32")


def test_the_settings_of_mobilenet(functions):
    """The page has adopted it."""
    blocks = [part for part in functions["adopted"].layers if isinstance(part, keras_se.SEBlock)]
    found = {(b.activation.__name__, b.gate, b.use_bias) for b in blocks}
    assert found == {("relu", "hard_sigmoid", True)}


@pytest.mark.parametrize("axes", [0, 2])
def test_weights_of_torch(functions, weights, x, axes):
    w1, b1, w2, b2 = weights
    ones = (1,) * axes
    block = functions["from_torch"](w1.T.reshape(4, 16, *ones), b1, w2.T.reshape(16, 4, *ones), b2)
    wanted = reference(x, *weights, lambda v: 1 / (1 + np.exp(-v)))
    np.testing.assert_allclose(block(x), wanted, atol=1e-5)


def test_weights_of_torch_without_bias(functions, weights, x):
    w1, _, w2, _ = weights
    block = functions["from_torch"](w1.T, None, w2.T, None)
    wanted = reference(x, w1, 0, w2, 0, lambda v: 1 / (1 + np.exp(-v)))
    np.testing.assert_allclose(block(x), wanted, atol=1e-5)
    assert not block.use_bias


def test_the_hard_sigmoid_of_keras_2(functions, weights, x):
    tf_keras = pytest.importorskip("tf_keras")
    w1, b1, w2, b2 = weights
    block = functions["from_keras_2"](w1, b1, w2, b2)
    old = tf_keras.layers.Activation("hard_sigmoid")
    wanted = reference(x, *weights, lambda v: old(v.astype("float32")).numpy())
    np.testing.assert_allclose(block(x), wanted, atol=1e-5)
    # The weights as they are would be off by more.
    block.set_excitation(w1, b1, w2, b2)
    assert np.abs(block(x) - wanted).max() > 0.05


def test_a_normalization_in_the_bottleneck(functions, weights, x):
    w1, b1, w2, b2 = weights
    layer = keras.layers.BatchNormalization(epsilon=1e-5)
    layer.build((None, 4))
    rng = np.random.default_rng(2)
    layer.set_weights([rng.uniform(0.5, 2, 4) for _ in range(4)])
    folded = functions["with_normalization"](w1.T, b1, *layer.get_weights())
    block = functions["from_torch"](*folded, w2.T, b2)
    h = np.maximum(layer(x.mean(axis=(1, 2)) @ w1 + b1), 0)
    gates = 1 / (1 + np.exp(-(h @ w2 + b2)))
    np.testing.assert_allclose(block.gates(x), gates, atol=1e-5)
