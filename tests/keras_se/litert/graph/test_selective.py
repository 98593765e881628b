import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_se import SEBlock, read_gates, to_tflite
from keras_se.errors import InputError
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.devices.probing import probe
from keras_se.litert.gates import file_gates
from keras_se.litert.graph.flatbuffer import TFLiteModel, packed, unpacked
from keras_se.litert.graph.selective import keep_float
from keras_se.litert.graph.sites import gate_nodes, operator_names
from keras_se.litert.matching import match_sites
from keras_se.litert.runtime import load, predict

GATES = ("sigmoid", "hard_sigmoid", "one_plus_tanh")
FLOAT32 = schema.TensorType.FLOAT32
CODES = {"int8": schema.TensorType.INT8, "int16x8": schema.TensorType.INT16}


@pytest.fixture(scope="module")
def maps():
    return np.random.default_rng(0).normal(size=(200, 8, 8, 4)).astype("float32")


def se_block(**settings):
    wide = keras.initializers.RandomNormal(stddev=1.5, seed=0)
    return SEBlock(2, kernel_initializer=wide, **settings)


def kept(model, x, sites=("se_1",), name="int8"):
    return keep_float(to_tflite(model, name, x), to_tflite(model, "float32"), sites)


def result_types(tflite):
    """The type that each operator gives out."""
    graph = unpacked(tflite).subgraphs[0]
    return [graph.tensors[operator.outputs[0]].type for operator in graph.operators]


def tensors(tflite):
    """By name, what the file says of a tensor: type, scales, zero points, data."""
    model = unpacked(tflite)
    return {
        bytes(tensor.name): (
            tensor.type,
            *(
                () if tensor.quantization is None or values is None else tuple(map(float, values))
                for values in (
                    getattr(tensor.quantization, "scale", None),
                    getattr(tensor.quantization, "zeroPoint", None),
                )
            ),
            bytes([] if (data := model.buffers[tensor.buffer].data) is None else data),
        )
        for tensor in model.subgraphs[0].tensors
    }


def error_of(tflite, model, x):
    return np.abs(predict(tflite, x) - model.predict(x, verbose=0)).max()


def r2(expected, values):
    spread = expected - expected.mean(axis=0)
    return 1.0 - ((values - expected) ** 2).sum() / (spread**2).sum()


@pytest.mark.parametrize(
    ("gate", "name"),
    [
        ("sigmoid", "int8"),
        ("sigmoid", "int16x8"),
        ("hard_sigmoid", "int8"),
        ("one_plus_tanh", "int16x8"),
    ],
)
def test_the_operators_of_the_site_are_float_and_no_others(files, gate, name):
    plain = files[gate, name]
    mixed = keep_float(plain, files[gate, "float32"], ["se_2"])
    first, second = gate_nodes(mixed)
    assert (first.quantized, second.quantized) == (True, False)
    casts = {"DEQUANTIZE", "QUANTIZE"}
    names, chain = operator_names(mixed), [n for n in second.operators if n not in casts]
    assert first.operators == gate_nodes(plain)[0].operators
    assert tuple(chain) == gate_nodes(plain)[1].operators
    start = names.index("DEQUANTIZE")
    assert names[start:] == ["DEQUANTIZE", *chain, "QUANTIZE", "MEAN", "FULLY_CONNECTED"]
    assert [name for name in names if name not in casts] == operator_names(plain)
    types = result_types(mixed)
    end = start + 1 + len(chain)
    assert set(types[start:end]) == {FLOAT32}
    assert set(types[:start] + types[end:]) == {CODES[name]}


@pytest.mark.parametrize("name", CODES)
def test_the_rest_of_the_file_is_what_it_was(files, name):
    """Types, scales, zero points and data of every tensor outside of the site, and no others."""
    plain, reference = files["sigmoid", name], files["sigmoid", "float32"]
    mixed = keep_float(plain, reference, ["se_2"])
    old, new, float_tensors = tensors(plain), tensors(mixed), tensors(reference)
    graph, node = unpacked(plain).subgraphs[0], gate_nodes(plain)[1]
    chain = [graph.operators[position] for position in node.positions]
    inner = {int(i) for operator in chain for i in (*operator.inputs[1:], *operator.outputs)}
    inner -= {node.product_tensor, node.feature_tensor}
    names = {bytes(graph.tensors[i].name) for i in inner}
    assert len(names) >= 8
    for tensor, facts in old.items():
        if tensor not in names:
            assert new[tensor] == facts
    added = {tensor: facts for tensor, facts in new.items() if old.get(tensor) != facts}
    assert all(facts[0] != CODES[name] for facts in added.values())
    for tensor, facts in added.items():
        if facts[-1]:
            assert facts == float_tensors[tensor.removesuffix(b"/wide")]
    assert load(mixed).get_signature_list() == load(plain).get_signature_list()
    for details in (*load(mixed).get_input_details(), *load(mixed).get_output_details()):
        assert details["dtype"] == (np.int8 if name == "int8" else np.int16)


