"""Records what a probe, a TFLite file that also outputs its gates, computes on this device.

Copy this file alone to any device with NumPy and `ai-edge-litert` (or `tflite-runtime`), the probe
that `keras-se probe` wrote, and the samples to be judged on:

    python recorder.py PROBE.tflite RECORDING.npz --data SAMPLES.npz

`keras_se.verify(..., gates="RECORDING.npz")` judges the result. `keras-se record` is the same code.
"""

# It imports nothing of keras_se, and runs on Python 3.9: devices have what they have.
from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

# What runs the operators, by what LiteRT calls it.
KERNELS = {
    "default": "AUTO",  # with the CPU delegate, XNNPACK
    "builtin": "BUILTIN_WITHOUT_DEFAULT_DELEGATES",
    "reference": "BUILTIN_REF",
}
PROBE = b"keras_se_probe"  # the name of the metadata that a probe holds
NOTES = "recorder"  # the name of the array that tells where a recording was made, as JSON
_RUNTIMES = ("ai_edge_litert", "tflite_runtime")
_WARM_UP, _RUNS = 10, 50  # of the latency
_PERCENTILES = (10, 50, 90, 99)
_VECTORS = ("avx2", "avx512f", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")
_PARTS = ("_test", "", "_train")  # of the samples: those kept from training come first


class RecordingError(ValueError):
    """A probe, or samples for it, that cannot be recorded."""


def record(
    probe: bytes, x: dict[str, np.ndarray], kernels: str = "default", threads: int = 1
) -> dict[str, np.ndarray]:
    """Returns the outputs of a probe for samples, gates among them, and where that was.

    Args:
        probe: The bytes of the file that `keras_se.litert.probe` returned.
        x: Samples by the names of its inputs, shape (samples, *input shape), in the units of the
            float network; those of a single input under any name.
        kernels: `"default"`: with the CPU delegate; `"builtin"`: without; or `"reference"`.
        threads: Number of threads.

    Returns:
        Outputs by name, codes where they are quantized, shape (samples, *output shape); and under
        `"recorder"` JSON text: processor, runtime, kernels, threads, digests of probe and samples,
        and the latency of one inference in milliseconds, as percentiles.

    Raises:
        RecordingError: If there is no runtime, it does not take the probe or the samples, or the
            file is no probe.

    Example:
        >>> import keras
        >>> from keras_se import SEBlock, to_tflite
        >>> from keras_se.litert import probe
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> sorted(record(probe(to_tflite(model, "float32")), {"x": np.zeros((2, 8, 8, 4))}))
        ['gate_se_1', 'output_0', 'recorder']
    """
    package, module = _runtime()
    if kernels not in KERNELS:
        raise RecordingError(f"kernels must be one of {list(KERNELS)}. Received: {kernels!r}")
    if PROBE not in probe:
        raise RecordingError(
            "Recording needs a probe, the twin of a file that also outputs its gates. "
            f"Received: {len(probe)} bytes that are none. "
            "Make it first with: keras-se probe FILE.tflite PROBE.tflite"
        )
    try:
        interpreter = module.Interpreter(
            model_content=probe,
            num_threads=threads,
            experimental_op_resolver_type=getattr(module.OpResolverType, KERNELS[kernels]),
        )
        interpreter.allocate_tensors()
        inputs, outputs = (_by_name(interpreter, kind) for kind in ("input", "output"))
        samples = _samples(inputs, x)
        arrays, milliseconds = _run(interpreter, inputs, outputs, samples)
    except (RuntimeError, KeyError, IndexError, TypeError) as error:
        raise RecordingError(
            f"A probe must run in {package}. Received: {len(probe)} bytes; the runtime says: "
            f"{str(error).strip()}"
        ) from error
    found = np.percentile(milliseconds, _PERCENTILES)
    notes = {
        "schema": 1,
        "processor": processor(),
        "runtime": f"{package.replace('_', '-')} {importlib.metadata.version(package)}",
        "kernels": kernels,
        "threads": threads,
        "file": hashlib.sha256(probe).hexdigest(),
        "samples": digest(samples),
        "latency": {f"p{p}": float(found[n]) for n, p in enumerate(_PERCENTILES)},
        "runs": len(milliseconds),
    }
    return {**arrays, NOTES: np.array(json.dumps(notes).encode())}


def processor() -> str:
    """Describes this machine in one line: board or processor, and vector instructions."""
    name = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.processor() or platform.system()}, {name}"
    about = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    with contextlib.suppress(OSError):  # only boards have it
        about = [Path("/proc/device-tree/model").read_text().strip("\0 \n")]
    words = set(" ".join(lines).split())
    machine = " ".join([name, *(vector for vector in _VECTORS if vector in words)])
    return ", ".join([*about[:1], machine])


