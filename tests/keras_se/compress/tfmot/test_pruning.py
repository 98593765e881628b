import keras
import numpy as np
import pytest

import keras_se
from keras_se import SEBlock
from keras_se.compress import prune, quantize_aware, strip, to_tf_keras
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
def test_the_share_in_the_scope_is_zero_and_nothing_else(classifier, task, fitted, scope):
    before = [v.numpy() for v in classifier.variables]
    stripped = strip(fitted(prune(classifier, 0.5, scope=scope), task))
    for name, share in zeros(stripped).items():
        inside = scope == "all" or is_se(name) == (scope == "se")
        assert share == pytest.approx(0.5 if inside and not is_depthwise(name) else 0.0, abs=0.01)
    assert [type(v) for v in stripped.layers] == [type(v) for v in classifier.layers]
    assert any(isinstance(layer, SEBlock) for layer in stripped.layers)
    keras.tree.map_structure(
        np.testing.assert_array_equal, before, [v.numpy() for v in classifier.variables]
    )


def test_the_stripped_model_computes_what_was_trained(classifier, task, fitted):
    pruned = fitted(prune(classifier, 0.8), task)
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
    with pytest.raises(InputError, match=r"strip any other first. Received: what prune returned"):
        keras_se.to_tflite(pruned)


def test_the_polynomial_schedule_grows_to_the_end_step(classifier, task, fitted):
    pruned = prune(classifier, 0.8, "polynomial", begin_step=2, end_step=8)
    shares = []

    def look(batch, logs):
        shares.append(zeros(strip(pruned))[name])

    name = next(n for n in zeros(classifier) if n.startswith("conv2d"))
    fitted(
        pruned,
        task,
        epochs=1,
        batch_size=20,
        callbacks=[keras.callbacks.LambdaCallback(on_train_batch_end=look)],
    )
    assert shares[0] == shares[1] == 0.0
    assert shares == sorted(shares)
    assert 0.0 < shares[4] < 0.8
    assert shares[8] == shares[9] == pytest.approx(0.8, abs=0.01)


def test_no_sparsity_and_a_single_step(classifier, task, fitted):
    assert max(zeros(strip(fitted(prune(classifier, 0), task))).values()) == 0.0
    once = strip(fitted(prune(classifier, 0.5, scope="se"), task, epochs=1, batch_size=200))
    assert {s for name, s in zeros(once).items() if is_se(name)} == {0.5}


def without_se():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "at least 0 and below 1. Received: 1.0"),
        ({"sparsity": -0.1}, "Received: -0.1"),
        ({"sparsity": True}, "Received: True"),
        ({"sparsity": "half"}, "Received: 'half'"),
        ({"sparsity": float("nan")}, "Received: nan"),
        ({"schedule": "cubic"}, "schedule is one of .*'polynomial'.* Received: schedule='cubic'"),
        ({"schedule": "polynomial"}, "needs end_step. Received: end_step=None"),
        ({"begin_step": None}, "begin_step is a number of steps from 0 on. Received: None"),
        ({"begin_step": -1}, "begin_step is a number of steps from 0 on. Received: -1"),
        ({"end_step": 1}, "end_step is a number of steps from 2 on. Received: 1"),
        ({"frequency": 0}, "frequency is a number of steps from 1 on. Received: 0"),
        ({"scope": "head"}, r"scopes \['all', 'trunk', 'se'\]. Received: scope='head'"),
        ({"scope": "se"}, "kernels in its scope .* Received: scope='se' for model .* none there"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        prune(without_se(), **arguments)


def test_strip_takes_what_was_compressed():
    with pytest.raises(InputError, match=r"strip takes what .* returned. Received: Sequential"):
        strip(without_se())
    with pytest.raises(InputError, match="Received: NoneType"):
        strip(None)


def test_what_is_compressed_is_stripped_first():
    model = without_se()
    x = np.ones((4, 3), "float32")

    def native(model):
        return quantize_aware(model, x, engine="keras")

    for compressed in (prune(model), quantize_aware(model, x, engine="keras")):
        for compress in (prune, to_tf_keras, lambda m: quantize_aware(m, x), native):
            with pytest.raises(InputError, match="strip a compressed one first"):
                compress(compressed)
