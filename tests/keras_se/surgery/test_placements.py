"""Where blocks can go, on networks of keras.applications and on small graphs of every kind."""

import functools

import keras
import numpy as np
import pytest

from keras_se import SEBlock, candidates, find_sites, insert, remove
from keras_se.errors import InputError

RNG = np.random.default_rng(0)
# Input size, and the sites that insert finds. `benchmarks/networks.py insert` runs nine networks.
NETWORKS = {
    "ResNet50V2": (64, 16),
    "MobileNetV2": (64, 10),
    "DenseNet121": (32, 4),
    "VGG16": (32, 13),
    "ConvNeXtTiny": (32, 18),
}


def randomize(model):
    """Every weight, statistics and layer scale included: fresh ones prove nothing."""
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization):
            continue
        for variable in layer.weights:
            shape, name = variable.shape, variable.path.split("/")[-1]
            if "variance" in name or name == "gamma":
                variable.assign(RNG.uniform(0.5, 1.5, shape))
            elif len(shape) < 2:
                variable.assign(0.2 * RNG.normal(size=shape))
            else:
                depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
                fan_in = np.prod(shape[:2] if depthwise else shape[:-1])
                variable.assign(RNG.normal(size=shape) * np.sqrt(2 / fan_in))
    return model


@functools.cache
def network(name):
    """The network, inputs, and its logits."""
    size = NETWORKS[name][0]
    build = getattr(keras.applications, name)
    model = build(weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None)
    randomize(model)
    x = RNG.uniform(0, 255, size=(2, size, size, 3)).astype("float32") / 100
    return model, x, keras.ops.convert_to_numpy(model(x, training=False))


