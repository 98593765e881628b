import keras
import numpy as np
import pytest

import keras_se
from keras_se import SEBlock
from keras_se.compress import prune, strip
from keras_se.errors import InputError


def zeros(model):
    """The share of zeros in each kernel, by name of the layer."""
    return {
        f"{layer.name}/{v.name}": float((v.numpy() == 0).mean())
        for layer in model.layers
        for v in layer.trainable_weights
        if len(v.shape) > 1
    }


def is_se(name):
    return name.startswith("se_block")


def is_depthwise(name):
    return name.startswith("depthwise")


@pytest.mark.parametrize("scope", ["all", "trunk", "se"])
def test_the_share_in_the_scope_is_zero_and_nothing_else(classifier, task, fitted, pruned, scope):
    before = [v.numpy() for v in classifier.variables]
    trained = pruned if scope == "all" else fitted(prune(classifier, 0.5, scope=scope), task)
    stripped = strip(trained)
    for name, share in zeros(stripped).items():
        inside = scope == "all" or is_se(name) == (scope == "se")
        assert share == pytest.approx(0.5 if inside and not is_depthwise(name) else 0.0, abs=0.01)
    assert [type(v) for v in stripped.layers] == [type(v) for v in classifier.layers]
    assert any(isinstance(layer, SEBlock) for layer in stripped.layers)
    keras.tree.map_structure(
        np.testing.assert_array_equal, before, [v.numpy() for v in classifier.variables]
    )


def test_the_stripped_model_computes_what_was_trained(classifier, task, pruned):
    stripped = strip(pruned)
    wanted = pruned.predict(task.x_test, verbose=0)
    np.testing.assert_allclose(
        stripped.predict(task.x_test, verbose=0), wanted, rtol=1e-4, atol=1e-5
    )
    gates, own = (
        keras_se.read_gates(pruned, task.x_test),
        keras_se.read_gates(stripped, task.x_test),
    )
    assert list(gates) == ["se_1", "se_2"]
    np.testing.assert_array_equal(gates["se_2"], own["se_2"])
    assert keras_se.find_sites(pruned) == keras_se.find_sites(classifier)
    with pytest.raises(InputError, match=r"strip .*Received: .*prune returned"):
        keras_se.to_tflite(pruned)


def test_the_polynomial_schedule_grows_to_the_end_step():
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(20)])
    pruned = prune(model, 0.8, "polynomial", begin_step=2, end_step=8)
    shares = []

    def look(batch, logs):
        shares.extend(zeros(strip(pruned)).values())

    pruned.compile("sgd", "mse")
    x, y = np.ones((10, 6), "float32"), np.zeros((10, 20), "float32")
    look_on = keras.callbacks.LambdaCallback(on_train_batch_end=look)
    pruned.fit(x, y, batch_size=1, verbose=0, callbacks=[look_on])
    assert shares[0] == shares[1] == 0.0
    assert shares == sorted(shares)
    assert 0.0 < shares[4] < 0.8
    assert shares[8] == shares[9] == pytest.approx(0.8, abs=0.01)


def test_no_sparsity_and_a_single_step():
    x, y = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
    for sparsity, share in ((0, 0.0), (0.5, 0.5)):
        pruned = prune(without_se(), sparsity)
        pruned.compile("sgd", "mse", run_eagerly=True)
        pruned.fit(x, y, verbose=0)
        assert set(zeros(strip(pruned)).values()) == {share}


def test_frozen_kernels_are_named():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="a", trainable=False)])
    model.add(keras.layers.Dense(2))
    with pytest.warns(UserWarning, match=r"^prune leaves frozen .* Received: \['a'\]") as caught:
        pruned = prune(model)
    assert caught[0].filename == __file__
    assert [w.shape for w in pruned.trainable_weights] == [(2, 2), (2,)]


def without_se():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "at least 0 and below 1. Received: sparsity=1.0"),
        ({"sparsity": -0.1}, "Received: sparsity=-0.1"),
        ({"sparsity": True}, "Received: sparsity=True"),
        ({"sparsity": "half"}, "Received: sparsity='half'"),
        ({"sparsity": float("nan")}, "Received: sparsity=nan"),
        (
            {"schedule": "cubic"},
            "schedule must be one of .*'polynomial'.* Received: schedule='cubic'",
        ),
        ({"schedule": "polynomial"}, "needs end_step. Received: end_step=None"),
        (
            {"begin_step": None},
            "begin_step must be an integer of at least 0. Received: begin_step=None",
        ),
        (
            {"begin_step": -1},
            "begin_step must be an integer of at least 0. Received: begin_step=-1",
        ),
        ({"end_step": 1}, "end_step must be an integer of at least 2. Received: end_step=1"),
        ({"frequency": 0}, "frequency must be an integer of at least 1. Received: frequency=0"),
        (
            {"scope": "head"},
            r"scope must be one of \['all', 'trunk', 'se'\]. Received: scope='head'",
        ),
        ({"scope": "se"}, "kernels in its scope .* Received: scope='se' for model .* none there"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        prune(without_se(), **arguments)
