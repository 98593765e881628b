"""Counts against the paper's tables, and against arithmetic written out."""

import json

import keras
import pytest

from keras_se import SEBlock, adopt, cost, insert
from keras_se.errors import InputError


@pytest.fixture(scope="module")
def resnet():
    return keras.applications.ResNet50(weights=None)


SQUARES = {2: 3 * 256**2, 3: 4 * 512**2, 4: 6 * 1024**2, 5: 3 * 2048**2}  # Σ N·C² by stage


@pytest.mark.parametrize(
    ("ratio", "millions"), [(2, 45.7), (4, 35.7), (8, 30.7), (16, 28.1), (32, 26.9)]
)
def test_the_papers_table_of_ratios(resnet, ratio, millions):
    """arXiv 1709.01507v4, table of reduction ratios: SE-ResNet-50."""
    report = cost(insert(resnet, ratio, use_bias=False))
    assert report.parameters / 1e6 == pytest.approx(millions, abs=0.1)
    assert report.se_parameters == 2 * sum(SQUARES.values()) // ratio
    assert report.parameters == resnet.count_params() + report.se_parameters


@pytest.mark.parametrize(("stage", "millions"), [(2, 25.6), (3, 25.7), (4, 26.4)])
def test_the_papers_table_of_stages(resnet, stage, millions):
    names = [f"conv{stage}_block{n}_3_bn" for n in range(1, 7)]
    known = {layer.name for layer in resnet.layers}
    new = insert(resnet, 16, where=[n for n in names if n in known], use_bias=False)
    report = cost(new)
    assert report.parameters / 1e6 == pytest.approx(millions, abs=0.1)
    assert report.se_parameters == 2 * SQUARES[stage] // 16


def test_the_papers_operations(resnet):
    """3.86 GFLOPs without SE, 3.87 with: its multiply-accumulates at 224×224."""
    plain, with_se = cost(resnet), cost(insert(resnet, 16, use_bias=False))
    assert plain.macs / 1e9 == pytest.approx(3.86, abs=0.005)
    assert with_se.macs - plain.macs == with_se.se_parameters
    assert plain.uncounted == with_se.uncounted == ()


def test_every_kind_of_layer():
    inputs = keras.Input((8, 8, 4))
    layers = keras.layers
    x = layers.Conv2D(6, 3, padding="same", name="conv")(inputs)
    macs = 64 * 6 * 9 * 4
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    elements = (2 + 1) * 64 * 6
    x = layers.Conv2D(6, 1, groups=2)(x)
    macs += 64 * 6 * 3
    x = layers.DepthwiseConv2D(3, strides=2, padding="same")(x)
    macs += 16 * 6 * 9
    x = layers.SeparableConv2D(5, 3, padding="same")(x)
    macs += 16 * (6 * 9 + 6 * 5)
    x = layers.Conv2DTranspose(4, 2, strides=2)(x)
    macs += 16 * 5 * 4 * 4
    x = layers.Add()([x, inputs, inputs])
    elements += 2 * 64 * 4
    x = x * 2.0
    elements += 64 * 4
    x = layers.AveragePooling2D(2)(x)
    elements += 16 * 4 * 4
    x = SEBlock(2, shift=True, name="se")(x)
    se_macs = 3 * 4 * 2
    se = 3 * 16 * 4 + 2 * se_macs
    x = layers.GlobalAveragePooling2D()(layers.ZeroPadding2D(1)(x))
    elements += 36 * 4
    x = layers.Dense(3)(x)
    macs += 4 * 3
    report = cost(keras.Model(inputs, x))
    assert report.uncounted == ()
    assert report.macs == macs + se_macs
    assert report.flops == 2 * macs + elements + se
    (site,) = report.sites
    assert (site.name, site.channels, site.width) == ("se_1", 4, 2)
    assert (site.flops, site.parameters) == (se, 3 * 4 * 2 + 2 + 4 + 4)


def test_nested_models_and_shared_blocks():
    inner = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2), keras.layers.Conv2D(4, 1)])
    inner.name = "inner"
    block = SEBlock(4)
    model = keras.Sequential([keras.Input((8, 8, 4)), inner, block])
    inputs = keras.Input((8, 8, 4))
    shared = keras.Model(inputs, block(block(inner(inputs))))
    assert [s.name for s in cost(model).sites] == ["inner/se_1", "se_1"]
    report = cost(shared)
    assert [s.parameters for s in report.sites] == [2 * 8 + 2 + 4, 2 * 4 + 1 + 4, 0]
    assert report.se_parameters + 4 * 4 + 4 == report.parameters


