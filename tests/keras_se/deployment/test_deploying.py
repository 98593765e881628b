"""Files that pass, files that are mended, and those that no change mends."""

import dataclasses
import json

import keras
import numpy as np
import pytest
from sabotage import hold_gates

from keras_se import SEBlock, deploy, repair, to_tflite, verify
from keras_se.compress import quantize_aware
from keras_se.deployment import deploying, sources
from keras_se.deployment.drift import drifts
from keras_se.errors import InputError
from keras_se.litert import npu
from keras_se.litert.convert import ConversionWarning
from keras_se.litert.graph.flatbuffer import TFLiteModel, packed, unpacked
from keras_se.litert.graph.selective import keep_float
from keras_se.litert.graph.sites import gate_nodes
from keras_se.litert.runtime import predict


@pytest.fixture(scope="module")
def network(networks):
    return networks["sigmoid"]


@pytest.fixture(scope="module")
def many():
    """More images, of different brightness."""
    rng = np.random.default_rng(1)
    return (rng.random((400, 8, 8, 3)) * rng.random((400, 1, 1, 1))).astype("float32")


@pytest.fixture(scope="module")
def labels(network, many):
    """The float network is right on all of them, so that any change costs accuracy."""
    return network.predict(many, verbose=0).argmax(-1)


