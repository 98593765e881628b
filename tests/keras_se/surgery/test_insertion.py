import re

import keras
import numpy as np
import pytest

from keras_se import SEBlock, candidates, find_sites, insert, read_gates
from keras_se.errors import InputError, SiteWarning
from keras_se.graph.trace import trace
from keras_se.sites.gated import gated_sites

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 8, 8, 3)).astype("float32")


def layers():
    return [
        keras.layers.Conv2D(8, 3, name="c1", padding="same"),
        keras.layers.BatchNormalization(name="n1"),
        keras.layers.ReLU(name="a1"),
        keras.layers.Conv2D(16, 3, name="c2", activation="relu", dtype="float32"),
        keras.layers.DepthwiseConv2D(3, name="c3"),
        keras.layers.Activation("relu", name="a3"),
        keras.layers.MaxPooling2D(name="pool"),
        keras.layers.Conv2D(4, 1, name="c4", trainable=False),
        keras.layers.BatchNormalization(name="n4"),
        keras.layers.GlobalAveragePooling2D(name="gap"),
        keras.layers.Dropout(0.5, name="drop"),
        keras.layers.Dense(5, name="logits"),
    ]


def randomized(model):
    model.set_weights([np.abs(RNG.normal(size=w.shape)) for w in model.get_weights()])
    return model


def sequential():
    return randomized(keras.Sequential([keras.Input((8, 8, 3)), *layers()], name="plain"))


def functional():
    x = inputs = keras.Input((8, 8, 3), name="image")
    for layer in layers():
        x = layer(x)
    return randomized(keras.Model(inputs, x, name="plain"))


BUILDERS = pytest.mark.parametrize("build", [sequential, functional])


@BUILDERS
def test_candidates(build):
    found = [(c.name, c.after, c.channels, c.shape) for c in candidates(build())]
    assert found == [
        ("se_1", "a1", 8, (None, 8, 8, 8)),
        ("se_2", "c2", 16, (None, 6, 6, 16)),
        ("se_3", "a3", 16, (None, 4, 4, 16)),
        ("se_4", "n4", 4, (None, 2, 2, 4)),
    ]


@BUILDERS
def test_the_function_is_kept_to_the_last_bit(build):
    model = build()
    model.compile("sgd", "mse")
    config, weights = model.get_config(), model.get_weights()
    new = insert(model, ratio=4)
    np.testing.assert_array_equal(new(X), model(X))
    assert [site.after for site in find_sites(new)] == ["a1", "c2", "a3", "n4"]
    assert {site.gate for site in find_sites(new)} == {"one_plus_tanh"}
    assert type(new) is type(model)
    assert new.name == "plain"
    assert not new.compiled
    assert not new.get_layer("c4").trainable
    assert model.get_config() == config
    for old, now in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


@BUILDERS
def test_without_identity_the_function_changes(build):
    model = build()
    new = insert(model, gate="sigmoid", identity_init=False)
    expected = keras.ops.convert_to_numpy(model(X))
    difference = np.abs(keras.ops.convert_to_numpy(new(X)) - expected).max()
    assert difference > 1e-3 * np.abs(expected).max()


def test_a_plan_says_where_and_how():
    plan = {"se_2": {"ratio": 2, "gate": "sigmoid"}, "se_4": {}}
    sites = find_sites(insert(sequential(), ratio=4, plan=plan, squeeze="max"))
    assert [(s.after, s.width, s.gate) for s in sites] == [
        ("c2", 8, "sigmoid"),
        ("n4", 1, "one_plus_tanh"),
    ]


def test_block_arguments_reach_the_blocks():
    new = insert(sequential(), squeeze="max", identity_init=False, divisor=8)
    block = next(layer for layer in new.layers if isinstance(layer, SEBlock))
    assert (block.squeeze, block.identity_init, block.divisor) == ("max", False, 8)


def test_channels_first_convolutions_get_channels_first_blocks():
    conv = keras.layers.Conv2D(8, 1, data_format="channels_first")
    model = keras.Sequential([keras.Input((3, 8, 8)), conv])
    assert candidates(model)[0].channels == 8
    assert insert(model).layers[1].data_format == "channels_first"


@pytest.mark.parametrize(
    "arguments",
    [{"data_format": "channels_first"}, {"plan": {"se_1": {"data_format": "channels_first"}}}],
)
def test_a_data_format_must_be_that_of_the_layers_beside(arguments):
    """The block would gate the height, here 6, and not the 8 channels."""
    conv = keras.layers.Conv2D(8, 3, padding="same", name="conv")
    model = keras.Sequential([keras.Input((6, 5, 3)), conv])
    message = (
        r"must be that of the layers beside it; leave it out, .* Received: "
        r"data_format='channels_first' for se_1, which is channels_last after 'conv'"
    )
    with pytest.raises(InputError, match=message):
        insert(model, 2, **arguments)
    # The layer that states it may come after.
    inputs = keras.Input((6, 5, 3))
    later = keras.Model(inputs, conv(keras.layers.ReLU(name="relu")(inputs)))
    with pytest.raises(InputError, match="which is channels_last after 'relu'"):
        insert(later, 2, where=["relu"], data_format="channels_first")
    for same in ("channels_last", None):
        assert find_sites(insert(model, 2, data_format=same))[0].channels == 8


