import copy
import re

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from keras_se import SEBlock, find_sites, to_tflite
from keras_se.errors import InputError
from keras_se.litert.devices.probing import probe
from keras_se.litert.devices.recording import read_recording
from keras_se.litert.gates import file_gates
from keras_se.litert.graph.flatbuffer import packed, unpacked
from keras_se.litert.graph.sites import gate_nodes, operator_names
from keras_se.litert.runtime import load, predict

FORMATS = ("float32", "float16", "int8", "int16x8")


@pytest.fixture
def files(files):
    """By format, a file of the network with the gates that 1 + tanh gives."""
    return {name: files["one_plus_tanh", name] for name in FORMATS}


def run(tflite, x):
    """The raw outputs by their names in the signature, sample by sample, codes as they are."""
    runner = load(tflite).get_signature_runner()
    (details,) = runner.get_input_details().values()
    scale, zero = details["quantization"]
    if scale:
        limits = np.iinfo(details["dtype"])
        x = np.clip(np.round(x / scale) + zero, limits.min, limits.max)
    rows = [runner(inputs=row[None].astype(details["dtype"])) for row in x]
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def changed(tflite, change):
    model = unpacked(tflite)
    change(model)
    return packed(model)


@pytest.mark.parametrize("name", FORMATS)
def test_the_twin_computes_what_the_file_computes_and_gives_out_its_gates(files, images, name):
    tflite, x = files[name], images[:40]
    twin = probe(tflite)
    expected, outputs = run(tflite, x), run(twin, x)
    assert set(outputs) == {*expected, "gate_se_1", "gate_se_2"}
    for output, values in expected.items():
        assert values.dtype == outputs[output].dtype
        np.testing.assert_array_equal(outputs[output], values)
    assert operator_names(twin) == operator_names(tflite)
    for site, gates in file_gates(tflite, x).items():
        values = predict(twin, x)[f"gate_{site}"]
        np.testing.assert_array_equal(values.reshape(gates.shape), gates)


@pytest.mark.parametrize("name", FORMATS)
def test_the_gates_of_the_twin_are_what_is_recorded(files, images, name, tmp_path):
    """Codes where the file is quantized, floats elsewhere: both come back as the same gates."""
    tflite, x = files[name], images[:40]
    outputs, expected = run(probe(tflite), x), file_gates(tflite, x)
    integer = {"int8": np.int8, "int16x8": np.int16}.get(name, np.float32)
    assert outputs["gate_se_1"].dtype == integer
    path = tmp_path / "gates.npz"
    np.savez(path, **outputs)
    squeezed = {
        site: outputs[f"gate_{site}"].reshape(gates.shape) for site, gates in expected.items()
    }
    wide = {f"gate_{site}": gates.astype("float64") for site, gates in expected.items()}
    for source in (path, str(path), outputs, squeezed, wide):
        gates = read_recording(tflite, source).gates
        assert list(gates) == list(expected)
        for site, values in gates.items():
            assert values.dtype == np.float32
            np.testing.assert_array_equal(values, expected[site])
    for site, values in read_recording(probe(tflite), outputs).gates.items():
        np.testing.assert_array_equal(values, expected[site])


def test_the_weights_are_unchanged_and_lie_where_the_schema_wants_them(files):
    for tflite in files.values():
        before, twin = schema.Model.GetRootAs(tflite), probe(tflite)
        after = schema.Model.GetRootAs(twin)
        start = np.frombuffer(twin, "uint8").__array_interface__["data"][0]
        assert before.BuffersLength() == after.BuffersLength()
        for n in range(before.BuffersLength()):
            old, new = before.Buffers(n), after.Buffers(n)
            assert old.DataLength() == new.DataLength()
            if old.DataLength():
                np.testing.assert_array_equal(old.DataAsNumpy(), new.DataAsNumpy())
                assert (new.DataAsNumpy().__array_interface__["data"][0] - start) % 16 == 0