def test_se_that_is_written_out_is_priced_as_its_blocks():
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(64, 64, 3))
    report, adopted = cost(model), cost(adopt(model))
    assert len(report.sites) == 9
    for written_out, block in zip(report.sites, adopted.sites, strict=True):
        assert written_out.parameters == block.parameters
        assert (written_out.flops, written_out.macs) == (block.flops, block.macs)
    first = report.sites[0]  # 16 channels at 16x16, width 8
    assert (first.channels, first.width, first.macs) == (16, 8, 2 * 16 * 8)
    assert first.parameters == 2 * 16 * 8 + 8 + 16
    assert first.flops == 2 * 16 * 16 * 16 + 2 * first.macs
    assert report.parameters == adopted.parameters == model.count_params()
    assert first.parameter_share == first.parameters / report.parameters
    assert report.se_flop_share == sum(site.flops for site in report.sites) / report.flops


def test_what_is_not_counted_is_named_never_zero():
    inputs = keras.Input((6, 4))
    x = keras.layers.LSTM(3, return_sequences=True, name="lstm")(inputs)
    x = keras.ops.sin(SEBlock(1)(x))
    report = cost(keras.Model(inputs, x))
    assert report.uncounted[0] == "lstm"
    assert report.uncounted[1].startswith("sin")


def test_random_augmentation_costs_nothing_at_inference():
    idle = keras.layers.RandomFlip()
    model = keras.Sequential([keras.Input((8, 8, 3)), idle, keras.layers.ReLU()])
    assert (cost(model).flops, cost(model).uncounted) == (8 * 8 * 3, ())


def test_unknown_sizes_need_the_shape():
    model = keras.Sequential([keras.Input((None, None, 4)), SEBlock(2)])
    with pytest.raises(InputError, match=r"cost needs every size: give input_shape=.* Received"):
        cost(model)
    assert cost(model, (8, 8, 4)).se_flops == 2 * 64 * 4 + 4 * 4 * 2
    for shape in [(8, 8, 3), (8, 4)]:
        with pytest.raises(InputError, match=r"must fit the input of the model, \(None, None"):
            cost(model, shape)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (
            (2, 2, 3),
            r"must be one that model 'small' can compute\. Received: input_shape=\(2, 2, 3\)",
        ),
        ((2, 2, 3), r"for which Keras raises: Computed output size would be"),
        (3, "must be the sizes of one sample, .* Received: input_shape=3"),
        (("a", 2, 3), r"must be the sizes of one sample, .* Received: input_shape=\('a', 2, 3\)"),
    ],
)
def test_shapes_that_a_model_cannot_compute(shape, message):
    layers = [keras.layers.Conv2D(4, 3, name="valid"), SEBlock(2)]
    model = keras.Sequential([keras.Input((None, None, 3)), *layers], name="small")
    with pytest.raises(InputError, match=message):
        cost(model, shape)


def test_json(resnet):
    model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
    content = json.loads(cost(model).to_json())
    assert content["se_parameters"] == content["parameters"] == 22
    assert content["sites"][0]["name"] == "se_1"


def test_a_subclassed_model_is_refused():
    class Subclassed(keras.Model):
        pass

    with pytest.raises(InputError, match="cost needs a functional or Sequential Keras model"):
        cost(Subclassed())


def test_nested_models_with_two_inputs_and_blocks_in_other_layers_count():
    a, b = keras.Input((8, 8, 4)), keras.Input((8, 8, 4))
    inner = keras.Model([a, b], SEBlock(2)(keras.layers.Add()([a, b])), name="inner")
    inputs = keras.Input((8, 8, 4))
    report = cost(keras.Model(inputs, inner([inputs, inputs])))
    assert [site.name for site in report.sites] == ["inner/se_1"]
    assert report.se_parameters == 22
    wrapped = keras.layers.TimeDistributed(SEBlock(2), name="t")
    report = cost(keras.Sequential([keras.Input((3, 8, 8, 4)), wrapped]))
    assert [site.name for site in report.sites] == ["t/se_1", "t/se_2", "t/se_3"]
