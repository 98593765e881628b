"""Loading of the files of compressed models, of Keras 3 and of tf_keras."""

import inspect
import os
from collections.abc import Iterator
from typing import Any

import keras

from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.errors import InputError, keras_errors
from keras_se.files import archive_config, is_of_tf_keras, load_model
from keras_se.graph.compressed import RECORD, is_compressed

# tf_keras imports the module that a file names. These have only classes and functions to import.
_PACKAGES = ("builtins", "keras", "keras_se", "tensorflow_model_optimization", "tf_keras")


def load(path: str | os.PathLike[str], *, compile: bool = True) -> Any:
    """Loads a compressed model that was saved in a `.keras` file, in safe mode.

    The models of `prune`, `cluster` and `quantize_aware(engine="tfmot")` are of tf_keras, and so
    are their files: `keras.saving.load_model` does not load them. `tf_keras.models.load_model` does
    only after this function or one that compresses, which register the classes, and without
    objects that are registered with Keras alone. This function takes files of both engines and
    checks what they name before anything is imported. The model goes on to train where it was
    saved, with the state of its optimizer, its pruning step and masks, its centroids and ranges.

    Args:
        path: The file, as `model.save` or a `ModelCheckpoint` with whole models wrote it.
        compile: Whether to compile the model as it was compiled when it was saved. Loss and
            metrics of your own must be registered then.

    Returns:
        What `prune`, `cluster` or `quantize_aware` returned, for `fit`, `strip`, `read_gates`,
        `verify` and, if quantize-aware, `to_tflite`.

    Raises:
        InputError: If the file does not hold a compressed model that loads in safe mode.
        MissingExtraError: If the model is of tf_keras, and TensorFlow, tf_keras or
            tensorflow-model-optimization is missing.

    Source: Keras documentation, "Save, serialize, and export models".

    Example:
        >>> import pathlib, tempfile
        >>> from keras_se.compress import prune
        >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        >>> path = pathlib.Path(tempfile.mkdtemp(), "pruned.keras")
        >>> prune(model).save(path)
        >>> load(path).count_params() == prune(model).count_params()
        True
    """
    name = os.fspath(path)
    config = archive_config(name)
    is_of_keras = not is_of_tf_keras(config)
    model = load_model(name, compile) if is_of_keras else _tf_keras_model(name, config, compile)
    if not is_compressed(model):
        raise InputError(
            "load needs the file of a model that quantize_aware, prune or cluster returned; "
            f"keras.saving.load_model loads any other. Received: {name!r}, a plain model"
        )
    return model


def _tf_keras_model(path: str, config: dict[str, Any], compile: bool) -> Any:
    tf_keras = load_tf_keras()
    import keras_se.compress.tfmot.compressed_model  # noqa: F401  registers the class, loads tfmot

    known = _registered()
    named = config if compile else {**config, "compile_config": None}
    foreign = [name for name, module in _named(named) if not _is_known(name, module, known)]
    if foreign:
        raise InputError(
            "What a model file names must be registered: import the module that registers it "
            f"before, or load with compile=False. Received: {path!r}, which names {foreign}"
        )
    rule = "load needs a .keras file that tf_keras loads in safe mode, or with compile=False"
    with keras_errors(rule, repr(path)), tf_keras.saving.custom_object_scope(known):
        return tf_keras.models.load_model(path, compile=compile)


def _registered() -> dict[str, Any]:
    """Return what is registered with Keras and with tf_keras, functions also by their names."""
    known = {**keras.saving.get_custom_objects(), **load_tf_keras().saving.get_custom_objects()}
    functions = {key.rpartition(">")[-1]: value for key, value in known.items()}
    return {**{name: f for name, f in functions.items() if inspect.isfunction(f)}, **known}


def _named(part: Any) -> Iterator[tuple[str, str]]:
    """Yield the registered name and module of each object in a configuration of tf_keras."""
    if isinstance(part, list):
        for each in part:
            yield from _named(each)
    elif isinstance(part, dict):
        if "class_name" in part and isinstance(part.get("module"), str):
            is_function = part["class_name"] == "function"
            name = part.get("config") if is_function else part.get("registered_name")
            yield str(name or part["class_name"]), part["module"]
        # Keras deserializes the original model, in its own safe mode.
        yield from (n for key, each in part.items() if key != RECORD for n in _named(each))


def _is_known(name: str, module: str, known: dict[str, Any]) -> bool:
    return name in known or module.partition(".")[0] in _PACKAGES
