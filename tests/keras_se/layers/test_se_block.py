import inspect
from pathlib import Path

import keras
import numpy as np
import pytest
from arrays import arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_se import SEBlock
from keras_se.errors import InputError
from keras_se.layers import DivisiveNormalization
from keras_se.layers.excitation import Excitation, LayerArguments
from keras_se.layers.gates import GATES
from keras_se.layers.se_block import BlockArguments
from keras_se.layers.squeezes import SQUEEZES

FIXTURE = Path(__file__).with_name("fixtures")
RNG = np.random.default_rng(0)
GATE_REFERENCES = {
    "sigmoid": lambda v: 1.0 / (1.0 + np.exp(-v)),
    "hard_sigmoid": lambda v: np.clip(v + 3.0, 0.0, 6.0) / 6.0,
    "one_plus_tanh": lambda v: 1.0 + np.tanh(v),
    "tanh": np.tanh,
    "relu": lambda v: np.maximum(v, 0.0),
    "softmax": lambda v: v.shape[-1] * np.exp(v) / np.exp(v).sum(axis=-1, keepdims=True),
}
SQUEEZE_REFERENCES = {
    "avg": np.mean,
    "max": np.max,
    "avg_max": lambda x, axis: (np.mean(x, axis=axis) + np.max(x, axis=axis)) / 2,
    "std": np.std,
}
SHAPES = [(2, 7, 6), (2, 5, 7, 6), (2, 3, 5, 4, 6)]
WIDE = {
    "kernel_initializer": keras.initializers.RandomNormal(stddev=1.0),
    "bias_initializer": keras.initializers.RandomNormal(stddev=0.5),
}


