"""What files are made of: a Keras model by TensorFlow's converter, a float file by a quantizer."""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import keras
import numpy as np

from keras_se.compress.equalization import equalize
from keras_se.compress.quantization import quantize_aware
from keras_se.compress.stripping import strip
from keras_se.display.progress import counted, step
from keras_se.errors import InputError, import_extra, reason
from keras_se.graph.fitting import fitted
from keras_se.litert.convert import check_backend, convert
from keras_se.litert.formats import FormatName, IOType, Options
from keras_se.litert.graph.flatbuffer import TFLite, packed, read_bytes, unpacked
from keras_se.litert.recipe import file_recipe, signed
from keras_se.litert.runtime import Runner, check_loads, run_once
from keras_se.stderr import capture_stderr

_FLOAT16 = [  # of `litert_quantizer.recipe_manager`
    {
        "regex": ".*",
        "operation": "*",
        "algorithm_key": "float_casting",
        "op_config": {
            "weight_tensor_config": {"num_bits": 16, "dtype": "FLOAT"},
            "compute_precision": "FLOAT",
            "explicit_dequantize": True,
        },
    }
]
_IN_FLOAT = {"regex": ".*", "algorithm_key": "no_quantize", "op_config": {}}
_RECIPES = {  # of `litert_quantizer.recipe`
    "int8": "static_wi8_ai8",
    "int16x8": "static_wi8_ai16",
    "dynamic": "dynamic_wi8_afp32",
    "weight_only": "weight_only_wi8_afp32",
}
_SIGNATURE = b"serving_default"
IOTypes = tuple[IOType | None, IOType | None]
_DEFAULT: IOTypes = (None, None)  # of inputs and outputs: what is usual in the format


class Source(Protocol):
    """A float network of which files are made.

    Attributes:
        formats: What is tried by default, in order.
    """

    formats: tuple[FormatName, ...]

    @property
    def float32(self) -> bytes:
        """The float file."""

    def make(self, file_format: FormatName) -> tuple[bytes, str]:
        """Returns a file in a format, with its recipe as JSON text."""

    def equalized(self) -> "Source | None":
        """Returns the same function with channels of similar ranges; `None` if it is the same."""

    def trained(self, train: Callable[[Any], Any]) -> "TrainedSource":
        """Returns the network as it is after quantize-aware training."""


class KerasSource:
    """A Keras model.

    Attributes:
        formats: What is tried by default, in order.
    """

    formats: tuple[FormatName, ...] = ("int8", "int16x8", "weight_only", "float16")

    def __init__(
        self,
        model: keras.Model,
        calibration: Any,
        input_shape: Sequence[int] | None,
        io_types: IOTypes = _DEFAULT,
    ) -> None:
        check_backend("deploy")
        self._model, self._calibration, self._shape = model, calibration, input_shape
        self._io_types = io_types

    @cached_property
    def float32(self) -> bytes:
        """The float file."""
        return self._converted("float32", _DEFAULT)[0]

    def make(self, file_format: FormatName) -> tuple[bytes, str]:
        """Returns a file in a format, with its recipe as JSON text."""
        return self._converted(file_format, self._io_types)

    def _converted(self, file_format: FormatName, io_types: IOTypes) -> tuple[bytes, str]:
        options = _options(file_format, io_types, input_shape=self._shape)
        # Every recipe names the calibration samples: `verify` must refuse them for each file.
        made = convert(self._model, self._calibration, options, "deploy")
        return made.tflite, made.recipe

    def equalized(self) -> "KerasSource | None":
        """Returns the same function with channels of similar ranges; `None` if it is the same."""
        with step("channels of similar ranges"):
            model = equalize(self._model, self._calibration)
        pairs = zip(self._model.get_weights(), model.get_weights(), strict=True)
        if all(np.array_equal(own, other) for own, other in pairs):
            return None
        return KerasSource(model, self._calibration, self._shape, self._io_types)

    def trained(self, train: Callable[[Any], Any]) -> "TrainedSource":
        """Returns the network as it is after quantize-aware training."""
        model = fitted(self._model, "deploy", self._shape)
        return TrainedSource(model, self._calibration, train, self._io_types)


class TrainedSource:
    """A Keras model after quantize-aware training, which happens when a file is asked for."""

    def __init__(
        self,
        model: keras.Model,
        calibration: Any,
        train: Callable[[Any], Any],
        io_types: IOTypes,
    ) -> None:
        self._model, self._calibration, self._train = model, calibration, train
        self._io_types = io_types

    @cached_property
    def _trained(self) -> keras.Model:
        with step("quantize-aware training"):
            model = quantize_aware(self._model, self._calibration)
            self._train(model)
        return model

    def int8(self) -> tuple[bytes, str]:
        """Returns the int8 file, with its recipe as JSON text."""
        options = _options("int8", self._io_types)
        made = convert(self._trained, self._calibration, options, "deploy")
        return made.tflite, made.recipe

    def float32(self) -> tuple[bytes, str]:
        """Returns the float file of the trained network, with its recipe as JSON text."""
        made = convert(strip(self._trained), None, Options(format="float32"), "deploy")
        return made.tflite, made.recipe


