"""What a conversion costs against Keras's own export; every figure a ratio taken in one run."""

import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import keras
from rich.console import Console
from rich.table import Table

import keras_se

RUNS = 5


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def network() -> keras.Model:
    """A small network with SE; its first conversion is dearer, so that it is not timed."""
    model = keras.applications.MobileNetV3Small(weights=None, input_shape=(96, 96, 3))
    return keras_se.adopt(model)


def export(model: keras.Model) -> None:
    """Keras's export of the same model, for a batch of one."""
    signature = [keras.InputSpec(shape=(1, 96, 96, 3), dtype="float32")]
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = str(Path(folder, "model.tflite"))
        model.export(path, format="litert", verbose=False, input_signature=signature)


def main() -> None:
    """Prints the table."""
    model = network()
    keras_se.to_tflite(model, "float32")
    export(model)
    ratios = [
        seconds(lambda: keras_se.to_tflite(model, "float32")) / seconds(lambda: export(model))
        for _ in range(RUNS)
    ]
    table = Table("float32, MobileNetV3Small", "median", "lowest", "highest", "runs")
    figures = (statistics.median(ratios), min(ratios), max(ratios))
    table.add_row("to_tflite / Model.export", *(f"{figure:.2f}" for figure in figures), str(RUNS))
    Console().print(table)


if __name__ == "__main__":
    main()