def reference(block, x):
    """The block in NumPy, channels last: arXiv 1709.01507v4, equations 2 to 4."""
    axes = tuple(range(1, x.ndim - 1))
    pooled = SQUEEZE_REFERENCES[block.squeeze](x, axis=axes)
    w1, b1, w2, b2 = (np.asarray(w, "float64") for w in block.excitation()[:4])
    gates = GATE_REFERENCES[block.gate](np.maximum(pooled @ w1 + b1, 0.0) @ w2 + b2)
    return x * gates.reshape(len(x), *[1] * len(axes), x.shape[-1]), gates


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(
    ("shape", "squeeze"), list(zip([*SHAPES, SHAPES[1]], SQUEEZES, strict=True))
)
def test_values(shape, squeeze, gate):
    x = RNG.normal(size=shape)
    block = SEBlock(2, squeeze=squeeze, gate=gate, dtype="float64", **WIDE)
    y, gates = arrays(block(x, return_gates=True))
    expected_y, expected_gates = reference(block, x)
    np.testing.assert_allclose(y, expected_y, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(gates, expected_gates, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(block.gates(x), gates)
    np.testing.assert_array_equal(arrays(block(x)), y)


def test_worked_example():
    """Column vectors: W1 g = (-4, 1), ReLU gives (0, 1), W2 h = (-4, 1, -2)."""
    w1 = np.array([[1.0, -1.0, 0.0], [0.5, 0.5, -1.0]])
    w2 = np.array([[2.0, -4.0], [-1.0, 1.0], [-3.0, -2.0]])
    block = SEBlock(1.5, use_bias=False)
    block.build((None, 2, 2, 3))
    block.set_weights([w1.T, w2.T])
    x = np.broadcast_to(np.array([0.0, 4.0, 1.0], "float32"), (1, 2, 2, 3))
    gates = block.gates(x)[0]
    expected = [1 / (1 + np.e**4), 1 / (1 + 1 / np.e), 1 / (1 + np.e**2)]
    np.testing.assert_allclose(gates, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(gates, [0.018, 0.731, 0.119], atol=5e-4)
    assert np.flatnonzero(gates < 0.2).tolist() == [0, 2]  # channels 1 and 3 are suppressed


@pytest.mark.parametrize("shape", SHAPES)
def test_channels_first_is_the_transpose(shape):
    x = RNG.normal(size=shape).astype("float32")
    last = SEBlock(2, data_format="channels_last", **WIDE)
    first = SEBlock(2, data_format="channels_first")
    y, gates = arrays(last(x, return_gates=True))
    x_first = np.moveaxis(x, -1, 1)
    first.build(x_first.shape)
    first.set_weights(last.get_weights())
    y_first, gates_first = arrays(first(x_first, return_gates=True))
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
    np.testing.assert_array_equal(arrays(block(x)), x * np.float32(0.5))


IDENTITY_GATES = sorted(name for name, gate in GATES.items() if gate.one_at is not None)


def test_the_gates_that_can_start_as_the_identity():
    assert IDENTITY_GATES == ["one_plus_tanh", "relu", "softmax"]


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (2, 3, 41)])  # 41 · (1 / 41) is not 1
@pytest.mark.parametrize("gate", IDENTITY_GATES)
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_identity_init_is_the_identity_to_the_last_bit(shape, gate, dtype):
    x = RNG.normal(size=shape).astype("float16").astype("float32")
    block = SEBlock(2, gate=gate, identity_init=True, dtype=dtype, **WIDE)
    y = arrays(keras.ops.cast(block(x), "float32"))
    if keras.backend.backend() == "jax" and gate == "softmax":  # XLA divides by a reciprocal
        np.testing.assert_allclose(y, x, rtol=1e-3 if dtype == "mixed_float16" else 2e-7)
    else:
        np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(
    ("gate", "shift"), [("one_plus_tanh", False), ("relu", False), ("softmax", True)]
)
def test_an_identity_block_learns(gate, shift):
    x, y = RNG.normal(size=(2, 16, 4, 4, 6))
    model = keras.Sequential(
        [keras.Input((4, 4, 6)), SEBlock(1, gate=gate, shift=shift, identity_init=True)]
    )
    before = model.get_weights()
    model.compile("sgd", "mse", jit_compile=False)
    for _ in range(2):
        model.train_on_batch(x, y)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert not np.array_equal(old, new)


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


@pytest.mark.parametrize("rank", [3, 4, 5])
def test_symbolic_call_with_unknown_sizes(rank):
    inputs = keras.Input((*[None] * (rank - 2), 6))
    y, gates = SEBlock(2)(inputs, return_gates=True)
    assert y.shape == inputs.shape
    assert gates.shape == (None, 6)
    x = RNG.normal(size=(2, *[4] * (rank - 2), 6)).astype("float32")
    outputs, values = arrays(keras.Model(inputs, [y, gates])(x))
    np.testing.assert_allclose(
        outputs, x * np.reshape(values, (2, *[1] * (rank - 2), 6)), atol=1e-6
    )


def test_eager_graph_and_xla_agree(xla):
    x = RNG.normal(size=(4, 5, 5, 6)).astype("float32")
    model = keras.Sequential([keras.Input((5, 5, 6)), SEBlock(2, **WIDE)])
    eager = arrays(model(x))
    for jit_compile in (False, True):
        model.compile(jit_compile=jit_compile)
        np.testing.assert_allclose(model.predict(x, verbose=0), eager, atol=1e-6)


def test_regularizers_count():
    block = SEBlock(2, kernel_regularizer="l2", bias_regularizer="l1")
    block.build((None, 4, 4, 6))
    assert len(block.losses) == 4


@pytest.mark.parametrize(
    "initializer",
    [
        "glorot_uniform",
        keras.initializers.GlorotUniform(seed=3),
        keras.initializers.GlorotUniform(seed=keras.random.SeedGenerator(3)),
    ],
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
    "shift": True,
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"ratio": 0.25}, r"for the fraction 0\.25 use ratio=4\. Received: ratio=0\.25"),
        ({"squeeze": "median"}, "squeeze must be one of"),
        ({"gate": "swish"}, "gate must be one of"),
        ({"data_format": "NHWC"}, "data_format must be 'channels_last' or 'channels_first'. Recei"),
        (
            {"identity_init": True, "gate": "sigmoid"},
            "identity_init=True needs a gate that is known to reach 1",
        ),
        ({"identity_init": True, "gate": "hard_sigmoid"}, "Received: gate='hard_sigmoid'"),
        ({"identity_init": True, "gate": "tanh"}, "known to reach 1"),
        ({"identity_init": True, "gate": DivisiveNormalization()}, "known to reach 1"),
        (
            {"identity_init": True, "gate": "relu", "use_bias": False},
            r"needs use_bias=True, since this gate is 1 at 1\. Received: use_bias=False",
        ),
        ({"gate": lambda v: v}, "A callable gate must be registered"),
        ({"squeeze": lambda x, axis: x}, "A callable squeeze must be registered"),
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
    with pytest.raises(InputError, match="gate='softmax' needs at least two channels"):
        SEBlock(gate="softmax").build((None, 4, 4, 1))


def test_gates_refuse_a_symbolic_tensor():
    with pytest.raises(InputError, match="for symbolic tensors call the block"):
        SEBlock().gates(keras.Input((4, 4, 6)))


def test_private_names_do_not_shadow_keras():
    own = {
        name
        for owner in (SEBlock, Excitation)
        for name in vars(owner)
        if name.startswith("_") and not name.startswith("__")
    }
    assert "_add_kernel" in own
    assert not own & set(dir(keras.layers.Layer()))