def digest(samples: dict[str, np.ndarray]) -> str:
    """Returns a digest of samples, whatever the order of their names."""
    found = hashlib.sha256()
    for name in sorted(samples):
        array = np.ascontiguousarray(samples[name], "<f4")
        found.update(str(array.shape).encode() + array.tobytes())
    return found.hexdigest()


def _runtime() -> tuple[str, Any]:
    for package in _RUNTIMES:
        try:
            return package, importlib.import_module(f"{package}.interpreter")
        except ImportError:
            continue
    raise RecordingError(
        f"Recording needs a runtime. Received: none of {list(_RUNTIMES)}. "
        "Install one with: pip install ai-edge-litert"
    )


def _by_name(interpreter: Any, kind: str) -> dict[str, Any]:
    if len(interpreter.get_signature_list()) == 1:
        runner = interpreter.get_signature_runner()
        return dict(getattr(runner, f"get_{kind}_details")())
    found = getattr(interpreter, f"get_{kind}_details")()
    return {details["name"]: details for details in found}


def _samples(inputs: dict[str, Any], x: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns samples as float32 arrays by the names of the inputs."""
    if len(inputs) == 1 and len(x) == 1:
        x = dict.fromkeys(inputs, next(iter(x.values())))
    if set(x) != set(inputs):
        raise RecordingError(f"Samples must be of the inputs {list(inputs)}. Received: {list(x)}")
    arrays = {}
    for name, details in inputs.items():
        shape, array = tuple(map(int, details["shape"]))[1:], np.asarray(x[name])
        if array.ndim == len(shape) and shape[-1:] == (1,):
            array = array[..., None]  # images without an axis of channels
        if array.dtype.kind not in "bfiu" or array.shape[1:] != shape or len(array) == 0:
            raise RecordingError(
                f"Samples of {name!r} must be numbers of shape (samples, "
                f"{', '.join(map(str, shape))}). Received: {array.dtype} of shape {array.shape}"
            )
        arrays[name] = array.astype("float32")
    if len({len(array) for array in arrays.values()}) != 1:
        raise RecordingError("Samples must be as many for each input. Received: other numbers")
    return arrays


def _run(
    interpreter: Any,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    samples: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Returns each output for all samples, and milliseconds of inferences."""
    count = len(next(iter(samples.values())))
    size = int(next(iter(inputs.values()))["shape"][0])
    rows: dict[str, list[np.ndarray]] = {name: [] for name in outputs}
    milliseconds: list[float] = []
    while len(milliseconds) < max(-(-count // size), _WARM_UP + _RUNS):
        start = len(milliseconds) * size
        for name, details in inputs.items():
            at = np.minimum(np.arange(start, start + size), count - 1)  # the last one is repeated
            interpreter.set_tensor(details["index"], _codes(samples[name][at], details))
        started = time.perf_counter()
        interpreter.invoke()
        milliseconds.append(1000.0 * (time.perf_counter() - started))
        if start < count:
            for name, details in outputs.items():
                values = interpreter.get_tensor(details["index"])
                rows[name].append(values if values.shape[:1] == (size,) else values[None])
    arrays = {name: np.concatenate(values)[:count] for name, values in rows.items()}
    return arrays, milliseconds[_WARM_UP:]


def _codes(values: np.ndarray, details: Any) -> np.ndarray:
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), details["quantization"]
    if dtype.kind not in "iu" or not scale:
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.round(values / scale) + zero_point, limits.min, limits.max).astype(dtype)


def _read(path: str) -> dict[str, np.ndarray]:
    """Returns the samples of an .npz file: x_test, x or x_train, or the names of the inputs."""
    with np.load(path, allow_pickle=False) as archive:
        names = [name for name in archive.files if not name.startswith("y")]
        for part in _PARTS:
            others = tuple(other for other in _PARTS if other and other != part)
            found = [name for name in names if name.endswith(part) and not name.endswith(others)]
            if found:
                return {name[: len(name) - len(part)]: archive[name] for name in found}
    raise RecordingError(f"Data must hold x_test or x. Received: {sorted(archive.files)}")


def main() -> None:
    """Records a probe, and writes an .npz file."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("probe", metavar="PROBE.tflite")
    parser.add_argument("out", metavar="RECORDING.npz")
    parser.add_argument("--data", required=True, help="FILE.npz with x_test, or x.")
    parser.add_argument("--kernels", choices=list(KERNELS), default="default")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    try:
        probe, x = Path(given.probe).read_bytes(), _read(given.data)
        arrays = record(probe, x, given.kernels, given.threads)
    except (OSError, ValueError) as error:
        sys.exit(f"Error: {error}")
    # Written whole or not at all.
    part = Path(f"{given.out}.part")
    members: dict[str, Any] = dict(arrays)
    with part.open("wb") as file:
        np.savez(file, **members)
    os.replace(part, given.out)
    sys.stdout.write(f"{given.out}: {arrays[NOTES].item().decode()}\n")


if __name__ == "__main__":
    main()
