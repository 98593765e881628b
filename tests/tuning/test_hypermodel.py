import sys

import keras
import keras_tuner
import numpy as np
import pytest

import tuning
from keras_se import SEBlock, candidates, insert
from keras_se.errors import InputError, MissingExtraError
from tuning import SEHyperModel, SESpace
from tuning.compiling import compile_like
from tuning.hypermodel import UserHyperModel
from tuning.seeding import trial_seed

SPACE = SESpace((2, 4), ("sigmoid", "one_plus_tanh"))
X = np.random.default_rng(0).random((2, 8, 8, 1)).astype("float32")


def base():
    layers = [keras.layers.Conv2D(8, 3), keras.layers.Conv2D(16, 3)]
    return keras.Sequential([keras.Input((8, 8, 1)), *layers])


def residual(size=8, channels=(4, 4, 8, 8)):
    """Residual units; where the channels change, the resolution is halved."""
    inputs = keras.Input((size, size, 1))
    x = keras.layers.Conv2D(channels[0], 3, padding="same")(inputs)
    for before, after in zip((channels[0], *channels), channels, strict=False):
        strides = 1 if before == after else 2
        branch = keras.layers.Conv2D(after, 3, strides, padding="same", activation="relu")(x)
        shortcut = keras.layers.Conv2D(after, 1, strides)(x) if strides == 2 else x
        x = keras.layers.Add()([keras.layers.Conv2D(after, 3, padding="same")(branch), shortcut])
    return keras.Model(inputs, x)


def nested():
    inputs = keras.Input((8, 8, 1))
    conv = keras.layers.Conv2D(8, 3, name="outer_conv")
    return keras.Model(inputs, conv(keras.Model(*_inner(), name="inner")(inputs)))


def _inner():
    inputs = keras.Input((8, 8, 1))
    return inputs, keras.layers.Conv2D(4, 3)(inputs)


def compile_it(model):
    model.compile(loss="mse", run_eagerly=True)


def hyperparameters(**values):
    hp = keras_tuner.HyperParameters()
    hp.values.update(values)
    return hp


def blocks(model):
    return [layer for layer in model.layers if isinstance(layer, SEBlock)]


@pytest.mark.parametrize("model_or_builder", [base(), base], ids=["model", "builder"])
def test_build_inserts_as_the_hyperparameters_say(model_or_builder):
    hp = hyperparameters(se_ratio=4, se_gate="one_plus_tanh", se_squeeze="max")
    space = SESpace((2, 4), ("sigmoid", "one_plus_tanh"), ("avg", "max"))
    model = SEHyperModel(model_or_builder, space, compile_it).build(hp)
    expected = [(4, "one_plus_tanh", "max")] * 2
    assert [(b.ratio, b.gate, b.squeeze) for b in blocks(model)] == expected
    assert model.compiled


def test_a_given_model_is_not_changed_by_builds():
    model = base()
    weights = model.get_weights()
    hypermodel = SEHyperModel(model, SPACE, compile_it)
    for placement, layers in (("standard", 4), ("standard", 4), ("none", 2)):
        built = hypermodel.build(hyperparameters(se_placement=placement))
        assert (built is not model, len(built.layers)) == (True, layers)
    assert (len(model.layers), model.compiled) == (2, False)
    for old, new in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_given_model_keeps_its_weights_whatever_the_seed():
    model = base()
    for seed in (0, 1):
        with trial_seed(seed):
            built = SEHyperModel(model, SPACE, compile_it).build(hyperparameters())
        np.testing.assert_array_equal(built(X), model(X))


def test_the_plan_builds_the_same_network():
    hypermodel = SEHyperModel(base, SPACE, compile_it)
    hp = hyperparameters(se_ratio=4, se_gate="sigmoid")
    with trial_seed(0):
        plan = hypermodel.plan(hp)
        built = hypermodel.build(hp)
    settings = {"ratio": 4, "gate": "sigmoid", "squeeze": "avg"}
    assert plan == {f"se_{n}": settings for n in (1, 2)}
    planned = insert(base(), plan=plan)
    assert [w.shape for w in built.weights] == [w.shape for w in planned.weights]
    planned.set_weights(built.get_weights())
    np.testing.assert_array_equal(built(X), planned(X))


