"""What is made of networks that others wrote, every weight randomized.

    python benchmarks/networks.py insert | adopt [NAME ...]    surgery on keras.applications
    python benchmarks/networks.py others [NAME ...] [--quick] [--json FILE]    SE in many packages

`others` compares what `keras_se` finds, reads, adopts, converts and judges with the gates that
`peers/others.py` takes from the packages themselves. Names may be patterns such as `kimm/*`. Each
row is measured in a process of its own and printed when it is there; what fails is a text there.
`--quick` counts the sites of the files and judges none. A deep network of random weights makes much
of little: "one ulp" tells how far the gates, and the outputs over their scale, move when each input
does by one rounding of float32. What is as small says nothing, and int8 moves by far more.
"""

import argparse
import fnmatch
import json
import multiprocessing
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from peers.others import OTHERS, images, randomize, true_gates
from rich.console import Console
from rich.table import Table

import keras_se

INSERT = {  # input size
    "ResNet50": 64,
    "ResNet50V2": 64,
    "MobileNetV2": 64,
    "DenseNet121": 32,
    "InceptionV3": 75,
    "Xception": 71,
    "VGG16": 32,
    "ConvNeXtTiny": 32,
}
ADOPT = (
    *("MobileNetV3Small", "MobileNetV3Large"),
    *(f"EfficientNetB{n}" for n in range(8)),
    *(f"EfficientNetV2{n}" for n in ("B0", "B1", "B2", "B3", "S", "M", "L")),
)


def network(name: str, size: int) -> keras.Model:
    """A network of `keras.applications` with logits, every weight randomized."""
    model = getattr(keras.applications, name)(
        weights=None, input_shape=(size, size, 3), classes=10, classifier_activation=None
    )
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Normalization):
            for variable in layer.weights:
                variable.assign(weight(rng, layer, variable))
    return model


def weight(rng: np.random.Generator, layer: Any, variable: Any) -> np.ndarray:
    """Random values that keep activations finite: statistics and layer scale included."""
    shape, name = variable.shape, variable.path.split("/")[-1]
    if "variance" in name or name == "gamma":
        return rng.uniform(0.5, 1.5, shape)
    if len(shape) < 2:
        return 0.2 * rng.normal(size=shape)
    is_depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    fan_in = np.prod(shape[:2] if is_depthwise else shape[:-1])
    return rng.normal(size=shape) * np.sqrt(2 / fan_in)


def eager(model: keras.Model, x: np.ndarray) -> np.ndarray:
    """The logits, layer by layer."""
    return keras.ops.convert_to_numpy(model(x, training=False))


def predicted(model: keras.Model, x: np.ndarray, jit_compile: bool) -> np.ndarray:
    """The logits of `predict`."""
    model.compile(jit_compile=jit_compile)
    return np.asarray(model.predict(x, verbose=0))


def insert_row(name: str, size: int) -> list[str]:
    """The largest differences after `insert`, over the scale of the logits."""
    model = network(name, size)
    x = np.random.default_rng(1).uniform(0, 2.55, (2, size, size, 3)).astype("float32")
    new = keras_se.insert(model)
    expected = eager(model, x)
    scale = np.abs(expected).max()
    row = [name, str(len(keras_se.find_sites(new))), f"{error(eager(new, x), expected, scale):.1e}"]
    for jit_compile in (False, True):
        old, values = (predicted(m, x, jit_compile) for m in (model, new))
        row += [f"{error(values, old, scale):.1e}", f"{error(old, expected, scale):.1e}"]
    back = keras_se.remove(new)
    row.append(f"{error(eager(back, x), expected, scale):.1e}")
    changed = keras_se.insert(model, gate="sigmoid", identity_init=False)
    return [*row, f"{error(eager(changed, x), expected, scale):.1e}"]


