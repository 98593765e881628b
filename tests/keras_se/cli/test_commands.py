"""The commands, run in this process; `tests/tuning/test_cli.py` runs the console script itself."""

import json
import pickle

import keras
import numpy as np
import pytest
from sabotage import hold_gates

import keras_se
from keras_se.cli.commands import COMMANDS, run


def keras_se_command(*arguments):
    return run(COMMANDS, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def files(tmp_path_factory, networks, images):
    """A network with SE, one without, their int8 file, and images."""
    folder = tmp_path_factory.mktemp("files")
    model = networks["sigmoid"]
    model.save(folder / "se.keras")
    plain = keras.Sequential(
        [keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3, activation="relu", name="conv")]
    )
    plain.save(folder / "plain.keras")
    (folder / "se.tflite").write_bytes(keras_se.to_tflite(model, "int8", images[100:]))
    y = np.zeros(300, "int64")
    np.savez(
        folder / "data.npz",
        x_train=images[100:], y_train=y[100:], x_test=images[:100], y_test=y[:100],
    )  # fmt: skip
    return folder


def test_insert(files, tmp_path, capsys):
    assert (
        keras_se_command("insert", files / "plain.keras", tmp_path / "a.keras", "--ratio", 4) == 0
    )
    assert "a.keras: SE blocks: 1, parameters: 266" in capsys.readouterr().out
    model = keras.saving.load_model(tmp_path / "a.keras")
    assert [(site.after, site.gate) for site in keras_se.find_sites(model)] == [
        ("conv", "one_plus_tanh")
    ]


def test_insert_takes_the_plan_of_a_search(files, tmp_path):
    (tmp_path / "plan.json").write_text(json.dumps({"se_1": {"ratio": 2, "gate": "sigmoid"}}))
    arguments = ("insert", files / "plain.keras", tmp_path / "a.keras", "--where", "conv")
    assert keras_se_command(*arguments, "--plan", tmp_path / "plan.json") == 0
    (site,) = keras_se.find_sites(keras.saving.load_model(tmp_path / "a.keras"))
    assert (site.width, site.gate) == (4, "sigmoid")


def test_cost(files, tmp_path, capsys):
    arguments = ("cost", files / "se.keras", "--json", tmp_path / "cost.json")
    assert keras_se_command(*arguments) == 0
    report = keras_se.cost(keras.saving.load_model(files / "se.keras"))
    printed = capsys.readouterr().out
    assert f"SE: {report.se_parameters:,} of {report.parameters:,} parameters" in printed
    assert (tmp_path / "cost.json").read_text() == report.to_json()


@pytest.mark.parametrize("name", ["se.keras", "se.tflite"])
def test_gates(files, capsys, name):
    assert keras_se_command("gates", files / name, "--data", files / "data.npz") == 0
    printed = capsys.readouterr().out
    gates = keras_se.read_gates(
        keras.saving.load_model(files / name) if name == "se.keras" else files / name,
        np.load(files / "data.npz")["x_test"],
    )
    for site, values in gates.items():
        assert site in printed
        assert f"{values.mean():.4f}" in printed


