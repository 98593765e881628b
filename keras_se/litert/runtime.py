"""Runs a TFLite file."""

import importlib.metadata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from keras_se.data import finite_float32
from keras_se.display.progress import counted
from keras_se.errors import InputError, MissingExtraError, import_extra
from keras_se.isolation import check_runs
from keras_se.litert.graph.dead import check_alive
from keras_se.litert.graph.flatbuffer import TFLite, dequantized, read_bytes
from keras_se.litert.inputs import filled
from keras_se.litert.recorder import processor
from keras_se.stderr import capture_stderr

_ROWS = 32  # samples whose tensors are held at a time


def load(tflite: TFLite) -> Any:
    """Returns an interpreter for a TFLite file, with allocated tensors."""
    content = read_bytes(tflite)
    interpreter_module: Any = import_extra("ai_edge_litert.interpreter", "litert")
    try:
        with capture_stderr():
            interpreter = interpreter_module.Interpreter(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "A TFLite file must load in the LiteRT runtime. "
            f"Received: {len(content)} bytes; the runtime says: {str(error).strip()}"
        ) from error
    return interpreter


def file_input_shapes(tflite: TFLite) -> dict[str, tuple[int, ...]]:
    """Returns the shape of one sample of each input of a TFLite file, by name."""
    return Runner(tflite).shapes


def runtime_name() -> str:
    """Describes the runtime, its delegate and the processor in one line."""
    version = importlib.metadata.version("ai-edge-litert")
    return f"LiteRT {version}, default CPU delegate (XNNPACK), {processor()}"


def predict(tflite: TFLite, x: Any) -> Any:
    """Returns the outputs of a TFLite file, dequantized; a dictionary if there are several."""
    runner = Runner(tflite)
    arrays = runner.run(x)
    return arrays[0] if len(arrays) == 1 else dict(zip(runner.outputs, arrays, strict=True))


