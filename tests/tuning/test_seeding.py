import random

import keras
import keras_tuner
import numpy as np
import pytest

from keras_se import SEBlock, insert
from keras_se.errors import InputError
from tuning import SEHyperModel, SESpace, seeding
from tuning.seeding import reseed, site_initializer, site_seed, trial_seed

SPACE = SESpace((2, 4), ("sigmoid", "one_plus_tanh", "tanh"))
CANDIDATES = (
    {"se_ratio": 2, "se_gate": "sigmoid"},
    {"se_ratio": 4, "se_gate": "one_plus_tanh"},
    {"se_ratio": 2, "se_gate": "tanh"},
    {"se_placement": "none"},
)


def base():
    """Convolutions with Dropout after each, so that a shifted stream shows in what follows."""
    x = inputs = keras.Input((8, 8, 1))
    for n in (1, 2):
        x = keras.layers.Conv2D(8 * n, 3, use_bias=False, name=f"conv_{n}")(x)
        x = keras.layers.BatchNormalization(name=f"norm_{n}")(x)
        x = keras.layers.Dropout(0.5, name=f"drop_{n}")(x)
    x = keras.layers.Dense(2, name="top")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


def inner_base():
    """The same inside of a nested model."""
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, keras.layers.Dropout(0.2, name="drop")(base()(inputs)))


