"""Conversion of Keras models to TFLite files with built-in operations only."""

import contextlib
import io
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.files import check_file_name, refuse_existing, write_files
from keras_se.graph.inputs import packed_inputs
from keras_se.layers.quantization.fake_quantize import is_quantize_aware
from keras_se.litert import calibration as checks
from keras_se.litert import formats, selective
from keras_se.litert.compressed import QUANTIZED, keras_model, origin_of
from keras_se.litert.formats import Format
from keras_se.litert.graph.sites import dead_tensors, float_operators
from keras_se.litert.inputs import InputSpec, input_arrays, input_specs
from keras_se.litert.probing import packed, unpacked
from keras_se.litert.recipe import make_recipe, recipe_path
from keras_se.litert.runtime import check_loads, predict, run_once

MAX_OUTPUT_ERROR = 0.25  # rms over spread; sound int8 files measure .01 to .05
_FLOAT_TYPES = ("float32", "float32")
_COMPARED = 8  # number of calibration samples on which file and model are compared


class ConversionWarning(UserWarning):
    """Warning about a conversion that is not refused."""


def to_tflite(
    model: keras.Model,
    format: str = "int8",
    calibration: Any = None,
    *,
    input_type: str | None = None,
    output_type: str | None = None,
    keep_float: Sequence[str] = (),
    check_range: bool = True,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> bytes:
    """Converts a Keras model to TFLite, for a batch of one.

    The weights become constants of the graph. The file holds built-in operations only. The default
    interpreter loads and runs it once before this function returns.

    Args:
        model: A built functional or Sequential model with inputs of known size, with or without SE.
            A model from `keras_se.compress.quantize_aware` has its own ranges and becomes int8
            without calibration.
        format: One of `"float32"`; `"float16"`: float16 weights; `"dynamic"`: int8 weights,
            activations quantized at run time; `"weight_only"`: int8 weights, float32 computation;
            `"int8"`: all integer; `"int16x8"`: int8 weights, int16 activations.
        calibration: Representative inputs of shape (samples, *input shape), in the range that the
            model is used with. For several inputs a list or a dictionary of them. `"int8"` and
            `"int16x8"` need it, at least a hundred samples; other formats only check it.
        input_type: Type of the float inputs in the file: `"int8"` (default), `"uint8"` or
            `"float32"` for `"int8"`; `"int16"` (default) or `"float32"` for `"int16x8"`.
        output_type: The same for the outputs.
        keep_float: Names of SE sites whose operations stay in float32, from the squeeze to the
            product, in `"int8"` and `"int16x8"`. It recovers what SE loses in integers.
        check_range: Whether to refuse calibration data whose range does not match the statistics
            of BatchNormalization.
        path: Where to write the file, and its recipe `NAME.recipe.json` beside it. Writes nothing
            by default.
        overwrite: Whether to replace existing files; the old ones are renamed.

    Returns:
        The bytes of the TFLite file.

    Raises:
        InputError: If an argument is invalid, the data does not fit the model, or TFLite has no
            built-in operation for a part of the model in this format.
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
    conversion = convert(
        model,
        format,
        calibration,
        input_type=input_type,
        output_type=output_type,
        keep_float=keep_float,
        check_range=check_range,
        path=path,
        overwrite=overwrite,
    )
    return conversion.tflite


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        tflite: The bytes of the file.
        asides: The new names of the files that existed at its path.
        integer: The all-integer file, if some sites are kept in float.
    """

    tflite: bytes
    asides: tuple[Path, ...] = ()
    integer: bytes | None = None


def convert(
    model: keras.Model,
    format: str,
    calibration: Any,
    *,
    input_type: str | None,
    output_type: str | None,
    keep_float: Sequence[str],
    check_range: bool,
    path: str | os.PathLike[str] | None,
    overwrite: bool,
) -> Conversion:
    """Converts as `to_tflite` does, and also reports the renamed files."""
    spec = formats.get(format)
    types = (_io_type(spec, "input", input_type), _io_type(spec, "output", output_type))
    kept = _checked_sites(spec, keep_float)
    _check_aware(model, spec, kept)
    # Before the conversion, which takes long.
    if path is not None:
        _check_outputs(path, overwrite)
    inputs = input_specs(keras_model(model))
    _check_model(model)
    samples, observed = _checked_calibration(model, inputs, spec, calibration, check_range)
    tflite = _convert(model, inputs, spec, samples, types)
    integer = tflite if kept else None
    if kept and samples is not None:
        tflite = _with_float_sites(model, inputs, samples, tflite, kept)
    if spec.needs_calibration:
        _check_dead(tflite)
    if _is_aware(model):
        _check_integer(tflite)
    error = _run(model, spec, tflite, samples)
    if path is None:
        return Conversion(tflite, integer=integer)
    options = {
        "input_type": types[0],
        "output_type": types[1],
        "keep_float": kept,
        "check_range": check_range,
    }
    recipe = make_recipe(keras_model(model), tflite, spec, options, samples, observed, error)
    files = {path: tflite, recipe_path(path): recipe.encode()}
    asides = write_files(files, overwrite)
    return Conversion(tflite, tuple(a for a in asides if a is not None), integer)


def _checked_sites(spec: Format, keep_float: Any) -> list[str]:
    # A string is a sequence too: of names of one letter.
    names = [] if isinstance(keep_float, str) else list(keep_float)
    if isinstance(keep_float, str) or (names and not spec.needs_calibration):
        raise InputError(
            "keep_float is a list of SE sites that stay in float in 'int8' or 'int16x8'. "
            f"Received: keep_float={keep_float!r} for format={spec.name!r}"
        )
    return names


def _check_aware(model: keras.Model, spec: Format, kept: list[str]) -> None:
    origin = origin_of(model)
    if origin is not None and origin.technique != QUANTIZED:
        raise InputError(
            "to_tflite takes Keras models and quantize-aware ones: strip any other first. "
            f"Received: what {origin.technique} returned"
        )
    if _is_aware(model) and (spec.name != "int8" or kept):
        raise InputError(
            "A quantize-aware model becomes int8 throughout; for anything else strip it first. "
            f"Received: format={spec.name!r}, keep_float={kept}"
        )


def _is_aware(model: Any) -> bool:
    return origin_of(model) is not None or is_quantize_aware(model)


def _with_float_sites(
    model: keras.Model,
    inputs: list[InputSpec],
    samples: "_Samples",
    tflite: bytes,
    names: list[str],
) -> bytes:
    reference = _convert(model, inputs, formats.get("float32"), None, _FLOAT_TYPES)
    sites = selective.file_site_names(model, reference, names, samples)
    return selective.keep_float(tflite, reference, sites)


def _check_outputs(path: str | os.PathLike[str], overwrite: bool) -> None:
    check_file_name(path)
    if not os.fspath(path).endswith(".tflite") or Path(path).name == ".tflite":
        raise InputError(f"The name of a TFLite file must end in .tflite. Received: {path!r}")
    for output in (path, recipe_path(path)):
        check_file_name(output)
        refuse_existing(output, overwrite)


def _io_type(spec: Format, which: str, given: str | None) -> str:
    if given is None:
        return spec.io_types[0]
    if not isinstance(given, str) or given not in spec.io_types:
        raise InputError(
            f"{which}_type must be one of {list(spec.io_types)} for format={spec.name!r}. "
            f"Received: {which}_type={given!r}"
        )
    return given


def _check_model(model: keras.Model) -> None:
    """Raises `InputError` for another backend, other precisions or weights that are not finite."""
    check_backend("to_tflite")
    _check_precision(keras_model(model))
    for variable in model.weights:
        values = variable.numpy()
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            name = getattr(variable, "path", variable.name)
            raise InputError(
                "to_tflite takes models whose weights are finite. "
                f"Received: NaN or infinity in {name!r} of model {model.name!r}"
            )


def check_backend(purpose: str) -> None:
    """Raises `InputError` unless Keras runs on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"{purpose} needs the TensorFlow backend: set KERAS_BACKEND=tensorflow before Keras is "
            f"imported. Received: backend {keras.backend.backend()!r}"
        )


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


def _run(
    model: keras.Model, spec: Format, tflite: bytes, samples: "_Samples | None"
) -> float | None:
    """Runs the file and returns its largest relative error, or `None` without samples."""
    try:
        check_loads(tflite)
        if samples is None:
            run_once(tflite)
            return None
        few = {name: array[:_COMPARED] for name, array in samples.items()}
        shipped = predict(tflite, few)
    except InputError as error:
        raise InputError(
            "to_tflite hands over files that the default interpreter runs. "
            f"Received: model {model.name!r} in {spec.name}, of which it says: {error}"
        ) from error
    difference = _output_error(model, few, shipped)
    if difference > MAX_OUTPUT_ERROR:
        warnings.warn(
            "The file computes something else than the model on its own calibration data. "
            f"Received: outputs that are off by {difference:.2f} of their spread, root mean square",
            ConversionWarning,
            stacklevel=4,
        )
    return difference


def _output_error(model: keras.Model, samples: "_Samples", shipped: Any) -> float:
    x = packed_inputs(keras_model(model), samples.values())
    wanted = [values.numpy() for values in keras.tree.flatten(model(x, training=False))]
    found = list(shipped.values()) if isinstance(shipped, dict) else [shipped]
    pairs = [(w, f) for w, f in zip(wanted, found, strict=False) if w.shape == f.shape]
    errors = [_relative(w.astype("float64"), f) for w, f in pairs if w.dtype.kind == "f"]
    return max(errors, default=0.0)


def _relative(wanted: np.ndarray, found: np.ndarray) -> float:
    # A constant output has no spread.
    scale = max(float(wanted.std()), 1e-6 * float(np.abs(wanted).max()), 1e-12)
    return float(np.sqrt(((found - wanted) ** 2).mean())) / scale


_Samples = dict[str, np.ndarray]


def _checked_calibration(
    model: keras.Model, inputs: list[InputSpec], spec: Format, calibration: Any, check_range: bool
) -> tuple[_Samples | None, checks.Observations | None]:
    """Returns the samples by name and the observations of the model on them."""
    if calibration is None:
        if not spec.needs_calibration or _is_aware(model):
            return None, None
        shapes = " and ".join(f"(samples, {', '.join(map(str, i.shape))})" for i in inputs)
        raise InputError(
            f"format={spec.name!r} needs calibration data: representative inputs of shape "
            f"{shapes}. Received: calibration=None"
        )
    samples = input_arrays(inputs, calibration, "calibration")
    observed = checks.observe(keras_model(model), list(samples.values()))
    # The other formats take no ranges from the data.
    if spec.needs_calibration:
        checks.check_finite(observed)
        checks.check_bottlenecks(observed)
        if check_range:
            checks.check_range(observed)
    count = len(next(iter(samples.values())))
    for sentence in checks.calibration_warnings(observed, count, spec.needs_calibration):
        warnings.warn(sentence, ConversionWarning, stacklevel=4)
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
    # An empty trackable: with the model itself calibration fails on its variables.
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], tf.Module())
    # `weight_only` starts from the float32 file: DEFAULT would make it `dynamic`.
    if spec.name not in ("float32", "weight_only"):
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if spec.name == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if _is_aware(model):
        _set_types(tf, converter, types)
    elif spec.needs_calibration and samples is not None:
        _check_loops(model, function, spec)
        operations = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            operations.TFLITE_BUILTINS_INT8
            if spec.name == "int8"
            else operations.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        converter.representative_dataset = lambda: _batches_of_one(samples)
        _set_types(tf, converter, types)
    tflite = _converted(model, spec, converter)
    # Integer types make the converter lose the names of several inputs and outputs.
    if _is_aware(model) and len(inputs) > 1 and types != _FLOAT_TYPES:
        tflite = _with_names_of(_convert(model, inputs, spec, samples, _FLOAT_TYPES), tflite)
    return _with_int8_weights(tflite) if spec.name == "weight_only" else tflite


def _with_names_of(reference: bytes, tflite: bytes) -> bytes:
    """Copies the names of inputs and outputs from another file of the same model."""
    named, model = (unpacked(content) for content in (reference, tflite))
    for graph, other in zip(model.subgraphs, named.subgraphs, strict=True):
        for own, theirs in ((graph.inputs, other.inputs), (graph.outputs, other.outputs)):
            for tensor, wanted in zip(own, theirs, strict=True):
                graph.tensors[tensor].name = other.tensors[wanted].name
    return packed(model)


def _set_types(tf: Any, converter: Any, types: tuple[str, ...]) -> None:
    converter.inference_input_type, converter.inference_output_type = (
        getattr(tf, name) for name in types
    )


def _converted(model: keras.Model, spec: Format, converter: Any) -> bytes:
    try:
        with warnings.catch_warnings():
            # Both concern the converter itself: the user cannot act on them.
            warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
            warnings.filterwarnings("ignore", r"\s*Warning: tf.lite.Interpreter is deprecated")
            tflite: bytes = converter.convert()
            return tflite
    except Exception as error:  # the exception types of the converter are not public
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
    """Quantizes the weights of a file to int8, dequantized before use."""
    quantizer: Any = import_extra("litert_quantizer.quantizer", "litert")
    recipe: Any = import_extra("litert_quantizer.recipe", "litert")
    # The quantizer shows a progress bar for large files even with `enable_progress_bar=False`.
    with contextlib.redirect_stderr(io.StringIO()):
        quantized = quantizer.Quantizer(tflite, recipe.weight_only_wi8_afp32()).quantize(
            enable_progress_bar=False, enable_progress_report=False
        )
    return bytes(quantized.quantized_model)


def _inference_function(tf: Any, model: keras.Model, inputs: list[InputSpec]) -> Any:
    signature = [tf.TensorSpec((1, *i.shape), i.dtype, name=i.name) for i in inputs]
    call = _inference(model)

    @tf.function(input_signature=signature)
    def infer(*tensors: Any) -> Any:
        return call(packed_inputs(keras_model(model), tensors))

    return infer.get_concrete_function()


def _inference(model: Any) -> Callable[[Any], Any]:
    """Returns the inference function of a model, for Keras with constant weights."""
    if origin_of(model) is not None:
        return lambda x: model(x, training=False)
    # With constant weights the converter need not freeze variables.
    trainable = [v.numpy() for v in model.trainable_variables]
    non_trainable = [v.numpy() for v in model.non_trainable_variables]

    def call(x: Any) -> Any:
        outputs, _ = model.stateless_call(trainable, non_trainable, x, training=False)
        return outputs

    return call


def _check_loops(model: keras.Model, function: Any, spec: Format) -> None:
    """Raises `InputError` for a model with loops."""
    # The calibrator of the converter ends the process on a loop.
    types = {operation.type for operation in function.graph.get_operations()}
    if types & {"While", "StatelessWhile"}:
        raise InputError(
            f"format={spec.name!r} takes models without loops: build recurrent layers with "
            f"unroll=True. Received: model {model.name!r}, which has a loop"
        )


def _check_dead(tflite: bytes) -> None:
    # Such a file fails in the default delegate, and loading several of them ends the process.
    dead = dead_tensors(tflite)
    if dead:
        raise InputError(
            "Calibration and training need data on which every activation is somewhere not zero: "
            "with a dead one the file would not load. "
            f"Received: data on which these are zero: {dead}"
        )


def _check_integer(tflite: bytes) -> None:
    operators = float_operators(tflite)
    if operators:
        raise InputError(
            "A quantize-aware model has a range for every tensor between two operations: what is "
            "added to it must be quantize-aware, too. "
            f"Received: a model of which these compute in float: {operators}"
        )


def _batches_of_one(samples: _Samples) -> Iterator[Any]:
    """Yields one sample at a time, as a dictionary if there are several inputs."""
    # By name, because the converter changes the order of the inputs.
    for n in range(len(next(iter(samples.values())))):
        batch = {name: array[n : n + 1] for name, array in samples.items()}
        yield batch if len(batch) > 1 else list(batch.values())


def _missing_operations(error: Exception) -> str:
    """Returns the operations in an error after "TF Select ops:" or "Custom ops:"."""
    listed = re.findall(r"^(?:TF Select|Custom) ops: (.+)$", str(error), flags=re.MULTILINE)
    return ", ".join(listed) or f"one of its operations: {_first_line(error)}"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
