import keras

LAYER = """
import keras

@keras.saving.register_keras_serializable("users")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2.0 * x
"""


def test_import_registers_a_users_layer(tmp_path, monkeypatch, keras_se_command):
    (tmp_path / "users_layers.py").write_text(LAYER)
    monkeypatch.syspath_prepend(tmp_path)
    import users_layers

    layers = [keras.layers.Conv2D(4, 3), users_layers.Twice()]
    keras.Sequential([keras.Input((8, 8, 3)), *layers]).save(tmp_path / "a.keras")
    words = ("insert", tmp_path / "a.keras", tmp_path / "b.keras")
    assert keras_se_command("--import users_layers", *words) == 0


def test_a_module_that_cannot_be_imported(refused):
    message = refused("--import no_such_module cost se.keras")
    assert "--import takes an importable module. Received: 'no_such_module'" in message