def test_the_baseline():
    hypermodel = SEHyperModel(residual, SESpace(placements=("pre", "post")), compile_it)
    hp = hyperparameters(se_placement="none")
    assert hypermodel.plan(hp) == {}
    assert hypermodel.placement(hp) is None
    built = hypermodel.build(hp)
    assert blocks(built) == []
    assert built.count_params() == residual().count_params()
    assert hp.values == {"se_placement": "none"}


@pytest.mark.parametrize("placement", ["standard", "pre", "post", "identity"])
def test_placements(placement):
    model = residual()
    space = SESpace((2,), ("one_plus_tanh",), placements=("standard", "pre", "post", "identity"))
    hypermodel = SEHyperModel(model, space, compile_it)
    hp = hyperparameters(se_placement=placement)
    assert hypermodel.placement(hp) == placement
    expected = insert(model, plan=hypermodel.plan(hp), placement=placement)
    built = hypermodel.build(hp)
    assert len(blocks(built)) == 4
    assert shapes(built) == shapes(expected)
    np.testing.assert_array_equal(built(X), model(X))


def shapes(model):
    return [(type(layer).__name__, layer.output.shape) for layer in model.layers]


def test_where():
    hypermodel = SEHyperModel(residual, SESpace(per="site"), compile_it, where="conv")
    assert len(hypermodel.scopes) == len(candidates(residual(), where="conv")) > 4
    names = iter(["conv"])
    hypermodel = SEHyperModel(named, SESpace(per="site"), compile_it, where=names)
    assert hypermodel.scopes == ("se_1",)
    for _ in range(2):
        assert len(blocks(hypermodel.build(hyperparameters()))) == 1


def named():
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3, name="conv")])


@pytest.mark.parametrize(("gate", "kept"), [("sigmoid", True), ("relu", True), ("tanh", False)])
def test_gates_that_cannot_keep_the_function_are_searched_too(gate, kept):
    """They start at random, and the plan says so: it builds the same kind of network."""
    plain, hp = base(), hyperparameters()
    hypermodel = SEHyperModel(plain, SESpace((2,), (gate,)), compile_it)
    assert np.array_equal(hypermodel.build(hp)(X), plain(X)) == kept
    plan = hypermodel.plan(hp)
    assert [("identity_init" in settings) for settings in plan.values()] == [not kept] * 2
    insert(base(), plan=plan)


def test_each_site_keeps_the_function_where_it_can():
    """The output of the first convolution goes to two layers: it cannot be doubled for one."""
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="tanh", name="tanh")(x)
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3, name="linear")(x))
    hypermodel = SEHyperModel(model, SESpace((2,), ("sigmoid",)), compile_it)
    with pytest.raises(InputError, match="only if it can double the layer before"):
        insert(model, 2, gate="sigmoid")
    plan = hypermodel.plan(hyperparameters())
    assert [settings.get("identity_init") for settings in plan.values()] == [False, None]
    built = hypermodel.build(hyperparameters())
    rest = built.get_layer("se_2").gates(np.ones((1, 6, 6, 4), "float32"))
    np.testing.assert_array_equal(rest, np.full((1, 4), 0.5, "float32"))
    assert np.any(built.get_layer("se_1").w2.numpy())


@pytest.mark.parametrize(
    ("model", "per", "scopes"),
    [
        (residual(), "model", ("se",)),
        (residual(), "site", ("se_1", "se_2", "se_3", "se_4")),
        (residual(None), "stage", ("stage_1", "stage_2")),
        (residual(channels=(4, 8, 16)), "stage", ("stage_1", "stage_2", "stage_3")),
        (nested(), "site", ("inner/se_1", "se_1")),
    ],
)
def test_scopes(model, per, scopes):
    space = SESpace((2, 4), ("sigmoid",), per=per)
    hypermodel = SEHyperModel(model, space, compile_it)
    assert hypermodel.scopes == scopes
    assert hypermodel.size == 1 + 2 ** len(scopes)
    hp = keras_tuner.HyperParameters()
    hypermodel.declare_hyperparameters(hp)
    kinds = ("ratio", "gate", "squeeze")
    expected = [f"{scope}_{kind}" for scope in scopes for kind in kinds]
    assert [parameter.name for parameter in hp.space] == ["se_placement", *expected]


