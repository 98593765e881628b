"""Run a TFLite file, and read the values of its gates while it runs."""

import warnings
from collections.abc import Iterator, Mapping
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
        By name of the input.

    Raises:
        InputError: If the file is not a TFLite file, or the runtime refuses it.
    """
    return {name: _shape(details)[1:] for name, details in _inputs(load(tflite)).items()}


def predict(tflite: TFLite, x: Any) -> Any:
    """The outputs of a TFLite file, sample by sample.

    Args:
        tflite: The bytes of the file, or its path.
        x: Inputs in the units of the float model, shape (samples, *input shape); for several inputs
            a dictionary of them, by name.

    Returns:
        Float32 array of shape (samples, *output shape), dequantized where the file is quantized;
        for several outputs a dictionary of them, by name.

    Raises:
        InputError: If the file cannot be run, or `x` does not fit its inputs.
    """
    content = read_bytes(tflite)
    with _readable(content):
        interpreter = load(content)
        outputs = _outputs(interpreter)
        rows = [
            [_value(interpreter, details) for details in outputs.values()]
            for _ in _runs(interpreter, x)
        ]
    arrays = [np.concatenate(values) for values in zip(*rows, strict=True)]
    return arrays[0] if len(arrays) == 1 else dict(zip(outputs, arrays, strict=True))


def run_once(tflite: TFLite, sample: Mapping[str, np.ndarray] | None = None) -> None:
    """Loads a file under the default interpreter and runs it once.

    Args:
        tflite: The bytes of the file, or its path.
        sample: By name of the input, a batch of one; zeros if there is none.

    Raises:
        InputError: If the runtime refuses it.
    """
    content = read_bytes(tflite)
    with _readable(content):
        inputs = _inputs(load(content))
        zeros = {name: np.zeros(_shape(details)) for name, details in inputs.items()}
        predict(content, zeros if sample is None else sample)


def file_gates(tflite: TFLite, x: Any) -> dict[str, np.ndarray]:
    """The gate values of every SE site of a TFLite file, read from the shipped bytes.

    Args:
        tflite: The bytes of the file, or its path.
        x: As for `predict`.

    Returns:
        By site name, a float32 array of shape (samples, channels), dequantized where the file is
        quantized. Empty if there is no site.

    Raises:
        InputError: If the file cannot be run, or `x` does not fit its inputs.
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


def _runs(interpreter: Any, x: Any) -> Iterator[None]:
    """Invokes the interpreter for each sample of `x` in turn."""
    inputs = _inputs(interpreter)
    arrays = _arranged(inputs, x)
    for n in range(len(next(iter(arrays.values())))):
        for name, details in inputs.items():
            interpreter.set_tensor(details["index"], _quantized(arrays[name][n : n + 1], details))
        interpreter.invoke()
        yield


def _inputs(interpreter: Any) -> dict[str, Any]:
    """The details of the inputs by their names: those of the signature, if there is one only."""
    if len(interpreter.get_signature_list()) == 1:
        return dict(interpreter.get_signature_runner().get_input_details())
    return {details["name"]: details for details in interpreter.get_input_details()}


def _outputs(interpreter: Any) -> dict[str, Any]:
    """The details of the outputs by their names, as for the inputs."""
    if len(interpreter.get_signature_list()) == 1:
        return dict(interpreter.get_signature_runner().get_output_details())
    return {details["name"]: details for details in interpreter.get_output_details()}


def _arranged(inputs: Mapping[str, Any], x: Any) -> dict[str, np.ndarray]:
    given = x if isinstance(x, Mapping) or len(inputs) != 1 else dict.fromkeys(inputs, x)
    if not isinstance(given, Mapping) or set(given) != set(inputs):
        raise InputError(
            f"x must be a dictionary with the inputs of the file, {list(inputs)}. "
            f"Received: {list(x) if isinstance(x, Mapping) else type(x).__name__}"
        )
    arrays = {name: _checked(details, given[name]) for name, details in inputs.items()}
    if len({len(array) for array in arrays.values()}) != 1:
        lengths = {name: len(array) for name, array in arrays.items()}
        raise InputError(f"x must have one number of samples. Received: {lengths}")
    return arrays


def _checked(details: Any, x: Any) -> np.ndarray:
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


def _value(interpreter: Any, details: dict[str, Any]) -> np.ndarray:
    value = interpreter.get_tensor(details["index"])
    scale, zero_point = details["quantization"]
    if not np.issubdtype(value.dtype, np.integer) or scale == 0.0:
        return np.asarray(value, "float32")
    return (value.astype("float32") - zero_point) * np.float32(scale)
