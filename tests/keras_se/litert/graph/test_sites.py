import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from keras import layers, ops

from keras_se import SEBlock, find_sites, read_gates, to_tflite
from keras_se.errors import InputError
from keras_se.layers import DivisiveNormalization
from keras_se.layers.gates import GATES
from keras_se.layers.squeezes import SQUEEZES
from keras_se.litert.formats import FORMATS
from keras_se.litert.graph.dead import check_alive
from keras_se.litert.graph.flatbuffer import read_bytes
from keras_se.litert.graph.sites import (
    file_sites,
    gate_codes,
    gate_nodes,
    operator_names,
)


def test_sites_have_the_figures_of_the_blocks(files):
    for gate in ("sigmoid", "hard_sigmoid", "one_plus_tanh"):
        for file_format in ("float32", "int8"):
            sites = file_sites(files[gate, file_format])
            found = [(site.name, site.channels, site.width, site.gate) for site in sites]
            assert found == [("se_1", 8, 2, gate), ("se_2", 16, 4, gate)]


def test_channels_first_sites():
    model = keras.Sequential([keras.Input((6, 8, 8)), SEBlock(2, data_format="channels_first")])
    site = file_sites(to_tflite(model, "float32"))[0]
    assert (site.channels, site.width) == (6, 3)


