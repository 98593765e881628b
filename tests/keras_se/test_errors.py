import re
import sys

import keras
import pytest
import tensorflow as tf

from keras_se.errors import InputError, MissingExtraError, first_line, import_extra, user_code


def test_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)


def test_import_extra_returns_the_module():
    assert import_extra("json.decoder", "litert") is sys.modules["json.decoder"]


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part"])
def test_import_extra_names_the_extra(module):
    with pytest.raises(
        MissingExtraError,
        match=r"needs the package `no_such_package`.*pip install 'keras-se\[tuning\]'$",
    ):
        import_extra(module, "tuning")


def test_import_extra_does_not_hide_a_package_that_lacks_another(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_dependency'"):
        import_extra("half_installed", "tuning")


@pytest.mark.parametrize("error", [ZeroDivisionError("no"), SystemExit(3)])
def test_errors_of_the_users_code_are_errors_of_input(error):
    message = rf"The rule\. Received: 'a:b', which raises {type(error).__name__}: {error}"
    with pytest.raises(InputError, match=message) as caught, user_code("The rule", "a:b"):
        raise error
    assert caught.value.__cause__ is error


def test_an_interruption_is_no_error_of_the_users_code():
    with pytest.raises(KeyboardInterrupt), user_code("The rule", "a:b"):
        raise KeyboardInterrupt


def test_the_first_line_of_an_error():
    assert first_line(ValueError("\n one\ntwo")) == "one"
    assert first_line(ValueError()) == "ValueError"


def test_the_first_line_of_what_keras_cannot_load(tmp_path):
    """Keras begins with the outermost object and its configuration."""
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation=unregistered)])
    keras.Sequential([keras.Input((2,)), inner]).save(tmp_path / "own.keras")
    with pytest.raises(TypeError) as caught:
        keras.saving.load_model(tmp_path / "own.keras")
    line = first_line(caught.value)
    assert line.startswith("Could not locate function 'unregistered'. Make sure")
    assert line.endswith("before trying to load them.")


def unregistered(x):
    return 2.0 * x


@pytest.mark.parametrize("is_traced", [False, True])
def test_the_first_line_is_the_reason_not_the_call(is_traced):
    """Keras writes the name of the call before it, TensorFlow also the lines of code."""
    layer = keras.layers.Lambda(lambda x: keras.ops.reshape(x, (7,)), name="own")
    call = tf.function(lambda x: layer(x)) if is_traced else layer
    with pytest.raises(Exception, match="Exception encountered when calling Lambda") as caught:
        call(tf.zeros((2, 3)))
    assert "Exception" not in first_line(caught.value)
    assert "user code" not in first_line(caught.value)
    assert re.search("reshape", first_line(caught.value), re.IGNORECASE)
