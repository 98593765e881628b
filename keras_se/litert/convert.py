"""From a Keras model to the bytes of a TFLite file, with built-in operations only."""

import re
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_se.data import finite_float32
from keras_se.errors import InputError, import_extra
from keras_se.litert.graph import dead_tensors
from keras_se.litert.runtime import predict

FORMATS = ("float32", "int8")


def to_tflite(model: keras.Model, format: str = "int8", calibration: Any = None) -> bytes:
    """Converts a Keras model to TFLite, for a batch of one.

    The weights become constants of the graph, so that the converter takes its shortest route. The
    file holds built-in operations only, and has been loaded and run once by the default interpreter
    before it is returned. Nothing is written to disk.

    Args:
        model: A built model with one input of known size.
        format: `"float32"`, or `"int8"`: full-integer, int8 inputs and outputs included.
        calibration: For `"int8"`: array of representative inputs, shape (samples, *input shape),
            in the range that the model is used with, and on which no activation is zero
            throughout. A hundred samples or more are advised.

    Returns:
        The bytes of the TFLite file.

    Raises:
        InputError: If an argument breaks its rule, or an operation of the model has no built-in
            TFLite counterpart.
        MissingExtraError: If TensorFlow or LiteRT is not installed.

    Source: LiteRT documentation, "Post-training integer quantization".

    Example:
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> to_tflite(model, "float32")[4:8]
        b'TFL3'
    """
    if format not in FORMATS:
        raise InputError(f"format must be one of {list(FORMATS)}. Received: format={format!r}")
    shape = _input_shape(model)
    _check_precision(model)
    samples = _calibration_samples(calibration, shape) if format == "int8" else None
    tflite = _convert(model, shape, samples)
    if samples is not None:
        _check_dead(tflite)
    predict(tflite, np.zeros((1, *shape)))
    return tflite


def _input_shape(model: keras.Model) -> tuple[int, ...]:
    if not isinstance(model, keras.Model) or not model.built:
        raise InputError(
            "to_tflite takes a built keras.Model: call it once, or give it an Input. "
            f"Received: {type(model).__name__}"
        )
    inputs = getattr(model, "inputs", None)
    if not inputs or len(inputs) != 1:
        raise InputError(
            f"to_tflite takes a model with one input. Received: model {model.name!r} with "
            f"{len(inputs or [])} known inputs"
        )
    shape = tuple(inputs[0].shape[1:])
    if None in shape:
        raise InputError(
            "to_tflite needs an input of known size: rebuild the model with a fixed Input. "
            f"Received: model {model.name!r} with input shape {(None, *shape)}"
        )
    return shape


def _check_precision(model: keras.Model) -> None:
    for layer in model.layers:
        if layer.compute_dtype != "float32":
            raise InputError(
                "to_tflite takes models that compute in float32: rebuild the model under "
                "keras.config.set_dtype_policy('float32') and set its weights. "
                f"Received: layer {layer.name!r} of model {model.name!r} in {layer.compute_dtype}"
            )


def _calibration_samples(calibration: Any, shape: tuple[int, ...]) -> np.ndarray:
    if calibration is None:
        raise InputError(
            "format='int8' needs calibration data: an array of representative inputs of shape "
            f"(samples, {', '.join(map(str, shape))}). Received: calibration=None"
        )
    samples = finite_float32("calibration", calibration)
    if samples.shape[1:] != shape or len(samples) == 0:
        raise InputError(
            f"calibration must have the shape (samples, {', '.join(map(str, shape))}). "
            f"Received: shape {samples.shape}"
        )
    return samples


def _convert(model: keras.Model, shape: tuple[int, ...], samples: np.ndarray | None) -> bytes:
    tf: Any = import_extra("tensorflow", "litert")
    # A trackable that holds nothing: with the model itself, calibration fails on its variables.
    function = _inference_function(tf, model, shape)
    if samples is not None:
        _check_loops(model, function)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    if samples is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _batches_of_one(samples)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
            tflite: bytes = converter.convert()
    except Exception as error:  # the converter's own exception type is not public
        if type(error).__name__ != "ConverterError":
            raise
        raise InputError(
            "to_tflite uses built-in TFLite operations only. "
            f"Received: model {model.name!r}, and TFLite has none for {_missing_operations(error)}"
        ) from error
    return tflite


def _inference_function(tf: Any, model: keras.Model, shape: tuple[int, ...]) -> Any:
    trainable = [v.numpy() for v in model.trainable_variables]
    non_trainable = [v.numpy() for v in model.non_trainable_variables]

    @tf.function(input_signature=[tf.TensorSpec((1, *shape), tf.float32, name="inputs")])
    def infer(inputs: Any) -> Any:
        outputs, _ = model.stateless_call(trainable, non_trainable, inputs, training=False)
        return outputs

    return infer.get_concrete_function()


def _check_loops(model: keras.Model, function: Any) -> None:
    """Refuses loops: the converter's calibrator ends the process on them."""
    types = {operation.type for operation in function.graph.get_operations()}
    if types & {"While", "StatelessWhile"}:
        raise InputError(
            "format='int8' takes models without loops: build recurrent layers with unroll=True. "
            f"Received: model {model.name!r}, which has a loop"
        )


def _check_dead(tflite: bytes) -> None:
    dead = dead_tensors(tflite)
    if dead:
        raise InputError(
            "format='int8' needs calibration data on which every activation is somewhere not zero. "
            f"Received: data on which these are zero: {dead}"
        )


def _batches_of_one(samples: np.ndarray) -> Iterator[list[np.ndarray]]:
    for sample in samples:
        yield [sample[None]]


def _missing_operations(error: Exception) -> str:
    """The operations that a converter error lists after "TF Select ops:" or "Custom ops:"."""
    listed = re.findall(r"^(?:TF Select|Custom) ops: (.+)$", str(error), flags=re.MULTILINE)
    return ", ".join(listed) or f"one of its operations: {str(error).strip().splitlines()[0]}"