@pytest.mark.filterwarnings(r"ignore:\s*Warning. tf.lite.Interpreter is deprecated")
@pytest.mark.filterwarnings("ignore:Statistics for quantized inputs were expected")
@pytest.mark.parametrize(
    ("gate", "sites"),
    [("sigmoid", ["se_1"]), ("hard_sigmoid", ["se_2"]), ("one_plus_tanh", ["se_1", "se_2"])],
)
def test_it_computes_what_tensorflow_makes_of_a_list_of_denied_tensors(
    networks, files, images, gate, sites
):
    """The selective quantization of TensorFlow's debugger, bit for bit."""
    import tensorflow as tf

    reference = files[gate, "float32"]
    model, graph = networks[gate], unpacked(reference).subgraphs[0]
    weights = [
        [v.numpy() for v in part]
        for part in (model.trainable_variables, model.non_trainable_variables)
    ]

    @tf.function(input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32, name="inputs")])
    def infer(x):
        return model.stateless_call(*weights, x, training=False)[0]

    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [infer.get_concrete_function()], tf.Module()
    )
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([image[None]] for image in images[100:])
    positions = [p for n in gate_nodes(reference) if n.site.name in sites for p in n.positions]
    denied = [graph.tensors[graph.operators[p].outputs[0]].name.decode() for p in positions]
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(
            denylisted_nodes=denied, fully_quantize=True
        ),
    )
    expected = debugger.get_nondebug_quantized_model()
    mixed = keep_float(files[gate, "int8"], reference, sites)
    assert operator_names(mixed) == operator_names(expected)
    np.testing.assert_array_equal(predict(mixed, images[:64]), predict(expected, images[:64]))


@pytest.mark.parametrize("name", CODES)
@pytest.mark.parametrize("gate", GATES)
def test_outputs_follow_keras_and_the_kept_gates_are_nearer_to_theirs(
    networks, files, images, gate, name
):
    model, x = networks[gate], images[:64]
    plain, reference = files[gate, name], files[gate, "float32"]
    mixed = keep_float(plain, reference, ["se_2", "se_1"])
    assert error_of(mixed, model, x) <= 1.1 * error_of(plain, model, x)
    expected, before, after = read_gates(model, x), file_gates(plain, x), file_gates(mixed, x)
    for site, gates in expected.items():
        assert r2(gates, after[site]) > 0.99
        assert r2(gates, after[site]) >= r2(gates, before[site]) - 1e-3
    np.testing.assert_array_equal(
        predict(mixed, x), predict(keep_float(plain, reference, ["se_1", "se_2"]), x)
    )


@pytest.mark.filterwarnings("ignore::keras_se.litert.convert.ConversionWarning")
def test_it_rescues_gates_that_a_channel_of_the_bottleneck_drowns(images):
    """One unit 200 times as large as the others, and weighed the less: the same gates in float."""
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Conv2D(16, 3, activation="relu"), se_block(), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *layers])
    w1, b1, w2, b2 = (np.array(part) for part in layers[1].excitation())
    w1[:, 0] = 200 * np.abs(w1[:, 0])
    w2[0] /= 200
    layers[1].set_excitation(w1, b1, w2, b2, layout="dense")
    expected = read_gates(model, images[:64])["se_1"]
    plain = to_tflite(model, "int8", images[100:])
    mixed = keep_float(plain, to_tflite(model, "float32"), ["se_1"])
    assert r2(expected, file_gates(plain, images[:64])["se_1"]) < 0.5
    assert r2(expected, file_gates(mixed, images[:64])["se_1"]) > 0.99
    assert error_of(mixed, model, images[:64]) < error_of(plain, model, images[:64]) / 2


@pytest.mark.parametrize("gate", GATES)
def test_what_it_costs(files, gate):
    """Two operators a site, its weights in four bytes, and no further partition under int8."""
    reference = files[gate, "float32"]
    for name, partitions in (("int8", (1, 1)), ("int16x8", (0, 2))):
        plain = files[gate, name]
        mixed = keep_float(plain, reference, ["se_1", "se_2"])
        before, after = delegation(plain), delegation(mixed)
        assert (before.partitions, after.partitions) == partitions
        assert len(after.operators) == len(before.operators) + 4
        assert [site.partitions for site in after.sites.values()] == [1, 1]
        taken = [
            n for n, is_taken in zip(after.operators, after.delegated, strict=True) if is_taken
        ]
        chains = [n for site in gate_nodes(plain) for n in site.operators]
        assert taken == list(after.operators if name == "int8" else chains)
        carried = len(TFLiteModel(plain).metadata[b"keras_se"])
        assert len(mixed) - carried < 1.1 * (len(plain) - carried) < len(reference)


