"""One harness that every layer and every setting passes."""

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _same_initial_weights():
    """Without it a bottleneck of few units may start dead, now and then."""
    keras.utils.set_random_seed(0)


def as_inputs(inputs):
    return keras.tree.map_structure(keras.ops.convert_to_tensor, inputs)


def symbolic(inputs):
    def placeholder(array):
        return keras.Input(array.shape[1:], dtype=str(array.dtype))

    return keras.tree.map_structure(placeholder, inputs)


def values(layer, inputs, **call):
    return keras.ops.convert_to_numpy(layer(as_inputs(inputs), **call))


# Some functions of Keras under JAX and PyTorch give float32 for float64.
POLICIES = ["mixed_float16", "mixed_bfloat16"]
if keras.backend.backend() == "tensorflow":
    POLICIES.append("float64")


def check_layer(layer_class, arguments, inputs, tmp_path, **call):
    """What every Keras layer owes its user, for one set of arguments and one input."""
    keras.utils.set_random_seed(0)
    layer = layer_class(**arguments)
    config = layer.get_config()
    outputs = values(layer, inputs, **call)
    rows = len(keras.tree.flatten(inputs)[0])

    # The configuration is not changed by building, and makes the same layer, built or not.
    assert layer.get_config() == config
    twin = layer_class.from_config(config)
    assert twin.get_config() == config
    twin.build(keras.tree.map_structure(lambda a: a.shape, inputs))
    twin.set_weights(layer.get_weights())
    np.testing.assert_array_equal(values(twin, inputs, **call), outputs)

    # Symbolic shape and dtype are those of the values; graph and eager agree.
    placeholders = symbolic(inputs)
    model = keras.Model(placeholders, layer(placeholders, **call))
    assert model.output.shape[1:] == outputs.shape[1:]
    assert model.output.dtype == str(outputs.dtype)
    # For XLA there are tests of their own.
    model.compile(keras.optimizers.SGD(0.05), "mse", jit_compile=False)
    predicted = model.predict(inputs, batch_size=rows, verbose=0)
    np.testing.assert_allclose(predicted, outputs, atol=1e-5)

    # Whole files, files of weights, and clones reproduce outputs exactly.
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(values(again, inputs), outputs)
    model.save_weights(tmp_path / "model.weights.h5")
    clone = keras.models.clone_model(model)
    clone.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(values(clone, inputs), outputs)

    # Two training steps change every weight variable.
    before = model.get_weights()
    targets = np.random.default_rng(1).normal(size=outputs.shape)
    for _ in range(2):
        model.train_on_batch(inputs, targets)
    for variable, old, new in zip(model.weights, before, model.get_weights(), strict=True):
        assert not np.array_equal(old, new), variable.path

    # A dtype policy of the layer reaches variables, outputs and gates.
    for policy in POLICIES:
        precise = layer_class(**arguments, dtype=policy)
        y, gates = precise(as_inputs(inputs), return_gates=True, **call)
        assert keras.backend.standardize_dtype(y.dtype) == precise.compute_dtype
        assert keras.backend.standardize_dtype(gates.dtype) == precise.compute_dtype
        assert np.isfinite(keras.ops.convert_to_numpy(keras.ops.cast(y, "float32"))).all()
        for variable in precise.weights:
            assert variable.dtype == precise.variable_dtype


@pytest.fixture
def run_layer_test(tmp_path):
    return lambda layer_class, arguments, inputs, **call: check_layer(
        layer_class, arguments, inputs, tmp_path, **call
    )


def _rounded(x, low, high):
    """The 256 values of TFLite: low and high are moved until zero is one of them."""
    scale = (high - low) / 255
    zero = np.clip(np.round(-low / scale), 0, 255)
    codes = np.clip(np.floor(x / scale + zero + 0.5), 0, 255)
    return (codes - zero) * scale


@pytest.fixture
def rounded():
    return _rounded