def own_build(hp, space=SPACE):
    """What a user writes: the blocks are where the network is made."""
    x = inputs = keras.Input((8, 8, 1))
    for n in (1, 2):
        x = keras.layers.Conv2D(8 * n, 3, name=f"conv_{n}")(x)
        x = space.block(hp, f"se_{n}")(x)
        x = keras.layers.Dropout(0.5, name=f"drop_{n}")(x)
    x = keras.layers.Dense(2, name="top")(keras.layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


def hyperparameters(**values):
    hp = keras_tuner.HyperParameters()
    hp.values.update(values)
    return hp


def built(candidate, seed, builder=base, space=SPACE):
    with trial_seed(seed):
        hypermodel = SEHyperModel(builder, space, {"loss": "mse"})
        return hypermodel.build(hyperparameters(**candidate))


def built_by_user(candidate, seed):
    with trial_seed(seed):
        of_blocks = {name.replace("se_", "se_1_"): value for name, value in candidate.items()}
        return own_build(hyperparameters(**candidate, **of_blocks))


def drawn():
    return random.random(), np.random.rand()


def layers(model):
    for layer in model.layers:
        yield from layers(layer) if isinstance(layer, keras.Model) else [layer]


def noise(model):
    """The weights of the base network, undoubled, and the states of its Dropout layers."""
    found = {}
    for layer in layers(model):
        if isinstance(layer, keras.layers.Dropout):
            found[layer.name] = layer.seed_generator.state.numpy()
        elif not isinstance(layer, SEBlock):
            for n, weight in enumerate(layer.get_weights()):
                found[f"{layer.name} {n}"] = weight / (2 if is_doubled(model, weight) else 1)
    return found


def is_doubled(model, weight):
    """Only the gammas of normalizations are, to 2, for a sigmoid after them."""
    return weight.ndim == 1 and np.all(weight == 2)


def equal(one, other):
    assert one.keys() == other.keys()
    return all(np.array_equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("builder", [base, inner_base])
def test_candidates_of_one_seed_share_their_noise(builder):
    reference, *others = (noise(built(candidate, 1, builder)) for candidate in CANDIDATES)
    assert sum("drop" in name for name in reference) >= 2
    assert len(reference) > 4
    for other in others:
        assert equal(reference, other)


def test_candidates_of_a_build_of_the_users_share_their_noise():
    reference, *others = (noise(built_by_user(candidate, 1)) for candidate in CANDIDATES)
    for other in others:
        assert equal(reference, other)


@pytest.mark.parametrize("build", [built, built_by_user])
def test_seeds_differ(build):
    zero, one = (noise(build(CANDIDATES[1], seed)) for seed in (0, 1))
    for name in ("conv_1 0", "conv_2 0", "top 0", "drop_1", "drop_2"):
        assert not np.array_equal(zero[name], one[name]), name


def test_this_guard_can_fail(monkeypatch):
    """Without a seed of their own the blocks draw from the stream of the layers after them."""
    monkeypatch.setattr(seeding, "site_seed", lambda name: None)
    assert not equal(noise(built(CANDIDATES[1], 0)), noise(built(CANDIDATES[3], 0)))
    se, plain = (noise(built_by_user(CANDIDATES[n], 0)) for n in (1, 3))
    assert np.array_equal(se["conv_1 0"], plain["conv_1 0"])
    assert not np.array_equal(se["conv_2 0"], plain["conv_2 0"])


def test_the_noise_does_not_depend_on_what_was_built_before():
    hypermodel = SEHyperModel(base, SPACE, {"loss": "mse"})
    with trial_seed(3):
        first, second = (noise(hypermodel.build(hyperparameters())) for _ in range(2))
        drawn()
        hypermodel.plan(hyperparameters())
        third = noise(hypermodel.build(hyperparameters()))
    assert equal(first, second)
    assert equal(first, third)


def test_functions_of_the_users_may_draw():
    """The places are looked for at the first build only, and whoever compiles may draw, too."""

    def is_convolution(layer):
        drawn()
        return isinstance(layer, keras.layers.Conv2D)

    def compile_it(model):
        for _ in range(len(hypermodels)):
            drawn()
        model.compile(loss="mse")

    hypermodels, found = [], []
    for _ in range(2):
        hypermodels.append(SEHyperModel(base, SPACE, compile_it, where=is_convolution))
        for _ in range(2):
            with trial_seed(0):
                found.append((noise(hypermodels[-1].build(hyperparameters())), drawn()))
    for model_noise, after in found[1:]:
        assert equal(found[0][0], model_noise)
        assert found[0][1] == after


def test_training_begins_from_the_seed():
    numbers = []
    for candidate in CANDIDATES:
        with trial_seed(0):
            SEHyperModel(base, SPACE, {"loss": "mse"}).build(hyperparameters(**candidate))
            numbers.append(drawn())
    assert len(set(numbers)) == 1


def residual():
    x = inputs = keras.Input((8, 8, 1))
    for n in (1, 2):
        branch = keras.layers.Conv2D(8, 3, padding="same", name=f"conv_{n}")(x)
        branch = keras.layers.Dropout(0.5, name=f"drop_{n}")(branch)
        branch = keras.layers.Conv2D(8, 3, padding="same", name=f"end_{n}")(branch)
        shortcut = keras.layers.Conv2D(8, 1, name=f"shortcut_{n}", use_bias=False)(x)
        shortcut = keras.layers.SpatialDropout2D(0.5, name=f"spatial_{n}")(shortcut)
        x = keras.layers.Add(name=f"add_{n}")([branch, shortcut])
    return keras.Model(inputs, keras.layers.Dropout(0.5, name="last")(x))


def test_placements_share_their_noise():
    places = ("standard", "pre", "post", "identity")
    space = SESpace((2,), ("one_plus_tanh", "tanh"), placements=places)
    candidates = [{"se_placement": place, "se_gate": "tanh"} for place in places]
    candidates.append({"se_placement": "pre", "se_gate": "one_plus_tanh"})
    reference = noise(built({"se_placement": "none"}, 0, residual, space))
    assert sum(name.startswith(("drop", "spatial", "last")) for name in reference) == 5
    for candidate in candidates:
        assert equal(reference, noise(built(candidate, 0, residual, space))), candidate


def losses_of(candidate, seed):
    """Per batch, without learning: what is left is the order of the data, and Dropout."""
    rng = np.random.default_rng(0)
    x, y = rng.random((24, 8, 8, 1)).astype("float32"), rng.random((24, 2)).astype("float32")
    losses = []
    step = keras.callbacks.LambdaCallback(on_train_batch_end=lambda n, logs: losses.append(logs))
    arguments = {"optimizer": "sgd", "learning_rate": 0.0, "loss": "mse", "run_eagerly": True}
    with trial_seed(seed):
        model = SEHyperModel(base, SPACE, arguments).build(hyperparameters(**candidate))
        model.fit(x, y, batch_size=4, epochs=2, verbose=0, callbacks=[step])
    return [logs["loss"] for logs in losses]


def test_training_has_the_same_order_and_the_same_dropout():
    """These candidates begin as one function, so that they lose the same at each step."""
    reference, *others = (losses_of(CANDIDATES[n], 0) for n in (3, 0, 1))
    assert len(set(reference)) == 12
    for other in others:
        np.testing.assert_allclose(reference, other, rtol=1e-5)
    assert not np.allclose(reference, losses_of(CANDIDATES[3], 1), rtol=1e-3)


def w1_of(model, name="se_2"):
    return model.get_layer(name).w1.numpy()


def test_a_block_starts_from_the_seed_and_its_site_alone():
    space = SESpace((2, 4), ("one_plus_tanh",), per="site")
    one = built({"se_1_ratio": 2}, 0, space=space)
    other = built({"se_1_ratio": 4}, 0, space=space)
    np.testing.assert_array_equal(w1_of(one), w1_of(other))
    with trial_seed(0):
        plan = {"se_2": {"ratio": 2, "kernel_initializer": site_initializer("se_2")}}
        alone = insert(base(), plan=plan)
    np.testing.assert_array_equal(w1_of(one), w1_of(alone))
    assert not np.array_equal(w1_of(one), w1_of(built({}, 1, space=space)))


def test_a_block_in_a_build_starts_as_an_inserted_one():
    built_one, inserted = built_by_user({}, 0), built({}, 0)
    np.testing.assert_array_equal(w1_of(built_one), w1_of(inserted))


def test_sites_of_one_shape_start_differently():
    x = inputs = keras.Input((8, 8, 8))
    with trial_seed(0):
        for name in ("a", "b"):
            x = SPACE.block(hyperparameters(), name)(x)
        model = keras.Model(inputs, x)
    assert not np.array_equal(w1_of(model, "a"), w1_of(model, "b"))
    assert not np.array_equal(w1_of(model, "a"), model.get_layer("a").w2.numpy().T)


def test_outside_of_a_trial():
    assert seeding._SEED.get() is None
    assert site_seed("se_1") is None
    assert site_initializer("se_1") == "glorot_uniform"
    keras.utils.set_random_seed(5)
    expected = drawn()
    keras.utils.set_random_seed(5)
    reseed()
    assert drawn() == expected


@pytest.mark.parametrize("seed", [0, np.int64(7), 2**32 - 1])
def test_within_a_trial(seed):
    with trial_seed(seed):
        first = drawn()
        assert (seeding._SEED.get(), type(seeding._SEED.get())) == (seed, int)
        reseed()
        assert drawn() == first


def test_trials_nest_and_end_by_an_error_too():
    with trial_seed(0):
        with trial_seed(1):
            assert seeding._SEED.get() == 1
        assert seeding._SEED.get() == 0
        with pytest.raises(ZeroDivisionError), trial_seed(2):
            _ = 1 / 0
        assert seeding._SEED.get() == 0
    assert seeding._SEED.get() is None


@pytest.mark.parametrize("seed", [-1, 2**32, 1.0, True, "0", None])
def test_what_is_no_seed(seed):
    message = r"seed must be an integer from 0 .* Received: seed="
    with pytest.raises(InputError, match=message), trial_seed(seed):
        pass
    assert seeding._SEED.get() is None


def test_the_seeds_of_sites_are_those_of_every_process():
    """As numbers: `hash` would give others in the next process."""
    found = []
    for seed in (0, 1):
        with trial_seed(seed):
            found.append([site_seed(name) for name in ("se_1", "inner/se_1", "ü")])
    assert found == [[117395977, 154913604, 1642142516], [416642635, 1293708321, 1073500029]]
