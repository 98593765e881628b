import keras
import numpy as np
import pytest

from keras_se import SEBlock, read_gates, to_tflite
from keras_se.errors import InputError
from keras_se.layers import DivisiveNormalization
from keras_se.layers.gates import GATES
from keras_se.layers.squeezes import SQUEEZES
from keras_se.litert.graph import file_sites, gate_nodes, operator_names, read_bytes
from keras_se.litert.runtime import load


def test_sites_have_the_figures_of_the_blocks(networks, images):
    for gate, model in networks.items():
        for file_format in ("float32", "int8"):
            sites = file_sites(to_tflite(model, file_format, images))
            found = [(site.name, site.channels, site.width, site.gate) for site in sites]
            assert found == [("se_1", 8, 2, gate), ("se_2", 16, 4, gate)]


def test_channels_first_sites():
    model = keras.Sequential([keras.Input((6, 8, 8)), SEBlock(2, data_format="channels_first")])
    site = file_sites(to_tflite(model, "float32"))[0]
    assert (site.channels, site.width) == (6, 3)


@pytest.fixture(scope="module")
def mobilenet():
    return to_tflite(keras.applications.MobileNetV3Small((96, 96, 3), weights=None), "float32")


def test_inline_se_of_a_model_from_keras(mobilenet):
    sites = file_sites(mobilenet)
    assert [site.channels for site in sites] == [16, 96, 240, 240, 120, 144, 288, 576, 576]
    assert {site.gate for site in sites} == {"hard_sigmoid"}
    assert [site.width for site in sites] == [8, 24, 64, 64, 32, 40, 72, 144, 144]


def test_other_products_are_no_sites():
    x = inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="hard_silu")(x)
    x = keras.layers.Multiply()([x, keras.layers.Conv2D(4, 1, activation="sigmoid")(x)])  # local
    other = keras.layers.Conv2D(4, 1)(inputs)
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=True)(other)
    x = keras.layers.Multiply()([x, keras.layers.Conv2D(4, 1, activation="sigmoid")(pooled)])
    x = x * keras.layers.GlobalAveragePooling2D(keepdims=True)(x)  # no excitation
    assert file_sites(to_tflite(keras.Model(inputs, x), "float32")) == []


def test_tensors_of_a_node_are_those_of_the_interpreter(networks, images):
    tflite = to_tflite(networks["sigmoid"], "float32")
    interpreter = load(tflite, preserve_all_tensors=True)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], images[:1])
    interpreter.invoke()
    for node in gate_nodes(tflite):
        gate, feature, product = (
            interpreter.get_tensor(i)
            for i in (node.gate_tensor, node.feature_tensor, node.product_tensor)
        )
        np.testing.assert_allclose(product, gate * feature, rtol=1e-6)


def test_paths_and_bytes(tmp_path, networks):
    tflite = to_tflite(networks["sigmoid"], "float32")
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


@pytest.mark.parametrize("arguments", SETTINGS, ids=str)
@pytest.mark.parametrize("shape", [(8, 8, 8), (1, 1, 8)])
def test_every_setting_of_a_block_is_found(arguments, shape):
    """On a map of one position the pooling is folded away."""
    wide = keras.initializers.RandomNormal(stddev=1.0)
    block = SEBlock(2, **{"kernel_initializer": wide, **arguments})
    model = keras.Sequential([keras.Input(shape), keras.layers.ReLU(), block])
    tflite = to_tflite(model, "float32")
    (site,) = file_sites(tflite)
    assert (site.channels, site.width) == (8, 4)
    if arguments.get("gate") in GATES:
        assert site.gate == arguments["gate"]
    x = np.random.default_rng(0).normal(size=(4, *shape)).astype("float32")
    gates = read_gates(model, x)["se_1"]
    np.testing.assert_allclose(read_gates(tflite, x)["se_1"], gates, rtol=1e-5, atol=1e-5)


def test_efficientnet_with_swish():
    shape = {"input_shape": (64, 64, 3), "include_top": False, "weights": None}
    model = keras.applications.EfficientNetB0(**shape)
    sites = file_sites(to_tflite(model, "float32"))
    assert len(sites) == 16
    assert {site.gate for site in sites} == {"sigmoid"}


def test_a_graph_that_bites_its_tail(networks):
    """An operator whose input is its own output: no walk back may go on for ever."""
    schema = pytest.importorskip("ai_edge_litert.schema_py_generated")
    flatbuffers = pytest.importorskip("flatbuffers")
    model = schema.ModelT.InitFromPackedBuf(to_tflite(networks["sigmoid"], "float32"), 0)
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
    for length in (8, 100, 1000, len(mobilenet) // 2):
        with pytest.raises(InputError, match="must hold a graph that follows the schema"):
            read(mobilenet[:length])


def test_mutated_files_are_read_or_refused(networks):
    tflite = to_tflite(networks["one_plus_tanh"], "float32")
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        mutated = bytearray(tflite)
        for position in rng.integers(8, len(tflite), size=8):
            mutated[position] = rng.integers(256)
        try:
            file_sites(mutated)
        except InputError:
            refused += 1
    assert 0 < refused < 200
