"""What reading gates and a verdict cost against running the file alone; ratios of one run each.

`read_gates` is compared with running the same samples through the file. `verify` of
EfficientNetB0 is compared with a first `predict` of the model and running the file alone, each in a
process of its own, since what is traced once is faster the second time.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_se
from keras_se import SEBlock
from keras_se.litert.gates import GateReader
from keras_se.litert.runtime import Runner, predict

RUNS, VERDICTS = 9, 5
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


def reading() -> Table:
    """Throughput with gates over that without, of files that are loaded."""
    model = network()
    x = np.random.default_rng(0).random((SAMPLES, 64, 64, 3)).astype("float32")
    table = Table("throughput: reading gates / running alone", "median", "lowest", "highest")
    for name in ("float32", "int8"):
        tflite = keras_se.to_tflite(model, name, x[:100])
        runner, reader = Runner(tflite), GateReader(tflite)
        ratios = []
        for _ in range(RUNS):
            alone = seconds(lambda r=runner: list(r.read(x, r.outputs.values())))
            ratios.append(alone / seconds(lambda r=reader: list(r.read(x))))
        table.add_row(name, *summary(ratios))
    return table


def summary(ratios: list[float]) -> list[str]:
    """Median, lowest and highest."""
    return [f"{figure:.2f}" for figure in (statistics.median(ratios), min(ratios), max(ratios))]


def verdict(name: str) -> float:
    """Seconds of `verify` over those of a first `predict` and of the file alone."""
    keras.utils.set_random_seed(0)
    model = keras.applications.EfficientNetB0(weights=None, input_shape=(96, 96, 3), classes=10)
    for variable in model.trainable_variables:
        if len(variable.shape) > 1 and "_se_" in variable.path:
            variable.assign(8.0 * variable.numpy())  # fresh gates hardly vary
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (164, 96, 96, 3)) * rng.uniform(0.2, 1.0, (164, 1, 1, 3))
    x = x.astype("float32")
    twin = keras.models.clone_model(model)
    twin.compile(jit_compile=False)
    tflite = keras_se.to_tflite(model, name, x[64:], check_range=False)
    held_out = x[:64]
    alone = seconds(lambda: predict(tflite, held_out))
    predicting = seconds(lambda: twin.predict(held_out, verbose=0))
    return seconds(lambda: keras_se.verify(model, tflite, held_out)) / (alone + predicting)


def verdicts() -> Table:
    """Each ratio in a process of its own."""
    table = Table("time: verify / (first predict + running alone)", "median", "lowest", "highest")
    context = multiprocessing.get_context("spawn")
    for name in ("float32", "int8"):
        ratios = []
        for _ in range(VERDICTS):
            with ProcessPoolExecutor(1, mp_context=context) as process:
                ratios.append(process.submit(verdict, name).result())
        table.add_row(name, *summary(ratios))
    return table


if __name__ == "__main__":
    Console().print(reading(), verdicts())