@pytest.mark.parametrize("input_type", ["uint8", "float32"])
def test_inputs_and_outputs_keep_their_types(networks, files, images, input_type):
    model = networks["sigmoid"]
    plain = to_tflite(model, "int8", images[100:], input_type=input_type, output_type=input_type)
    mixed = keep_float(plain, files["sigmoid", "float32"], ["se_1"])
    for details in (*load(mixed).get_input_details(), *load(mixed).get_output_details()):
        assert details["dtype"] == np.dtype(input_type)
    assert error_of(mixed, model, images[:64]) <= 1.1 * error_of(plain, model, images[:64])


BLOCKS = [
    {"squeeze": "max"},
    {"squeeze": "avg_max"},
    {"squeeze": "std"},
    {"gate": "tanh"},
    {"gate": "relu"},
    {"gate": "softmax"},
    {"activation": "silu"},
    {"use_bias": False},
]


def test_every_kind_of_block(maps):
    x = inputs = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(8, 3)(x)
    blocks = [
        SEBlock(2, kernel_initializer=keras.initializers.RandomNormal(stddev=1.5, seed=n), **block)
        for n, block in enumerate(BLOCKS)
    ]
    x = keras.layers.Concatenate()([block(x) for block in blocks])
    model = keras.Model(inputs, keras.layers.Conv2D(4, 1)(x))
    expected = read_gates(model, maps[:32])
    reference = to_tflite(model, "float32")
    names = match_sites(model, {"inputs": maps}, lambda: reference)
    mixed = keep_float(to_tflite(model, "int8", maps), reference, list(names.values()))
    assert not any(node.quantized for node in gate_nodes(mixed))
    found = file_gates(mixed, maps[:32])
    assert len(found) == len(BLOCKS)
    for site, gates in expected.items():
        assert r2(gates, found[names[site]]) > 0.97


@pytest.mark.parametrize(
    ("shape", "name"), [((8, 8, 4), "int16x8"), ((6, 4), "int8"), ((4, 4, 4, 4), "int8")]
)
def test_a_file_that_is_a_site_and_nothing_else(shape, name):
    x = np.random.default_rng(0).normal(size=(200, *shape)).astype("float32")
    model = keras.Sequential([keras.Input(shape), se_block()])
    mixed = kept(model, x, name=name)
    assert error_of(mixed, model, x[:32]) < 0.05
    assert [n for n in result_types(mixed) if n != FLOAT32] == [CODES[name]]


def test_gates_that_are_an_output_are_made_from_the_float_ones(maps):
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, se_block()(inputs, return_gates=True))
    plain, mixed = to_tflite(model, "int8", maps), kept(model, maps)
    assert operator_names(mixed).count("LOGISTIC") == 1
    assert operator_names(mixed).count("QUANTIZE") == 2
    outputs = predict(mixed, maps[:32])
    assert {name: values.shape for name, values in outputs.items()} == {
        name: values.shape for name, values in predict(plain, maps[:32]).items()
    }
    given = next(values for values in outputs.values() if values.size == 32 * 4).reshape(32, 4)
    gates = file_gates(mixed, maps[:32])["se_1"]
    np.testing.assert_allclose(given, np.round(gates * 256) / 256, atol=1e-6)


def test_a_shift_is_computed_from_the_float_bottleneck(maps):
    block = se_block(shift=True)
    model = keras.Sequential([keras.Input((8, 8, 4)), block])
    rng = np.random.default_rng(1)
    for variable in block.trainable_variables:
        variable.assign(rng.normal(size=variable.shape))
    mixed = kept(model, maps)
    assert operator_names(mixed).count("MEAN") == 1
    assert operator_names(mixed).count("CONV_2D") == 3
    assert operator_names(mixed).count("QUANTIZE") == 2
    plain = to_tflite(model, "int8", maps)
    assert error_of(mixed, model, maps[:32]) <= 1.1 * error_of(plain, model, maps[:32])