class FileSource:
    """A float TFLite file of any converter.

    Attributes:
        formats: What is tried by default, in order.
    """

    formats: tuple[FormatName, ...] = ("int8", "int16x8", "weight_only", "float16")

    def __init__(self, tflite: TFLite, calibration: Any, io_types: IOTypes = _DEFAULT) -> None:
        self.float32, self._io_types = read_bytes(tflite), io_types
        self._runner = Runner(self.float32)
        self._samples = self._runner.arranged(calibration, "calibration")

    def make(self, file_format: FormatName) -> tuple[bytes, str]:
        """Returns a file in a format, with its recipe as JSON text."""
        content, options = self.float32, _options(file_format, self._io_types)
        if file_format != "float32":
            with step(f"quantization to {file_format}"):
                content = self._quantized(options)
        check_loads(content)
        run_once(content)
        recipe = file_recipe(self.float32, options, self._samples)
        return signed(recipe, content)

    def _quantized(self, options: Options) -> bytes:
        quantizers: Any = import_extra("litert_quantizer.quantizer", "litert")
        recipe = _quantizer_recipe(options)
        try:
            with (
                capture_stderr(),
                contextlib.redirect_stderr(io.StringIO()),  # the quantizer shows bars of its own
                warnings.catch_warnings(),
            ):
                # Its calibration wants to see all tensors.
                warnings.filterwarnings("ignore", "Warning: Enabling `experimental_preserve_all")
                quantizer = quantizers.Quantizer(self._with_signature, recipe)
                found = self._ranges(recipe) if quantizer.need_calibration else None
                made = quantizer.quantize(
                    found, enable_progress_bar=False, enable_progress_report=False
                )
        except Exception as error:  # the quantizer raises all kinds for what it does not know
            raise InputError(
                f"A float file must be one that litert-quantizer takes to {options.format}. "
                f"Received: {len(self.float32)} bytes, of which it says: "
                f"{type(error).__name__}: {reason(error)}"
            ) from error
        return bytes(made.quantized_model)

    def _ranges(self, recipe: Any) -> Any:
        """Returns the extremes of each tensor, which TensorFlow's converter takes, too.

        By default the quantizer averages those of the samples, and clips what is beyond: gates of
        dark and bright images are lost in that.
        """
        calibrators: Any = import_extra("litert_quantizer.calibrator", "litert")
        managers: Any = import_extra("litert_quantizer.recipe_manager", "litert")
        updates: Any = import_extra("litert_quantizer.utils.qsv_utils", "litert")
        manager = managers.RecipeManager()
        manager.load_quantization_recipe(recipe)
        calibrator = calibrators.Calibrator(
            self._with_signature, num_threads=1, qsv_update_func=updates.min_max_update
        )
        calibrator.calibrate({self._key: [*self._rows()]}, manager)
        return calibrator.get_model_qsvs()

    def _rows(self) -> Iterator[Mapping[str, np.ndarray]]:
        size, count = self._runner.batch, len(next(iter(self._samples.values())))
        starts = range(0, count - size + 1, size)
        for start in counted(starts, len(starts), "ranges of the calibration"):
            yield {
                name: array[start : start + size].astype(self._runner.inputs[name]["dtype"])
                for name, array in self._samples.items()
            }

    @cached_property
    def _key(self) -> str:
        return next(iter(Runner(self._with_signature).interpreter.get_signature_list()))

    @cached_property
    def _with_signature(self) -> bytes:
        """The file with a signature, through which the quantizer calibrates."""
        if self._runner.interpreter.get_signature_list():
            return self.float32
        schema: Any = import_extra("ai_edge_litert.schema_py_generated", "litert")
        model = unpacked(self.float32)
        graph, signature = model.subgraphs[0], schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = _SIGNATURE, 0
        signature.inputs, signature.outputs = [], []
        for tensors, maps in ((graph.inputs, signature.inputs), (graph.outputs, signature.outputs)):
            for tensor in tensors:
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = graph.tensors[tensor].name, int(tensor)
                maps.append(entry)
        model.signatureDefs = [signature]
        return packed(model)

    def equalized(self) -> None:
        """Returns nothing: it takes a Keras model."""

    def trained(self, train: Callable[[Any], Any]) -> "TrainedSource":
        """Raises: it takes a Keras model."""
        raise InputError("Only a Keras model can be trained. Received: train for a TFLite file")


def _options(file_format: FormatName, io_types: IOTypes, **others: Any) -> Options:
    input_type, output_type = io_types
    return Options(format=file_format, input_type=input_type, output_type=output_type, **others)


def _quantizer_recipe(options: Options) -> Any:
    """Returns what litert-quantizer is told."""
    if options.format == "float16":
        return _FLOAT16
    recipes: Any = import_extra("litert_quantizer.recipe", "litert")
    recipe = getattr(recipes, _RECIPES[options.format])()
    for operation, io_type in zip(("INPUT", "OUTPUT"), options.io_types, strict=True):
        if io_type == "uint8":
            raise InputError(
                "Inputs and outputs of an integer file that is made of a float file must be int8, "
                "int16 or float32. Received: uint8. Give the Keras model, or shift the codes by "
                "128 in the app."
            )
        if io_type == "float32" and options.spec.needs_calibration:
            recipe.append(_IN_FLOAT | {"operation": operation})
    return recipe