def test_stages_end_where_the_resolution_changes():
    """Also back to one that there was, as in a decoder; channels alone end none."""
    x = inputs = keras.Input((8, 8, 1))
    for filters, layer in (
        (4, keras.layers.Conv2D),
        (8, keras.layers.Conv2D),
        (8, keras.layers.MaxPooling2D),
        (8, keras.layers.UpSampling2D),
    ):
        x = layer(filters, 3, padding="same")(x) if layer is keras.layers.Conv2D else layer()(x)
        x = keras.layers.Conv2D(filters, 3, padding="same")(x)
    hypermodel = SEHyperModel(keras.Model(inputs, x), SESpace(per="stage"), compile_it)
    hp = hyperparameters(stage_1_ratio=4, stage_2_ratio=8, stage_3_ratio=16)
    ratios = [settings["ratio"] for settings in hypermodel.plan(hp).values()]
    assert ratios == [4] * 4 + [8] + [16]


def test_channels_first_stages():
    inputs = keras.Input((1, 8, 8))
    first = {"data_format": "channels_first", "padding": "same"}
    x = keras.layers.Conv2D(4, 3, **first)(inputs)
    x = keras.layers.Conv2D(8, 3, **first)(x)
    hypermodel = SEHyperModel(keras.Model(inputs, x), SESpace(per="stage"), compile_it)
    assert hypermodel.scopes == ("stage_1",)


def test_settings_per_stage_and_per_site_reach_the_blocks():
    stage = SEHyperModel(residual, SESpace((2, 4), per="stage"), compile_it)
    built = stage.build(hyperparameters(stage_2_ratio=4, stage_1_gate="one_plus_tanh"))
    assert [block.ratio for block in blocks(built)] == [2, 2, 4, 4]
    assert [block.gate for block in blocks(built)] == ["one_plus_tanh"] * 2 + ["sigmoid"] * 2
    site = SEHyperModel(nested, SESpace((2, 4), per="site"), compile_it)
    plan = site.plan(hyperparameters(**{"inner/se_1_ratio": 4}))
    assert {name: settings["ratio"] for name, settings in plan.items()} == {
        "inner/se_1": 4,
        "se_1": 2,
    }
    assert site.build(hyperparameters()).get_layer("inner").get_layer("se_1").ratio == 2


def test_placements_must_have_the_same_scopes():
    """Before the branch that halves the map, it is as large as before the first one."""
    space = SESpace(placements=("standard", "pre"), per="stage")
    assert SEHyperModel(residual(), space, compile_it).scopes == ("stage_1", "stage_2")
    message = (
        r"With per='stage' all placements need the same number of stages; search each placement "
        r"by itself. Received: \{'standard': 2, 'pre': 1\}"
    )
    hypermodel = SEHyperModel(residual(channels=(4, 8)), space, compile_it)
    with pytest.raises(InputError, match=message):
        hypermodel.build(hyperparameters())


def test_the_base_is_built_once_for_each_candidate():
    count = []

    def counted():
        count.append(1)
        return residual()

    hypermodel = SEHyperModel(counted, SESpace(per="stage"), compile_it)
    hypermodel.build(hyperparameters())
    assert len(count) == 1
    hypermodel.plan(hyperparameters())
    assert (hypermodel.size, len(count)) == (1 + 15**2, 1)
    hypermodel.build(hyperparameters(se_placement="none"))
    assert len(count) == 2
    SEHyperModel(counted, SESpace(), compile_it).declare_hyperparameters(hyperparameters())
    assert len(count) == 2


class Recording(keras_tuner.GridSearch):
    def run_trial(self, trial, *args, **kwargs):
        self.tried = [*getattr(self, "tried", []), dict(trial.hyperparameters.values)]
        return {"loss": 1.0}


