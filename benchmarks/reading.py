"""What reading gates costs against running the file alone; ratios, each taken in one run."""

import statistics
import time
from collections.abc import Callable

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_se
from keras_se import SEBlock
from keras_se.litert.gates import file_gates
from keras_se.litert.runtime import predict

RUNS = 5
SAMPLES = 300


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def network() -> keras.Model:
    """Four SE sites on maps of 64x64x32 and smaller."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((64, 64, 3))
    for strides in (1, 1, 2, 2):
        x = keras.layers.Conv2D(32, 3, strides=strides, padding="same", activation="relu")(x)
        x = SEBlock(4)(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def main() -> None:
    """Prints the table."""
    model = network()
    x = np.random.default_rng(0).random((SAMPLES, 64, 64, 3)).astype("float32")
    table = Table("throughput: read_gates / running alone", "median", "lowest", "highest", "runs")
    for name in ("float32", "int8"):
        tflite = keras_se.to_tflite(model, name, x[:100])
        ratios = []
        for _ in range(RUNS):
            alone = seconds(lambda content=tflite: predict(content, x))
            ratios.append(alone / seconds(lambda content=tflite: file_gates(content, x)))
        figures = (statistics.median(ratios), min(ratios), max(ratios))
        table.add_row(name, *(f"{figure:.2f}" for figure in figures), str(RUNS))
    Console().print(table)


if __name__ == "__main__":
    main()
