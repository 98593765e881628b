"""Run a TFLite file, and read the values of its gates while it runs."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from keras_se.data import finite_float32
from keras_se.errors import InputError, MissingExtraError, import_extra
from keras_se.litert.graph import GateNode, TFLite, gate_nodes, read_bytes


def load(tflite: TFLite, preserve_all_tensors: bool = False) -> Any:
    """An interpreter for a TFLite file, its tensors allocated.

    Args:
        tflite: The bytes of the file, or its path.
        preserve_all_tensors: Whether intermediate tensors can be read after a run.

    Returns:
        An `ai_edge_litert` interpreter under its default delegate (XNNPACK on a CPU), one thread.

    Raises:
        InputError: If the file is not a TFLite file, or the runtime refuses it.
        MissingExtraError: If LiteRT is not installed.
    """
    content = read_bytes(tflite)
    interpreter_module: Any = import_extra("ai_edge_litert.interpreter", "litert")
    try:
        with warnings.catch_warnings():
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
    """The shape of one sample of each input of a TFLite file.

    Args:
        tflite: The bytes of the file, or its path.

    Returns:
        By name of the input tensor.

    Raises:
        InputError: If the file is not a TFLite file, or the runtime refuses it.
    """
    details = load(tflite).get_input_details()
    return {d["name"]: tuple(int(size) for size in d["shape"][1:]) for d in details}


def predict(tflite: TFLite, x: np.ndarray) -> np.ndarray:
    """The first output of a TFLite file, sample by sample.

    Args:
        tflite: The bytes of the file, or its path.
        x: Inputs in the units of the float model, shape (samples, *input shape).

    Returns:
        Float32 array of shape (samples, *output shape), dequantized where the file is quantized.

    Raises:
        InputError: If the file cannot be run, or `x` does not fit its input.
    """
    content = read_bytes(tflite)
    with _readable(content):
        interpreter = load(content)
        output = interpreter.get_output_details()[0]
        return np.concatenate([_value(interpreter, output) for _ in _runs(interpreter, x)])


def file_gates(tflite: TFLite, x: np.ndarray) -> dict[str, np.ndarray]:
    """The gate values of every SE site of a TFLite file, read from the shipped bytes.

    Args:
        tflite: The bytes of the file, or its path.
        x: Inputs in the units of the float model, shape (samples, *input shape).

    Returns:
        By site name, a float32 array of shape (samples, channels), dequantized where the file is
        quantized. Empty if there is no site.

    Raises:
        InputError: If the file cannot be run, or `x` does not fit its input.
    """
    content = read_bytes(tflite)
    nodes = gate_nodes(content)
    rows: dict[str, list[np.ndarray]] = {node.site.name: [] for node in nodes}
    with _readable(content):
        interpreter = load(content, preserve_all_tensors=True)
        details = {d["index"]: d for d in interpreter.get_tensor_details()}
        for _ in _runs(interpreter, x):
            for node in nodes:
                rows[node.site.name].append(_gate_row(interpreter, details, node))
    return {name: np.stack(values) for name, values in rows.items()}


@contextmanager
def _readable(content: bytes) -> Iterator[None]:
    """What a malformed file leads the runtime into becomes a sentence."""
    try:
        yield
    except (InputError, MissingExtraError):
        raise
    except (RuntimeError, ValueError, KeyError, IndexError, TypeError) as error:
        raise InputError(
            "A TFLite file must run in the LiteRT runtime, and its tensors be read. "
            f"Received: {len(content)} bytes; the runtime says: {str(error).strip()}"
        ) from error


def _gate_row(interpreter: Any, details: dict[int, Any], node: GateNode) -> np.ndarray:
    return _value(interpreter, details[node.gate_tensor]).reshape(node.site.channels)


def _runs(interpreter: Any, x: np.ndarray) -> Iterator[None]:
    """Invokes the interpreter for each sample of `x` in turn."""
    details = interpreter.get_input_details()
    if len(details) != 1:
        raise InputError(f"A TFLite file with one input is needed. Received: {len(details)} inputs")
    expected, samples = tuple(map(int, details[0]["shape"])), finite_float32("x", x)
    if expected[0] != 1 or samples.shape[1:] != expected[1:] or len(samples) == 0:
        raise InputError(
            f"x must have the shape (samples, {', '.join(map(str, expected[1:]))}) and the file a "
            f"batch of 1. Received: x of shape {samples.shape}, a file for {expected}"
        )
    for sample in samples:
        interpreter.set_tensor(details[0]["index"], _quantized(sample[None], details[0]))
        interpreter.invoke()
        yield


def _quantized(sample: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    dtype, (scale, zero_point) = details["dtype"], details["quantization"]
    if not np.issubdtype(dtype, np.integer) or scale == 0.0:
        return sample.astype(dtype)
    limits = np.iinfo(dtype)
    codes = np.round(sample / scale) + zero_point
    return np.clip(codes, limits.min, limits.max).astype(dtype)


def _value(interpreter: Any, details: dict[str, Any]) -> np.ndarray:
    value = interpreter.get_tensor(details["index"])
    scale, zero_point = details["quantization"]
    if not np.issubdtype(value.dtype, np.integer) or scale == 0.0:
        return np.asarray(value, "float32")
    return (value.astype("float32") - zero_point) * np.float32(scale)
