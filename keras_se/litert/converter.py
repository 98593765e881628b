"""The bytes of a TFLite file, from a Keras model, by TensorFlow's converter."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_se.display.progress import counted, step
from keras_se.errors import InputError, import_extra, reason
from keras_se.graph.compressed import compression_of, is_compressed, keras_model
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.visits import replaying
from keras_se.litert.formats import Format
from keras_se.litert.graph.flatbuffer import packed, unpacked
from keras_se.litert.inputs import InputSpec
from keras_se.stderr import capture_stderr

_FLOAT_TYPES = ("float32", "float32")


def converted_bytes(
    model: keras.Model,
    inputs: list[InputSpec],
    spec: Format,
    io_types: tuple[str, str] = _FLOAT_TYPES,
    samples: Mapping[str, np.ndarray] | None = None,
    purpose: str = "to_tflite",
) -> bytes:
    """Returns the file of a model, with the types of its inputs and outputs."""
    tf: Any = import_extra("tensorflow", "litert")
    function = _inference_function(tf, model, inputs, purpose)
    # An empty trackable: with the model itself calibration fails on its variables.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    # `weight_only` starts from the float32 file: DEFAULT would make it `dynamic`.
    if spec.name not in ("float32", "weight_only"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if spec.name == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if spec.needs_calibration:
        converter.inference_input_type = getattr(tf, io_types[0])
        converter.inference_output_type = getattr(tf, io_types[1])
    if spec.needs_calibration and samples is not None and not is_compressed(model):
        _check_loops(model, function, spec)
        converter.representative_dataset = lambda: _batches_of_one(samples)
        operations = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            operations.TFLITE_BUILTINS_INT8
            if spec.name == "int8"
            else operations.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    tflite = _run(model, spec, converter, purpose)
    # Integer types make the converter lose the names of several inputs and outputs.
    if is_compressed(model) and len(inputs) > 1 and io_types != _FLOAT_TYPES:
        tflite = _with_names_of(converted_bytes(model, inputs, spec), tflite)
    return _with_int8_weights(tflite) if spec.name == "weight_only" else tflite


def _inference_function(tf: Any, model: keras.Model, inputs: list[InputSpec], purpose: str) -> Any:
    # With constant weights the converter need not freeze variables.
    trainable = [v.numpy() for v in model.trainable_variables]
    non_trainable = [v.numpy() for v in model.non_trainable_variables]

    @tf.function(input_signature=[tf.TensorSpec((1, *i.shape), i.dtype, i.name) for i in inputs])
    def infer(*tensors: Any) -> Any:
        x = packed_inputs(keras_model(model), tensors)
        if compression_of(model) is not None:
            return model(x, training=False)
        return model.stateless_call(trainable, non_trainable, x, training=False)[0]

    try:
        with replaying():
            return infer.get_concrete_function()
    except Exception as error:  # the code of the user's layer may raise anything
        raise InputError(
            f"{purpose} needs a model that TensorFlow can compute for a batch of one. "
            f"Received: model {model.name!r}, for which it raises: {reason(error)}"
        ) from error


def _check_loops(model: keras.Model, function: Any, spec: Format) -> None:
    # The calibrator of the converter ends the process on a loop.
    types = {operation.type for operation in function.graph.get_operations()}
    if types & {"While", "StatelessWhile"}:
        raise InputError(
            f"format={spec.name!r} supports no loops: build recurrent layers with unroll=True. "
            f"Received: model {model.name!r} with a loop"
        )


def _batches_of_one(samples: Mapping[str, np.ndarray]) -> Iterator[Any]:
    """Yields one sample at a time, as a dictionary if there are several inputs."""
    # By name, because the converter changes the order of the inputs.
    count = len(next(iter(samples.values())))
    for n in counted(range(count), count, "ranges of the calibration"):
        batch = {name: array[n : n + 1] for name, array in samples.items()}
        yield batch if len(batch) > 1 else list(batch.values())


def _run(model: keras.Model, spec: Format, converter: Any, purpose: str) -> bytes:
    """Returns what the converter makes; raises `InputError` for what it has no operation for."""
    try:
        with (
            step(f"conversion to {spec.name}"),
            capture_stderr(),
            warnings.catch_warnings(),
        ):
            # Both concern the converter itself: the user cannot act on them.
            warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
            return converter.convert()
    except Exception as error:  # the exception types of the converter are not public
        name = type(error).__name__
        if name == "ConverterError":
            listed = re.findall(r"^(?:TF Select|Custom) ops: (.+)$", str(error), re.MULTILINE)
            needed = ", ".join(listed) or f"another operation: {reason(error)}"
            raise InputError(
                f"{purpose} supports built-in TFLite operations only. "
                f"Received: model {model.name!r}, which needs {needed}"
            ) from error
        if spec.needs_calibration and name in ("RuntimeError", "ValueError"):
            raise InputError(
                f"format={spec.name!r} supports operations only that TFLite has in it. "
                f"Received: model {model.name!r}; the converter says: {reason(error)}"
            ) from error
        raise


def _with_names_of(reference: bytes, tflite: bytes) -> bytes:
    """Copies the names of inputs and outputs from another file of the same model."""
    named, model = (unpacked(content) for content in (reference, tflite))
    for graph, other in zip(model.subgraphs, named.subgraphs, strict=True):
        for own, wanted in ((graph.inputs, other.inputs), (graph.outputs, other.outputs)):
            for tensor, source in zip(own, wanted, strict=True):
                graph.tensors[tensor].name = other.tensors[source].name
    return packed(model)


def _with_int8_weights(tflite: bytes) -> bytes:
    """Quantizes the weights of a file to int8, dequantized before use."""
    quantizer: Any = import_extra("litert_quantizer.quantizer", "litert")
    recipe: Any = import_extra("litert_quantizer.recipe", "litert")
    # The quantizer shows a progress bar for large files even with `enable_progress_bar=False`.
    with capture_stderr(), contextlib.redirect_stderr(io.StringIO()):
        quantized = quantizer.Quantizer(tflite, recipe.weight_only_wi8_afp32()).quantize(
            enable_progress_bar=False, enable_progress_report=False
        )
    return bytes(quantized.quantized_model)