def outputs(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_is_kept_and_comes_back(name):
    model, x, expected = network(name)
    new = insert(model)
    blocks = [layer for layer in new.layers if isinstance(layer, SEBlock)]
    assert len(blocks) == len(candidates(model)) == NETWORKS[name][1]
    np.testing.assert_array_equal(outputs(new, x), expected)
    back = remove(new)
    np.testing.assert_array_equal(outputs(back, x), expected)
    assert [layer.name for layer in back.layers] == [layer.name for layer in model.layers]
    for old, now in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


@pytest.mark.parametrize(("name", "gate"), [("MobileNetV2", "sigmoid"), ("VGG16", "hard_sigmoid")])
def test_gates_of_one_half_are_compensated_and_come_back(name, gate):
    model, x, expected = network(name)
    new = insert(model, gate=gate)
    np.testing.assert_array_equal(outputs(new, x), expected)
    assert {site.gate for site in find_sites(new)} == {gate}
    back = remove(new)
    for old, now in zip(model.get_weights(), back.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def test_the_control_without_identity_differs():
    model, x, expected = network("VGG16")
    new = insert(model, gate="sigmoid", identity_init=False)
    assert np.abs(outputs(new, x) - expected).max() > 1e-3 * np.abs(expected).max()


@pytest.mark.parametrize("placement", ["pre", "post", "identity"])
def test_the_other_placements_keep_the_function_too(placement):
    model, x, expected = network("MobileNetV2")
    new = insert(model, placement=placement)
    assert len(find_sites(new)) == NETWORKS["MobileNetV2"][1]
    np.testing.assert_array_equal(outputs(new, x), expected)
    control = insert(model, placement=placement, gate="sigmoid", identity_init=False)
    assert np.abs(outputs(control, x) - expected).max() > 1e-3 * np.abs(expected).max()


def test_compiled_predictions_differ_by_no_more_than_the_networks_own():
    model, x, expected = network("MobileNetV2")
    new = insert(model)
    for compiled in (model, new):
        compiled.compile(jit_compile=False)
    own = np.abs(model.predict(x, verbose=0) - expected).max()
    ours = np.abs(new.predict(x, verbose=0) - expected).max()
    assert ours <= 2 * own + 1e-6 * np.abs(expected).max()


def residual(project=False, raw=False):
    inputs = keras.Input((8, 8, 4), name="image")
    stem = keras.layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv_1")(stem)
    x = keras.layers.ReLU(name="relu_1")(x)
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv_2")(x)
    shortcut = keras.layers.Conv2D(4, 1, name="projection")(stem) if project else stem
    x = shortcut + x if raw else keras.layers.Add(name="sum")([x, shortcut])
    return keras.Model(inputs, keras.layers.ReLU(name="relu_2")(x))


AFTER = {"standard": "conv_2", "pre": "stem", "post": "relu_2"}


@pytest.mark.parametrize("project", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_places_in_a_residual_unit(project, raw):
    model = residual(project, raw)
    expected = {**AFTER, "identity": "projection" if project else "stem"}
    for placement, after in expected.items():
        (candidate,) = candidates(model, placement)
        assert (candidate.name, candidate.after) == ("se_1", after)


def test_what_each_placement_gates():
    """Gates of 2 where the paper puts the block: the formula of the unit says what must come."""
    model = randomize(residual())
    x = RNG.normal(size=(2, 8, 8, 4)).astype("float32")

    def part(name):
        return keras.Model(model.input, model.get_layer(name).output)

    stem = part("stem")(x)
    branch = keras.Sequential(
        [keras.Input((8, 8, 4)), *(model.get_layer(n) for n in ("conv_1", "relu_1", "conv_2"))]
    )
    relu = keras.ops.relu
    expected = {
        "standard": relu(2 * branch(stem) + stem),
        "pre": relu(branch(2 * stem) + stem),
        "post": 2 * relu(branch(stem) + stem),
        "identity": relu(branch(stem) + 2 * stem),
    }
    for placement, values in expected.items():
        new = insert(model, placement=placement)
        (block,) = (layer for layer in new.layers if hasattr(layer, "ratio"))
        block.b2.assign(np.full(4, 30.0))  # 1 + tanh(30) = 2
        np.testing.assert_allclose(new(x), values, rtol=1e-5, atol=1e-5)


def test_pre_gates_both_paths_of_a_branch_with_one_block():
    inputs = keras.Input((8, 8, 4))
    stem = keras.layers.Conv2D(4, 1)(inputs)
    parts = [keras.layers.Conv2D(4, k, padding="same")(stem) for k in (1, 3)]
    x = keras.layers.Conv2D(4, 1)(keras.layers.Concatenate()(parts))
    model = keras.Model(inputs, keras.layers.Add()([x, stem]))
    new = insert(model, placement="pre")
    assert len(find_sites(new)) == 1
    x = RNG.normal(size=(2, 8, 8, 4)).astype("float32")
    np.testing.assert_array_equal(new(x), model(x))


def test_where_takes_names_and_functions():
    model = residual()
    assert [c.after for c in candidates(model, where=["relu_1", "stem"])] == ["stem", "relu_1"]
    chosen = candidates(model, where=lambda layer: layer.name.startswith("conv"))
    assert [c.after for c in chosen] == ["conv_1", "conv_2"]
    assert [c.after for c in candidates(model, where="conv")] == ["stem", "relu_1", "conv_2"]
    assert len(find_sites(insert(model, where=["relu_1"]))) == 1


def test_an_addition_of_equals_is_no_residual_unit():
    inputs = keras.Input((8, 8, 4))
    parts = [keras.layers.Conv2D(4, 3, padding="same", name=n)(inputs) for n in "ab"]
    model = keras.Model(inputs, keras.layers.Add()(parts))
    assert [c.after for c in candidates(model)] == ["a", "b"]  # by their convolutions


def test_what_another_layer_consumes_is_not_doubled():
    """The shortcut takes the stem too; where all of its consumers are gated it may be doubled."""
    model = residual()
    with pytest.raises(InputError, match=r"double the layer before .* site se_1 after 'stem'"):
        insert(model, gate="sigmoid", placement="pre")
    x = RNG.normal(size=(2, 8, 8, 4)).astype("float32")
    new = insert(model, gate="sigmoid", where=["stem"])
    np.testing.assert_array_equal(new(x), model(x))


@pytest.mark.parametrize("gate", ["tanh"])
def test_gates_that_cannot_keep_the_function_are_refused(gate):
    with pytest.raises(InputError, match="known to reach 1"):
        insert(residual(), gate=gate)
    assert len(find_sites(insert(residual(), gate=gate, identity_init=False))) == 1


def test_remove_refuses_a_model_without_blocks_and_one_that_uses_gates():
    with pytest.raises(InputError, match=r"remove needs a model with SE blocks\. Received"):
        remove(residual())
    inputs = keras.Input((8, 8, 4))
    y, gates = SEBlock(2, name="se")(inputs, return_gates=True)
    with pytest.raises(InputError, match="Received: 'se', called with return_gates=True"):
        remove(keras.Model(inputs, [y, gates]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"placement": "between"}, r"placement must be one of \['standard', 'pre', 'post', 'iden"),
        ({"where": "everywhere"}, r"where must be one of \['residual', 'concat', 'conv'\], a list"),
        ({"where": 3}, r"a list of layer names, or a function of a layer\. Received: where=3$"),
        ({"where": [["stem"]]}, r"where must be one of .* Received: where=\[\['stem'\]\]$"),
        (
            {"where": ["nowhere"]},
            r"must name layers of the model\. Received: unknown \['nowhere'\]",
        ),
        ({"where": "concat"}, "needs a place: .* none for where='concat'"),
        ({"where": "conv", "placement": "pre"}, "placement='pre' needs residual units"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(InputError, match=message):
        candidates(residual(), **arguments)


def test_a_constant_is_no_shortcut():
    """The hard-swish of MobileNetV3 adds 3, and is no residual unit."""
    inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, name="conv")(inputs)
    x = x * (keras.layers.ReLU(6.0)(x + 3.0) / 6.0)
    (candidate,) = candidates(keras.Model(inputs, x))
    assert candidate.shape == (None, 6, 6, 4)
    shape = {"input_shape": (32, 32, 3), "weights": None}
    # Of its six residual units, five have SE.
    assert len(candidates(keras.applications.MobileNetV3Small(**shape))) == 1


def test_two_sites_that_double_one_layer_come_back():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.ReLU(name="relu")(keras.layers.Conv2D(4, 3, name="conv")(inputs))
    model = keras.Model(inputs, x)
    x = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    new = insert(model, 2, gate="sigmoid", where=["conv", "relu"])
    np.testing.assert_array_equal(new(x), model(x))
    np.testing.assert_array_equal(remove(new)(x), model(x))


@pytest.mark.parametrize(
    "layers",
    [
        [keras.layers.Conv2DTranspose(4, 3), keras.layers.Cropping2D(1)],
        [keras.layers.SeparableConv2D(4, 3), keras.layers.UpSampling2D(2)],
        [keras.layers.Conv2D(4, 3), keras.layers.GroupNormalization(2)],
    ],
    ids=lambda layers: layers[0].name,
)
def test_what_takes_a_factor_up_is_doubled_and_halved(layers):
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    x = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    new = insert(model, 2, gate="sigmoid", where=[layers[-1].name])
    np.testing.assert_array_equal(new(x), model(x))
    np.testing.assert_array_equal(remove(new)(x), model(x))


class Standardized(keras.layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel / keras.ops.std(kernel))


def quantized():
    layer = keras.layers.Dense(8)
    layer.build((None, 8))
    layer.quantize("int8")
    return layer


def adapted():
    layer = keras.layers.Dense(8)
    layer.build((None, 8))
    layer.enable_lora(2)
    return layer


@pytest.mark.parametrize(
    "layer",
    [Standardized(8, 1), quantized(), adapted(), keras.layers.Dense(8, dtype="float16")],
    ids=["standardized", "quantized", "lora", "float16"],
)
def test_what_doubling_would_not_double_is_refused(layer):
    inputs = keras.Input((6, 6, 8))
    model = keras.Model(inputs, keras.layers.Add()([inputs, layer(inputs)]))
    with pytest.raises(InputError, match="With gate='sigmoid', insert keeps the function only"):
        insert(model, 2, gate="sigmoid")


def test_blocks_after_operations_take_the_dtype_of_the_tensor():
    policy = "mixed_float16"
    inputs = keras.Input((8, 8, 4))
    y = keras.layers.Conv2D(4, 3, padding="same", dtype=policy)(inputs)
    branch = keras.ops.relu(keras.layers.Conv2D(4, 3, padding="same", dtype=policy)(y))
    model = keras.Model(inputs, keras.ops.add(y, branch))
    for placement in ("standard", "post", "pre", "identity"):
        new = insert(model, 2, placement=placement)
        assert new.output.dtype == model.output.dtype == "float16"


def test_a_quantized_neighbour_leaves_the_block_a_float_policy():
    inputs = keras.Input((6, 6, 8))
    model = keras.Model(inputs, keras.layers.Add()([inputs, quantized()(inputs)]))
    x = RNG.normal(size=(2, 6, 6, 8)).astype("float32")
    np.testing.assert_array_equal(insert(model, 2)(x), model(x))


def test_names_do_not_collide():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.ReLU(name="se_1")(keras.layers.Conv2D(4, 3)(inputs))
    new = insert(keras.Model(inputs, x), 2)
    assert [layer.name for layer in new.layers if isinstance(layer, SEBlock)] == ["se_1_1"]
    with pytest.raises(InputError, match="insert names the blocks after their sites"):
        insert(keras.Model(inputs, x), 2, name="se")


def test_optional_inputs_stay_optional():
    image, extra = keras.Input((8, 8, 3)), keras.Input((1,), optional=True)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(image))
    model = keras.Model([image, extra], x)
    x = RNG.normal(size=(2, 8, 8, 3)).astype("float32")
    np.testing.assert_array_equal(insert(model, 2)([x, None]), model([x, None]))
