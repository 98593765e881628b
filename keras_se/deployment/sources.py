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
from keras_se.litert.formats import FormatName, Options
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
_RECIPES = {  # of `litert_quantizer.recipe`
    "int8": "static_wi8_ai8",
    "int16x8": "static_wi8_ai16",
    "dynamic": "dynamic_wi8_afp32",
    "weight_only": "weight_only_wi8_afp32",
}
_SIGNATURE = b"serving_default"


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
        self, model: keras.Model, calibration: Any, input_shape: Sequence[int] | None
    ) -> None:
        check_backend("deploy")
        self._model, self._calibration, self._shape = model, calibration, input_shape

    @cached_property
    def float32(self) -> bytes:
        """The float file."""
        return self._converted("float32")[0]

    def make(self, file_format: FormatName) -> tuple[bytes, str]:
        """Returns a file in a format, with its recipe as JSON text."""
        return self._converted(file_format)

    def _converted(self, file_format: FormatName) -> tuple[bytes, str]:
        options = Options(format=file_format, input_shape=self._shape)
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
        return KerasSource(model, self._calibration, self._shape)

    def trained(self, train: Callable[[Any], Any]) -> "TrainedSource":
        """Returns the network as it is after quantize-aware training."""
        return TrainedSource(fitted(self._model, "deploy", self._shape), self._calibration, train)


class TrainedSource:
    """A Keras model after quantize-aware training, which happens when a file is asked for."""

    def __init__(self, model: keras.Model, calibration: Any, train: Callable[[Any], Any]) -> None:
        self._model, self._calibration, self._train = model, calibration, train

    @cached_property
    def _trained(self) -> keras.Model:
        with step("quantize-aware training"):
            model = quantize_aware(self._model, self._calibration)
            self._train(model)
        return model

    def int8(self) -> tuple[bytes, str]:
        """Returns the int8 file, with its recipe as JSON text."""
        made = convert(self._trained, self._calibration, Options(format="int8"), "deploy")
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

    def __init__(self, tflite: TFLite, calibration: Any) -> None:
        self.float32 = read_bytes(tflite)
        self._runner = Runner(self.float32)
        self._samples = self._runner.arranged(calibration, "calibration")

    def make(self, file_format: FormatName) -> tuple[bytes, str]:
        """Returns a file in a format, with its recipe as JSON text."""
        content = self.float32
        if file_format != "float32":
            with step(f"quantization to {file_format}"):
                content = self._quantized(file_format)
        check_loads(content)
        run_once(content)
        recipe = file_recipe(self.float32, file_format, self._samples)
        return signed(recipe, content)

    def _quantized(self, file_format: str) -> bytes:
        quantizers: Any = import_extra("litert_quantizer.quantizer", "litert")
        recipes: Any = import_extra("litert_quantizer.recipe", "litert")
        recipe: Any = _FLOAT16
        if file_format != "float16":
            recipe = getattr(recipes, _RECIPES[file_format])()
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
                f"A float file must be one that litert-quantizer takes to {file_format}. "
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