def test_no_data_format_is_that_of_the_layers_not_of_the_configuration():
    conv = keras.layers.Conv2D(8, 1, data_format="channels_first")
    model = keras.Sequential([keras.Input((3, 6, 5)), conv])
    assert find_sites(insert(model, 2, data_format=None))[0].channels == 8


@pytest.mark.parametrize(
    "reorder", [keras.layers.Permute((3, 1, 2)), lambda x: keras.ops.transpose(x, (0, 3, 1, 2))]
)
def test_a_data_format_can_be_given_where_axes_changed(reorder):
    inputs = keras.Input((6, 5, 3))
    x = keras.layers.ReLU(name="relu")(reorder(keras.layers.Conv2D(8, 1)(inputs)))
    new = insert(keras.Model(inputs, x), 2, where=["relu"], data_format="channels_first")
    assert find_sites(new)[0].channels == 8


def nested(*frozen):
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3)], name="inner")
    inputs = keras.Input((8, 8, 3))
    outer = keras.Model(inputs, inner(inputs), name="outer")
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D()(outer(inputs))
    whole = keras.Model(inputs, keras.layers.Dense(2)(x), name="whole")
    for model in (whole, outer, inner):  # each time with all that is inside
        model.trainable = model.name not in frozen
    return whole


@pytest.mark.parametrize("names", [["inner"], ["whole"], ["inner", "whole"]])
def test_blocks_in_a_frozen_model_are_named_and_can_be_set_free(names):
    model = nested(*names)
    message = f"blocks into frozen models, where they do not train: {names}. Set trainable = True"
    with pytest.warns(SiteWarning, match=re.escape(message)):
        new = insert(model, 2)
    (block,) = (site.source for site in gated_sites(trace(new, "test")))
    assert not set(map(id, block.weights)) & set(map(id, new.trainable_weights))
    outer = new.get_layer("outer")
    inner = outer.get_layer("inner")
    models = {"inner": inner, "whole": new}
    for name in names:
        models[name].trainable = True
    for layer in inner.layers:
        layer.trainable = isinstance(layer, SEBlock)
    trained = {id(weight) for weight in new.trainable_weights}
    assert trained == {id(w) for layer in (block, new.layers[-1]) for w in layer.weights}


def test_blocks_that_train_or_shall_not_give_no_warning():
    assert len(find_sites(insert(nested(), 2))) == 1
    assert len(find_sites(insert(nested("inner"), 2, trainable=False))) == 1
    new = insert(nested("outer"), 2)  # Keras trains what is set free inside
    (block,) = (site.source for site in gated_sites(trace(new, "test")))
    assert set(map(id, block.weights)) < set(map(id, new.trainable_weights))


def test_a_frozen_model_stays_frozen():
    model = sequential()
    model.trainable = False
    with pytest.warns(SiteWarning, match=r"they do not train: \['plain'\]"):
        assert insert(model).trainable_variables == []


def residual():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", name="branch")(inputs)
    return keras.Model(inputs, keras.layers.Add(name="sum")([inputs, x]))


def raw():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Conv2D(3, 3)(inputs) * 2.0)


def twice():
    conv = keras.layers.Conv2D(3, 3, padding="same", name="twice")
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, conv(conv(inputs)))


def listed():
    inputs = keras.Input((8, 8, 3))
    return keras.Model([inputs], [keras.layers.Conv2D(3, 3)(inputs)])


@keras.saving.register_keras_serializable(package="test_surgery")
class Scale(keras.layers.Layer):
    def call(self, x, factor=1.0):
        return x * factor


def with_call_arguments():
    inputs = keras.Input((8, 8, 3))
    return keras.Model(inputs, keras.layers.Conv2D(3, 3)(Scale()(inputs, factor=3.0)))


def adapted():
    normalization = keras.layers.Normalization()
    normalization.adapt(5 * X + 3)
    return keras.Sequential([keras.Input((8, 8, 3)), normalization, keras.layers.Conv2D(4, 3)])


@pytest.mark.parametrize(
    ("build", "sites"),
    [(residual, 1), (raw, 1), (twice, 2), (listed, 1), (with_call_arguments, 1), (adapted, 1)],
)
def test_the_function_of_other_graphs_is_kept(build, sites):
    model = build()
    new = insert(model, ratio=2)
    assert len(find_sites(new)) == sites
    given = [X] if build is listed else X
    expected, outputs = (keras.tree.flatten(m(given))[0] for m in (model, new))
    np.testing.assert_array_equal(expected, outputs)


def test_inputs_keep_their_names_and_structure():
    inputs = {"image": keras.Input((8, 8, 3), name="image"), "gain": keras.Input((1,), name="gain")}
    x = keras.layers.Conv2D(4, 3)(inputs["image"])
    x = keras.layers.GlobalAveragePooling2D()(x) * inputs["gain"]
    model = keras.Model(inputs, {"logits": x})
    given = {"image": X, "gain": np.ones((4, 1), "float32")}
    new = insert(model)
    np.testing.assert_array_equal(new(given)["logits"], model(given)["logits"])