@pytest.mark.parametrize("name", ["se.keras", "se.tflite"])
def test_gates_without_data_lists_the_sites(files, capsys, name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert keras_se_command("gates", files / name) == 0
    printed = capsys.readouterr().out
    assert "se_1" in printed
    assert "sigmoid" in printed
    assert ("5, partitions: 1, left: none" in printed) == (name == "se.tflite")
    assert keras_se_command("gates", files / name, "--plot", "a.svg") == 2
    assert "--json and --plot need --data" in capsys.readouterr().err


def test_export_shows_what_sites_in_float_cost(files, tmp_path, capsys):
    out = tmp_path / "mixed.tflite"
    arguments = ("export", files / "se.keras", out, "--calibration", files / "data.npz")
    assert keras_se_command(*arguments, "--keep-float", "se_2") == 0
    before, after = ((files / "se.tflite").stat().st_size, out.stat().st_size)
    printed = capsys.readouterr().out
    assert (
        f"Kept in float: se_2; bytes {before:,} -> {after:,}, delegate partitions 1 -> " in printed
    )
    assert keras_se_command("verify", files / "se.keras", out, "--data", files / "data.npz") == 0


def test_verify_takes_recorded_gates_a_reference_and_a_recipe(
    files, tmp_path, images, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "400")
    out, data = tmp_path / "a.tflite", files / "data.npz"
    arguments = ("export", files / "se.keras", out, "--calibration", data)
    assert keras_se_command(*arguments) == 0
    np.savez(tmp_path / "device.npz", **keras_se.read_gates(out, images[:100]))
    verify = ("verify", files / "se.keras", out, "--data", data)
    assert keras_se_command(*verify, "--gates", tmp_path / "device.npz") == 0
    assert "gates recorded on a device" in capsys.readouterr().out.replace("\n", " ")
    assert keras_se_command(*verify, "--reference", files / "se.keras") == 0
    np.savez(tmp_path / "used.npz", x=images[100:])
    used = ("verify", files / "se.keras", out, "--data", tmp_path / "used.npz")
    assert keras_se_command(*used) == 2
    assert "200 of 200 that are in its recipe" in capsys.readouterr().err.replace("\n", " ")
    assert keras_se_command(*verify, "--recipe", tmp_path / "a.recipe.json") == 0


def test_gates_by_class(files, tmp_path, images):
    labels = (images.mean(axis=(1, 2, 3)) > 0.25).astype("int64")
    np.savez(tmp_path / "classes.npz", x=images, y=labels)
    arguments = ("gates", files / "se.keras", "--data", tmp_path / "classes.npz")
    assert keras_se_command(*arguments, "--json", tmp_path / "gates.json") == 0
    (first, _) = json.loads((tmp_path / "gates.json").read_text())
    gates = keras_se.read_gates(keras.saving.load_model(files / "se.keras"), images)["se_1"]
    for label in (0, 1):
        expected = gates[labels == label].mean(axis=0)
        np.testing.assert_allclose(first["by_class"][str(label)], expected, atol=1e-6)


def test_gates_without_labels(files, tmp_path, images, capsys):
    np.savez(tmp_path / "plain.npz", x=images)
    arguments = ("gates", files / "se.keras", "--data", tmp_path / "plain.npz")
    assert keras_se_command(*arguments, "--json", tmp_path / "gates.json") == 0
    assert json.loads((tmp_path / "gates.json").read_text())[0]["by_class"] == {}
    assert keras_se_command(*arguments, "--plot", tmp_path / "gates.svg") == 2
    assert "Curves by class need labels" in capsys.readouterr().err
    assert not (tmp_path / "gates.svg").exists()


def test_gates_drawn(files, tmp_path):
    arguments = ("gates", files / "se.tflite", "--data", files / "data.npz")
    assert keras_se_command(*arguments, "--plot", tmp_path / "gates.png") == 0
    assert (tmp_path / "gates.png").read_bytes().startswith(b"\x89PNG")


def test_export_and_verify(files, tmp_path, capsys):
    out, report = tmp_path / "a.tflite", tmp_path / "report.json"
    assert (
        keras_se_command("export", files / "se.keras", out, "--calibration", files / "data.npz")
        == 0
    )
    assert out.read_bytes() == (files / "se.tflite").read_bytes()
    data = ("--data", files / "data.npz")
    assert keras_se_command("verify", files / "se.keras", out, *data, "--json", report) == 0
    printed = capsys.readouterr().out
    assert "a.tflite: the gates survive.\n" in printed
    assert "On 100 samples, compared with the 200 calibration samples of the recipe; LiteRT" in (
        printed.replace("\n", " ")
    )
    assert "accuracy of the Keras model: " in printed
    assert json.loads(report.read_text())["passed"] is True


def test_verify_says_no_with_exit_code_1(files, networks, images, tmp_path, capsys):
    """A file whose gates are frozen at their mean."""
    model = networks["sigmoid"]
    gates = keras_se.read_gates(model, images)
    means = {site.layer: gates[site.name].mean(axis=0) for site in keras_se.find_sites(model)}
    frozen = keras_se.to_tflite(hold_gates(model, means), "float32")
    (tmp_path / "frozen.tflite").write_bytes(frozen)
    arguments = (files / "se.keras", tmp_path / "frozen.tflite", "--data", files / "data.npz")
    assert keras_se_command("verify", *arguments) == 1
    printed = capsys.readouterr().out
    assert "gates are lost" in printed
    assert "se_1 fails: R² of" in printed


class Payload:
    def __reduce__(self):
        return (print, ("code of a pickle was run",))


def bad_input(files, tmp_path):
    """Name: (arguments, part of the one sentence that is printed)."""
    (tmp_path / "text.tflite").write_text("not a model")
    (tmp_path / "text.keras").write_text("not a model")
    truncated = (files / "se.tflite").read_bytes()[:1000]
    (tmp_path / "truncated.tflite").write_bytes(truncated)
    (tmp_path / "truncated.npz").write_bytes((files / "data.npz").read_bytes()[:5000])
    (tmp_path / "pickled.npz").write_bytes(pickle.dumps(Payload()))
    np.savez(tmp_path / "objects.npz", x=np.array([Payload()], dtype=object), y=np.zeros(1, int))
    x, y = np.zeros((40, 8, 8, 3), "float32"), np.zeros(40, "int64")
    np.savez(tmp_path / "unequal.npz", x=x, y=y[:39])
    np.savez(tmp_path / "nan.npz", x=np.full_like(x, np.nan), y=y)
    np.savez(tmp_path / "narrow.npz", x=x[:, :4], y=y)
    np.savez(tmp_path / "few.npz", x=x[:8], y=y[:8])
    out, se, data = tmp_path / "out", files / "se.keras", ("--data", files / "data.npz")
    tflite = tmp_path / "out.tflite"
    (tmp_path / "old.keras").write_text("old")
    (tmp_path / "old.tflite").write_text("old")

    def gates(name):
        return ("gates", se, "--data", tmp_path / name)

    return {
        "int8 without calibration": (("export", se, tflite), "needs calibration data"),
        "missing npz": (gates("missing.npz"), "must be an existing .npz file"),
        "truncated npz": (gates("truncated.npz"), "must be an .npz file"),
        "pickled npz": (gates("pickled.npz"), "without pickled objects"),
        "objects in npz": (gates("objects.npz"), "without pickled objects"),
        "unequal lengths": (gates("unequal.npz"), "Received: 40 images and 39 labels"),
        "NaN": (gates("nan.npz"), "x must be finite. Received: 7680 values"),
        "wrong shape": (
            ("verify", se, files / "se.tflite", "--data", tmp_path / "narrow.npz"),
            "Received: shape (40, 4, 8, 3)",
        ),
        "wrong shape for Keras": (gates("narrow.npz"), "(40, 4, 8, 3)"),
        "too few samples": (
            ("verify", se, files / "se.tflite", "--data", tmp_path / "few.npz"),
            "at least 32 held-out samples in x. Received: 8",
        ),
        "not a tflite": (("gates", tmp_path / "text.tflite", *data), "holds 'TFL3' at byte 4"),
        "truncated tflite": (("gates", tmp_path / "truncated.tflite", *data), "A TFLite file must"),
        "missing tflite": (("gates", tmp_path / "no.tflite", *data), "must exist to be read"),
        "not a keras file": (("export", tmp_path / "text.keras", tflite), "zip archive that model"),
        "missing keras file": (("insert", tmp_path / "no.keras", out.with_suffix(".keras")),
                               "an existing .keras file"),
        "no site": (("gates", files / "plain.keras", *data), "a model with SE sites"),
        "no site to verify": (
            ("verify", files / "plain.keras", files / "se.tflite", *data),
            "needs a model with SE sites",
        ),
        "output exists": (
            ("insert", files / "plain.keras", tmp_path / "old.keras"),
            "must not exist yet; with overwrite it is renamed aside",
        ),
        "tflite exists": (
            ("export", se, tmp_path / "old.tflite", "--format", "float32"), "must not exist yet"
        ),
        "report exists": (
            ("verify", se, files / "se.tflite", *data, "--json", tmp_path / "old.tflite"),
            "must not exist yet",
        ),
        "output without .keras": (("insert", files / "plain.keras", out), "must end in .keras"),
        "ratio below 1": (
            ("insert", files / "plain.keras", tmp_path / "b.keras", "--ratio", 0.25),
            "say ratio=4",
        ),
        "unknown gate": (
            ("insert", files / "plain.keras", tmp_path / "b.keras", "--gate", "gelu"),
            "'gelu' is not one of",
        ),
        "no plan": (
            ("insert", files / "plain.keras", tmp_path / "b.keras", "--plan", tmp_path / "no.json"),
            "A plan must be a JSON file",
        ),
        "no site to price": (("cost", files / "plain.keras"), "cost needs a model with SE sites"),
        "tau below 0": (("gates", se, *data, "--tau", -1), "--tau must be at least 0"),
        "one file for two": (
            ("gates", se, *data, "--json", tmp_path / "a.svg", "--plot", tmp_path / "a.svg"),
            "need files of their own",
        ),
        "export without .tflite": (("export", se, out, "--format", "float32"), "end in .tflite"),
        "bad sizes": (("cost", se, "--input-shape", "8x8"), "is sizes such as 224,224,3"),
        "unknown module": (("--import", "no_such_module", "gates", se, *data), "importable module"),
        "unknown function": (("gates", se, "--data", "no_such_module:f"), "must be importable"),
        "unknown command": (("gate",), "No such command 'gate'"),
    }  # fmt: skip


NAMES = [
    "int8 without calibration", "missing npz", "truncated npz", "pickled npz", "objects in npz",
    "unequal lengths", "NaN", "wrong shape", "wrong shape for Keras", "too few samples",
    "not a tflite", "truncated tflite", "missing tflite", "not a keras file", "missing keras file",
    "no site", "no site to verify", "output exists", "tflite exists", "report exists",
    "output without .keras", "ratio below 1", "unknown gate", "no plan", "no site to price",
    "tau below 0", "one file for two", "export without .tflite", "bad sizes", "unknown module",
    "unknown function", "unknown command",
]  # fmt: skip


def snapshot(*folders):
    return {path: path.read_bytes() for f in folders for path in f.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_one_sentence_and_exit_code_2(files, tmp_path, capsys, name):
    cases = bad_input(files, tmp_path)
    assert list(cases) == NAMES
    arguments, sentence = cases[name]
    before = snapshot(files, tmp_path)
    assert keras_se_command(*arguments) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert "Traceback" not in printed.err
    assert "code of a pickle" not in printed.out + printed.err
    assert snapshot(files, tmp_path) == before


def test_overwrite_sets_the_old_file_aside(files, tmp_path):
    out = tmp_path / "a.keras"
    out.write_text("old")
    assert keras_se_command("insert", files / "plain.keras", out, "--overwrite") == 0
    assert (tmp_path / "a.keras.1").read_text() == "old"
    assert len(keras_se.find_sites(keras.saving.load_model(out))) == 1


def test_a_lambda_in_a_model_file_is_refused(tmp_path, capsys):
    """Keras's safe mode stays on: code from a model file is never run."""
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Lambda(lambda x: x)])
    model.save(tmp_path / "code.keras")
    assert keras_se_command("insert", tmp_path / "code.keras", tmp_path / "b.keras") == 2
    assert "safe mode" in capsys.readouterr().err


def test_import_registers_a_users_layer(tmp_path, monkeypatch, capsys):
    (tmp_path / "users_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('users')\n"
        "class Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return 2.0 * x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import users_layers

    layers = [keras.layers.Conv2D(4, 3), users_layers.Twice()]
    keras.Sequential([keras.Input((8, 8, 3)), *layers]).save(tmp_path / "a.keras")
    arguments = ("insert", tmp_path / "a.keras", tmp_path / "b.keras")
    assert keras_se_command("--import", "users_layers", *arguments) == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command, capsys):
    assert keras_se_command(command, "--help") == 0
    assert "Usage: keras-se" in capsys.readouterr().out


def test_version(capsys):
    assert keras_se_command("--version") == 0
    assert capsys.readouterr().out == f"keras-se, version {keras_se.__version__}\n"