def test_signature_is_that_of_the_excitation_and_a_data_format():
    """The arguments are written three times; they cannot drift apart."""
    ours = dict(inspect.signature(SEBlock.__init__).parameters)
    assert ours.pop("data_format").default is None
    shared = inspect.signature(Excitation.__init__).parameters
    assert list(ours) == list(shared)
    assert all(ours[name].default == shared[name].default for name in ours)
    layer = set(inspect.signature(keras.layers.Layer.__init__).parameters) - {"self", "kwargs"}
    assert set(LayerArguments.__annotations__) == layer
    own = set(ours) - {"self", "ratio", "kwargs"} | {"data_format"}
    assert set(BlockArguments.__annotations__) == own | layer


# Every squeeze, gate, rank, data format and option at least once.
SETTINGS = [
    ((16, 5, 7, 6), {}),
    ((16, 7, 6), {"squeeze": "max", "gate": "hard_sigmoid", "activation": None}),
    (
        (16, 5, 7, 6),
        {"squeeze": "avg_max", "gate": "one_plus_tanh", "data_format": "channels_first"},
    ),
    ((16, 7, 6), {"squeeze": "std", "gate": "tanh", "shift": True, "use_bias": False}),
    (
        (16, 5, 7, 6),
        {
            "ratio": 1.5,
            "divisor": 2,
            "gate": "relu",
            "kernel_regularizer": "l2",
            "bias_constraint": "max_norm",
        },
    ),
    ((16, 3, 2, 4, 6), {"gate": "softmax", "shift": True}),
    (
        (16, 7, 6),
        {
            "width": 5,
            "gate": DivisiveNormalization(gamma=1.5),
            "activation": "swish",
            "use_bias": False,
        },
    ),
]


@pytest.mark.parametrize(("shape", "arguments"), SETTINGS)
def test_harness(run_layer_test, shape, arguments):
    x = RNG.normal(size=shape).astype("float32")
    run_layer_test(SEBlock, {"ratio": 1, **WIDE, **arguments}, x)


def test_the_settings_of_the_harness_leave_nothing_out():
    assert {len(shape) for shape, _ in SETTINGS} == {3, 4, 5}
    for argument, names in (("gate", GATES), ("squeeze", SQUEEZES)):
        default = SEBlock().get_config()[argument]
        assert set(names) <= {settings.get(argument, default) for _, settings in SETTINGS}


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 3),
    spatial=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    channels=st.integers(2, 9),
    ratio=st.one_of(st.integers(1, 32), st.floats(1.0, 20.0)),
    squeeze=st.sampled_from(sorted(SQUEEZES)),
    gate=st.sampled_from(sorted(GATES)),
    channels_first=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_any_setting_equals_the_reference(
    batch, spatial, channels, ratio, squeeze, gate, channels_first, seed
):
    x = np.random.default_rng(seed).normal(size=(batch, *spatial, channels)).astype("float32")
    block = SEBlock(
        ratio,
        squeeze=squeeze,
        gate=gate,
        data_format="channels_first" if channels_first else "channels_last",
        **WIDE,
    )
    given = np.moveaxis(x, -1, 1) if channels_first else x
    y, gates = arrays(block(given, return_gates=True))
    y = np.moveaxis(y, 1, -1) if channels_first else y
    expected_y, expected_gates = reference(block, x.astype("float64"))
    np.testing.assert_allclose(gates, expected_gates, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y, expected_y, rtol=1e-5, atol=1e-5)


class TestShift:
    def test_values(self):
        block = SEBlock(2, shift=True, **WIDE)
        block.build((None, 4, 4, 6))
        w_shift, b_shift = RNG.normal(size=(3, 6)), RNG.normal(size=6)
        block.set_excitation(*block.excitation()[:4], w_shift, b_shift)
        x = RNG.normal(size=(2, 4, 4, 6)).astype("float32")
        gated, gates = reference(block, x)
        w1, b1 = block.excitation()[:2]
        hidden = np.maximum(x.mean(axis=(1, 2)) @ w1 + b1, 0)
        expected = gated + (hidden @ w_shift + b_shift)[:, None, None]
        np.testing.assert_allclose(arrays(block(x)), expected, atol=1e-5)
        np.testing.assert_allclose(block.gates(x), gates, atol=1e-6)

    def test_it_is_zero_at_the_start(self):
        x = RNG.normal(size=(2, 4, 4, 6)).astype("float32")
        block = SEBlock(2, shift=True, **WIDE)
        block.build(x.shape)
        without = SEBlock(2)
        without.build(x.shape)
        without.set_excitation(*block.excitation()[:4])
        np.testing.assert_array_equal(arrays(block(x)), arrays(without(x)))


