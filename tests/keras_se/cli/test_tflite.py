import json

import keras
import numpy as np
import pytest
from sabotage import hold_gates

import keras_se
from keras_se.litert.runtime import predict


def test_export_and_verify(files, tmp_path, keras_se_command, capsys):
    out, report = tmp_path / "a.tflite", tmp_path / "report.json"
    assert keras_se_command("export se.keras", out, "--calibration data.npz") == 0
    assert capsys.readouterr().out == (
        f"{out}: int8, {out.stat().st_size:,} bytes\n"
        f"{tmp_path / 'a.recipe.json'}: the settings and the calibration\n"
    )
    assert out.read_bytes() == (files / "se.tflite").read_bytes()
    assert keras_se_command("verify se.keras", out, "--data data.npz --json", report) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[1].startswith("Ship: the gates survive at every site; ")
    words = " ".join(printed.split())
    assert "On 100 samples, none of the 200 calibration samples of the recipe among them" in words
    assert "Accuracy: reference " in printed
    assert json.loads(report.read_text())["passed"] is True


def test_export_shows_what_sites_in_float_cost(files, tmp_path, keras_se_command, capsys):
    out = tmp_path / "a.tflite"
    for path in (out, tmp_path / "a.recipe.json"):
        path.write_text("old")
    words = ("export se.keras", out, "--calibration data.npz --keep-float se_2 --overwrite")
    assert keras_se_command(*words) == 0
    printed = capsys.readouterr().out
    before, after = (files / "se.tflite").stat().st_size, out.stat().st_size
    assert f"se_2; bytes {before:,} -> {after:,}, delegate partitions 1 -> " in printed
    for path in (out, tmp_path / "a.recipe.json"):
        assert f"The old {path} is now {path}.1" in printed


def test_export_prints_warnings(tmp_path, keras_se_command, images, capsys):
    np.savez(tmp_path / "few.npz", x=images[100:150])
    words = ("export se.keras", tmp_path / "a.tflite", "--calibration", tmp_path / "few.npz")
    assert keras_se_command(*words) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Warning: ")
    assert line.endswith("Received: 50")


def test_half_precision_and_open_sizes(files, tmp_path, keras_se_command, capsys):
    """The int8 file has the values of that of the network in float32; so has the verdict."""
    out = tmp_path / "a.tflite"
    words = "--input-shape 8,8,3"
    assert keras_se_command("export half.keras", out, "--calibration data.npz", words) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Warning: to_tflite takes the float32 twin of model ")
    assert line.endswith("which computes in mixed_float16.")
    with np.load(files / "data.npz") as data:
        x = data["x_test"]
    expected = predict((files / "se.tflite").read_bytes(), x)
    np.testing.assert_array_equal(predict(out.read_bytes(), x), expected)
    assert keras_se_command("verify half.keras", out, "--data data.npz", words) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Warning: verify takes the float32 twin of model ")


def test_verify_takes_recorded_gates_a_reference_and_a_recipe(
    tmp_path, keras_se_command, images, capsys
):
    np.savez(tmp_path / "device.npz", **keras_se.read_gates("se.tflite", images[:100]))
    verify = "verify se.keras se.tflite --data data.npz"
    assert keras_se_command(verify, "--gates", tmp_path / "device.npz") == 0
    assert "gates recorded on a device" in capsys.readouterr().out
    assert keras_se_command(verify, "--trained se.keras --recipe se.recipe.json") == 0


def test_labels_that_are_no_classes_of_the_network_are_left_out(
    tmp_path, keras_se_command, images, capsys
):
    """The data may be labelled for something else; the outputs are compared then."""
    np.savez(tmp_path / "other.npz", x=images[:64], y=np.arange(64))
    float32 = tmp_path / "float32.tflite"
    keras_se.to_tflite(keras.saving.load_model("se.keras"), "float32", path=float32)
    for reference in ("se.keras", float32):
        words = ("verify", reference, "se.tflite --data", tmp_path / "other.npz")
        assert keras_se_command(*words) == 0
        assert "The file gives the class of the reference to " in capsys.readouterr().out


