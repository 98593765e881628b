import keras
import numpy as np
import pytest
import tf_keras
from keras import layers

from keras_se import SEBlock
from keras_se.compress import from_tf_keras, to_tf_keras
from keras_se.errors import InputError


def test_round_trip_is_exact_and_leaves_both_as_they_were(classifier, task):
    before = [v.numpy() for v in classifier.variables]
    converted = to_tf_keras(classifier)
    back = from_tf_keras(converted, like=classifier)
    for ours, original in zip(back.weights, before, strict=True):
        np.testing.assert_array_equal(ours, original)
    assert [layer.name for layer in back.layers] == [layer.name for layer in classifier.layers]
    for variable in converted.weights:
        variable.assign(variable * 1.5)
    new = from_tf_keras(converted, like=classifier)
    for ours, original in zip(new.weights, before, strict=True):
        np.testing.assert_array_equal(ours, original * np.float32(1.5))
    keras.tree.map_structure(
        np.testing.assert_array_equal, before, [v.numpy() for v in classifier.variables]
    )


def test_training_in_tf_keras_comes_back(classifier, task, fitted):
    converted = to_tf_keras(classifier)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(True)
    converted.compile(tf_keras.optimizers.Adam(1e-3), loss, run_eagerly=True)
    converted.fit(task.x, task.y, epochs=1, verbose=0)
    back = from_tf_keras(converted, like=classifier)
    ours, theirs = back.predict(task.x_test, verbose=0), converted.predict(task.x_test, verbose=0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert np.abs(ours - classifier.predict(task.x_test, verbose=0)).max() > 0.01


def test_nested_shared_and_separable_layers_come_back():
    shared = SEBlock(2)
    inner_inputs = keras.Input((6, 6, 4))
    inner = keras.Model(inner_inputs, shared(layers.SeparableConv2D(4, 3)(inner_inputs)))
    inputs = keras.Input((6, 6, 4))
    model = keras.Model(inputs, shared(inner(inputs)))
    converted = to_tf_keras(model)
    for variable in converted.weights:
        variable.assign(variable + 0.25)
    back = from_tf_keras(converted, like=model)
    assert len(back.weights) == len(model.weights) == 7
    for new, old in zip(back.weights, model.weights, strict=True):
        np.testing.assert_array_equal(new, old.numpy() + np.float32(0.25))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda model: model, "needs a tf_keras model.* Received: keras.Functional"),
        (lambda model: None, "Received: builtins.NoneType"),
        (
            lambda model: tf_keras.Sequential([tf_keras.Input((3,)), tf_keras.layers.Dense(2)]),
            r"to_tf_keras\(like\) returned. Received: one without a layer 'conv2d",
        ),
        (
            lambda model: tf_keras.Sequential(
                [tf_keras.Input((5, 5, 3)), tf_keras.layers.Conv2D(2, 1, name=model.layers[1].name)]
            ),
            r"with kernel of shape \(1, 1, 3, 2\), not \(3, 3, 3, 8\)",
        ),
    ],
)
def test_another_model_is_refused(classifier, build, message):
    with pytest.raises(InputError, match=message):
        from_tf_keras(build(classifier), like=classifier)


def test_a_model_that_was_changed_is_refused():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="d")])
    changed = tf_keras.Sequential(
        [tf_keras.Input((3,)), tf_keras.layers.Dense(3, name="d", activation="exponential")]
    )
    with pytest.raises(InputError, match="which computes something else"):
        from_tf_keras(changed, like=model)


def test_like_must_be_a_graph():
    with pytest.raises(InputError, match=r"from_tf_keras .*built"):
        from_tf_keras(tf_keras.Sequential([tf_keras.Input((3,))]), keras.Sequential([]))