class TestMask:
    """Padded sequences: the squeeze is over the valid steps only."""

    lengths = np.array([1, 4, 7, 0])
    mask = np.arange(7) < lengths[:, None]

    @pytest.mark.parametrize(
        ("squeeze", "data_format"),
        [*((squeeze, "channels_last") for squeeze in SQUEEZES), ("std", "channels_first")],
    )
    def test_values(self, squeeze, data_format):
        x = RNG.normal(size=(4, 7, 6)).astype("float32")
        block = SEBlock(2, squeeze=squeeze, data_format=data_format, **WIDE)
        given = x if data_format == "channels_last" else np.moveaxis(x, -1, 1)
        gates = block.gates(given, self.mask)
        for row, length in enumerate(self.lengths[:3]):
            _, expected = reference(block, x[row : row + 1, :length].astype("float64"))
            np.testing.assert_allclose(gates[row : row + 1], expected, atol=3e-6)
        # Fully masked: a squeeze of 0, where the pooling layers of Keras give NaN.
        _, expected = reference(block, np.zeros((1, 1, 6)))
        np.testing.assert_allclose(gates[3:], expected, atol=3e-6)

    @settings(max_examples=20, deadline=None)
    @given(
        lengths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
        padding=st.integers(0, 5),
        squeeze=st.sampled_from(sorted(SQUEEZES)),
        seed=st.integers(0, 2**16),
    )
    def test_padding_never_changes_an_output(self, lengths, padding, squeeze, seed):
        rng = np.random.default_rng(seed)
        mask = np.arange(6) < np.array(lengths)[:, None]
        x = rng.normal(size=(len(lengths), 6, 4)).astype("float32")
        longer = np.concatenate([x, 100 * rng.normal(size=(len(x), padding, 4))], axis=1)
        longer_mask = np.concatenate([mask, np.zeros((len(x), padding), bool)], axis=1)
        block = SEBlock(2, squeeze=squeeze, **WIDE)
        short, long = block.gates(x, mask), block.gates(longer, longer_mask)
        np.testing.assert_allclose(short, long, rtol=1e-6, atol=1e-6)
        if squeeze == "max":
            np.testing.assert_array_equal(short, long)

    def test_a_mask_of_keras_reaches_the_block_and_is_passed_on(self):
        inputs = keras.Input((7,), dtype="int32")
        embedded = keras.layers.Embedding(10, 6, mask_zero=True)(inputs)
        block = SEBlock(2, squeeze="avg", **WIDE)
        y, gates = block(embedded, return_gates=True)
        pooled = keras.layers.GlobalAveragePooling1D()(y)  # takes the mask
        ids = np.where(self.mask, RNG.integers(1, 10, size=(4, 7)), 0)
        model = keras.Model(inputs, [embedded, gates, y, pooled])
        values, gates, y, pooled = model.predict(ids, verbose=0)
        np.testing.assert_allclose(gates, block.gates(values, self.mask), atol=1e-6)
        for row, length in enumerate(self.lengths[:3]):
            expected = y[row, :length].mean(axis=0)
            np.testing.assert_allclose(pooled[row], expected, atol=1e-6)

    def test_frames_of_a_video(self):
        """A mask over the first spatial axis alone."""
        x = RNG.normal(size=(4, 7, 3, 3, 6)).astype("float32")
        block = SEBlock(2, **WIDE)
        gates = block.gates(x, self.mask)
        _, expected = reference(block, x[1:2, :4].astype("float64"))
        np.testing.assert_allclose(gates[1:2], expected, atol=3e-6)

    @pytest.mark.parametrize("shape", [(4,), (4, 7, 6), (4, 6), (3, 7)])
    def test_wrong_masks(self, shape):
        sentence = rf"A mask must have .*Received: mask of shape \({shape[0]},.* shape \(4, 7, 6\)"
        with pytest.raises(InputError, match=sentence):
            SEBlock(2)(np.ones((4, 7, 6)), mask=np.ones(shape, bool))
        symbolic = keras.Input(shape[1:], batch_size=shape[0], dtype="bool")
        with pytest.raises(InputError, match=sentence):
            SEBlock(2)(keras.Input((7, 6), batch_size=4), mask=symbolic)

    def test_a_mask_of_the_wrong_axis_channels_first(self):
        block = SEBlock(2, data_format="channels_first")
        x = keras.Input((6, 7))
        assert block(x, mask=keras.Input((7,), dtype="bool")).shape == (None, 6, 7)
        assert block(x, mask=keras.Input((None,), dtype="bool")).shape == (None, 6, 7)
        with pytest.raises(InputError, match="A mask must have the shape"):
            block(x, mask=keras.Input((6,), dtype="bool"))

    def test_a_squeeze_without_mask(self):
        with pytest.raises(InputError, match=r"need a squeeze with an argument `mask`\. Received"):
            SEBlock(2, squeeze=last)(np.ones((4, 7, 6)), mask=self.mask)