def test_a_mask_among_the_inputs(tmp_path, keras_se_command, capsys):
    """Booleans of a file are taken where the model takes them, and not in place of numbers."""
    steps, mask = keras.Input((6, 4), name="steps"), keras.Input((6,), dtype="bool", name="mask")
    wide = keras.initializers.RandomNormal(stddev=2.0)
    gated = keras_se.SEBlock(2, kernel_initializer=wide)(steps, mask=mask)
    model, out, data, wrong = (
        tmp_path / name for name in ("a.keras", "a.tflite", "a.npz", "b.npz")
    )
    keras.Model([steps, mask], keras.ops.sum(gated, axis=1)).save(model)
    rng = np.random.default_rng(0)
    x, lengths = rng.normal(size=(200, 6, 4)), rng.integers(1, 7, (200, 1))
    masks = np.arange(6) < lengths
    halves = {"mask_train": masks[:100], "mask_test": masks[100:]}
    np.savez(data, steps_train=x[:100], steps_test=x[100:], **halves)
    np.savez(wrong, steps_train=x[:100] > 0, steps_test=x[100:] > 0, **halves)
    assert keras_se_command("export", model, out, "--calibration", data) == 0
    assert keras_se_command("gates", out, "--data", data) == 0
    assert keras_se_command("verify", model, out, "--data", data) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "Ship: the gates survive at every site" in printed
    assert "On 100 samples, none of the 100 calibration samples" in printed
    found = keras_se.verify(keras.saving.load_model(model), out, [x[100:], masks[100:]])
    assert f"outputs off by {found.outcome.error:.1%} of their spread" in printed
    assert keras_se_command("verify", model, out, "--data", wrong) == 2
    assert "x['steps'] must be an array of numbers. Received: dtype bool" in capsys.readouterr().err


def test_verify_fails_with_exit_code_1(tmp_path, keras_se_command, networks, images, capsys):
    """A file whose gates are frozen at their mean."""
    model = networks["sigmoid"]
    gates = keras_se.read_gates(model, images)
    means = {site.layer: gates[site.name].mean(axis=0) for site in keras_se.find_sites(model)}
    frozen = tmp_path / "frozen.tflite"
    keras_se.to_tflite(hold_gates(model, means), "float32", path=frozen)
    assert keras_se_command("verify se.keras", frozen, "--data data.npz") == 1
    printed = capsys.readouterr().out
    assert "Do not ship: gates are lost at se_1 and se_2" in printed
    assert "se_1 is lost: R² of" in printed


def test_verify_of_two_files(tmp_path, keras_se_command, networks, images, capsys):
    """A float file is the reference; what to do is said in the words of the command line."""
    float32, frozen = tmp_path / "float32.tflite", tmp_path / "frozen.tflite"
    model = networks["sigmoid"]
    keras_se.to_tflite(model, "float32", path=float32)
    assert keras_se_command("verify", float32, "se.tflite --data data.npz --strict") == 0
    assert "Ship: the gates survive at every site" in capsys.readouterr().out
    gates = keras_se.read_gates(model, images)
    means = {"se_2": gates["se_2"].mean(axis=0)}
    last = [site.layer for site in keras_se.find_sites(model)][1]
    keras_se.to_tflite(hold_gates(model, {last: means["se_2"]}), "float32", path=frozen)
    page = tmp_path / "verdict.html"
    assert keras_se_command("verify", float32, frozen, "--data data.npz --html", page) == 1
    assert "Do not ship: gates are lost at se_2; " in page.read_text()
    title = f"frozen.tflite: gates of a file of {float32.stat().st_size} bytes"
    assert f"<title>{title}</title>" in page.read_text()
    assert f"<h1>{title} in a TFLite file</h1>" in page.read_text()
    printed = " ".join(capsys.readouterr().out.split())
    assert "At se_2 SE itself lost them" in printed
    assert "check that the file is of this network, with these weights." in printed


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("export se.keras out", "TFLite file must end in .tflite. Received: 'out'"),
        ("export se.keras se.tflite", "must not exist yet"),
        ("export se.keras out.tflite", "needs calibration data"),
        ("export se.keras out.tflite --input-type float64", "'float64' is not one of"),
        ("export half.keras out.tflite --format float32", "to_tflite needs a model with inputs of"),
        ("export half.keras out.tflite --input-shape 8,8", "fit the input of the model, (None, No"),
        (
            "verify half.keras se.tflite --data data.npz",
            "verify needs a model with inputs of known",
        ),
        ("verify half.keras se.tflite --data data.npz --input-shape 8x8", "such as 224,224,3. Rec"),
        ("verify plain.keras se.tflite --data data.npz", "needs a reference with SE sites"),
        ("verify se.keras text.keras --data data.npz", "holds 'TFL3' at byte 4"),
        ("verify se.keras se.tflite --data few.npz", "32 held-out samples in x. Received: 8"),
        (
            "verify se.keras se.tflite --data calibrated.npz",
            "200 of 200 samples that are in its recipe",
        ),
        ("verify se.keras se.tflite --data data.npz --json se.tflite", "must not exist yet"),
        ("verify se.keras se.tflite --data data.npz --html a.txt", "a page file must end in .html"),
    ],
)
def test_bad_input(refused, words, sentence):
    assert sentence in refused(words)