def test_a_normalization_with_two_consumers_ends_the_unit():
    """The block goes where all that follows is gated alike: after the convolution."""
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(3, 3, padding="same", name="conv")(inputs)
    n = keras.layers.BatchNormalization(name="norm")(x)
    y = keras.layers.ReLU(name="relu")(n) + keras.layers.ReLU(name="other")(n)
    assert [c.after for c in candidates(keras.Model(inputs, y))] == ["norm"]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_blocks_take_the_dtype_policy_of_the_layer_before(policy):
    conv = keras.layers.Conv2D(4, 3, dtype=policy)
    model = keras.Sequential([keras.Input((8, 8, 3)), conv])
    new = insert(model)
    assert new.layers[1].dtype_policy.name == policy
    np.testing.assert_array_equal(
        keras.ops.cast(new(X), "float32"), keras.ops.cast(model(X), "float32")
    )


def test_trainable_flags_are_kept_layer_by_layer():
    model = sequential()
    model.trainable = False
    model.layers[-1].trainable = True
    with pytest.warns(SiteWarning, match="they do not train"):
        new = insert(model)
    flags = {layer.name: layer.trainable for layer in new.layers}
    assert all(flags[layer.name] == layer.trainable for layer in model.layers)


def masked(by_hand, mask_size=12):
    """Keras hands the mask on to an activation; a convolution is given one by hand beside it."""
    inputs = keras.Input((12, 6))
    x = inputs if by_hand else keras.layers.Masking()(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Activation("relu", name="after")(x)
    if not by_hand:
        return keras.Model(inputs, keras.layers.GlobalAveragePooling1D()(x))
    mask = keras.Input((mask_size,), dtype="bool")
    other = keras.Input((mask_size, 2))
    pooled = keras.layers.GlobalAveragePooling1D()(x if mask_size == 12 else other, mask=mask)
    return keras.Model([inputs, mask, other], [pooled, keras.layers.Flatten()(x)])


def test_masks_of_keras_reach_the_blocks():
    new = insert(masked(by_hand=False), 2, where=["after"])
    block = next(layer for layer in new.layers if isinstance(layer, SEBlock))
    rng = np.random.default_rng(0)
    block.w2.assign(rng.normal(size=block.w2.shape))
    x = rng.normal(size=(4, 12, 6)).astype("float32")
    x *= (np.arange(12) < [[3], [6], [9], [12]])[..., None]
    maps = np.maximum(x / np.sqrt(1.001), 0)
    expected = block.gates(maps, x.any(axis=-1))
    np.testing.assert_allclose(read_gates(new, x)["se_1"], expected, atol=1e-6)
    assert np.abs(expected - block.gates(maps)).max() > 0.01


def test_masks_by_hand_do_not_reach_the_blocks_and_that_is_said():
    message = r"blocks at \['se_1'\] that average over the padding, too: other layers of model '"
    with pytest.warns(SiteWarning, match=message):
        insert(masked(by_hand=True), 2, where=["after"])
    insert(masked(by_hand=True, mask_size=5), 2, where=["after"])  # that of other positions


class Subclassed(keras.Model):
    pass


class OwnCall(keras.Sequential):
    def __init__(self):
        super().__init__([keras.Input((8, 8, 3)), keras.layers.Conv2D(3, 3)])

    def call(self, x, training=None, mask=None):
        return 2.0 * super().call(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Subclassed(name="mine"),
            "needs a functional or Sequential Keras model.*Received: Subc",
        ),
        (lambda: keras.Sequential([keras.layers.Conv2D(3, 3)]), "needs a built model"),
        (OwnCall, "needs a functional or Sequential Keras model.*Received: OwnCall"),
        (
            lambda: keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]),
            "needs a place: residual additions",
        ),
        (
            lambda: insert(sequential()),
            r"needs a place without SE; choose.*has SE at each place: \['se_1', 'se_2'",
        ),
    ],
)
def test_refusals(build, message):
    with pytest.raises(InputError, match=message):
        insert(build())


@pytest.mark.parametrize("plan", [3, {"se_1": 4}, ["se_1"]])
def test_a_plan_that_is_none(plan):
    with pytest.raises(InputError, match="A plan must be a dictionary of dictionaries"):
        insert(sequential(), plan=plan)


def test_an_unknown_site_in_a_plan():
    with pytest.raises(InputError, match=r"of \['se_1', .*'se_4'\]\. Received: \['se_9'\]"):
        insert(sequential(), plan={"se_9": {}})


@pytest.mark.parametrize("settings", [{"rat)o": 2}, {"activation": "no such"}, {"gate": []}])
def test_settings_that_no_block_takes(settings):
    with pytest.raises(InputError, match=r"Received: "):
        insert(sequential(), plan={"se_1": settings})


def test_a_misspelt_setting_is_named():
    with pytest.raises(InputError, match=r"must be arguments of SEBlock\. Received: .*'rat\)o': 2"):
        insert(sequential(), plan={"se_1": {"rat)o": 2}})