def test_both_calls_of_a_shared_block_share_the_float_weights(maps):
    block, inputs = se_block(), keras.Input((8, 8, 4))
    x = block(keras.layers.Conv2D(4, 3, activation="relu")(block(inputs)))
    model = keras.Model(inputs, x)
    one, both = kept(model, maps), kept(model, maps, ["se_1", "se_2"])
    assert [node.quantized for node in gate_nodes(both)] == [False, False]
    floats = [facts for facts in tensors(both).values() if facts[0] == FLOAT32 and facts[-1]]
    assert len(floats) == 4
    assert len(both) < len(one)
    assert error_of(both, model, maps[:32]) < 0.05


def test_the_twin_of_a_mixed_file_gives_out_both_kinds_of_gates(files, images):
    mixed = keep_float(files["sigmoid", "int8"], files["sigmoid", "float32"], ["se_2"])
    outputs, gates = predict(probe(mixed), images[:8]), file_gates(mixed, images[:8])
    for site, values in gates.items():
        np.testing.assert_array_equal(outputs[f"gate_{site}"].reshape(values.shape), values)


def branches():
    """Two sites that Keras and TFLite list in different orders, one of them in a nested model."""
    keras.utils.set_random_seed(2)
    outer = keras.Input((8, 8, 4))
    x = keras.layers.Conv2D(4, 3, padding="same")(outer)
    narrow = se_block()(x)
    inner = keras.Sequential([keras.Input((8, 8, 4)), se_block(gate="one_plus_tanh")], name="outer")
    return keras.Model(outer, keras.layers.Concatenate()([inner(x), narrow]))


def test_names_are_those_of_the_model(maps):
    model = branches()
    expected = read_gates(model, maps[:32])
    names = match_sites(model, {"inputs": maps}, lambda: to_tflite(model, "float32"))
    assert names != {name: name for name in expected}
    for site, name in names.items():
        mixed = to_tflite(model, "int8", maps, keep_float=[site])
        gates = {node.site.name: node.quantized for node in gate_nodes(mixed)}
        assert gates == {other: other != name for other in names.values()}
        assert r2(expected[site], file_gates(mixed, maps[:32])[name]) > 0.99


def test_names_of_a_model_with_two_inputs(maps):
    first, second = keras.Input((8, 8, 4), name="left"), keras.Input((8, 8, 4), name="right")
    sites = [se_block()(first), se_block(gate="one_plus_tanh")(second)]
    model = keras.Model({"left": first, "right": second}, keras.layers.Add()(sites))
    samples = {"left": maps[:100], "right": maps[100:]}
    mixed = to_tflite(model, "int8", samples, keep_float=["se_1"])
    assert sorted(node.quantized for node in gate_nodes(mixed)) == [False, True]


@pytest.mark.parametrize("names", ["se_1", ["se_3"], ["se_1", "se_1"], ["se_2", "x"]])
def test_refused_names(files, names):
    sentence = (
        r"^keep_float must be a list of names of SE sites, each once; the quantized file has "
        r"\['se_1', 'se_2'\]\. Received: "
    )
    with pytest.raises(InputError, match=sentence):
        keep_float(files["sigmoid", "int8"], files["sigmoid", "float32"], names)


def test_files_that_do_not_belong_together_are_refused(files):
    plain, reference = files["sigmoid", "int8"], files["sigmoid", "float32"]
    other = to_tflite(keras.Sequential([keras.Input((8, 8, 4)), se_block()]), "float32")
    sentence = r"with the same SE sites\. Received: \{'se_1': \(8, 2\), .* \{'se_1': \(4, 2\)\} in"
    with pytest.raises(InputError, match=sentence):
        keep_float(plain, other, ["se_1"])
    sentence = r"same operators in a site\. Received: se_1 of \('MEAN', .*'LOGISTIC', 'MUL'\) in th"
    with pytest.raises(InputError, match=sentence):
        keep_float(plain, files["hard_sigmoid", "float32"], ["se_1"])
    mixed = keep_float(plain, reference, ["se_1"])
    with pytest.raises(InputError, match=r"int8 or int16\. Received: se_1, which is in float$"):
        keep_float(mixed, reference, ["se_1"])
    sentence = r"constants, and tensors that .* has, too\. Received: 'se_.*', which it has not$"
    with pytest.raises(InputError, match=sentence):
        keep_float(plain, files["sigmoid", "float16"], ["se_1"])


def test_a_malformed_file_is_refused(files):
    model = unpacked(files["sigmoid", "int8"])
    last = model.subgraphs[0].operators[-1]
    last.inputs = [last.inputs[0], 999, 3]
    sentence = r"follow the schema\. Received: \d+ and \d+ bytes; changing them gives IndexError: "
    with pytest.raises(InputError, match=sentence):
        keep_float(packed(model), files["sigmoid", "float32"], ["se_1"])