@pytest.fixture(scope="module")
def outliers():
    """Two channels are 200 times larger, and the steps of all others too coarse for the gates."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, padding="same", name="wide")(x)
    x = keras.layers.BatchNormalization(name="bn")(x)
    x = keras.layers.ReLU()(x)
    wide = keras.initializers.RandomNormal(stddev=1.5)
    x = SEBlock(2, kernel_initializer=wide, name="se")(x)
    x = keras.layers.Conv2D(8, 3, name="next")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    factors = np.array([200.0, 200.0] + [1.0] * 6)
    bn, se, following = (model.get_layer(name) for name in ("bn", "se", "next"))
    bn.gamma.assign(bn.gamma.numpy() * factors)
    se.w1.assign(se.w1.numpy() / factors[:, None])
    following.kernel.assign(following.kernel.numpy() / factors[:, None])
    return model


def broken(model, images):
    with pytest.warns(ConversionWarning, match="off by"):
        return to_tflite(model, "int8", images[100:])


def float_sites(content):
    return [node.site.name for node in gate_nodes(content) if not node.quantized]


def test_an_int8_file_that_passes_is_the_only_one_tried(network, images, tmp_path):
    path = tmp_path / "a.tflite"
    found = deploy(network, images[100:], images[:100], path=path)
    assert (found.passed, found.chosen, len(found.attempts)) == (True, "int8", 1)
    # The metadata tells what it was calibrated on.
    with pytest.raises(InputError, match="40 of 40 samples that are in its recipe"):
        verify(network, path, images[100:140])
    assert path.read_bytes() == found.tflite
    assert json.loads((tmp_path / "a.recipe.json").read_text())["format"] == "int8"
    assert {p.name for p in tmp_path.iterdir()} == {"a.tflite", "a.recipe.json"}
    assert str(found).startswith("Ship int8 (")
    assert "An int8 file that passes as a whole is taken; else" in " ".join(str(found).split())
    assert found.report.reference == f"model {network.name!r}"


def test_samples_of_the_calibration_are_refused_before_anything_is_made(
    network, images, monkeypatch
):
    """Also where none of the formats takes ranges from them, and before sites are folded."""

    def never(*args, **kwargs):
        raise AssertionError("something was converted or folded")

    float32 = to_tflite(network, "float32")
    monkeypatch.setattr(sources, "convert", never)
    monkeypatch.setattr(sources.FileSource, "make", never)
    monkeypatch.setattr(deploying, "fold_sites", never)
    for given, fold in ((network, False), (network, True), (float32, False)):
        with pytest.raises(InputError, match=r"7 of 100 samples that are in calibration, too\. Sp"):
            deploy(given, images[93:], images[:100], formats=["float16"], fold=fold)


def test_equalizing_rescues_gates_that_outliers_cost(outliers, images):
    found = deploy(outliers, images[100:], images[:100])
    plain, equalized = found.attempts
    assert (plain.name, plain.passed) == ("int8", False)
    assert found.chosen == equalized.name == "int8, equalized"
    assert found.passed
    assert "int8 alone: Gates are" in " ".join(str(found).split())


def test_where_nothing_can_be_equalized_tensors_in_float_do_it(outliers, images, monkeypatch):
    monkeypatch.setattr(sources.KerasSource, "equalized", lambda self: None)
    inputs = keras.Input((8, 8, 3))
    nested = keras.Model(inputs, outliers(inputs))
    found = deploy(nested, images[100:], images[:100], formats=["int8"])
    assert found.passed
    # Sites have the names that they have in the model, and not those in the file.
    (site,) = found.report.sites
    assert site == f"{outliers.name}/se_1"
    assert f" at {site}" in found.attempts[0].reason
    assert found.attempt.changed[0] == site
    assert found.attempt.changed
    # As few as do: with one part fewer it does not pass.
    parts = len(found.attempt.changed)
    kept = {a.name: (len(a.changed), a.passed) for a in found.attempts}
    fewer = [count for count, passed in kept.values() if passed]
    assert min(fewer) == parts
    assert all(passed is (count >= parts) for count, passed in kept.values())
    # The recipe tells what was changed, and the file is still known not to have seen the samples.
    options = json.loads(found.recipe)["options"]
    changed = [*options["sites in float"], *options["tensors in float"]]
    assert changed == [*found.attempt.changed]
    assert found.report.held_out.startswith("none of the 200 calibration samples")


def test_a_dead_bottleneck_is_named_as_the_site_that_it_is(images):
    """In a nested model by its path; in a file by its name there, with the same remedy."""
    off = keras.initializers.Constant(-50.0)
    dead = keras.Sequential([keras.Input((8, 8, 3)), SEBlock(1, bias_initializer=off)])
    inputs = keras.Input((8, 8, 3))
    nested = keras.Model(inputs, dead(inputs))
    for network, name in ((nested, f"{dead.name}/se_1"), (to_tflite(nested, "float32"), "se_1")):
        found = deploy(network, images[100:], images[:100], formats=["int8", "int16x8", "float16"])
        assert found.refused["int8"] == found.refused["int16x8"]
        assert f"only zeros at {name}, whose gates are constant in the float" in str(found.refused)
        assert "int8 and int16x8 could not be made: The bottleneck" in " ".join(str(found).split())


def test_parts_of_16_bits(network, images):
    """For NPUs without floats: the site that is constant in int8 computes in int16."""
    float32, wider = (to_tflite(network, name, images[100:]) for name in ("float32", "int16x8"))
    held = hold_gates(network, {network.layers[4].name: np.full(16, 0.5)})
    integer = to_tflite(held, "int8", images[100:])
    mixed = keep_float(integer, wider, ["se_1", "se_2"])
    graph = TFLiteModel(mixed).graphs[0]
    types = {graph.type(i) for operator in graph.operators for i in operator.outputs}
    assert types == {"INT8", "INT16"}
    assert not verify(float32, integer, images[:100]).passed
    assert verify(float32, mixed, images[:100]).passed


def no_int16(make):
    def refusing(source, file_format):
        if file_format == "int16x8":
            raise InputError("no such file")
        return make(source, file_format)

    return refusing


def test_16_bits_are_tried_where_asked(outliers, images, monkeypatch):
    monkeypatch.setattr(sources.KerasSource, "equalized", lambda self: None)
    words = {"formats": ["int8"], "parts": "int16x8"}
    found = deploy(outliers, images[100:], images[:100], **words)
    assert found.attempts[1].name == "int8, 1 site in 16 bit"
    assert found.attempt.work_kept > 0.9
    monkeypatch.setattr(sources.KerasSource, "make", no_int16(sources.KerasSource.make))
    floats = deploy(outliers, images[100:], images[:100], **words)
    assert floats.attempts[1].name == "int8, 1 site in float"
    assert floats.refused == {"int16x8": "no such file"}
    with pytest.raises(InputError, match=r"^parts must be one of .* Received: 'float64'$"):
        deploy(outliers, images[100:], images[:100], parts="float64")


def test_training_is_one_of_the_tries(network, many, labels):
    """Gates are judged against the trained network's, accuracy against the original's."""
    trained = []

    def train(model):
        model.compile(keras.optimizers.SGD(0.0), "mse", run_eagerly=True)
        model.fit(many[:32], network.predict(many[:32], verbose=0), verbose=0)
        trained.append(model)

    words = {"formats": ["int8"], "tolerance": 0.0, "train": train}
    found = deploy(network, many[:100], many[100:], labels[100:], **words)
    assert len(trained) == 1
    plain, after = found.attempts[:2]
    assert (after.name, after.verdict) == ("int8, quantize-aware", plain.verdict)
    # At a learning rate of 0 the file is what int8 is, up to its ranges.
    assert after.accuracy == pytest.approx(plain.accuracy, abs=0.1)
    assert after.accuracy - after.difference == 1.0
    with pytest.raises(InputError, match=r"^Only a Keras model can be trained\. Received: train "):
        deploy(to_tflite(network, "float32"), many[:100], many[100:], train=train)


def test_a_network_is_folded_first(network, images):
    """Gates are judged where they are left, outputs against the network as it was."""
    words = {"formats": ["float16"], "fold": 0.9}
    found = deploy(network, images[100:], images[:100], **words)
    folded = " ".join(str(found).split())
    assert "1 of 2 SE sites" in folded
    assert [*found.report.sites] == ["se_1"]
    assert found.report.outcome.error > 0.01
    assert deploy(network, images[100:], images[:100], formats=["float16"]).passed
    everything = deploy(network, images[100:], images[:100], formats=["float16"], fold=1.0)
    assert everything.notes == (
        "Nothing is folded: all sites would go, and no gate would be left to judge.",
    )
    with pytest.raises(InputError, match=r"^Only a Keras model can be folded\. Received: fold for"):
        deploy(to_tflite(network, "float32"), images[100:], images[:100], fold=True)


def test_all_formats_are_tried_for_the_fastest(network, many, labels):
    found = deploy(network, many[:100], many[100:], labels[100:], prefer="latency")
    names = [attempt.name for attempt in found.attempts]
    assert {"int8", "int16x8", "weight_only", "float16"} <= set(names)
    times = {a.name: a.latency.median for a in found.attempts if a.passed}
    assert found.chosen == min(times, key=times.get)
    assert all(a.latency.low <= a.latency.median <= a.latency.high for a in found.attempts)


def test_a_file_that_is_larger_than_the_float_one(network, images):
    found = deploy(network, images[100:], images[:100], formats=["float32"])
    assert "larger" not in found.conclusion  # it is that one
    smaller = dataclasses.replace(found, float_bytes=len(found.tflite) - 1)
    told = f"It is larger than the float file ({len(found.tflite) - 1:,} bytes). For size alone "
    assert told + "let deploy try float16 and weight_only, or ship that one." in smaller.conclusion
    names = ("float16", "weight_only")
    none = dataclasses.replace(smaller, refused=dict.fromkeys(names, "no"))
    assert none.conclusion.endswith(told + "ship that one.")
    other = dataclasses.replace(found.attempt, name="float16", bytes=1)
    both = dataclasses.replace(smaller, attempts=(found.attempt, other))
    assert both.conclusion.endswith("bytes). Smaller, and passing, is float16.")


def test_the_cheapest_file_on_an_npu(network, images, tmp_path):
    """In floats nothing is for the NPU."""
    words = {"formats": ["int8", "float16"], "npu": "ethos-u55-128"}
    found = deploy(to_tflite(network, "float32"), images[100:], images[:100], **words)
    assert (found.chosen, found.prefer) == ("int8", "npu")
    integer, half = found.attempts
    assert integer.npu == npu(found.tflite).cost
    assert half.npu is None
    assert f"{integer.npu[1]:,} + 0" in str(found)
    assert "cheapest on the NPU is taken" in " ".join(str(found).split())
    assert not next(a for a in found.attempts if a.name == "float16").passed
    none = deploy(network, images[100:], images[:100], formats=["float16"], npu="ethos-u55-128")
    assert "It does not run on ethos-u55-128: it has no 8-bit codes." in none.conclusion
    with pytest.raises(InputError, match=r"^npu must be one of .* Received: 'ethos-u1'$"):
        deploy(network, images[100:], images[:100], npu="ethos-u1")


def test_accuracy_decides_by_the_interval(network, many, labels):
    """The float file has all labels right; with few samples that shows too little."""
    few = deploy(network, many[:100], many[100:150], labels[100:150], formats=["float16"])
    assert not few.passed
    assert few.attempt.accuracy_verdict == "not shown"
    assert "not shown by so few samples: the 95 % interval reaches -0.03" in few.conclusion
    assert few.conclusion.endswith("Of a file that changes nothing it takes 194 samples.")
    wide = {"formats": ["float16"], "tolerance": 0.05}
    assert deploy(network, many[:100], many[100:150], labels[100:150], **wide).passed
    wrong = np.where(np.arange(300) % 2, labels[100:], (labels[100:] + 1) % 10)
    agreed = deploy(network, many[:100], many[100:], wrong, formats=["float16"])
    assert agreed.passed  # half of them are wrong before and after
    assert agreed.attempt.accuracy == 0.5


def test_what_no_change_mends_is_written_nowhere(network, many, labels, tmp_path):
    path = tmp_path / "a.tflite"
    words = {"formats": ["int8"], "tolerance": 0.0, "path": path}
    found = deploy(network, many[:100], many[100:], labels[100:], **words)
    assert not found.passed
    assert not path.exists()
    assert [*tmp_path.iterdir()] == []
    assert found.conclusion.startswith("Do not ship: none of ")
    assert "It is less accurate by" in found.conclusion
    assert max(found.attempts, key=lambda a: a.work_kept).work_kept > 0.9


def without_signature(content):
    model = unpacked(content)
    model.signatureDefs = []
    return packed(model)


def test_a_float_file_is_quantized_and_judged_file_against_file(network, images, tmp_path):
    float32 = to_tflite(network, "float32")
    found = deploy(float32, images[100:], images[:100], path=tmp_path / "a.tflite")
    assert found.passed
    assert found.attempts[0].name == "int8"
    with pytest.raises(InputError, match="samples that are in its recipe"):
        verify(float32, tmp_path / "a.tflite", images[100:140])
    recipe = json.loads((tmp_path / "a.recipe.json").read_text())
    assert recipe["calibration"]["samples"] == 200
    nameless = deploy(without_signature(float32), images[100:], images[:100], formats=["int8"])
    assert nameless.attempts[0].bytes == pytest.approx(found.attempts[0].bytes, rel=0.05)
    assert nameless.attempts[0].lowest_r2 == found.attempts[0].lowest_r2


@pytest.mark.parametrize("kind", ["model", "file"])
def test_types_of_inputs_and_outputs(network, images, kind):
    """Fed as the float network is; the same codes compute in between."""
    given = network if kind == "model" else to_tflite(network, "float32")
    formats = ["int8", "int16x8", "float16"]
    words = {"formats": formats, "prefer": "latency", "input_type": "float32"}
    found = deploy(given, images[100:], images[:100], **words)
    assert [attempt.name for attempt in found.attempts] == formats
    assert {port.type for port in found.inputs.values()} == {"float32"}
    plain = deploy(given, images[100:], images[:100], formats=["int8"])
    words = {"formats": ["int8"], "input_type": "float32", "output_type": "float32"}
    both = deploy(given, images[100:], images[:100], **words)
    assert both.passed
    assert both.interface == ""
    np.testing.assert_array_equal(
        predict(both.tflite, images[:9]), predict(plain.tflite, images[:9])
    )
    assert json.loads(both.recipe)["options"]["output_type"] == "float32"
    # What a format cannot have is said of that format.
    words = {"formats": formats[::2], "prefer": "latency", "input_type": "int8"}
    refused = deploy(given, images[100:], images[:100], **words).refused["float16"]
    assert "['float32'] for format='float16'. Received: input_type='int8'" in refused


def test_a_float_file_gives_no_uint8(network, images):
    float32 = to_tflite(network, "float32")
    with pytest.raises(InputError, match=r"must be int8, int16 or float32\. Received: uint8"):
        deploy(float32, images[100:], images[:100], formats=["int8"], output_type="uint8")


def test_parts_in_float_between_float_inputs_and_outputs(outliers, images, monkeypatch):
    monkeypatch.setattr(sources.KerasSource, "equalized", lambda self: None)
    words = {"formats": ["int8"], "input_type": "float32", "output_type": "float32"}
    found = deploy(outliers, images[100:], images[:100], **words)
    assert (found.passed, bool(found.attempt.changed), found.interface) == (True, True, "")


def test_repair_puts_a_site_in_float(network, images):
    """The gates of one site are constant in the integer file."""
    float32 = to_tflite(network, "float32")
    held = to_tflite(
        hold_gates(network, {network.layers[2].name: np.full(8, 0.5)}), "int8", images[100:]
    )
    found = repair(float32, held, images[:100])
    assert (found.attempts[0].name, found.attempts[0].passed) == ("int8", False)
    assert found.passed
    # With one site in float it passes; with both it may be smaller.
    assert "int8, 1 site in float" in [a.name for a in found.attempts if a.passed]
    assert float_sites(found.tflite) == [*sorted(found.attempt.changed)]
    assert verify(network, found.tflite, images[:100]).passed
    assert found.float_bytes == len(float32)
    sound = repair(float32, to_tflite(network, "int8", images[100:]), images[:100])
    assert (sound.passed, len(sound.attempts)) == (True, 1)


def test_repair_needs_files_of_one_network(network, outliers, images):
    integer = to_tflite(network, "int8", images[100:])
    with pytest.raises(InputError, match="needs a file with the sites of the reference"):
        repair(to_tflite(outliers, "float32"), integer, images[:100])


def test_repair_says_that_names_do_not_correspond(outliers, images):
    """Sites are found by what they compute; tensors before them only by their names."""
    float32, integer = to_tflite(outliers, "float32"), unpacked(broken(outliers, images))
    for number, tensor in enumerate(integer.subgraphs[0].tensors):
        tensor.name = f"other_{number}".encode()
    found = repair(float32, packed(integer), images[:100])
    assert not found.passed
    assert [a.name for a in found.attempts] == ["int8", "int8, 1 site in float"]
    assert "has the name of one in the float file" in found.notes[0]
    assert "keras-se deploy FLOAT.tflite NEW.tflite" in found.notes[-1]


def test_repair_puts_float_outputs_in_float(network, images):
    """The codes of the outputs clip what the file returns as floats."""
    float32 = to_tflite(network, "float32")
    integer = to_tflite(network, "int8", images[100:], output_type="float32")
    graph = TFLiteModel(float32).graphs[0]
    (output,) = [graph.name(i) for i in graph.outputs]
    assert output in [name for name, _ in drifts(float32, integer, {"x": images[:32]})]
    before, after = (
        TFLiteModel(content).graphs[0]
        for content in (integer, keep_float(integer, float32, [], [output]))
    )
    assert [g.operators[-1].name for g in (before, after)] == ["DEQUANTIZE", "FULLY_CONNECTED"]
    assert after.type(after.outputs[0]) == "FLOAT32"
    assert after.name(after.outputs[0]) == before.name(before.outputs[0])
    model = unpacked(integer)
    codes = model.subgraphs[0].tensors[before.operators[-1].inputs[0]]
    codes.quantization.scale = [0.01 * codes.quantization.scale[0]]
    clipped = packed(model)
    own, bad, mended = (
        predict(content, images[:32])
        for content in (float32, clipped, keep_float(clipped, float32, [], [output]))
    )
    assert np.abs(bad - own).max() > 20 * np.abs(mended - own).max()


def test_a_killed_call_goes_on_from_the_files_it_made(network, many, labels, tmp_path, monkeypatch):
    made, convert, path = [], sources.convert, tmp_path / "a.tflite"

    def counted(model, calibration, options, purpose):
        made.append(options.format)
        return convert(model, calibration, options, purpose)

    def killed(*arguments, **further):
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "convert", counted)
    words = {"formats": ["int16x8", "float16"], "path": path}
    with monkeypatch.context() as scope:
        scope.setattr(deploying, "latencies", killed)
        with pytest.raises(KeyboardInterrupt):
            deploy(network, many[:100], many[100:], labels[100:], **words)
    folder = tmp_path / ".a.tflite.tries"
    (folder / "mine.txt").write_text("kept")
    assert made == ["float32", "int16x8", "float16"]
    # A damaged file is made again.
    next(iter(folder.glob("*.tflite"))).write_bytes(b"TFL3")
    del made[:]
    found = deploy(network, many[:100], many[100:], labels[100:], **words)
    assert len(made) == 2
    assert path.read_bytes() == found.tflite
    assert [p.name for p in folder.iterdir()] == ["mine.txt"]
    # Another calibration is another job.
    with monkeypatch.context() as scope:
        scope.setattr(deploying, "latencies", killed)
        with pytest.raises(KeyboardInterrupt):
            deploy(network, many[:100], many[100:], labels[100:], overwrite=True, **words)
    del made[:]
    deploy(network, many[1:101], many[101:], labels[101:], overwrite=True, **words)
    assert made == ["float32", "int16x8", "float16"]


def test_a_deployment_as_text_json_and_page(network, images, tmp_path):
    found = deploy(network, images[100:], images[:100], formats=["int8", "int8"])
    content = json.loads(found.to_json())
    assert content["schema"] == 1
    assert content["chosen"] == "int8"
    assert content["attempts"][0]["bytes"] == len(found.tflite)
    assert content["report"]["passed"] is True
    assert max(map(len, str(found).splitlines())) <= 80
    found.to_html(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert "<h2>Files that were tried</h2>" in page
    assert found.conclusion in page
    assert found.attempt.name in found._repr_html_()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ({"tolerance": 2}, r"^tolerance must be between 0 and 1, .* Received: 2$"),
        ({"tolerance": True}, r"^tolerance must be .* Received: True$"),
        (
            {"prefer": "beauty"},
            r"^prefer must be one of \['size', 'latency'\]\. Received: 'beauty'",
        ),
        ({"formats": "int8"}, r"^formats must be some of \['float32', .* Received: 'int8'$"),
        ({"formats": ["int4"]}, r"^formats must be some of .* Received: \['int4'\]$"),
        ({"input_type": "int4"}, r"^input_type must be .* Received: input_type='int4'$"),
        ({"output_type": 8}, r"^output_type must be .* Received: output_type=8$"),
        ({"formats": []}, r"^formats must be some of .* Received: \[\]$"),
        ({"path": "a.bin"}, r"^The name of a TFLite file must end in \.tflite\."),
        ({"y": np.full(100, 0.5)}, r"^y must hold .* from 'deploy'$"),
        ({"y": np.zeros(3)}, r"^x and y must have the same length, .* 3 labels from 'deploy'$"),
    ],
)
def test_refused_arguments(network, images, words, sentence):
    with pytest.raises(InputError, match=sentence):
        deploy(network, images[100:], images[:100], **words)


def test_refused_networks(network, images):
    aware = quantize_aware(network, images[100:])
    with pytest.raises(InputError, match="deploy"):
        deploy(aware, images[100:], images[:100])
    with pytest.raises(InputError, match=r"^repair needs at least 32 held-out samples in x\. Rec"):
        repair(to_tflite(network, "float32"), to_tflite(network, "float32"), images[:31])
    with pytest.raises(InputError, match=r"^The reference must be .* a float TFLite file"):
        deploy(to_tflite(network, "int8", images[100:]), images[100:], images[:100])


def test_a_network_of_which_no_file_can_be_made(images):
    plain = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()])
    with pytest.raises(InputError, match="deploy needs a reference with SE sites"):
        deploy(plain, images[100:], images[:100])
    dead = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
    with pytest.raises(InputError, match=r"a file must be possible\. Received: .*; int8: "):
        deploy(dead, np.zeros((100, 8, 8, 4)), np.random.rand(40, 8, 8, 4), formats=["int8"])
