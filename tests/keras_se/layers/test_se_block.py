import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_se import SEBlock
from keras_se.errors import InputError

RNG = np.random.default_rng(0)
SIGMOID = {
    "sigmoid": lambda v: 1.0 / (1.0 + np.exp(-v)),
    "hard_sigmoid": lambda v: np.clip(v + 3.0, 0.0, 6.0) / 6.0,
    "one_plus_tanh": lambda v: 1.0 + np.tanh(v),
}
SHAPES = [(2, 7, 6), (2, 5, 7, 6), (2, 3, 5, 4, 6)]
WIDE = {
    "kernel_initializer": keras.initializers.RandomNormal(stddev=1.0),
    "bias_initializer": keras.initializers.RandomNormal(stddev=0.5),
}


def reference(block, x):
    """The block in NumPy, channels last: arXiv 1709.01507v4, equations 2 to 4."""
    axes = tuple(range(1, x.ndim - 1))
    pooled = {"avg": np.mean, "max": np.max}[block.squeeze](x, axis=axes)
    w1, b1, w2, b2 = (np.asarray(w, "float64") for w in block.get_weights())
    gates = SIGMOID[block.gate](np.maximum(pooled @ w1 + b1, 0.0) @ w2 + b2)
    return x * gates.reshape(len(x), *[1] * len(axes), -1), gates


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("squeeze", ["avg", "max"])
@pytest.mark.parametrize("gate", SIGMOID)
def test_values(shape, squeeze, gate):
    x = RNG.normal(size=shape).astype("float32")
    block = SEBlock(2, squeeze=squeeze, gate=gate, **WIDE)
    y, gates = block(x, return_gates=True)
    expected_y, expected_gates = reference(block, x.astype("float64"))
    np.testing.assert_allclose(y, expected_y, atol=3e-6)
    np.testing.assert_allclose(gates, expected_gates, atol=3e-6)
    np.testing.assert_array_equal(block.gates(x), gates)
    np.testing.assert_array_equal(block(x), y)


