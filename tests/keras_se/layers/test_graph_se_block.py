import keras
import numpy as np
import pytest
from arrays import arrays
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_se.errors import InputError
from keras_se.layers import GraphSEBlock

RNG = np.random.default_rng(0)
WIDE = {
    "kernel_initializer": keras.initializers.RandomNormal(stddev=1.0),
    "bias_initializer": keras.initializers.RandomNormal(stddev=0.5),
}
SQUEEZES = {
    "avg": np.mean,
    "max": np.max,
    "avg_max": lambda x, axis: (np.mean(x, axis=axis) + np.max(x, axis=axis)) / 2,
    "std": np.std,
}
NODES = RNG.normal(size=(9, 6)).astype("float32")
IDS = np.array([2, 0, 2, 0, 0, 2, 4, 4, 2], "int32")  # unsorted, 1 and 3 are empty


def reference_gates(block, nodes, ids, count):
    """Graph by graph, in NumPy, with the sigmoid."""
    w1, b1, w2, b2 = (np.asarray(w, "float64") for w in block.excitation()[:4])
    gates = []
    for graph in range(count):
        own = nodes[ids == graph].astype("float64")
        pooled = SQUEEZES[block.squeeze](own, axis=0) if len(own) else np.zeros(nodes.shape[1])
        gates.append(1 / (1 + np.exp(-(np.maximum(pooled @ w1 + b1, 0) @ w2 + b2))))
    return np.stack(gates)


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_values(squeeze):
    block = GraphSEBlock(2, squeeze=squeeze, **WIDE)
    y, gates = arrays(block((NODES, IDS), return_gates=True))
    expected = reference_gates(block, NODES, IDS, 5)
    np.testing.assert_allclose(gates, expected, atol=3e-6)
    np.testing.assert_allclose(y, NODES * expected[IDS], atol=3e-6)
    np.testing.assert_array_equal(block.gates(NODES, IDS), gates)


@settings(max_examples=15, deadline=None)
@given(
    ids=st.lists(st.integers(0, 5), min_size=1, max_size=12),
    squeeze=st.sampled_from(sorted(SQUEEZES)),
    seed=st.integers(0, 2**16),
)
def test_a_graph_does_not_depend_on_the_others(ids, squeeze, seed):
    ids = np.array(ids)
    nodes = np.random.default_rng(seed).normal(size=(len(ids), 4)).astype("float32")
    block = GraphSEBlock(2, squeeze=squeeze, **WIDE)
    together = arrays(block((nodes, ids)))
    for graph in set(ids.tolist()):
        own = ids == graph
        alone = arrays(block((nodes[own], np.zeros(own.sum(), "int64"))))
        np.testing.assert_allclose(together[own], alone, rtol=1e-5, atol=1e-5)


def test_the_order_of_nodes_does_not_matter():
    order = RNG.permutation(len(IDS))
    block = GraphSEBlock(2, **WIDE)
    np.testing.assert_allclose(
        block.gates(NODES, IDS), block.gates(NODES[order], IDS[order]), atol=1e-6
    )


def test_num_graphs_counts_trailing_graphs_without_nodes():
    block = GraphSEBlock(2, **WIDE)
    gates = block.gates(NODES, IDS, num_graphs=7)
    np.testing.assert_allclose(gates, reference_gates(block, NODES, IDS, 7), atol=3e-6)
    np.testing.assert_allclose(gates[5], gates[1], atol=1e-6)