def adopt_row(name: str) -> list[str]:
    """The sites that are written out, those adopted, and the largest difference."""
    model = network(name, 32)
    x = np.random.default_rng(1).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    sites, new = keras_se.find_sites(model), keras_se.adopt(model)
    expected = eager(model, x)
    scale = np.abs(expected).max()
    difference = error(eager(new, x), expected, scale)
    control = error(eager(keras_se.remove(new), x), expected, scale)
    blocks = [site for site in keras_se.find_sites(new) if site.source == "SEBlock"]
    gates = "/".join(sorted({site.gate for site in sites}))
    same = "equal" if new.count_params() == model.count_params() else "differ"
    figures = (f"{difference:.1e}", f"{control:.1e}")
    return [name, str(len(sites)), str(len(blocks)), gates, *figures, same]


def error(values: np.ndarray, expected: np.ndarray, scale: float) -> float:
    """The largest difference over `scale`."""
    return float(np.abs(values - expected).max() / scale)


COLUMNS = (
    *("network", "sites", "found", "missed", "false", "gates", "one ulp", "adopted", "difference"),
    *("outputs, one ulp", "float32", "int8", "find/build", "read/predict", "notes"),
)
Row = dict[str, str]


@dataclass(frozen=True)
class Case:
    """A network of another package with its true gates for `x`."""

    model: keras.Model
    building: float  # seconds
    x: np.ndarray
    gates: list[np.ndarray]
    nudged: list[np.ndarray]  # for inputs that are the next numbers of float32
    judges: bool


def timed(function: Callable, *arguments: Any, **options: Any) -> tuple[Any, float]:
    """What a function returns, and its seconds."""
    started = time.perf_counter()
    result = function(*arguments, **options)
    return result, time.perf_counter() - started


def found(case: Case) -> Row:
    """The number of sites, and the time to find them first over that to build the model."""
    sites, seconds = timed(keras_se.find_sites, case.model)
    return {"found": str(len(sites)), "find/build": f"{seconds / case.building:.2f}"}


def gates(case: Case) -> Row:
    """The gates that are read against the true ones."""
    _, predicting = timed(case.model.predict, case.x, verbose=0)
    read, reading = timed(keras_se.read_gates, case.model, case.x)
    differences = []
    for expected in case.gates:
        errors = {
            name: float(np.abs(values - expected).max())
            for name, values in read.items()
            if values.shape == expected.shape
        }
        nearest = min(errors, key=errors.__getitem__, default=None)
        if nearest is not None and errors[nearest] < 1e-3:
            differences.append(errors[nearest])
            del read[nearest]
    return {
        "missed": str(len(case.gates) - len(differences)),
        "false": str(len(read)),
        "gates": f"{max(differences):.0e}" if differences else "",
        "one ulp": f"{largest(case.gates, case.nudged):.0e}" if case.gates else "",
        "read/predict": f"{reading / predicting:.2f}",
    }


def adopted(case: Case) -> Row:
    """How many sites become SEBlocks, and the largest difference over the scale of the outputs."""
    if not case.gates:
        return {}
    new = keras_se.adopt(case.model)
    blocks = sum(site.source == "SEBlock" for site in keras_se.find_sites(new))
    expected = outputs(case.model, case.x)
    difference, moved = (
        max(error(value, want, np.abs(want).max()) for value, want in zip(y, expected, strict=True))
        for y in (outputs(new, case.x), outputs(case.model, nudged(case.x)))
    )
    return {
        "adopted": str(blocks),
        "difference": f"{difference:.0e}",
        "outputs, one ulp": f"{moved:.0e}",
    }


def outputs(model: keras.Model, x: np.ndarray) -> list[np.ndarray]:
    """The outputs, layer by layer."""
    return [keras.ops.convert_to_numpy(y) for y in keras.tree.flatten(model(x, training=False))]


def nudged(x: np.ndarray) -> np.ndarray:
    """Each number by one rounding larger."""
    return np.nextafter(x, np.float32(np.inf))


