"""Runs a TFLite file."""

import importlib.metadata
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from keras_se.data import finite_float32
from keras_se.errors import InputError, MissingExtraError, import_extra
from keras_se.litert.graph.flatbuffer import TFLite, dequantized, read_bytes
from keras_se.litert.graph.sites import dead_tensors
from keras_se.stderr import capture_stderr


def load(tflite: TFLite, preserve_all_tensors: bool = False) -> Any:
    """Returns an interpreter for a TFLite file, with allocated tensors."""
    content = read_bytes(tflite)
    interpreter_module: Any = import_extra("ai_edge_litert.interpreter", "litert")
    try:
        with capture_stderr(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Warning: Enabling `experimental_preserve_all_tens")
            interpreter = interpreter_module.Interpreter(
                model_content=content,
                experimental_preserve_all_tensors=preserve_all_tensors,
                num_threads=1,
            )
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise InputError(
            "A TFLite file must load in the LiteRT runtime. "
            f"Received: {len(content)} bytes; the runtime says: {str(error).strip()}"
        ) from error
    return interpreter


def file_input_shapes(tflite: TFLite) -> dict[str, tuple[int, ...]]:
    """Returns the shape of one sample of each input of a TFLite file, by name."""
    return {name: _shape(details)[1:] for name, details in _details(load(tflite), "input").items()}


def file_precision(tflite: TFLite) -> str:
    """Returns the coarsest type in a file: `"int8"`, `"float16"` or `"float32"`."""
    details = load(tflite).get_tensor_details()
    types = {d["dtype"] for d in details if d["quantization_parameters"]["scales"].size}
    # A file of 16-bit activations has 8-bit weights.
    if {np.int8, np.uint8, np.int16} & types:
        return "int8"
    return "float16" if any(d["dtype"] is np.float16 for d in details) else "float32"


def runtime_name() -> str:
    """Describes the runtime, its delegate and the machine in one line."""
    version = importlib.metadata.version("ai-edge-litert")
    machine = " ".join([platform.machine(), *_vector_instructions()])
    return f"LiteRT {version}, default CPU delegate (XNNPACK), {machine}"


def _vector_instructions() -> list[str]:
    """Lists the vector instructions of this machine that XNNPACK has kernels for."""
    try:
        listed = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    known = ("avx2", "avx512f", "avx512vnni", "amx_int8", "asimd", "asimddp", "i8mm")
    return [name for name in known if name in listed]


def predict(tflite: TFLite, x: Any) -> Any:
    """Returns the outputs of a TFLite file, dequantized; a dictionary if there are several."""
    content = read_bytes(tflite)
    with runtime_errors(content):
        interpreter = load(content)
        outputs = _details(interpreter, "output")
        rows = [
            [tensor_value(interpreter, details) for details in outputs.values()]
            for _ in runs(interpreter, x)
        ]
    arrays = [np.concatenate(values) for values in zip(*rows, strict=True)]
    return arrays[0] if len(arrays) == 1 else dict(zip(outputs, arrays, strict=True))


def check_loads(content: bytes) -> None:
    """Raises `InputError` for a file that the default delegate cannot prepare."""
    # Loading several such files ends the process.
    dead = dead_tensors(content)
    if dead:
        raise InputError(
            "Every activation must be somewhere not zero on the data of calibration or training: "
            f"a file with a dead one does not load. Received: only zeros in {dead}"
        )
    # XNNPACK kills the process on some other scales that calibration on constant data gives.
    if not _has_extreme_scales(content):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(content)
        done = subprocess.run(  # noqa: S603 (our own interpreter and script)
            [sys.executable, "-c", _LOAD, str(path)], capture_output=True, check=False
        )
    if done.returncode < 0:  # killed by a signal; `run_once` reports ordinary errors
        raise InputError(
            "A TFLite file must load in the LiteRT runtime. "
            f"Received: a file on which it ends with signal {-done.returncode}"
        )


_LEAST_SCALE = 1e-6
_LOAD = """
import sys
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
interpreter.invoke()
"""


def _has_extreme_scales(content: bytes) -> bool:
    interpreter_module: Any = import_extra("ai_edge_litert.interpreter", "litert")
    # Do not call `allocate_tensors` here: it may crash, as XNNPACK prepares the file there.
    with capture_stderr():
        details = interpreter_module.Interpreter(model_content=content).get_tensor_details()
    scales = [d["quantization"][0] for d in details if d["dtype"] in (np.int8, np.int16)]
    return any(scale and not _LEAST_SCALE < scale < 1 / _LEAST_SCALE for scale in scales)


def run_once(content: bytes) -> None:
    """Runs a file once, on zeros."""
    with runtime_errors(content):
        inputs = _details(load(content), "input")
    predict(content, {name: np.zeros(_shape(details)) for name, details in inputs.items()})


@contextmanager
def runtime_errors(content: bytes) -> Iterator[None]:
    """Converts errors of the runtime to `InputError`."""
    try:
        yield
    except (InputError, MissingExtraError):
        raise
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            "A TFLite file must run in the LiteRT runtime and have readable tensors. "
            f"Received: {len(content)} bytes; the runtime says: {str(error).strip()}"
        ) from error


def runs(interpreter: Any, x: Any) -> Iterator[dict[int, np.ndarray]]:
    """Invokes the interpreter on each sample of `x`; yields its inputs by tensor index."""
    inputs = _details(interpreter, "input")
    arrays = _arranged(inputs, x)
    for n in range(len(next(iter(arrays.values())))):
        feed = {
            details["index"]: _quantized(arrays[name][n : n + 1], details)
            for name, details in inputs.items()
        }
        for index, value in feed.items():
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        yield feed


def _details(interpreter: Any, kind: str) -> dict[str, Any]:
    """Returns the details of each `"input"` or `"output"`, by name."""
    # Signature names are those of the user; tensor names are made up by the converter.
    if len(interpreter.get_signature_list()) == 1:
        return dict(getattr(interpreter.get_signature_runner(), f"get_{kind}_details")())
    return {details["name"]: details for details in getattr(interpreter, f"get_{kind}_details")()}


def _arranged(inputs: Mapping[str, Any], x: Any) -> dict[str, np.ndarray]:
    given = _renamed(inputs, x)
    if not isinstance(given, Mapping) or set(given) != set(inputs):
        raise InputError(
            f"x must be a dictionary with the inputs of the file, {list(inputs)}. "
            f"Received: {list(x) if isinstance(x, Mapping) else type(x).__name__}"
        )
    arrays = {name: _checked(details, given[name]) for name, details in inputs.items()}
    if len({len(array) for array in arrays.values()}) != 1:
        lengths = {name: len(array) for name, array in arrays.items()}
        raise InputError(
            f"x must have the same number of samples for each input. Received: {lengths}"
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


def _checked(details: Any, x: Any) -> np.ndarray:
    # `finite_float32` rejects booleans.
    x = np.asarray(x, "uint8") if getattr(x, "dtype", None) == np.bool_ else x
    expected, samples = _shape(details), finite_float32("x", x)
    if expected[:1] != (1,) or samples.shape[1:] != expected[1:] or len(samples) == 0:
        raise InputError(
            f"x must have the shape (samples, {', '.join(map(str, expected[1:]))}) and the file a "
            f"batch of 1. Received: x of shape {samples.shape}, a file for {expected}"
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


def tensor_value(interpreter: Any, details: dict[str, Any]) -> np.ndarray:
    """Returns a tensor after a run, dequantized, as float32."""
    values = dequantized(interpreter.get_tensor(details["index"]), *details["quantization"])
    return np.asarray(values, "float32")