def test_no_nodes_at_all():
    block = GraphSEBlock(2)
    y, gates = block((np.zeros((0, 6), "float32"), np.zeros(0, "int32")), return_gates=True)
    assert y.shape == (0, 6)
    assert gates.shape == (0, 6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_graph_mode_and_xla_agree_with_eager(xla, jit_compile):
    if keras.backend.backend() == "torch":
        jit_compile = False
    inputs = keras.Input((6,)), keras.Input((), dtype="int32")
    block = GraphSEBlock(2, squeeze="avg_max", **WIDE)
    model = keras.Model(inputs, block(inputs, num_graphs=5))
    model.compile(jit_compile=jit_compile)
    expected = arrays(block((NODES, IDS)))
    np.testing.assert_allclose(model.predict_on_batch([NODES, IDS]), expected, atol=1e-6)
    whole = model.predict([NODES, IDS], batch_size=len(NODES), verbose=0)
    np.testing.assert_allclose(whole, expected, atol=1e-6)


def test_training_on_whole_unions():
    inputs = keras.Input((6,)), keras.Input((), dtype="int32")
    model = keras.Model(inputs, GraphSEBlock(1, shift=True, **WIDE)(inputs, num_graphs=5))
    before = model.get_weights()
    model.compile("sgd", "mse", jit_compile=False)
    unions = [((NODES, IDS), np.zeros_like(NODES))] * 2
    model.fit((union for union in unions), steps_per_epoch=2, shuffle=False, verbose=0)
    assert all(not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        {"squeeze": "std", "gate": "one_plus_tanh", "shift": True, "width": 3},
        {"squeeze": "max", "gate": "softmax", "use_bias": False, "divisor": 2},
    ],
)
def test_harness(run_layer_test, arguments):
    nodes = RNG.normal(size=(40, 6)).astype("float32")
    ids = RNG.integers(0, 12, size=40).astype("int32")
    run_layer_test(GraphSEBlock, {"ratio": 1, **WIDE, **arguments}, (nodes, ids), num_graphs=12)


def test_half_precision_squeeze_accumulates_in_float32():
    block = GraphSEBlock(2, dtype="mixed_float16", kernel_initializer="ones", use_bias=False)
    gates = block.gates(np.full((2000, 2), 60.0), np.zeros(2000, "int32"))
    np.testing.assert_allclose(gates.astype("float32"), 1.0)


def test_symbolic_shapes():
    inputs = keras.Input((6,)), keras.Input((), dtype="int32")
    y, gates = GraphSEBlock(2)(inputs, num_graphs=3, return_gates=True)
    assert (y.shape, gates.shape) == ((None, 6), (3, 6))
    assert GraphSEBlock(2)(inputs, return_gates=True)[1].shape == (None, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: GraphSEBlock(squeeze="median"), "squeeze must be one of"),
        (lambda: GraphSEBlock(squeeze=by_hand), "supports the squeezes"),
        (lambda: GraphSEBlock(0.5), "ratio is a divisor"),
        (
            lambda: GraphSEBlock()((np.ones((2, 3, 6)), np.zeros(2, int))),
            r"\(nodes, segment_ids\) of shapes .* Received: \(2, 3, 6\) and \(2,\)",
        ),
        (
            lambda: GraphSEBlock(2)((np.ones((4, 6)), np.zeros(3, "int64"))),
            r"\(nodes, segment_ids\) of shapes .* Received: \(4, 6\) and \(3,\)",
        ),
        (lambda: GraphSEBlock()((NODES, np.zeros((9, 1), int))), r"and \(9, 1\)"),
        (lambda: GraphSEBlock()((NODES, np.zeros(9))), "segment_ids must be integers. Received"),
        (lambda: GraphSEBlock().gates(NODES, IDS - 1), "at least 0 .* Received: -1 to 3"),
        (lambda: GraphSEBlock().gates(NODES, IDS, 4), "below num_graphs=4. Received: 0 to 4"),
        (
            lambda: GraphSEBlock().gates(keras.Input((6,)), IDS),
            r"for symbolic tensors call .* Received: <KerasTensor",
        ),
    ],
)
def test_refusals(call, message):
    with pytest.raises(InputError, match=message):
        call()


@keras.saving.register_keras_serializable(package="test_graph_se_block")
def by_hand(x, axis):
    return x


def test_ids_of_every_integer_type():
    block = GraphSEBlock(2, **WIDE)
    expected = block.gates(NODES, IDS)
    for dtype in ("int8", "int16", "uint8", "uint16", "int64"):
        np.testing.assert_allclose(block.gates(NODES, IDS.astype(dtype)), expected, atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="JAX alone compiles for a number")
def test_jax_needs_a_static_number_of_graphs():
    inputs = keras.Input((6,)), keras.Input((), dtype="int32")
    model = keras.Model(inputs, GraphSEBlock(2)(inputs))
    with pytest.raises(InputError, match=r"needs num_graphs when JAX compiles it\. Received: num"):
        model.predict_on_batch([NODES, IDS])