def largest(expected: list[np.ndarray], values: list[np.ndarray]) -> float:
    """The largest difference of arrays."""
    return max(float(np.abs(a - b).max()) for a, b in zip(expected, values, strict=True))


def float32(case: Case) -> Row:
    """The sites of the file, and whether it passes."""
    return {"float32": judged(case, keras_se.to_tflite(case.model, "float32"))}


def int8(case: Case) -> Row:
    """The sites of the file, and whether it passes."""
    data = images(case.model, 128, seed=2)
    # The statistics of BatchNormalization are random, too.
    file = keras_se.to_tflite(case.model, "int8", data, check_range=False)
    return {"int8": judged(case, file)}


def judged(case: Case, file: bytes) -> str:
    """The number of sites in a file and the verdict on it."""
    sites = len(keras_se.find_sites(file))
    if not case.judges or (not case.gates and not sites):
        return str(sites)
    try:
        report = keras_se.verify(case.model, file, case.x)
    except Exception as failure:  # the number of sites is known nevertheless
        return f"{sites}; {reason(failure)}"
    verdicts = Counter(site.verdict for site in report.sites.values())
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    kept = "" if report.work_kept is None else f", W {report.work_kept:.2f}"
    return f"{sites} {'passed' if report.passed else 'failed'}: {said}{kept}"


def reason(failure: Exception) -> str:
    """An exception in short."""
    text = " ".join(str(failure).replace("|", "/").split())
    return f"{type(failure).__name__}: {text[:160]}"


def other_row(name: str, judges: bool) -> Row:
    """The figures of a network of another package."""
    row, other = {"network": name}, OTHERS[name]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", keras_se.errors.SiteWarning)
        try:
            other.build()  # imports the package
            model, building = timed(other.build)
            randomize(model, images(model, 32, seed=0))
            x = images(model, 40, seed=1)
            true, moved = (true_gates(other, model, inputs) for inputs in (x, nudged(x)))
            case = Case(model, building, x, true, moved, judges)
        except Exception as failure:
            return row | {"notes": f"not built: {reason(failure)}"}
        row["sites"] = str(len(case.gates))
        for step in (found, gates, adopted, float32, int8):
            try:
                row |= step(case)
            except Exception as failure:
                row[step.__name__] = reason(failure)
    said = {str(w.message) for w in caught if w.category is keras_se.errors.SiteWarning}
    return row | {"notes": " ".join(" ".join(sorted(said)).replace("|", "/").split())}


def others(patterns: Sequence[str], judges: bool, path: Path | None) -> None:
    """Prints the table of other people's networks, and writes it as JSON."""
    names = [name for name in OTHERS if any(fnmatch.fnmatch(name, p) for p in patterns or "*")]
    print(f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}", sep="\n")
    rows = []
    for name in names:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as process:
            try:
                row = process.submit(other_row, name, judges).result()
            except Exception as failure:  # the process itself died
                row = {"network": name, "notes": reason(failure)}
        rows.append(row)
        print(f"| {' | '.join(row.get(column, '') for column in COLUMNS)} |", flush=True)
        if path is not None:
            path.write_text(json.dumps(rows, indent=1))


def main() -> None:
    """Prints the table that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("what", nargs="?", default="insert", choices=("insert", "adopt", "others"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    names = arguments.names
    if arguments.what == "others":
        others(names, not arguments.quick, arguments.json)
        return
    if arguments.what == "adopt":
        columns = ("network", "inline", "adopted", "gate", "difference", "without SE", "parameters")
        rows = [adopt_row(name) for name in names or ADOPT]
    else:
        columns = (
            *("network", "sites", "eager", "predict", "its own", "predict, jit", "its own"),
            *("removed", "not identity"),
        )
        rows = [insert_row(name, INSERT[name]) for name in names or INSERT]
        print("its own: eager against predict of the original, without SE")
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