def test_a_file_without_signatures(files, images):
    tflite = changed(files["int8"], lambda model: setattr(model, "signatureDefs", None))
    twin = probe(tflite)
    assert load(twin).get_signature_list() == {}
    outputs = [details["index"] for details in load(twin).get_output_details()]
    assert outputs[1:] == [node.gate_tensor for node in gate_nodes(tflite)]
    x = images[:4]
    assert len(predict(twin, x)) == 3
    (name,) = (d["name"] for d in load(tflite).get_output_details())
    np.testing.assert_array_equal(predict(twin, x)[name], predict(tflite, x))


def test_a_gate_that_is_an_output_already():
    inputs = keras.Input((8, 8, 4))
    model = keras.Model(inputs, SEBlock(2)(inputs, return_gates=True))
    tflite = to_tflite(model, "float32")
    assert len(predict(probe(tflite), np.zeros((2, 8, 8, 4)))) == 3


def test_gates_of_sequences_are_recorded_in_their_own_shape():
    model = keras.Sequential([keras.Input((6, 4)), SEBlock(2)])
    tflite, x = to_tflite(model, "float32"), np.random.default_rng(0).random((3, 6, 4))
    outputs = run(probe(tflite), x)
    np.testing.assert_array_equal(
        read_recording(tflite, outputs).gates["se_1"], file_gates(tflite, x)["se_1"]
    )


def with_two_subgraphs(tflite):
    """The file with its graph twice, the second one as the signature `again`."""

    def change(model):
        copied, signature = unpacked(tflite), copy.deepcopy(model.signatureDefs[0])
        model.subgraphs.append(copied.subgraphs[0])
        signature.signatureKey, signature.subgraphIndex = "again", 1
        model.signatureDefs.append(signature)

    return changed(tflite, change)


def test_the_sub_graph_of_each_signature_has_its_own_gates(files):
    twin = probe(with_two_subgraphs(files["int8"]))
    found = load(twin).get_signature_list()
    gates = {
        "serving_default": ["gate_se_1", "gate_se_2"],
        "again": ["gate_again_se_1", "gate_again_se_2"],
    }
    for key, names in gates.items():
        assert sorted(found[key]["outputs"]) == [*names, "output_0"]


def test_a_sub_graph_without_outputs_of_its_own_is_refused(files):
    tflite = changed(with_two_subgraphs(files["int8"]), lambda model: model.signatureDefs.pop())
    sentence = (
        r"in the main sub-graph .* \['gate_subgraph_1_se_1', .*\] in sub-graph 1, which has no outp"
    )
    with pytest.raises(InputError, match=sentence):
        probe(tflite)


def test_a_nan_reaches_the_verdict(files):
    source = {"se_1": np.full((2, 8), np.nan), "se_2": np.full((2, 1, 1, 16), np.inf, "float16")}
    gates = read_recording(files["float16"], source).gates
    assert np.isnan(gates["se_1"]).all()
    assert np.isinf(gates["se_2"]).all()


def test_refused_files(files, images):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    plain = to_tflite(model, "float32")
    for function, arguments in ((probe, ()), (read_recording, ({},))):
        sentence = r"^probe and recorded gates need a TFLite file with SE sites\. Received: \d+ by"
        with pytest.raises(InputError, match=sentence):
            function(plain, *arguments)
    with pytest.raises(InputError, match=r"so no twin\. Received: .* \['gate_se_1', 'gate_se_2'\]"):
        probe(probe(files["float32"]))
    with pytest.raises(InputError, match=r"^A TFLite file holds 'TFL3'"):
        probe(b"nothing")
    with pytest.raises(InputError, match=r"^A TFLite file must hold a graph that follows"):
        unpacked(b"\xff\xff\xff\x7fTFL3")