@pytest.fixture(scope="module")
def mobilenet():
    """The model, small, and its float32 file."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV3Small((32, 32, 3), weights=None, classes=2)
    return model, to_tflite(model, "float32")


def test_inline_se_of_a_model_from_keras(mobilenet):
    sites = file_sites(mobilenet[1])
    assert [site.channels for site in sites] == [16, 96, 240, 240, 120, 144, 288, 576, 576]
    assert {site.gate for site in sites} == {"hard_sigmoid"}
    assert [site.width for site in sites] == [8, 24, 64, 64, 32, 40, 72, 144, 144]


def test_gates_of_another_model_from_keras():
    """Down to maps of one position, whose pooling the converter folds away."""
    keras.utils.set_random_seed(0)
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(32, 32, 3), classes=2)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if "_se_" in layer.name and layer.weights:
            layer.set_weights([rng.normal(scale=0.5, size=w.shape) for w in layer.get_weights()])
    tflite = to_tflite(model, "float32")
    assert [site.gate for site in file_sites(tflite)] == ["sigmoid"] * 16
    samples = rng.uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    wanted, found = read_gates(model, samples), read_gates(tflite, samples)
    assert len(wanted) == len(found) == 16
    for expected, gates in zip(wanted.values(), found.values(), strict=True):
        assert expected.std() > 0.01
        np.testing.assert_allclose(gates, expected, atol=1e-4)


def test_other_products_are_no_sites():
    x = inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="hard_silu")(x)
    x = keras.layers.Multiply()([x, keras.layers.Conv2D(4, 1, activation="sigmoid")(x)])  # local
    other = keras.layers.Conv2D(4, 1)(inputs)
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(other)
    x = keras.layers.Multiply()([x, keras.layers.Conv2D(4, 1, activation="sigmoid")(pooled)])
    x = x * keras.layers.GlobalAveragePooling2D(keepdims=True)(x)  # no excitation
    tflite = to_tflite(keras.Model(inputs, x), "float32")
    assert gate_nodes(tflite) == []
    assert [site.name for site in file_sites(tflite)] == ["cross_1"]


@pytest.mark.filterwarnings("ignore:Warning. Enabling")
def test_tensors_of_a_node_are_those_of_the_interpreter(files, images):
    tflite = files["sigmoid", "float32"]
    interpreter = Interpreter(model_content=tflite, experimental_preserve_all_tensors=True)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images[:1])
    interpreter.invoke()
    for node in gate_nodes(tflite):
        gate, feature, product = (
            interpreter.get_tensor(i)
            for i in (node.gate_tensor, node.feature_tensor, node.product_tensor)
        )
        np.testing.assert_allclose(product, gate * feature, rtol=1e-6)


def test_paths_and_bytes(tmp_path, files):
    tflite = files["sigmoid", "float32"]
    path = tmp_path / "m.tflite"
    path.write_bytes(tflite)
    assert file_sites(path) == file_sites(str(path)) == file_sites(tflite)
    assert read_bytes(bytearray(tflite)) == tflite


SETTINGS = [
    *({"squeeze": squeeze} for squeeze in SQUEEZES),
    *({"gate": gate} for gate in GATES),
    {"gate": DivisiveNormalization()},
    {"shift": True},
    {"use_bias": False},
    *({"activation": a} for a in ("silu", "gelu", "leaky_relu", "softplus", "mish", "hard_silu")),
]


@pytest.mark.parametrize("shape", [(8, 8, 8), (1, 1, 8)])
def test_every_setting_of_a_block_is_found(shape):
    """On a map of one position the pooling is folded away."""
    inputs = keras.Input(shape)
    x = keras.layers.ReLU()(inputs)
    wide = [keras.initializers.RandomNormal(stddev=1.0, seed=n) for n in range(len(SETTINGS))]
    blocks = [
        SEBlock(2, **{"kernel_initializer": wide[n], **arguments}, name=f"block_{n}")
        for n, arguments in enumerate(SETTINGS)
    ]
    model = keras.Model(inputs, [block(x) for block in blocks])
    tflite = to_tflite(model, "float32")
    sites = {site.name: site for site in file_sites(tflite)}
    assert len(sites) == len(SETTINGS)
    assert {(site.channels, site.width) for site in sites.values()} == {(8, 4)}
    samples = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
    found = read_gates(tflite, samples)
    gates = read_gates(model, samples)
    for site in find_sites(model):
        wanted, arguments = gates[site.name], SETTINGS[int(site.layer.removeprefix("block_"))]
        close = [n for n, v in found.items() if np.allclose(v, wanted, rtol=1e-5, atol=1e-5)]
        assert len(close) == 1, arguments
        if arguments.get("gate") in GATES:
            assert sites[close[0]].gate == arguments["gate"]


def test_a_graph_that_bites_its_tail(files):
    """An operator whose input is its own output: no walk back may go on for ever."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(files["sigmoid", "float32"], 0)
    for operator in model.subgraphs[0].operators:
        if len(operator.inputs) == 1:
            operator.inputs = list(operator.outputs)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    assert file_sites(bytes(builder.Output())) == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.tflite", "A TFLite file must exist to be read. Received: nowhere.tflite"),
        (b"", "holds 'TFL3' at byte 4. Received: 0 bytes"),
        (b"PK\x03\x04 a zip file", "holds 'TFL3' at byte 4. Received: 15 bytes"),
    ],
)
def test_not_a_tflite_file(source, message):
    with pytest.raises(InputError, match=message):
        file_sites(source)


@pytest.mark.parametrize("read", [file_sites, operator_names])
def test_truncated_files_give_an_error_and_no_crash(mobilenet, read):
    tflite = mobilenet[1]
    for length in (8, 100, 1000, len(tflite) // 2):
        with pytest.raises(InputError, match="must hold a graph that follows the schema"):
            read(tflite[:length])


def test_mutated_files_are_read_or_refused(files):
    tflite = files["one_plus_tanh", "float32"]
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(100):
        mutated = bytearray(tflite)
        for position in rng.integers(8, len(tflite), size=8):
            mutated[position] = rng.integers(256)
        try:
            file_sites(mutated)
        except InputError:
            refused += 1
    assert 0 < refused < 100


def convert(model, batch=1, file_format="float32"):
    """A file of any batch size, as the plain converter writes it; `None` for an open batch."""
    weights = [v.numpy() for v in model.trainable_variables]
    others = [v.numpy() for v in model.non_trainable_variables]
    shape = (batch, *model.inputs[0].shape[1:])

    def infer(x):
        return model.stateless_call(weights, others, x, training=False)[0]

    converter = _converter(infer, shape)
    if file_format == "float16":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _converter(function, *shapes):
    signature = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
    concrete = tf.function(function, input_signature=signature).get_concrete_function()
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], tf.Module())


