import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_se.errors import InputError, MissingExtraError, import_extra, reason, user_code


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


def test_the_reason_is_the_first_line():
    assert reason(ValueError("\n one\ntwo")) == "one"
    assert reason(ValueError()) == "ValueError"


def test_the_reason_why_keras_cannot_load(tmp_path):
    """Keras begins with the outermost object and its configuration."""
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation=unregistered)])
    keras.Sequential([keras.Input((2,)), inner]).save(tmp_path / "own.keras")
    with pytest.raises(TypeError) as caught:
        keras.saving.load_model(tmp_path / "own.keras")
    line = reason(caught.value)
    assert line.startswith("Could not locate function 'unregistered'. Make sure")
    assert line.endswith("before trying to load them.")


def unregistered(x):
    return 2.0 * x


@pytest.mark.parametrize("is_traced", [False, True])
def test_the_reason_is_not_the_call(is_traced):
    """Keras writes the name of the call before it, TensorFlow also the lines of code."""
    layer = keras.layers.Lambda(lambda x: keras.ops.reshape(x, (7,)), name="own")
    call = tf.function(lambda x: layer(x)) if is_traced else layer
    with pytest.raises(Exception, match="Exception encountered when calling Lambda") as caught:
        call(tf.zeros((2, 3)))
    assert "Exception" not in reason(caught.value)
    assert "user code" not in reason(caught.value)
    assert re.search("reshape", reason(caught.value), re.IGNORECASE)


def fitted(x_size=6, label=0, **compile):
    layers = [keras.layers.Flatten(), keras.layers.Dense(2, activation="softmax")]
    model = keras.Sequential([keras.Input((6, 6, 1)), *layers])
    model.compile("sgd", "sparse_categorical_crossentropy", **compile)
    model.fit(np.zeros((4, x_size, x_size, 1)), np.full(4, label), verbose=0)


def called():
    keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Conv2D(8, 3)])(np.zeros((8, 8, 1), "f"))


def mapped():
    def broken(x):
        raise OSError("cannot decode a.png\nor any other")

    data = tf.data.Dataset.range(3).map(lambda x: tf.py_function(broken, [x], tf.int64))
    next(iter(data))


def generated():
    def broken():
        yield from [1, 1 // 0]

    data = tf.data.Dataset.from_generator(broken, output_signature=tf.TensorSpec((), tf.int32))
    next(iter(data))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: fitted(label=7), r"Received a label value of 7 which is outside .*: 7 7 7 7"),
        (lambda: fitted(label=7, run_eagerly=True), r"Received a label value of 7 .*: 7 7 7 7"),
        (lambda: fitted(label=7, jit_compile=False), r"Received a label value of 7 .*: 7 7 7 7"),
        (lambda: fitted(x_size=5), r"Input 0 with name .* received input with shape \(None, 25\)"),
        (called, r"Computed output size would be negative: -1 .*: 1\]"),
        (mapped, r".*OSError: cannot decode a\.png"),
        (generated, r"ZeroDivisionError: integer division or modulo by zero"),
        (lambda: {}["missing"], r"'missing'"),
    ],
)
def test_the_reason_is_the_sentence_that_explains(call, expected):
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the types are TensorFlow's
        call()
    assert re.fullmatch(expected, reason(caught.value))


def test_a_reason_has_an_end_and_is_more_than_an_announcement():
    assert (
        reason(ValueError("The following is invalid:\n  x\nmore")) == "The following is invalid: x"
    )
    assert len(reason(ValueError("7 " * 1000))) == 300
