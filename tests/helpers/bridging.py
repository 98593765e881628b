"""Models, inputs and the comparison for the tests of what becomes a model of tf_keras."""

import keras
import numpy as np
import tf_keras

from keras_se.compress import to_tf_keras


def randomized(model):
    """Statistics and biases as after training: their places show."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "bias", "moving_mean"):
            variable.assign(rng.normal(0.0, 0.2, variable.shape))
    return model


def sample(model, seed=1):
    rng = np.random.default_rng(seed)
    arrays = [
        rng.normal(size=(3, *(size or 64 for size in t.shape[1:]))).astype("float32")
        if "float" in t.dtype
        else rng.integers(0, 5, (3, *t.shape[1:]))
        for t in model.inputs
    ]
    is_one = isinstance(model, keras.Sequential)
    return arrays[0] if is_one else keras.tree.pack_sequence_as(model.input, arrays)


def check_same(model):
    converted = to_tf_keras(model)
    x = sample(model)
    wanted = keras.tree.flatten(model(x, training=False))
    given = keras.tree.flatten(converted(x, training=False))
    for own, theirs in zip(wanted, given, strict=True):
        own, theirs = own.numpy(), theirs.numpy()
        assert np.abs(own - theirs).max() <= 1e-5 * np.abs(own).max()
    return converted


def saved(converted, path):
    """What tf_keras loads from the file that it saves."""
    converted.save(path / "model.keras")
    return tf_keras.models.load_model(path / "model.keras")


def side_by_side(shape, functions):
    """A model with one output for each function of its input."""
    inputs = keras.Input(shape)
    return randomized(keras.Model(inputs, [function(inputs) for function in functions]))
