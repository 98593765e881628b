"""Runs a TFLite file, and reads its gates while it runs."""

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
from keras_se.litert.graph.sites import GateNode, TFLite, main_nodes, read_bytes


def load(tflite: TFLite, preserve_all_tensors: bool = False) -> Any:
    """Returns an interpreter for a TFLite file, with allocated tensors."""
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
    """Returns the shape of one sample of each input of a TFLite file, by name."""
    return {name: _shape(details)[1:] for name, details in _inputs(load(tflite)).items()}


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
    """Loads a file in a subprocess if it could crash this process."""
    content = read_bytes(tflite)
    # XNNPACK kills the process on some scales that calibration on constant data gives.
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


def _has_extreme_scales(content: bytes) -> bool:
    """Whether calibration gave an integer tensor a very small or very large scale."""
    interpreter_module: Any = import_extra("ai_edge_litert.interpreter", "litert")
    # Do not call `allocate_tensors` here: it may crash, as XNNPACK prepares the file there.
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
    """Runs a file once, on zeros."""
    content = read_bytes(tflite)
    with _readable(content):
        inputs = _inputs(load(content))
    predict(content, {name: np.zeros(_shape(details)) for name, details in inputs.items()})


def file_gates(tflite: TFLite, x: Any) -> dict[str, np.ndarray]:
    """Returns the gates of each SE site of a TFLite file, as (samples, channels) arrays."""
    rows: dict[str, list[np.ndarray]] = {}
    for readings in read_sites(tflite, x):
        for name, reading in readings.items():
            rows.setdefault(name, []).append(reading.gates)
    return {name: np.concatenate(values) for name, values in rows.items()}


@dataclass(frozen=True)
class Reading:
    """Values at one SE site of a file, for some samples.

    Attributes:
        gates: Float32, shape (samples, channels).
        features: The gated maps, float32, shape (samples, *map shape); `None` if not requested.
    """

    gates: np.ndarray
    features: np.ndarray | None


def read_sites(tflite: TFLite, x: Any, features: bool = False) -> Iterator[dict[str, Reading]]:
    """Yields the gates of each SE site, and its maps if requested, up to 32 samples at a time."""
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
_CHECKED = 4  # samples on which to compare with a plain run


def _site_row(
    interpreter: Any, node: GateNode, features: bool
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the gates and the map of a site, not dequantized."""
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
    """Checks that preserved tensors leave the outputs unchanged and that products are gated."""

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
            # As bytes, because NaN does not equal NaN.
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
        # Integer products saturate.
        expected = np.clip(gate * feature, *_limits(self._details[node.product_tensor]))
        if not np.isfinite(expected).all():
            return  # NaN fits no tolerance; the verdict reports it
        step = self._details[node.product_tensor]["quantization"][0]
        tolerance = 1.01 * step if step else 1e-5 * max(1.0, float(np.abs(expected).max()))
        # The converter may fuse a ReLU or ReLU6 into the product.
        fused = (expected, np.maximum(expected, 0.0), np.clip(expected, 0.0, 6.0))
        error = min(float(np.abs(product - values).max()) for values in fused)
        if error > tolerance:
            raise InputError(
                "The product of an SE site must be its gate times its feature map. Received: "
                f"site {node.site.name} with a difference of {error:.3g}"
            )


def _limits(details: dict[str, Any]) -> tuple[float, float]:
    """Returns the smallest and largest value that a tensor can hold."""
    dtype, (scale, zero_point) = details["dtype"], details["quantization"]
    if not np.issubdtype(dtype, np.integer) or scale == 0.0:
        return -np.inf, np.inf
    limits = np.iinfo(dtype)
    return (limits.min - zero_point) * scale, (limits.max - zero_point) * scale


@contextmanager
def _readable(content: bytes) -> Iterator[None]:
    """Converts errors of the runtime to `InputError`."""
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
    """Invokes the interpreter on each sample of `x`; yields its inputs by tensor index."""
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
    """Returns the details of the inputs by name."""
    # Signature names are those of the user; tensor names are made up by the converter.
    if len(interpreter.get_signature_list()) == 1:
        return dict(interpreter.get_signature_runner().get_input_details())
    return {details["name"]: details for details in interpreter.get_input_details()}


def _outputs(interpreter: Any) -> dict[str, Any]:
    """Returns the details of the outputs by name."""
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
    expected, samples = _shape(details), finite_float32("x", _numbers(x))
    if expected[:1] != (1,) or samples.shape[1:] != expected[1:] or len(samples) == 0:
        raise InputError(
            f"x must have the shape (samples, {', '.join(map(str, expected[1:]))}) and the file a "
            f"batch of 1. Received: x of shape {samples.shape}, a file for {expected}"
        )
    return samples


def _numbers(x: Any) -> Any:
    """Converts boolean arrays to 0 and 1."""
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