@keras.saving.register_keras_serializable(package="test_se_block")
def last(x, axis):
    return x[:, -1:]


class TestCallables:
    def test_a_registered_squeeze(self, tmp_path):
        x = RNG.normal(size=(2, 5, 6)).astype("float32")
        block = SEBlock(2, squeeze=last, **WIDE)
        expected = block.gates(x)
        np.testing.assert_allclose(expected, block.gates(x[:, -1:]), atol=1e-6)
        keras.Sequential([keras.Input((5, 6)), block]).save(tmp_path / "a.keras")
        again = keras.saving.load_model(tmp_path / "a.keras").layers[0]
        assert again.squeeze is last
        np.testing.assert_array_equal(again.gates(x), expected)

    def test_objects_survive_a_file(self, tmp_path):
        x = RNG.normal(size=(2, 5, 6)).astype("float32")
        block = SEBlock(
            2,
            gate=DivisiveNormalization(3.0, 0.5, 1.5),
            kernel_regularizer=keras.regularizers.L2(0.3),
            bias_constraint=keras.constraints.MaxNorm(1.5),
        )
        expected = block.gates(x)
        keras.Sequential([keras.Input((5, 6)), block]).save(tmp_path / "a.keras")
        again = keras.saving.load_model(tmp_path / "a.keras").layers[0]
        assert again.gate.get_config() == {"gamma": 3.0, "sigma": 0.5, "n": 1.5}
        assert again.kernel_regularizer.l2 == pytest.approx(0.3)
        assert again.bias_constraint.max_value == 1.5
        np.testing.assert_array_equal(again.gates(x), expected)


def test_a_committed_file_loads_for_ever():
    """Written by version 0.1; `keras_se>SEBlock` and its arguments are a file format."""
    model = keras.saving.load_model(FIXTURE / "se_block_0_1.keras")
    data = np.load(FIXTURE / "se_block_0_1.npz")
    np.testing.assert_allclose(model.predict(data["x"], verbose=0), data["y"], atol=1e-5)
    assert [layer.gate for layer in model.layers] == ["sigmoid", "one_plus_tanh", "softmax"]


def test_bad_configs_fail_with_a_sentence():
    config = SEBlock(2).get_config()
    for key, value, message in [
        ("gate", "gelu", "gate must be one of"),
        ("ratio", 0.5, "ratio is a divisor"),
        ("squeeze", None, "squeeze must be one of"),
    ]:
        with pytest.raises(TypeError, match=message):  # as Keras wraps it
            SEBlock.from_config({**config, key: value})


def test_numpy_numbers_are_written_as_pythons():
    config = SEBlock(np.float32(1.1), width=np.int64(3), divisor=np.int32(2)).get_config()
    assert [type(config[name]) for name in ("ratio", "width", "divisor")] == [float, int, int]
    assert config["ratio"] == 1.1


class TestDefectsOfOtherImplementations:
    """Each was found in a published SE layer; see also TestMask and the harness."""

    def test_the_width_is_never_zero(self):
        for channels in (1, 2, 3, 8, 15):
            block = SEBlock(16)
            block.build((None, 4, 4, channels))
            assert block.w1.shape == (channels, 1)

    def test_the_documented_defaults_work_and_rebuild_from_their_config(self):
        block = SEBlock()
        block(np.ones((1, 4, 4, 32)))
        assert SEBlock.from_config(block.get_config()).get_config() == block.get_config()

    def test_the_gate_is_applied_without_a_hidden_activation(self):
        gates = SEBlock(2, activation=None, **WIDE).gates(np.ones((1, 2, 2, 4)))
        assert ((gates > 0) & (gates < 1)).all()


class OnesOf(keras.initializers.Initializer):
    def __init__(self, value):
        self.value = value

    def __call__(self, shape, dtype=None):
        return self.value * keras.ops.ones(shape, dtype)


def test_an_initializer_without_config_is_taken():
    block = SEBlock(2, kernel_initializer=OnesOf(3.0))
    block.build((None, 4, 4, 4))
    np.testing.assert_array_equal(block.w2, np.full((2, 4), 3.0))
