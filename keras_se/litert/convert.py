"""From a Keras model to the bytes of a TFLite file, with built-in operations only."""

import os
import re
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.litert import calibration as checks
from keras_se.litert import formats
from keras_se.litert.formats import Format
from keras_se.litert.graph import dead_tensors
from keras_se.litert.recipe import make_recipe, recipe_path
from keras_se.litert.runtime import run_once
from keras_se.litert.signature import InputSpec, input_arrays, input_specs
from keras_se.outputs import refuse_existing, write_file


class ConversionWarning(UserWarning):
    """Something that is no reason to refuse a conversion, and that its user should know."""


def to_tflite(
    model: keras.Model,
    format: str = "int8",
    calibration: Any = None,
    *,
    input_type: str | None = None,
    output_type: str | None = None,
    check_range: bool = True,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> bytes:
    """Converts a Keras model to TFLite, for a batch of one.

    The weights become constants of the graph, so that the converter takes its shortest route. The
    file holds built-in operations only, and has been loaded and run once by the default interpreter
    before it is returned.

    Args:
        model: A built functional or Sequential model with inputs of known size, with or without SE.
        format: `"float32"`; `"float16"`: weights of half precision; `"dynamic"`: int8 weights,
            activations quantized while it runs; `"weight_only"`: int8 weights, all computed in
            float32; `"int8"`: integer throughout; `"int16x8"`: int8 weights, int16 activations.
        calibration: Representative inputs, shape (samples, *input shape), in the range that the
            model is used with; for several inputs a list or a dictionary of them. Needed for
            `"int8"` and `"int16x8"`, a hundred samples or more; for the others only checked.
        input_type: Type of the inputs that are float in the model: `"int8"` (default), `"uint8"` or
            `"float32"` for `"int8"`; `"int16"` (default) or `"float32"` for `"int16x8"`.
        output_type: The same for the outputs.
        check_range: Whether to refuse calibration data of another range than the statistics of
            BatchNormalization remember.
        path: Where to write the file, if anywhere, and beside it its recipe, `NAME.recipe.json`.
        overwrite: Whether these may exist; they are renamed aside.

    Returns:
        The bytes of the TFLite file.

    Raises:
        InputError: If an argument breaks its rule, the data do not fit the model, or an operation
            of the model has no built-in TFLite counterpart in this format.
        MissingExtraError: If TensorFlow, LiteRT or its quantizer is not installed.

    Warns:
        ConversionWarning: If there are few samples, or a sum over a feature map exceeds float16.

    Source: LiteRT documentation, "Post-training quantization".

    Example:
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> to_tflite(model, "float32")[4:8]
        b'TFL3'
    """
    spec = formats.get(format)
    types = tuple(_io_type(spec, *given) for given in (("input", input_type),
                                                       ("output", output_type)))  # fmt: skip
    if path is not None:
        for output in (path, recipe_path(path)):
            refuse_existing(output, overwrite)
    inputs = input_specs(model)
    _check_precision(model)
    samples, observed = _checked_calibration(model, inputs, spec, calibration, check_range)
    tflite = _convert(model, inputs, spec, samples, types)
    if spec.needs_calibration:
        _check_dead(tflite)
    run_once(tflite, None if samples is None else {k: v[:1] for k, v in samples.items()})
    if path is not None:
        options = {"input_type": types[0], "output_type": types[1], "check_range": check_range}
        recipe = make_recipe(model, tflite, spec, options, samples, observed)
        write_file(recipe_path(path), recipe.encode(), overwrite)
        write_file(path, tflite, overwrite)
    return tflite


def _io_type(spec: Format, which: str, given: str | None) -> str:
    if given is None:
        return spec.io_types[0]
    if given not in spec.io_types:
        raise InputError(
            f"{which}_type must be one of {list(spec.io_types)} for format={spec.name!r}. "
            f"Received: {which}_type={given!r}"
        )
    return given


def _check_precision(model: keras.Model) -> None:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            _check_precision(layer)
        elif layer.compute_dtype != "float32":
            raise InputError(
                "to_tflite takes models that compute in float32: rebuild the model under "
                "keras.config.set_dtype_policy('float32') and set its weights. "
                f"Received: layer {layer.name!r} of model {model.name!r} in {layer.compute_dtype}"
            )


_Samples = dict[str, np.ndarray]


def _checked_calibration(
    model: keras.Model, inputs: list[InputSpec], spec: Format, calibration: Any, check_range: bool
) -> tuple[_Samples | None, checks.Observations | None]:
    """The samples by name, and what the model does on them."""
    if calibration is None:
        if not spec.needs_calibration:
            return None, None
        shapes = " and ".join(f"(samples, {', '.join(map(str, i.shape))})" for i in inputs)
        raise InputError(
            f"format={spec.name!r} needs calibration data: representative inputs of shape "
            f"{shapes}. Received: calibration=None"
        )
    samples = input_arrays(inputs, calibration, "calibration")
    observed = checks.observe(model, list(samples.values()))
    if spec.needs_calibration:
        checks.check_bottlenecks(observed)
        if check_range:
            checks.check_range(observed)
    count = len(next(iter(samples.values())))
    for sentence in checks.calibration_warnings(observed, count, spec.needs_calibration):
        warnings.warn(sentence, ConversionWarning, stacklevel=3)
    return samples, observed


def _convert(
    model: keras.Model,
    inputs: list[InputSpec],
    spec: Format,
    samples: _Samples | None,
    types: tuple[str, ...],
) -> bytes:
    tf: Any = import_extra("tensorflow", "litert")
    function = _inference_function(tf, model, inputs)
    # A trackable that holds nothing: with the model itself, calibration fails on its variables.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    if spec.name not in ("float32", "weight_only"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if spec.name == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if spec.needs_calibration and samples is not None:
        _check_loops(model, function, spec)
        operations = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            operations.TFLITE_BUILTINS_INT8
            if spec.name == "int8"
            else operations.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        converter.representative_dataset = lambda: _batches_of_one(samples)
        converter.inference_input_type, converter.inference_output_type = (
            getattr(tf, name) for name in types
        )
    tflite = _converted(model, spec, converter)
    return _with_int8_weights(tflite) if spec.name == "weight_only" else tflite


def _converted(model: keras.Model, spec: Format, converter: Any) -> bytes:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
            tflite: bytes = converter.convert()
            return tflite
    except Exception as error:  # the converter's own exception types are not public
        name = type(error).__name__
        if name == "ConverterError":
            raise InputError(
                "to_tflite uses built-in TFLite operations only. Received: model "
                f"{model.name!r}, and TFLite has none for {_missing_operations(error)}"
            ) from error
        if spec.needs_calibration and name in ("RuntimeError", "ValueError"):
            raise InputError(
                f"format={spec.name!r} takes operations that TFLite has in it. "
                f"Received: model {model.name!r}; the converter says: {_first_line(error)}"
            ) from error
        raise


def _with_int8_weights(tflite: bytes) -> bytes:
    """The file with weights of int8, made float32 again before they are used."""
    quantizer: Any = import_extra("litert_quantizer.quantizer", "litert")
    recipe: Any = import_extra("litert_quantizer.recipe", "litert")
    quantized = quantizer.Quantizer(tflite, recipe.weight_only_wi8_afp32()).quantize(
        enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(quantized.quantized_model)


def _inference_function(tf: Any, model: keras.Model, inputs: list[InputSpec]) -> Any:
    trainable = [v.numpy() for v in model.trainable_variables]
    non_trainable = [v.numpy() for v in model.non_trainable_variables]
    structure = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    signature = [tf.TensorSpec((1, *i.shape), i.dtype, name=i.name) for i in inputs]

    @tf.function(input_signature=signature)
    def infer(*tensors: Any) -> Any:
        x = keras.tree.pack_sequence_as(structure, list(tensors))
        outputs, _ = model.stateless_call(trainable, non_trainable, x, training=False)
        return outputs

    return infer.get_concrete_function()


def _check_loops(model: keras.Model, function: Any, spec: Format) -> None:
    """Refuses loops: the converter's calibrator ends the process on them."""
    types = {operation.type for operation in function.graph.get_operations()}
    if types & {"While", "StatelessWhile"}:
        raise InputError(
            f"format={spec.name!r} takes models without loops: build recurrent layers with "
            f"unroll=True. Received: model {model.name!r}, which has a loop"
        )


def _check_dead(tflite: bytes) -> None:
    dead = dead_tensors(tflite)
    if dead:
        raise InputError(
            "Calibration needs data on which every activation is somewhere not zero: with a dead "
            f"one the file would not load. Received: data on which these are zero: {dead}"
        )


def _batches_of_one(samples: _Samples) -> Iterator[Any]:
    """One sample at a time: of several inputs by name, for the converter orders them anew."""
    for n in range(len(next(iter(samples.values())))):
        batch = {name: array[n : n + 1] for name, array in samples.items()}
        yield batch if len(batch) > 1 else list(batch.values())


def _missing_operations(error: Exception) -> str:
    """The operations that a converter error lists after "TF Select ops:" or "Custom ops:"."""
    listed = re.findall(r"^(?:TF Select|Custom) ops: (.+)$", str(error), flags=re.MULTILINE)
    return ", ".join(listed) or f"one of its operations: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