class Runner:
    """A TFLite file in the interpreter.

    Attributes:
        interpreter: The interpreter.
        inputs: The details of each input, by name.
        outputs: The tensor of each output, by name.
        output_details: The details of each output, by name.
    """

    def __init__(self, tflite: TFLite) -> None:
        self._size = len(read_bytes(tflite))
        self.interpreter = load(tflite)
        with runtime_errors(self._size):
            self.inputs = _details(self.interpreter, "input")
            found = _details(self.interpreter, "output")
            self.output_details = found
            self.outputs = {name: int(details["index"]) for name, details in found.items()}
            self._tensors = {d["index"]: d for d in self.interpreter.get_tensor_details()}
            self.batch = _batch(self.inputs)
        if not self.outputs:
            raise InputError(f"A TFLite file must have an output. Received: {self._size} bytes")

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of one sample of each input, by name."""
        return {name: _shape(details)[1:] for name, details in self.inputs.items()}

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        """The shape of the first output, with the axis of the samples."""
        first = next(iter(self.outputs.values()))
        return (None, *_shape(self._tensors[first])[1:])

    def read(self, x: Any, tensors: Iterable[int], size: int = _ROWS) -> Iterator[list[np.ndarray]]:
        """Runs samples, and yields the values of tensors, dequantized, some samples at a time."""
        wanted, arrays = list(tensors), self.arranged(x)
        step = -(-size // self.batch) * self.batch
        starts = range(0, len(next(iter(arrays.values()))), step)
        for start in counted(starts, len(starts)):
            few = {name: array[start : start + step] for name, array in arrays.items()}
            with runtime_errors(self._size):
                yield self._read(few, wanted)

    def run(self, x: Any) -> list[np.ndarray]:
        """Runs samples, and returns each output for all of them."""
        rows = [*self.read(x, self.outputs.values())]
        return [np.concatenate(values) for values in zip(*rows, strict=True)]

    def is_float(self, tensor: int) -> bool:
        """Returns whether a tensor holds floats, and no codes."""
        return bool(np.issubdtype(self._tensors[tensor]["dtype"], np.floating))

    def arranged(self, x: Any, what: str = "x") -> dict[str, np.ndarray]:
        """Returns samples as float32 arrays, by the names of the inputs of the file."""
        with runtime_errors(self._size):
            return _arranged(self.inputs, x, what)

    def _read(self, arrays: Mapping[str, np.ndarray], tensors: Sequence[int]) -> list[np.ndarray]:
        rows: list[list[np.ndarray]] = []
        count = len(next(iter(arrays.values())))
        for start in range(0, count, self.batch):
            for name, details in self.inputs.items():
                sample = filled(arrays[name][start : start + self.batch], self.batch)
                self.interpreter.set_tensor(details["index"], _quantized(sample, details))
            self.interpreter.invoke()
            rows.append([self.interpreter.get_tensor(tensor) for tensor in tensors])
        return [
            self._joined(tensor, values)[:count]
            for tensor, values in zip(tensors, zip(*rows, strict=True), strict=True)
        ]

    def _joined(self, tensor: int, values: Sequence[np.ndarray]) -> np.ndarray:
        # A tensor of a file for one sample may have no axis for it.
        has_batch = values[0].shape[:1] == (self.batch,)
        codes = np.concatenate(values) if has_batch else np.stack(values)
        found = dequantized(codes, *self._tensors[tensor]["quantization"])
        return np.asarray(found, "float32")


def check_loads(content: bytes) -> None:
    """Raises `InputError` for a file that the default delegate cannot prepare."""
    # Loading several such files ends the process.
    check_alive(content)
    # XNNPACK kills the process on some other scales that calibration on constant data gives.
    if _has_extreme_scales(content):
        check_runs([content])


_LEAST_SCALE = 1e-6


def _has_extreme_scales(content: bytes) -> bool:
    interpreter_module: Any = import_extra("ai_edge_litert.interpreter", "litert")
    # Do not call `allocate_tensors` here: it may crash, as XNNPACK prepares the file there.
    with capture_stderr():
        details = interpreter_module.Interpreter(model_content=content).get_tensor_details()
    scales = [d["quantization"][0] for d in details if d["dtype"] in (np.int8, np.int16)]
    return any(scale and not _LEAST_SCALE < scale < 1 / _LEAST_SCALE for scale in scales)


def run_once(content: bytes) -> None:
    """Runs a file once, on zeros."""
    inputs = Runner(content).inputs
    predict(content, {name: np.zeros(_shape(details)) for name, details in inputs.items()})


@contextmanager
def runtime_errors(size: int) -> Iterator[None]:
    """Converts errors of the runtime to `InputError`."""
    try:
        yield
    except (InputError, MissingExtraError):
        raise
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            "A TFLite file must run in the LiteRT runtime and have readable tensors. "
            f"Received: {size} bytes; the runtime says: {str(error).strip()}"
        ) from error


def _details(interpreter: Any, kind: str) -> dict[str, Any]:
    """Returns the details of each `"input"` or `"output"`, by name."""
    # Signature names are those of the user; tensor names are made up by the converter.
    if len(interpreter.get_signature_list()) == 1:
        found = getattr(interpreter.get_signature_runner(), f"get_{kind}_details")()
        # Of a list of outputs, output_10 would come before output_2.
        return dict(sorted(found.items(), key=lambda item: _numbered(item[0])))
    return {details["name"]: details for details in getattr(interpreter, f"get_{kind}_details")()}


def _numbered(name: str) -> tuple[str, int]:
    base, _, number = name.rpartition("_")
    return (base, int(number)) if base == "output" and number.isdecimal() else (name, 0)


def _batch(inputs: Mapping[str, Any]) -> int:
    """Returns how many samples a file takes at once."""
    sizes = {_shape(details)[0] for details in inputs.values() if len(details["shape"])}
    if len(sizes) != 1 or 0 in sizes:
        shapes = {name: _shape(details) for name, details in inputs.items()}
        raise InputError(f"The inputs of a file must share a batch axis. Received: {shapes}")
    return sizes.pop()


def _arranged(inputs: Mapping[str, Any], x: Any, what: str) -> dict[str, np.ndarray]:
    given = _renamed(inputs, x)
    if not isinstance(given, Mapping) or set(given) != set(inputs):
        raise InputError(
            f"{what} must be a dictionary with the inputs of the file, {list(inputs)}. "
            f"Received: {list(x) if isinstance(x, Mapping) else type(x).__name__}"
        )
    arrays = {name: _checked(details, given[name], what) for name, details in inputs.items()}
    if len({len(array) for array in arrays.values()}) != 1:
        lengths = {name: len(array) for name, array in arrays.items()}
        raise InputError(
            f"{what} must have the same number of samples for each input. Received: {lengths}"
        )
    return arrays


def _renamed(inputs: Mapping[str, Any], x: Any) -> Any:
    """Returns samples under the input names of the file."""
    if not isinstance(x, Mapping):
        return dict.fromkeys(inputs, x) if len(inputs) == 1 else x
    # Other converters rename inputs, so match them by shape if the names differ.
    if set(x) == set(inputs) or len(x) != len(inputs):
        return x
    shapes = {name: np.shape(array)[1:] for name, array in x.items()}
    found = {
        name: [key for key, shape in shapes.items() if shape == _shape(details)[1:]]
        for name, details in inputs.items()
    }
    if len(x) > 1 and any(len(keys) != 1 for keys in found.values()):
        return x  # ambiguous shapes
    keys = [*x] if len(x) == 1 else [key for (key,) in found.values()]
    return {name: x[key] for name, key in zip(inputs, keys, strict=True)}


def _checked(details: Any, x: Any, what: str) -> np.ndarray:
    expected, samples = _shape(details), finite_float32(what, x, booleans=True)
    if samples.ndim == 0 or samples.shape[1:] != expected[1:] or len(samples) == 0:
        shape = ", ".join(map(str, expected[1:]))
        raise InputError(
            f"{what} must have the shape (samples, {shape}) of the file's input. "
            f"Received: shape {samples.shape}"
        )
    return samples


def _shape(details: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in details["shape"])


def _quantized(sample: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    dtype, (scale, zero_point) = details["dtype"], details["quantization"]
    if not np.issubdtype(dtype, np.integer) or scale == 0.0:
        return sample.astype(dtype)
    limits = np.iinfo(dtype)
    codes = np.round(sample / scale) + zero_point
    return np.clip(codes, limits.min, limits.max).astype(dtype)