def test_worked_example():
    """Column vectors: W1 g = (-4, 1), ReLU gives (0, 1), W2 h = (-4, 1, -2)."""
    w1 = np.array([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    w2 = np.array([[2.0, -4.0], [-1.0, 1.0], [-3.0, -2.0]])
    block = SEBlock(1.5, use_bias=False)
    block.build((None, 2, 2, 3))
    block.set_weights([w1.T, w2.T])
    x = np.broadcast_to(np.array([0.0, 4.0, 1.0], "float32"), (1, 2, 2, 3))
    gates = block.gates(x)[0]
    np.testing.assert_allclose(gates, [1 / (1 + np.e**4), 1 / (1 + 1 / np.e), 1 / (1 + np.e**2)],
                               rtol=0, atol=1e-6)  # fmt: skip
    np.testing.assert_allclose(gates, [0.018, 0.731, 0.119], atol=5e-4)
    assert np.flatnonzero(gates < 0.2).tolist() == [0, 2]  # channels 1 and 3 are suppressed


@pytest.mark.parametrize("shape", SHAPES)
def test_channels_first_is_the_transpose(shape):
    x = RNG.normal(size=shape).astype("float32")
    last = SEBlock(2, data_format="channels_last", **WIDE)
    first = SEBlock(2, data_format="channels_first")
    y, gates = last(x, return_gates=True)
    x_first = np.moveaxis(x, -1, 1)
    first.build(x_first.shape)
    first.set_weights(last.get_weights())
    y_first, gates_first = first(x_first, return_gates=True)
    np.testing.assert_allclose(np.moveaxis(y_first, 1, -1), y, atol=1e-6)
    np.testing.assert_allclose(gates_first, gates, atol=1e-6)


def test_gates_do_not_depend_on_the_order_of_positions():
    x = RNG.normal(size=(2, 4, 4, 6)).astype("float32")
    shuffled = x.reshape(2, 16, 6)[:, RNG.permutation(16)].reshape(x.shape)
    block = SEBlock(2, **WIDE)
    np.testing.assert_allclose(block.gates(x), block.gates(shuffled), atol=1e-6)


def test_gates_differ_from_example_to_example():
    block = SEBlock(2, **WIDE)
    gates = block.gates(RNG.normal(size=(8, 4, 4, 6)).astype("float32"))
    assert gates.std(axis=0).max() > 0.01


def test_a_zero_kernel_gives_a_constant_gate():
    block = SEBlock(2, kernel_initializer="zeros")
    x = RNG.normal(size=(2, 4, 4, 6)).astype("float32")
    np.testing.assert_array_equal(block(x), x * np.float32(0.5))


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_init_is_the_identity_to_the_last_bit(shape):
    x = RNG.normal(size=shape).astype("float32")
    block = SEBlock(2, gate="one_plus_tanh", identity_init=True, **WIDE)
    np.testing.assert_array_equal(block(x), x)


def test_an_identity_block_learns():
    x, y = RNG.normal(size=(64, 4, 4, 6)), RNG.normal(size=(64, 4, 4, 6))
    model = keras.Sequential(
        [keras.Input((4, 4, 6)), SEBlock(2, gate="one_plus_tanh", identity_init=True)]
    )
    before = model.get_weights()
    model.compile("sgd", "mse", jit_compile=False)
    model.fit(x, y, batch_size=32, epochs=1, verbose=0)  # two steps
    for old, new in zip(before, model.get_weights(), strict=True):
        assert not np.array_equal(old, new)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16", "float64"])
def test_precision_reaches_outputs_and_gates(policy):
    block = SEBlock(2, dtype=policy)
    y, gates = block(np.full((1, 256, 256, 4), 60.0), return_gates=True)
    assert keras.backend.standardize_dtype(y.dtype) == block.compute_dtype
    assert keras.backend.standardize_dtype(gates.dtype) == block.compute_dtype
    assert np.isfinite(block.gates(np.full((1, 256, 256, 4), 60.0)).astype("float64")).all()
    assert keras.backend.standardize_dtype(block.w1.dtype) == block.variable_dtype


def test_half_precision_squeeze_accumulates_in_float32():
    """A float16 sum over 65,536 positions of 60.0 would overflow at 65,504."""
    block = SEBlock(2, dtype="mixed_float16", kernel_initializer="ones", use_bias=False)
    x = np.full((1, 256, 256, 2), 60.0)
    np.testing.assert_allclose(block.gates(x).astype("float32"), 1.0)


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none_and_of_one(batch):
    x = np.zeros((batch, 4, 4, 6), "float32")
    y, gates = SEBlock(2)(x, return_gates=True)
    assert y.shape == (batch, 4, 4, 6)
    assert gates.shape == (batch, 6)


@pytest.mark.parametrize("shape", [(None, 6), (None, None, 6), (None, None, None, 6)])
def test_symbolic_call_with_unknown_sizes(shape):
    inputs = keras.Input(shape)
    y, gates = SEBlock(2)(inputs, return_gates=True)
    assert y.shape == inputs.shape
    assert gates.shape == (None, 6)
    x = RNG.normal(size=(2, *(4,) * (len(shape) - 1), 6)).astype("float32")
    outputs, values = keras.Model(inputs, [y, gates]).predict(x, verbose=0)
    np.testing.assert_allclose(outputs, x * values.reshape(2, *[1] * (x.ndim - 2), 6), atol=1e-6)


def test_eager_graph_and_xla_agree():
    x = RNG.normal(size=(4, 5, 5, 6)).astype("float32")
    model = keras.Sequential([keras.Input((5, 5, 6)), SEBlock(2, **WIDE)])
    eager = keras.ops.convert_to_numpy(model(x))
    for jit_compile in (False, True):
        model.compile(jit_compile=jit_compile)
        np.testing.assert_allclose(model.predict(x, verbose=0), eager, atol=1e-6)


def test_every_weight_learns_and_regularizers_count():
    model = keras.Sequential([keras.Input((4, 4, 6)), SEBlock(2, kernel_regularizer="l2", **WIDE)])
    before = model.get_weights()
    model.compile("sgd", "mse", jit_compile=False)
    x = RNG.normal(size=(64, 4, 4, 6))
    assert len(model.losses) == 2
    model.fit(x, np.zeros_like(x), batch_size=32, verbose=0)
    assert all(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    "initializer", ["glorot_uniform", keras.initializers.GlorotUniform(seed=3)]
)
def test_the_two_kernels_start_uncorrelated(initializer):
    block = SEBlock(1, kernel_initializer=initializer)
    block.build((None, 4, 4, 24))
    w1, w2 = block.w1.numpy(), block.w2.numpy()
    for other in (w2, w2.T):
        assert abs(np.corrcoef(w1.ravel(), other.ravel())[0, 1]) < 0.15


def test_weights_have_the_papers_count():
    block = SEBlock(4, use_bias=False)
    block.build((None, 4, 4, 64))
    assert block.count_params() == 2 * 64 * 64 // 4
    with_bias = SEBlock(4)
    with_bias.build((None, 4, 4, 64))
    assert with_bias.count_params() == 2 * 64 * 16 + 16 + 64


ARGUMENTS = {
    "ratio": 2.5,
    "width": 3,
    "divisor": 2,
    "squeeze": "max",
    "activation": "gelu",
    "gate": "one_plus_tanh",
    "use_bias": False,
    "identity_init": True,
    "data_format": "channels_first",
    "kernel_initializer": "he_normal",
    "bias_initializer": "ones",
    "kernel_regularizer": "l2",
    "bias_regularizer": "l1",
    "kernel_constraint": "max_norm",
    "bias_constraint": "non_neg",
}


def test_config_holds_every_argument_and_build_leaves_it():
    block = SEBlock(**ARGUMENTS, name="se")
    config = block.get_config()
    assert set(ARGUMENTS) <= set(config)
    block.build((None, 6, 4, 4))
    assert block.get_config() == config
    twin = SEBlock.from_config(config)
    assert twin.get_config() == config
    assert type(twin.kernel_initializer) is keras.initializers.HeNormal
    assert twin.activation is keras.activations.gelu


def test_default_data_format_is_resolved_in_the_config():
    assert SEBlock().get_config()["data_format"] == keras.config.image_data_format()


def test_clone_and_weights_reproduce_outputs():
    model = keras.Sequential([keras.Input((4, 4, 6)), SEBlock(2, **WIDE)])
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    x = RNG.normal(size=(2, 4, 4, 6)).astype("float32")
    np.testing.assert_array_equal(model(x), twin(x))


def test_a_file_loads_in_a_fresh_process_without_custom_objects(tmp_path):
    model = keras.Sequential()
    model.add(keras.Input((4, 4, 6)))
    model.add(SEBlock(ratio=1.5, gate="hard_sigmoid", squeeze="max", **WIDE))
    x = RNG.normal(size=(2, 4, 4, 6)).astype("float32")
    model.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", x=x, y=model.predict(x, verbose=0))
    program = (
        "import sys, keras, numpy as np, keras_se\n"
        "model = keras.saving.load_model(sys.argv[1])\n"
        "data = np.load(sys.argv[2])\n"
        "assert np.array_equal(model.predict(data['x'], verbose=0), data['y'])\n"
        "print('equal')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "model.keras", tmp_path / "data.npz"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.25}, "for the fraction 0.25 say ratio=4"),
        ({"squeeze": "median"}, "squeeze must be one of"),
        ({"gate": "swish"}, "gate must be one of"),
        ({"data_format": "NHWC"}, "data_format must be 'channels_last' or 'channels_first'. Recei"),
        (
            {"identity_init": True, "gate": "sigmoid"},
            "identity_init=True needs a gate that reaches",
        ),
        ({"identity_init": True, "gate": "hard_sigmoid"}, "Received: gate='hard_sigmoid'"),
    ],
)
def test_refused_arguments(arguments, message):
    with pytest.raises(InputError, match=message):
        SEBlock(**arguments)


def test_refused_shapes():
    for shape in [(None, 6), (None, 2, 2, 2, 2, 6)]:
        with pytest.raises(InputError, match="feature maps of rank 3, 4 or 5"):
            SEBlock().build(shape)
    with pytest.raises(InputError, match="needs a known number of channels on axis -1"):
        SEBlock().build((None, 4, 4, None))


def test_gates_refuse_a_symbolic_tensor():
    with pytest.raises(InputError, match="in a graph call the block with return_gates=True"):
        SEBlock().gates(keras.Input((4, 4, 6)))


def test_private_names_do_not_shadow_keras():
    own = {name for name in vars(SEBlock) if name.startswith("_") and not name.startswith("__")}
    own |= {name for name in vars(SEBlock()) if name in ("_squeeze_function", "_gate_function")}
    assert own
    assert not own & set(dir(keras.layers.Layer()))