def test_data_behind_the_flatbuffer_is_taken_inside(files, images):
    """As other converters write it: the weights follow the flatbuffer, at offsets in the file."""
    tflite = files["float32"]
    model, place, behind = unpacked(tflite), len(tflite) + 4096, b""
    for buffer in model.buffers:
        if buffer.data is not None and len(buffer.data) > 64:
            buffer.offset, buffer.size = place + len(behind), len(buffer.data)
            behind, buffer.data = behind + bytes(buffer.data), None
    other = packed(model)
    other += bytes(place - len(other)) + behind
    assert behind
    expected, found = predict(probe(tflite), images[:4]), predict(probe(other), images[:4])
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert find_sites(other) == find_sites(tflite)
    for broken in (other[: place + 8], other[:-8]):
        with pytest.raises(InputError, match=r"follows the schema\. .* ValueError: \d+ bytes at"):
            probe(broken)


def test_data_in_another_file_is_refused(files):
    change = changed(files["float32"], lambda m: setattr(m, "externalBuffers", [external()]))
    with pytest.raises(InputError, match=r"all of its data in one file .* with external buffers$"):
        probe(change)


def external():
    buffer = schema.ExternalBufferT()
    buffer.id = 1
    return buffer


GOOD = {"se_1": np.zeros((2, 8), "int8"), "se_2": np.zeros((2, 16), "int8")}


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({}, "hold each site of the file once: se_1 as 'gate_se_1' or 'se_1'. Received: []"),
        ({"se_1": GOOD["se_1"]}, "once: se_2 as 'gate_se_2' or 'se_2'. Received: ['se_1']"),
        (
            {**GOOD, "gate_se_1": GOOD["se_1"]},
            "once: se_1 as 'gate_se_1' or 'se_1'. Received: ['gate_se_1', 'se_1', 'se_2']",
        ),
        (
            {**GOOD, "se_1": np.zeros((2, 9))},
            "se_1 must have the shape (samples, 8) or (samples, 1, 1, 8). Received: shape (2, 9)",
        ),
        ({**GOOD, "se_1": np.zeros(8)}, "(samples, 1, 1, 8). Received: shape (8,)"),
        ({**GOOD, "se_1": np.zeros((2, 2, 1, 4))}, "Received: shape (2, 2, 1, 4)"),
        (
            {**GOOD, "se_1": np.zeros((0, 8))},
            "se_1 must hold samples. Received: shape (0, 8)",
        ),
        (
            {**GOOD, "se_2": np.zeros((3, 16), "int8")},
            "must have one number of samples at all sites. Received: {'se_1': 2, 'se_2': 3}",
        ),
        (
            {**GOOD, "se_1": np.full((2, 8), 200)},
            "se_1 must hold codes of int8, as the gates of this file are. Received: 200 to 200",
        ),
        (
            {**GOOD, "se_1": np.full((2, 8), "a")},
            "se_1 must be an array of numbers. Received: dtype <U1",
        ),
        (
            {**GOOD, "se_1": np.full((2, 8), True)},
            "se_1 must be an array of numbers. Received: dtype bool",
        ),
        ({**GOOD, "se_1": [[1], [1, 2]]}, "se_1 must be an array of numbers. Received: setting"),
    ],
)
def test_refused_recordings(files, source, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        read_recording(files["int8"], source)


def test_codes_are_refused_where_the_gates_are_floats(files):
    sentence = r"^se_1 must be floats: .* not quantized\. Received: dtype int8$"
    with pytest.raises(InputError, match=sentence):
        read_recording(files["float32"], GOOD)


def test_refused_archives(files, tmp_path):
    path = tmp_path / "gates.npz"
    with pytest.raises(InputError, match=r"^Recorded gates must be an existing \.npz file\. Rec"):
        read_recording(files["int8"], path)
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"which cannot be read: it is no zip archive, as np"):
        read_recording(files["int8"], path)
    np.savez(path, se_1=np.array([{}], object), se_2=np.zeros((2, 16)))
    with pytest.raises(InputError, match=r"without pickled objects\. Received: .*holds pickled"):
        read_recording(files["int8"], path)