def trunk(*bodies, shape=(8, 8, 3)):
    """A model that does something to eight feature maps in its middle, or several things."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape)
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(inputs)
    return keras.Model(inputs, [layers.Conv2D(5, 1)(body(x)) for body in bodies])


def conv(filters, activation=None, size=1):
    return layers.Conv2D(filters, size, padding="same", activation=activation)


def mean(x):
    return layers.GlobalAveragePooling2D(keepdims=True)(x)


def se_of_convolutions(x, gate="sigmoid", pool=mean, width=4):
    return x * conv(8, gate)(conv(width, "relu")(pool(x)))


def se_of_dense(x, gate="sigmoid", width=4):
    hidden = layers.Dense(width, "relu")(layers.GlobalAveragePooling2D()(x))
    return x * layers.Reshape((1, 1, 8))(layers.Dense(8, gate)(hidden))


def se_block(x):
    """With biases that keep its bottleneck alive on all calibration data."""
    return SEBlock(2, bias_initializer=keras.initializers.Constant(0.5))(x)


def figures(tflite):
    return [(s.name, s.channels, s.width, s.gate, s.kind) for s in file_sites(tflite)]


SIGMOID = ("se_1", 8, 4, "sigmoid", "self")


BODIES = (se_of_convolutions, se_of_dense, se_block)
SIGMOIDS = [(f"se_{n}", 8, 4, "sigmoid", "self") for n in (1, 2, 3)]


@pytest.mark.parametrize(
    ("batch", "file_format"),
    [(1, "float32"), (4, "float32"), (None, "float32"), (None, "float16")],
)
def test_any_batch(batch, file_format):
    assert figures(convert(trunk(*BODIES), batch, file_format)) == SIGMOIDS


@pytest.mark.parametrize("file_format", FORMATS)
def test_every_format(file_format, images):
    calibration = images if FORMATS[file_format].needs_calibration else None
    tflite = to_tflite(trunk(*BODIES), file_format, calibration, check_range=False)
    assert figures(tflite) == SIGMOIDS
    quantized = FORMATS[file_format].needs_calibration
    assert {node.quantized for node in gate_nodes(tflite)} == {quantized}


SQUEEZED = {
    "AVERAGE_POOL_2D": lambda x: layers.AveragePooling2D(8)(x),
    "MAX_POOL_2D": lambda x: layers.MaxPooling2D(8)(x),
    "SUM": lambda x: ops.sum(x, (1, 2), keepdims=True) / 64.0,
    "REDUCE_MAX": lambda x: ops.max(x, (1, 2), keepdims=True),
    "MEAN": lambda x: ops.mean(ops.mean(x, 1, keepdims=True), 2, keepdims=True),
}


def test_squeezes():
    """Each has a width of its own, for the order in a file is another one."""
    bodies = [
        lambda x, pool=pool, n=n: se_of_convolutions(x, pool=pool, width=n)
        for n, pool in enumerate(SQUEEZED.values(), start=2)
    ]
    nodes = {node.site.width: node for node in gate_nodes(convert(trunk(*bodies)))}
    assert [nodes[n + 2].operators[0] for n in range(len(SQUEEZED))] == list(SQUEEZED)


@pytest.mark.parametrize("squeeze", SQUEEZES)
def test_the_name_of_a_squeeze_is_that_in_the_model(squeeze):
    """With and without a mask, which is written with selections and quotients."""
    inputs, mask = keras.Input((6, 4)), keras.Input((6,), dtype="bool")
    x = SEBlock(2, squeeze=squeeze)(inputs)
    x = SEBlock(2, squeeze=squeeze)(x, mask=mask)
    model = keras.Model([inputs, mask], x)
    for sites in (find_sites(model), find_sites(to_tflite(model, "float32"))):
        assert [site.squeeze for site in sites] == [squeeze, squeeze]


@pytest.mark.parametrize(
    ("squeeze", "expected"),
    [
        (lambda x: ops.mean(x, (1, 2)), "avg"),
        (lambda x: ops.max(x, (1, 2)), "max"),
        (lambda x: ops.std(x, (1, 2)), "std"),
        (lambda x: ops.var(x, (1, 2)), "unknown"),
        (lambda x: ops.sum(x, (1, 2)), "unknown"),
        (lambda x: ops.min(x, (1, 2)), "unknown"),
        (lambda x: ops.max(x, (1, 2)) - ops.min(x, (1, 2)), "unknown"),
        (lambda x: ops.sqrt(ops.mean(x * x, (1, 2))), "unknown"),
        (lambda x: ops.logsumexp(x, (1, 2)), "unknown"),
    ],
)
def test_the_name_of_a_squeeze_by_hand(squeeze, expected):
    inputs = keras.Input((5, 5, 4))
    hidden = layers.Dense(2, activation="relu")(squeeze(inputs))
    gates = layers.Reshape((1, 1, 4))(layers.Dense(4, activation="sigmoid")(hidden))
    model = keras.Model(inputs, inputs * gates)
    for sites in (find_sites(model), find_sites(to_tflite(model, "float32"))):
        assert [site.squeeze for site in sites] == [expected]


def test_a_squeeze_of_the_map_in_another_layout():
    """Channels first by transpositions, positions on one axis, gates repeated over the map."""
    rng = np.random.default_rng(0)
    w1, w2 = (rng.normal(size=shape).astype("float32") for shape in ((8, 4), (4, 8)))

    def gates(pooled):
        return tf.sigmoid(tf.nn.relu(pooled @ w1) @ w2)

    def transposed(x):
        pooled = tf.reduce_mean(tf.transpose(x, (0, 3, 1, 2)), (2, 3))
        return x * tf.reshape(gates(pooled), (3, 1, 1, 8))

    def flattened(x):
        pooled = tf.reduce_mean(tf.reshape(x, (3, 36, 8)), 1)
        return x * tf.broadcast_to(tf.reshape(gates(pooled), (3, 1, 1, 8)), x.shape)

    def resized(x):
        pooled = gates(tf.reduce_mean(x, (1, 2)))
        return x * tf.image.resize(tf.reshape(pooled, (3, 1, 1, 8)), (6, 6))

    def channels_first(x):
        return x * tf.reshape(gates(tf.reduce_mean(x, (2, 3))), (3, 8, 1, 1))

    for function in (transposed, flattened, resized, channels_first):
        shape = (3, 8, 6, 6) if function is channels_first else (3, 6, 6, 8)
        assert figures(_converter(function, shape).convert()) == [SIGMOID]


GATE_CHAINS = {
    "keras": ("hard_sigmoid", "hard_sigmoid"),
    "relu6 and product": (lambda v: ops.relu6(v + 3.0) * (1.0 / 6.0), "hard_sigmoid"),
    "relu6 and division": (lambda v: ops.relu6(v + 3.0) / 6.0, "hard_sigmoid"),
    "clip of a scaled value": (lambda v: ops.clip(0.2 * v + 0.5, 0.0, 1.0), "hard_sigmoid"),
    "maximum and minimum": (
        lambda v: ops.minimum(ops.maximum(v / 6.0 + 0.5, 0.0), 1.0),
        "hard_sigmoid",
    ),
    "relu_n1_to_1": (lambda v: (ops.clip(v / 3.0, -1.0, 1.0) + 1.0) * 0.5, "hard_sigmoid"),
    "tanh": ("tanh", "tanh"),
    "one plus tanh": (lambda v: 1.0 + ops.tanh(v), "one_plus_tanh"),
    "twice a sigmoid": (lambda v: 2.0 * ops.sigmoid(2.0 * v), "one_plus_tanh"),
    "half of one plus tanh": (lambda v: 0.5 + 0.5 * ops.tanh(v), "sigmoid"),
    "one minus a sigmoid": (lambda v: 1.0 - ops.sigmoid(v), "sigmoid"),
    "softmax": (lambda v: ops.softmax(v, axis=-1), "softmax"),
    "relu": ("relu", "relu"),
    "relu6": ("relu6", "unknown"),
    "none": (None, "unknown"),
}


def chains(body, names):
    """One excitation for each gate, of a width of its own."""
    return [
        lambda x, gate=GATE_CHAINS[name][0], n=n: body(x, gate=gate, width=n)
        for n, name in enumerate(names, start=2)
    ]


def gates_by_width(tflite):
    return {site.width: site.gate for site in file_sites(tflite)}


@pytest.mark.parametrize("body", [se_of_convolutions, se_of_dense])
def test_gates_are_known_by_their_values(body):
    tflite = convert(trunk(*chains(body, GATE_CHAINS)))
    expected = {n: gate for n, (_, gate) in enumerate(GATE_CHAINS.values(), start=2)}
    assert gates_by_width(tflite) == expected


def test_hard_sigmoids_of_integers(images):
    """Calibration moves the upper clip to the largest gate that it has seen."""
    names = [name for name, (_, gate) in GATE_CHAINS.items() if "hard" in gate]
    model = trunk(*chains(se_of_convolutions, names))
    tflite = to_tflite(model, "int8", images, check_range=False)
    assert gates_by_width(tflite) == {n + 2: "hard_sigmoid" for n in range(len(names))}
    assert set(gate_codes(tflite).values()) == {None}


def test_a_swish_is_no_gate():
    bodies = [
        lambda x, body=body, gate=gate: body(x, gate=gate)
        for body in (se_of_convolutions, se_of_dense)
        for gate in ("hard_silu", "silu", "gelu")
    ]
    assert figures(convert(trunk(*bodies))) == []


def test_codes_that_something_rescales_are_not_pinned(images):
    model = trunk(*chains(se_of_convolutions, ["twice a sigmoid"]), se_of_dense)
    tflite = to_tflite(model, "int8", images, check_range=False)
    codes = {site.width: gate_codes(tflite)[site.name] for site in file_sites(tflite)}
    assert codes == {2: None, 4: (1 / 256, 255 / 256)}


def test_attention_over_channels_of_cbam():
    """Two squeezes through the same two matrices: two on each path."""

    def body(x):
        first, second = layers.Dense(4, "relu"), layers.Dense(8)
        pooled = layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)
        gates = ops.sigmoid(second(first(pooled[0])) + second(first(pooled[1])))
        return x * layers.Reshape((1, 1, 8))(gates)

    assert figures(convert(trunk(body))) == [SIGMOID]


def test_a_model_of_keras_with_an_open_batch(mobilenet):
    model, tflite = mobilenet
    assert figures(convert(model, None)) == figures(tflite)


@pytest.mark.filterwarnings("ignore::keras_se.litert.convert.ConversionWarning")
def test_a_model_of_keras_in_integers(mobilenet):
    images = np.random.default_rng(0).random((20, 32, 32, 3), "float32") * 255.0
    sites = file_sites(to_tflite(mobilenet[0], "int8", images, check_range=False))
    assert [(site.name, site.gate) for site in sites] == [
        (f"se_{n}", "hard_sigmoid") for n in range(1, 10)
    ]


def lraspp_head(x):
    return conv(16, "relu")(x) * conv(16, "sigmoid")(layers.AveragePooling2D(8)(x))


def decoder(x):
    """The map of a skip connection, gated by a deeper one."""
    deep = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(x)
    return se_of_convolutions(x) * conv(8, "sigmoid")(conv(4, "relu")(mean(deep)))


def test_cross_sites_have_an_ordinal_of_their_own():
    tflite = convert(trunk(decoder))
    assert figures(tflite) == [SIGMOID, ("cross_1", 8, 4, "sigmoid", "cross")]
    assert [n.site.name for n in gate_nodes(tflite)] == ["se_1"]
    assert list(gate_codes(tflite)) == ["se_1", "cross_1"]
    assert [n.site.name for n in gate_nodes(tflite, kinds=("cross",))] == ["cross_1"]
    assert figures(convert(trunk(lraspp_head))) == [("cross_1", 16, 16, "sigmoid", "cross")]


def test_another_map_that_scales_without_a_gate_is_no_site():
    def film(x):
        return x * conv(8)(mean(layers.Conv2D(8, 3, 2)(x)))

    assert figures(convert(trunk(film))) == []


def test_kinds_are_known():
    with pytest.raises(InputError, match=r"kinds must be of \['self', 'cross'\]. Received: kinds="):
        gate_nodes(convert(trunk(se_of_dense)), kinds=("own",))


@pytest.fixture(scope="module")
def two_signatures(tmp_path_factory):
    class Module(tf.Module):
        def __init__(self):
            self.models = [trunk(se_of_convolutions), trunk(decoder)]

        @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3))])
        def encode(self, x):
            return {"y": self.models[0](x)[0]}

        @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3))])
        def match(self, x):
            return {"y": self.models[1](x)[0]}

    module, path = Module(), str(tmp_path_factory.mktemp("saved"))
    signatures = {"encode": module.encode, "match": module.match}
    tf.saved_model.save(module, path, signatures=signatures)
    return tf.lite.TFLiteConverter.from_saved_model(path, signature_keys=[*signatures]).convert()


def test_two_signatures(two_signatures):
    """The weights are variables here, which further operators read."""
    names = [(node.site.name, node.subgraph) for node in gate_nodes(two_signatures)]
    assert names == [("se_1", 0), ("match/se_1", 1)]
    assert [s.name for s in file_sites(two_signatures)] == ["se_1", "match/se_1", "match/cross_1"]


def test_a_site_in_the_body_of_a_loop():
    w1, w2 = (np.ones(shape, "float32") for shape in ((8, 4), (4, 8)))

    def body(n, x):
        gates = tf.sigmoid(tf.nn.relu(tf.reduce_mean(x, (1, 2)) @ w1) @ w2)
        return n + 1, x * tf.reshape(gates, (1, 1, 1, 8))

    def loop(x):
        return tf.while_loop(lambda n, x: n < 3, body, (0, x))[1]

    (node,) = gate_nodes(_converter(loop, (1, 6, 6, 8)).convert())
    assert node.subgraph > 0
    assert node.site.name == f"subgraph_{node.subgraph}/se_1"


def cbam_spatial(x):
    both = layers.Concatenate()([ops.mean(x, -1, keepdims=True), ops.max(x, -1, keepdims=True)])
    return x * conv(1, "sigmoid", size=7)(both)


def coordinate_attention(x):
    for axis in (1, 2):
        x = x * conv(8, "sigmoid")(conv(4, "relu")(ops.mean(x, axis, keepdims=True)))
    return x


def windows(x):
    """The gates of a pooling that covers a quarter of the map."""
    gates = conv(8, "sigmoid")(conv(4, "relu")(layers.AveragePooling2D(4)(x)))
    return x * layers.UpSampling2D(4)(gates)


def small_window(x):
    """One result, though of a quarter of the map: the stride is larger than the window."""
    return se_of_convolutions(x, pool=layers.AveragePooling2D(4, 8))


def tokens(x):
    x = layers.Reshape((64, 8))(x)
    h = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 8)(h, h)
    x = x + layers.Dense(8)(layers.Dense(16, "gelu")(layers.LayerNormalization()(x)))
    return layers.Reshape((8, 8, 8))(x)


def unrolled(cell):
    rows = layers.Reshape((8, 64))
    return lambda x: layers.Reshape((8, 1, 8))(cell(8, unroll=True, return_sequences=True)(rows(x)))


def columns(x):
    """SE along the columns of a map: positions and channels are pooled."""
    pooled = ops.mean(x, (1, 3))
    return x * layers.Reshape((1, 8, 1))(layers.Dense(8, "sigmoid")(pooled))


def eca(x):
    """A convolution that slides along the channels: no matrix of all of them."""
    column = layers.Reshape((8, 1))(layers.GlobalAveragePooling2D()(x))
    gates = layers.Conv1D(1, 3, padding="same", activation="sigmoid")(column)
    return x * layers.Reshape((1, 1, 8))(gates)


NO_SITES = {
    "layer normalization": lambda x: layers.LayerNormalization()(x),
    "layer normalization of maps": lambda x: layers.LayerNormalization(axis=(1, 2, 3))(x),
    "group normalization": lambda x: layers.GroupNormalization(2)(x),
    "instance normalization": lambda x: layers.GroupNormalization(-1)(x),
    "rms normalization": lambda x: layers.RMSNormalization()(x),
    "attention": tokens,
    "spatial attention": cbam_spatial,
    "coordinate attention": coordinate_attention,
    "windows": windows,
    "small window": small_window,
    "mean over channels": lambda x: x * conv(1, "sigmoid")(ops.mean(x, -1, keepdims=True)),
    "mean over one axis": lambda x: x * conv(8, "sigmoid")(ops.mean(x, 1, keepdims=True)),
    "columns": columns,
    "global context": lambda x: x + conv(8)(conv(4, "relu")(mean(x))),
    "glu": lambda x: x * conv(8, "sigmoid")(x),
    "glu of two": lambda x: x * conv(8, "sigmoid")(conv(4, "relu")(x)),
    "three matrices": lambda x: se_of_convolutions(x, pool=lambda x: conv(8, "relu")(mean(x))),
    "eca": eca,
    "lstm": unrolled(layers.LSTM),
    "gru": unrolled(layers.GRU),
}


@pytest.mark.parametrize("batch", [1, 3])
def test_no_sites(batch):
    found = file_sites(convert(trunk(*NO_SITES.values()), batch))
    assert [(site.name, site.after) for site in found] == []


def test_a_gated_linear_unit_on_one_position():
    """With one matrix it is none of ours; with two it is SE, its pooling folded away."""
    one, two = NO_SITES["glu"], NO_SITES["glu of two"]
    assert figures(convert(trunk(one, shape=(1, 1, 3)))) == []
    assert figures(convert(trunk(two, shape=(1, 1, 3)))) == [SIGMOID]


def test_gates_of_another_input():
    weights = np.ones((5, 8), "float32")

    def film(x, v):
        return x * tf.reshape(tf.sigmoid(v @ weights), (1, 1, 1, 8))

    assert figures(_converter(film, (1, 6, 6, 8), (1, 5)).convert()) == []


def rewritten(tflite, change):
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(tflite, 0)
    change(model)
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_casts_without_the_unknown_sizes_of_what_they_cast(images):
    """As litert-quantizer inserts them in a file of an open batch."""
    model = trunk(se_of_convolutions)
    tflite = to_tflite(model, "int8", images, check_range=False, keep_float=["se_1"])
    casts = [n for n, name in enumerate(operator_names(tflite)) if name == "DEQUANTIZE"]

    def open_batch(model):
        graph = model.subgraphs[0]
        cast = {int(i) for n in casts for i in graph.operators[n].outputs}
        for n, tensor in enumerate(graph.tensors):
            if n not in cast and tensor.shape is not None and tensor.shape[:1] == 1:
                tensor.shapeSignature = [-1, *tensor.shape[1:]]

    assert casts
    assert figures(rewritten(tflite, open_batch)) == figures(tflite) == [SIGMOID]


@pytest.mark.parametrize("unread", [True, False])
def test_a_mixture_of_branches_is_no_site(unread):
    """Its gates weigh maps that are summed; if the product is an output, it is no mixture."""

    def mixture(x):
        pooled = tf.reduce_mean(x, (1, 2))
        gates = tf.nn.softmax(tf.nn.relu(pooled @ np.ones((8, 4), "f")) @ np.ones((4, 8), "f"))
        product = x * tf.reshape(gates, (1, 1, 1, 8))
        total = tf.reduce_sum(product, -1)
        return total if unread else (total, product)

    found = file_sites(_converter(mixture, (1, 6, 6, 8)).convert())
    assert [site.kind for site in found] == ([] if unread else ["self"])


@pytest.fixture(scope="module")
def sigmoids():
    """A sigmoid alone, of width 4, and one that is scaled, of width 2."""
    return convert(
        trunk(
            se_of_convolutions,
            lambda x: se_of_convolutions(x, lambda v: ops.sigmoid(v) * (1 / 6), width=2),
        )
    )


@pytest.mark.parametrize(
    ("operator", "gates"),
    [
        ("RELU6", {2: "hard_sigmoid", 4: "unknown"}),
        ("RELU_0_TO_1", {2: "unknown", 4: "hard_sigmoid"}),
        ("RELU_N1_TO_1", {2: "unknown", 4: "unknown"}),
        ("HARD_SWISH", {}),
        ("TANH", {2: "unknown", 4: "tanh"}),
        ("COS", {2: "unknown", 4: "unknown"}),
    ],
)
def test_gates_that_other_converters_write(sigmoids, operator, gates):
    """Operators that this converter does not emit by themselves, in the place of a sigmoid."""
    codes = pytest.importorskip("ai_edge_litert.schema_py_generated").BuiltinOperator

    def replace(model):
        (code,) = (c for c in model.operatorCodes if c.builtinCode == codes.LOGISTIC)
        code.builtinCode = getattr(codes, operator)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)

    assert gates_by_width(rewritten(sigmoids, replace)) == gates


@pytest.mark.parametrize("body", [se_of_dense, lraspp_head])
def test_cycles_of_all_lengths_end(body):
    tflite = convert(trunk(body), 4)
    number = len(operator_names(tflite))
    for start in range(number):
        for end in range(start, number):

            def tie(model, start=start, end=end):
                operators = model.subgraphs[0].operators
                others = operators[start].inputs[1:]
                operators[start].inputs = [operators[end].outputs[0], *others]

            tied = rewritten(tflite, tie)
            assert len(file_sites(tied)) <= 1
            check_alive(tied)


def test_tables_that_are_listed_over_and_over_are_refused():
    """A thousand names of a sub-graph in a file that holds it once."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    builder = flatbuffers.Builder(0)
    name = builder.CreateString("n" * 1000)
    schema.TensorStart(builder)
    schema.TensorAddName(builder, name)
    tensor = schema.TensorEnd(builder)
    schema.SubGraphStartTensorsVector(builder, 1000)
    for _ in range(1000):
        builder.PrependUOffsetTRelative(tensor)
    tensors = builder.EndVector()
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graph = schema.SubGraphEnd(builder)
    schema.ModelStartSubgraphsVector(builder, 1000)
    for _ in range(1000):
        builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    with pytest.raises(InputError, match=r"follows the schema. Received: .* entries in .* bytes"):
        file_sites(bytes(builder.Output()))


def test_a_file_larger_than_any(tmp_path):
    path = tmp_path / "a.tflite"
    with path.open("wb") as file:
        file.truncate(2**33 + 1)
    with pytest.raises(InputError, match=r"fit in memory\. Received: .*a\.tflite: it has more"):
        file_sites(path)
