"""Run a TFLite file, and read the values of its gates while it runs."""

import importlib.metadata
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_se.data import finite_float32
from keras_se.errors import InputError, MissingExtraError, import_extra
from keras_se.litert.graph import GateNode, TFLite, main_nodes, read_bytes


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


def file_precision(tflite: TFLite) -> str:
    """The coarsest type among the weights and activations of a file.

    Args:
        tflite: The bytes of the file, or its path.

    Returns:
        `"int8"`, `"float16"` or `"float32"`. A file of 16-bit activations has weights of 8 bits.

    Raises:
        InputError: If the file is not a TFLite file, or the runtime refuses it.
    """
    details = load(tflite).get_tensor_details()
    types = {d["dtype"] for d in details if d["quantization_parameters"]["scales"].size}
    if {np.int8, np.uint8, np.int16} & types:
        return "int8"
    return "float16" if any(d["dtype"] is np.float16 for d in details) else "float32"


def runtime_name() -> str:
    """What runs a file here: the runtime, its delegate, the machine and its vector instructions.

    Returns:
        A line of text.
    """
    version = importlib.metadata.version("ai-edge-litert")
    machine = " ".join([platform.machine(), *_vector_instructions()])
    return f"LiteRT {version}, default CPU delegate (XNNPACK), {machine}"


def _vector_instructions() -> list[str]:
    """Those that Linux lists of the ones for which XNNPACK has kernels."""
    try:
        listed = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    known = ("avx2", "avx512f", "avx512vnni", "amx_int8", "asimd", "asimddp", "i8mm")
    return [name for name in known if name in listed]


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


def check_loads(tflite: TFLite) -> None:
    """Loads a file in a process of its own where it might bring this one down.

    The delegate ends the process on some scales that calibration on constant data gives.

    Args:
        tflite: The bytes of the file, or its path.

    Raises:
        InputError: If that process dies.
    """
    content = read_bytes(tflite)
    if not _has_extreme_scales(content):
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(content)
        done = subprocess.run(  # noqa: S603 (our own interpreter and script)
            [sys.executable, "-c", _LOAD, str(path)], capture_output=True, check=False
        )
    if done.returncode < 0:
        raise InputError(
            "A TFLite file must load in the LiteRT runtime. "
            f"Received: a file on which it ends with signal {-done.returncode}"
        )


def _has_extreme_scales(content: bytes) -> bool:
    """Whether calibration left an integer tensor next to no range, or all there is."""
    interpreter_module: Any = import_extra("ai_edge_litert.interpreter", "litert")
    details = interpreter_module.Interpreter(model_content=content).get_tensor_details()
    scales = [d["quantization"][0] for d in details if d["dtype"] in (np.int8, np.int16)]
    return any(scale and not _LEAST_SCALE < scale < 1 / _LEAST_SCALE for scale in scales)


_LEAST_SCALE = 1e-6
_LOAD = """
import sys
from ai_edge_litert.interpreter import Interpreter
interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
interpreter.allocate_tensors()
interpreter.invoke()
"""


def run_once(tflite: TFLite) -> None:
    """Loads a file under the default interpreter and runs it once, on zeros.

    Args:
        tflite: The bytes of the file, or its path.

    Raises:
        InputError: If the runtime refuses it.
    """
    content = read_bytes(tflite)
    with _readable(content):
        inputs = _inputs(load(content))
    predict(content, {name: np.zeros(_shape(details)) for name, details in inputs.items()})


def file_gates(tflite: TFLite, x: Any) -> dict[str, np.ndarray]:
    """The gate values of every SE site of a TFLite file, read from the shipped bytes.

    On the first samples it is checked that reading changes nothing: the outputs equal those of the
    default interpreter bit for bit, and each product is its gate times its feature map.

    Args:
        tflite: The bytes of the file, or its path.
        x: As for `predict`.

    Returns:
        By site name, a float32 array of shape (samples, channels), dequantized where the file is
        quantized. Empty if there is no site.

    Raises:
        InputError: If the file cannot be run, `x` does not fit its inputs, or reading changes what
            the file computes.
    """
    rows: dict[str, list[np.ndarray]] = {}
    for readings in read_sites(tflite, x):
        for name, reading in readings.items():
            rows.setdefault(name, []).append(reading.gates)
    return {name: np.concatenate(values) for name, values in rows.items()}


@dataclass(frozen=True)
class Reading:
    """What a file computed at one SE site, for some samples.

    Attributes:
        gates: Float32, shape (samples, channels).
        features: The gated maps, float32, shape (samples, *map shape); `None` if not asked for.
    """

    gates: np.ndarray
    features: np.ndarray | None


def read_sites(tflite: TFLite, x: Any, features: bool = False) -> Iterator[dict[str, Reading]]:
    """The gates of every SE site, and what they gate, some samples at a time.

    Args:
        tflite: The bytes of the file, or its path.
        x: As for `predict`.
        features: Whether to read the gated maps too.

    Yields:
        By site name, a `Reading` of up to 32 samples.

    Raises:
        InputError: As `file_gates`.
    """
    content = read_bytes(tflite)
    nodes = main_nodes(content)
    with _readable(content):
        interpreter = load(content, preserve_all_tensors=True)
        details = {d["index"]: d for d in interpreter.get_tensor_details()}
        check = _Check(load(content), interpreter, nodes, details)
        rows: list[list[tuple[np.ndarray, np.ndarray | None]]] = []
        for n, feed in enumerate(_runs(interpreter, x)):
            if n < _CHECKED:
                check(feed)
            rows.append([_site_row(interpreter, node, features) for node in nodes])
            if len(rows) == _BATCH:
                yield _readings(nodes, rows, details)
                rows = []
        if rows:
            yield _readings(nodes, rows, details)