def test_the_grid_of_keras_tuner_is_the_space_and_the_baseline_once(tmp_path):
    space = SESpace((2, 4), ("sigmoid",), per="stage")
    hypermodel = SEHyperModel(residual(), space, compile_it)
    objective = keras_tuner.Objective("loss", "min")
    tuner = Recording(hypermodel, objective, directory=tmp_path, project_name="grid")
    tuner.search(verbose=0)
    assert len(tuner.tried) == hypermodel.size
    assert tuner.tried.count({"se_placement": "none"}) == 1


def two_outputs():
    x = inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    heads = {name: keras.layers.Dense(2, name=name)(x) for name in ("a", "b")}
    return keras.Model(inputs, heads)


def built_with(compile, model=None):
    model = named() if model is None else model
    return SEHyperModel(model, SPACE, compile).build(hyperparameters())


def test_compile_by_a_mapping(xla):
    model = built_with(
        {
            "optimizer": {"class_name": "SGD", "config": {"momentum": 0.9}},
            "learning_rate": 0.25,
            "loss": "mse",
            "metrics": ["mae", "accuracy"],
            "jit_compile": False,
        }
    )
    assert type(model.optimizer) is keras.optimizers.SGD
    assert (float(model.optimizer.learning_rate), model.optimizer.momentum) == (0.25, 0.9)
    assert (model.loss, model.jit_compile) == ("mse", False)
    y = np.zeros((2, 6, 6, 8), "float32")
    assert set(model.evaluate(X, y, verbose=0, return_dict=True)) == {"loss", "mae", "accuracy"}


def test_compile_by_names_has_the_defaults_of_keras():
    for name in ("adam", "Adam"):
        optimizer = built_with({"optimizer": name}).optimizer
        assert type(optimizer) is keras.optimizers.Adam
        assert float(optimizer.learning_rate) == pytest.approx(1e-3)
    assert type(built_with({"loss": "mse"}).optimizer) is keras.optimizers.RMSprop


def test_compile_by_output():
    config = {"class_name": "SparseCategoricalCrossentropy", "config": {"from_logits": True}}
    model = built_with({"loss": {"a": "mse", "b": config}}, two_outputs())
    assert model.loss["a"] == "mse"
    assert isinstance(model.loss["b"], keras.losses.SparseCategoricalCrossentropy)
    y = {"a": np.zeros((2, 2), "float32"), "b": np.zeros(2, "int32")}
    assert np.isfinite(model.evaluate(X, y, verbose=0, return_dict=True)["loss"])


def test_models_share_no_object(xla):
    mapping = {
        "optimizer": {"class_name": "Adam", "config": {}},
        "loss": {"class_name": "MeanSquaredError", "config": {}},
        "metrics": [{"class_name": "MeanAbsoluteError", "config": {}}],
    }
    hypermodel = SEHyperModel(named, SPACE, mapping)
    one, other = (hypermodel.build(hyperparameters()) for _ in range(2))
    assert one.optimizer is not other.optimizer
    assert one.loss is not other.loss


def test_without_compile_it_is_as_the_base():
    def compiled():
        model = named()
        optimizer = keras.optimizers.SGD(0.5, momentum=0.25)
        model.compile(optimizer, loss=keras.losses.Huber(2.0), metrics=["mae"], jit_compile=False)
        return model

    hypermodel = SEHyperModel(compiled, SPACE)
    one, other = (
        hypermodel.build(hyperparameters(se_placement=placement))
        for placement in ("standard", "none")
    )
    for model in (one, other):
        assert float(model.optimizer.learning_rate) == 0.5
        assert model.optimizer.momentum == 0.25
        assert float(model.loss([[0.0]], [[5.0]])) == 2.0 * (5.0 - 1.0)
        assert model.jit_compile is False
    assert one.optimizer is not other.optimizer


