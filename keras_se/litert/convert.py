"""Conversion of Keras models to TFLite files with built-in operations only."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_se.data import spaced
from keras_se.display.progress import with_progress
from keras_se.errors import InputError, warn
from keras_se.files import check_file_name, refuse_existing, write_files
from keras_se.graph.compressed import QUANTIZED, compression_of, is_compressed, keras_model
from keras_se.graph.fitting import fitted
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.models import check_weights
from keras_se.graph.visits import replaying
from keras_se.layers import GraphSEBlock
from keras_se.litert import calibration as checks
from keras_se.litert.converter import converted_bytes
from keras_se.litert.formats import FORMATS, Format, FormatName, IOType, Options
from keras_se.litert.graph.selective import check_names, keep_float
from keras_se.litert.graph.sites import float_operators
from keras_se.litert.inputs import InputSpec, Samples, input_arrays, input_specs
from keras_se.litert.matching import match_sites
from keras_se.litert.recipe import make_recipe, recipe_path, signed
from keras_se.litert.runtime import check_loads, predict, run_once
from keras_se.sites.reading import model_sites

_MAX_OUTPUT_ERROR = 0.25  # rms over spread; sound int8 files measure .01 to .05
_COMPARED = 8  # number of calibration samples on which file and model are compared


class ConversionWarning(UserWarning):
    """Warning about a conversion that is not refused."""


@with_progress
def to_tflite(
    model: keras.Model,
    format: FormatName = "int8",
    calibration: Any = None,
    *,
    input_type: IOType | None = None,
    output_type: IOType | None = None,
    input_shape: Sequence[int] | None = None,
    keep_float: Sequence[str] = (),
    check_range: bool = True,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> bytes:
    """Converts a Keras model to TFLite, for a batch of one.

    The weights become constants of the graph. The file holds built-in operations only. The default
    interpreter loads and runs it once before this function returns.

    Args:
        model: A built functional or Sequential model, with or without SE. One that computes in half
            precision, such as `mixed_float16`, is converted as its float32 twin. One from
            `keras_se.compress.quantize_aware` has ranges, so int8 needs no calibration.
        format: One of `"float32"`; `"float16"`: float16 weights; `"dynamic"`: int8 weights,
            activations quantized at run time; `"weight_only"`: int8 weights, float32 computation;
            `"int8"`: all integer; `"int16x8"`: int8 weights, int16 activations.
        calibration: Representative inputs of shape (samples, *input shape), in the range that the
            model is used with. For several inputs a list or a dictionary of them. `"int8"` and
            `"int16x8"` need it, at least a hundred samples; other formats only check it.
        input_type: Type of the float inputs in the file: `"int8"` (default), `"uint8"` or
            `"float32"` for `"int8"`; `"int16"` (default) or `"float32"` for `"int16x8"`.
        output_type: The same for the outputs.
        input_shape: Shape of one sample, such as `(224, 224, 3)`, needed for a model that leaves
            sizes open. Only for models with one input.
        keep_float: Names of SE sites whose operations stay in float32, from the squeeze to the
            product, in `"int8"` and `"int16x8"`. It recovers what SE loses in integers.
        check_range: Whether to refuse data of another range than BatchNormalization was trained on.
        path: Where to write the file, its recipe `NAME.recipe.json` beside it; nowhere by default.
        overwrite: Whether to replace existing files; the old ones are renamed.
        progress: Whether to show on standard error what is being done, if it takes long.

    Returns:
        The bytes of the TFLite file.

    Raises:
        InputError: If an argument is invalid, the data does not fit the model, or TFLite has no
            built-in operation for a part of the model in this format.
        MissingExtraError: If TensorFlow, LiteRT or its quantizer is not installed.

    Warns:
        ConversionWarning: If there are few samples, or a sum over a feature map exceeds float16.
        PrecisionWarning: If the model computes in half precision.

    Source: LiteRT documentation, "Post-training quantization".

    Example:
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> to_tflite(model, "float32")[4:8]
        b'TFL3'
    """
    options = Options(
        format=format,
        input_type=input_type,
        output_type=output_type,
        input_shape=input_shape,
        keep_float=keep_float if isinstance(keep_float, str) else tuple(keep_float),
        check_range=check_range,
        path=path,
        overwrite=overwrite,
    )
    return convert(model, calibration, options).tflite


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        tflite: The bytes of the file.
        recipe: Its recipe, as JSON text.
        asides: The new names of the files that existed at its path.
        integer: The all-integer file, if some sites are kept in float.
    """

    tflite: bytes
    recipe: str
    asides: tuple[Path, ...] = ()
    integer: bytes | None = None


