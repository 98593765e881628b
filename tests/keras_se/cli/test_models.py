import json

import keras
import numpy as np
import pytest

import keras_se


def test_insert(tmp_path, keras_se_command, capsys):
    assert keras_se_command("insert plain.keras", tmp_path / "a.keras", "--ratio 4") == 0
    assert "a.keras: SE blocks: 1, parameters: 266" in capsys.readouterr().out
    model = keras.saving.load_model(tmp_path / "a.keras")
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
    plain = keras.saving.load_model("plain.keras")
    np.testing.assert_allclose(model.predict(x), plain.predict(x), atol=1e-5)
    (site,) = keras_se.find_sites(model)
    assert (site.after, site.gate) == ("conv", "one_plus_tanh")


def test_a_bottleneck_of_one_unit_is_told_of(tmp_path, keras_se_command, capsys):
    """By the commands, and in Python by the cost: a search tries such widths, too."""
    out = tmp_path / "a.keras"
    told = "At se_1 the bottleneck has one unit: all gates there follow one number, and none"
    assert keras_se_command("insert plain.keras", out, "--ratio 8") == 0
    assert told in " ".join(capsys.readouterr().out.split())
    assert keras_se_command("cost", out) == 0
    assert told in " ".join(capsys.readouterr().out.split())
    assert keras_se_command("insert plain.keras", tmp_path / "b.keras", "--ratio 4") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_insert_takes_the_plan_of_a_search(tmp_path, keras_se_command):
    plan, out = tmp_path / "plan.json", tmp_path / "a.keras"
    plan.write_text(json.dumps({"se_1": {"ratio": 2, "gate": "sigmoid"}}))
    assert keras_se_command("insert plain.keras", out, "--where conv --plan", plan) == 0
    (site,) = keras_se.find_sites(keras.saving.load_model(out))
    assert (site.width, site.gate) == (4, "sigmoid")


def test_cost(tmp_path, keras_se_command, capsys):
    assert keras_se_command("cost se.keras --json", tmp_path / "cost.json") == 0
    report = keras_se.cost(keras.saving.load_model("se.keras"))
    printed = capsys.readouterr().out
    assert printed == str(report)
    assert (tmp_path / "cost.json").read_text() == report.to_json()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("insert plain.keras out", "model file must end in .keras. Received: 'out'"),
        ("insert plain.keras se.keras", "must not exist yet; with overwrite it is renamed aside"),
        ("insert no.keras out.keras", "must be an existing .keras file. Received: 'no.keras'"),
        ("insert text.keras out.keras", "zip archive that model.save wrote"),
        ("insert code.keras out.keras", "safe mode"),
        ("insert plain.keras out.keras --ratio 0.25", "use ratio=4"),
        ("insert plain.keras out.keras --gate gelu", "'gelu' is not one of"),
        ("insert plain.keras out.keras --plan no.json", "A plan must be a JSON file. Received: "),
        ("cost plain.keras", "cost needs a model with SE sites. Received: plain.keras with none"),
        ("cost se.keras --input-shape 8x8", "must be sizes such as 224,224,3. Received: '8x8'"),
    ],
)
def test_bad_input(refused, words, sentence):
    assert sentence in refused(words)