def test_a_base_that_is_not_compiled():
    message = "Without compile= the base model must be compiled. Received: model .*, which is not"
    with pytest.raises(InputError, match=message):
        SEHyperModel(base(), SPACE).build(hyperparameters())
    with pytest.raises(InputError, match=message):
        SEHyperModel(base, SPACE).build(hyperparameters())


def own(y, predictions):
    return keras.ops.mean(keras.ops.square(y - predictions))


@pytest.mark.parametrize("losses", [own, {"a": own, "b": "mae"}])
def test_a_base_with_a_loss_of_its_own(losses):
    model = two_outputs() if losses is not own else named()
    model.compile(loss=losses)
    built = built_with(None, model)
    assert built.loss == model.loss
    y = model.predict(X, verbose=0)
    assert built.evaluate(X, y, verbose=0) == pytest.approx(model.evaluate(X, y, verbose=0))


def test_a_base_with_a_metric_of_its_own():
    model = named()
    model.compile(loss="mse", metrics=[own])
    with pytest.raises(InputError, match=r"Keras knows or has registered\. Received: mod"):
        built_with(None, model)


@pytest.mark.parametrize(
    ("compile", "message"),
    [
        ("adam", "compile must be None, a function .* Received: compile='adam'"),
        (
            {"metric": ["mae"]},
            r"arguments among \['optimizer', .*'learning_rate'\]. Received: \['m",
        ),
        ({"loss": keras.losses.Huber()}, "give a function of the model. Received: loss=<"),
        ({"metrics": [keras.metrics.Mean()]}, "share no object"),
        ({"loss": {1: "mse"}}, "names, numbers, lists and dictionaries.*Received: loss={1: 'mse'}"),
        ({"metrics": "mae"}, "metrics must be a list of names. Received: metrics='mae'"),
        ({"optimizer": "adm"}, "must name what Keras knows. Received: optimizer=.*'adm'"),
        ({"optimizer": 3}, "must name what Keras knows. Received: optimizer=.*'3'"),
        ({"learning_rate": "fast"}, "Received: optimizer=.*which gives: Argument `learning_rate`"),
        ({"loss": "msee"}, "Received: loss='msee', which gives: Could not interpret loss"),
        ({"loss": {"class_name": "MSEE"}}, "Received: loss={'class_name': 'MSEE'}, which gives"),
        ({"metrics": ["acuracy"]}, "Received: metrics='acuracy', which gives"),
    ],
)
def test_what_compile_refuses_before_anything_is_built(compile, message):
    with pytest.raises(InputError, match=message):
        SEHyperModel(base, SPACE, compile)


def test_compile_like_by_a_function():
    model = base()
    compile_like(model, base(), compile_it)
    assert model.loss == "mse"


@pytest.mark.parametrize("placement", ["none", "standard"])
def test_models_without_a_place_or_with_blocks(placement):
    hp = hyperparameters(se_placement=placement)
    dense = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(InputError, match="insert needs a place"):
        SEHyperModel(dense, SPACE, compile_it).build(hp)
    with pytest.raises(InputError, match="insert needs a place without SE"):
        SEHyperModel(insert(base()), SPACE, compile_it).build(hp)


def test_a_builder_of_the_users_is_compiled():
    for compile in (compile_it, {"loss": "mse"}):
        model = UserHyperModel(lambda hp: base(), compile).build(hyperparameters())
        assert (model.compiled, model.loss) == (True, "mse")


def test_what_a_builder_of_the_users_must_return():
    with pytest.raises(InputError, match=r"A builder must return a keras\.Model. Received: str"):
        UserHyperModel(lambda hp: "model").build(hyperparameters())
    message = "must return a compiled model, or compile= must be given. Received: model .* not comp"
    for compile in (None, lambda model: None):
        with pytest.raises(InputError, match=message):
            UserHyperModel(lambda hp: base(), compile).build(hyperparameters())


def test_without_keras_tuner_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_tuner", None)
    monkeypatch.delitem(sys.modules, "tuning.hypermodel")
    with pytest.raises(
        MissingExtraError, match=r"`keras_tuner`.* pip install 'keras-se\[tuning\]'"
    ):
        _ = tuning.SEHyperModel