def convert(
    model: keras.Model, calibration: Any, options: Options, purpose: str = "to_tflite"
) -> Conversion:
    """Converts as `to_tflite` does, and also reports the renamed files."""
    spec = options.spec
    _check_compression(model, options)
    # Before the conversion, which takes long.
    if options.path is not None:
        check_outputs(options.path, options.overwrite)
    check_backend(purpose)
    model = _fitted(model, purpose, options.input_shape)
    _check_unions(keras_model(model), purpose)
    inputs = input_specs(keras_model(model), purpose)
    check_weights(purpose, model)
    samples, observed = _checked_calibration(model, inputs, calibration, options)
    io_types = options.io_types
    integer, tflite = None, converted_bytes(model, inputs, spec, io_types, samples, purpose)
    if options.keep_float and samples is not None:
        integer = tflite
        tflite = _with_float_sites(model, inputs, samples, integer, options.keep_float)
    check_loads(tflite)
    # The integers of an input become floats by a CAST.
    found = float_operators(tflite) if is_compressed(model) else []
    operators = [name for name in found if name != "CAST"]
    if operators:
        warn(
            "An int8 file computes in float32 what has no range or no int8 form. "
            f"Received: a quantize-aware model with these operators: {operators}",
            ConversionWarning,
        )
    error = _run(model, spec, tflite, samples)
    recipe = make_recipe(keras_model(model), options, samples, observed, error)
    tflite, text = signed(recipe, tflite)
    integer = None if integer is None else signed(recipe, integer)[0]
    if options.path is None:
        return Conversion(tflite, text, integer=integer)
    files = {options.path: tflite, recipe_path(options.path): text.encode()}
    asides = write_files(files, options.overwrite)
    return Conversion(tflite, text, tuple(a for a in asides if a is not None), integer)


def _check_compression(model: keras.Model, options: Options) -> None:
    compression = compression_of(model)
    if compression is not None and compression.technique != QUANTIZED:
        raise InputError(
            "to_tflite needs a Keras model, plain or quantize-aware: strip any other first. "
            f"Received: what {compression.technique} returned"
        )
    if is_compressed(model) and (options.format != "int8" or options.keep_float):
        raise InputError(
            "A quantize-aware model becomes int8 throughout; for anything else strip it first. "
            f"Received: format={options.format!r}, keep_float={list(options.keep_float)}"
        )


def _check_unions(model: keras.Model, purpose: str) -> None:
    """Refuses a block whose samples are graphs in a union: a file is for one sample."""
    found = [layer.name for layer in _layers(model) if isinstance(layer, GraphSEBlock)]
    if found:
        raise InputError(
            f"{purpose} makes files for one sample, and a GraphSEBlock takes a union of graphs, "
            "whose sizes a file fixes: use keras.Input(batch_shape=...), num_graphs= and "
            f"model.export(path, format='litert'). Received: the GraphSEBlocks {found}"
        )


def _layers(layer: Any) -> Iterator[Any]:
    """Yields the layers of a model and of the models nested in it."""
    for inner in getattr(layer, "layers", ()):
        yield inner
        yield from _layers(inner)