_BATCH = 32
_CHECKED = 4  # samples on which reading is compared with plain running


def _site_row(
    interpreter: Any, node: GateNode, features: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """The gates and the map of a site, as the file has them."""
    gates = interpreter.get_tensor(node.gate_tensor)
    return gates, interpreter.get_tensor(node.feature_tensor) if features else None


def _readings(
    nodes: list[GateNode], rows: list[Any], details: dict[int, Any]
) -> dict[str, Reading]:
    readings = {}
    for node, values in zip(nodes, zip(*rows, strict=True), strict=True):
        gates, maps = zip(*values, strict=True)
        codes = np.stack(gates).reshape(len(gates), node.site.channels)
        features = None
        if maps[0] is not None:
            features = _dequantized(np.concatenate(maps), details[node.feature_tensor])
        readings[node.site.name] = Reading(_dequantized(codes, details[node.gate_tensor]), features)
    return readings


class _Check:
    """Compares a run whose tensors are kept with one of the default interpreter."""

    def __init__(
        self, plain: Any, kept: Any, nodes: list[GateNode], details: dict[int, Any]
    ) -> None:
        self._plain, self._kept, self._nodes, self._details = plain, kept, nodes, details

    def __call__(self, feed: dict[int, np.ndarray]) -> None:
        for index, value in feed.items():
            self._plain.set_tensor(index, value)
        self._plain.invoke()
        for output in self._plain.get_output_details():
            wanted, found = (i.get_tensor(output["index"]) for i in (self._plain, self._kept))
            if wanted.tobytes() != found.tobytes():
                raise InputError(
                    "Reading gates must not change what a file computes. Received: a file whose "
                    f"output {output['name']!r} differs when its tensors are kept"
                )
        for node in self._nodes:
            self._check_product(node)

    def _check_product(self, node: GateNode) -> None:
        gate, feature, product = (
            _value(self._kept, self._details[index])
            for index in (node.gate_tensor, node.feature_tensor, node.product_tensor)
        )
        expected = np.clip(gate * feature, *_limits(self._details[node.product_tensor]))
        if not np.isfinite(expected).all():
            return  # there is no saying what NaN times a map is; the verdict speaks of it
        step = self._details[node.product_tensor]["quantization"][0]
        tolerance = 1.01 * step if step else 1e-5 * max(1.0, float(np.abs(expected).max()))
        fused = (expected, np.maximum(expected, 0.0), np.clip(expected, 0.0, 6.0))
        error = min(float(np.abs(product - values).max()) for values in fused)
        if error > tolerance:
            raise InputError(
                "The product of an SE site must be its gate times its feature map. Received: "
                f"site {node.site.name} with a difference of {error:.3g}"
            )


def _limits(details: dict[str, Any]) -> tuple[float, float]:
    """The least and the largest value that a tensor can hold."""
    dtype, (scale, zero_point) = details["dtype"], details["quantization"]
    if not np.issubdtype(dtype, np.integer) or scale == 0.0:
        return -np.inf, np.inf
    limits = np.iinfo(dtype)
    return (limits.min - zero_point) * scale, (limits.max - zero_point) * scale


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


def _runs(interpreter: Any, x: Any) -> Iterator[dict[int, np.ndarray]]:
    """Invokes the interpreter for each sample of `x` in turn; yields what it was fed, by index."""
    inputs = _inputs(interpreter)
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
    given = _renamed(inputs, x)
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


def _renamed(inputs: Mapping[str, Any], x: Any) -> Any:
    """Samples under the names of the file's inputs, which other converters call otherwise."""
    if not isinstance(x, Mapping):
        return dict.fromkeys(inputs, x) if len(inputs) == 1 else x
    if set(x) == set(inputs) or len(x) != len(inputs):
        return x
    shapes = {name: np.shape(array)[1:] for name, array in x.items()}
    found = {
        name: [key for key, shape in shapes.items() if shape == _shape(details)[1:]]
        for name, details in inputs.items()
    }
    if len(x) > 1 and any(len(keys) != 1 for keys in found.values()):
        return x  # shapes do not tell which is which
    keys = [*x] if len(x) == 1 else [key for (key,) in found.values()]
    return {name: x[key] for name, key in zip(inputs, keys, strict=True)}


def _checked(details: Any, x: Any) -> np.ndarray:
    expected, samples = _shape(details), finite_float32("x", _numbers(x))
    if expected[:1] != (1,) or samples.shape[1:] != expected[1:] or len(samples) == 0:
        raise InputError(
            f"x must have the shape (samples, {', '.join(map(str, expected[1:]))}) and the file a "
            f"batch of 1. Received: x of shape {samples.shape}, a file for {expected}"
        )
    return samples


def _numbers(x: Any) -> Any:
    """Truth values as 0 and 1; all else as it is."""
    return np.asarray(x, "uint8") if getattr(x, "dtype", None) == np.bool_ else x


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
    return _dequantized(interpreter.get_tensor(details["index"]), details)


def _dequantized(value: np.ndarray, details: dict[str, Any]) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if not np.issubdtype(value.dtype, np.integer) or scale == 0.0:
        return np.asarray(value, "float32")
    return (value.astype("float32") - zero_point) * np.float32(scale)