def check_outputs(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raises `InputError` unless a TFLite file and its recipe can be written at a path."""
    check_file_name(path)
    if not os.fspath(path).endswith(".tflite") or Path(path).name == ".tflite":
        raise InputError(f"The name of a TFLite file must end in .tflite. Received: {path!r}")
    for output in (path, recipe_path(path)):
        check_file_name(output)
        refuse_existing(output, overwrite)


def _fitted(model: keras.Model, purpose: str, input_shape: Sequence[int] | None) -> keras.Model:
    plain = keras_model(model)
    twin = fitted(plain, purpose, input_shape)
    # A compressed model of tf_keras was made from a twin, so only the shape is checked.
    return twin if plain is model else model


def check_backend(purpose: str) -> None:
    """Raises `InputError` unless Keras runs on TensorFlow."""
    if keras.backend.backend() != "tensorflow":
        raise InputError(
            f"{purpose} needs the TensorFlow backend: set KERAS_BACKEND=tensorflow before Keras is "
            f"imported. Received: backend {keras.backend.backend()!r}"
        )


def _checked_calibration(
    model: keras.Model, inputs: list[InputSpec], calibration: Any, options: Options
) -> tuple[Samples | None, checks.Observations | None]:
    spec = options.spec
    if calibration is None:
        if not spec.needs_calibration or is_compressed(model):
            return None, None
        shapes = " and ".join(f"(samples, {', '.join(map(str, i.shape))})" for i in inputs)
        raise InputError(
            f"format={spec.name!r} needs calibration data: representative inputs of shape "
            f"{shapes}. Received: calibration=None"
        )
    samples = input_arrays(inputs, calibration, "calibration")
    # Its ranges come from training, and the model that it was made from may have no weights.
    if compression_of(model) is not None:
        return samples, None
    observed = checks.observe(keras_model(model), list(samples.values()))
    # The other formats take no ranges from the data.
    if spec.needs_calibration:
        checks.check_activations(observed)
        if options.check_range:
            checks.check_range(observed)
    count = len(next(iter(samples.values())))
    for sentence in checks.calibration_warnings(observed, count, spec.needs_calibration):
        warn(sentence, ConversionWarning)
    return samples, observed


def _with_float_sites(
    model: keras.Model,
    inputs: list[InputSpec],
    samples: Samples,
    integer: bytes,
    names: Sequence[str],
) -> bytes:
    """Returns an integer file with the named sites of the model in float32."""
    check_names(names, [site.name for site in model_sites(model)], f"model {model.name!r}")
    float32 = converted_bytes(model, inputs, FORMATS["float32"])
    # All formats have the sites in the same order, so these names hold for each of them.
    in_file = match_sites(model, samples, lambda: float32)
    return keep_float(integer, float32, [in_file[name] for name in names])


def _run(model: keras.Model, spec: Format, tflite: bytes, samples: Samples | None) -> float | None:
    """Runs the file and returns its largest relative error, or `None` without samples."""
    try:
        if samples is None:
            run_once(tflite)
            return None
        few = spaced(dict(samples), _COMPARED)
        outputs = predict(tflite, few)
    except InputError as error:
        raise InputError(
            "A converted file must run in the default interpreter. "
            f"Received: model {model.name!r} in {spec.name}, of which it says: {error}"
        ) from error
    difference = _output_error(model, few, outputs)
    if difference > _MAX_OUTPUT_ERROR:
        warn(
            "The file should compute what the model computes on its calibration data. "
            f"Received: outputs that are off by {difference:.2f} of their spread, root mean square",
            ConversionWarning,
        )
    return difference


def _output_error(model: keras.Model, samples: Samples, outputs: Any) -> float:
    """Returns the largest RMS error of an output over its spread."""
    x = packed_inputs(keras_model(model), samples.values())
    with replaying():
        wanted = [values.numpy() for values in keras.tree.flatten(model(x, training=False))]
    found = list(outputs.values()) if isinstance(outputs, dict) else [outputs]
    pairs = [(w, f) for w, f in zip(wanted, found, strict=False) if w.shape == f.shape]
    errors = [_relative(w.astype("float64"), f) for w, f in pairs if w.dtype.kind == "f"]
    return max(errors, default=0.0)


def _relative(wanted: np.ndarray, found: np.ndarray) -> float:
    # A constant output has no spread.
    scale = max(float(wanted.std()), 1e-6 * float(np.abs(wanted).max()), 1e-12)
    return float(np.sqrt(((found - wanted) ** 2).mean())) / scale
