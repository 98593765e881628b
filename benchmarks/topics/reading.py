"""Reading gates and judging them, beside running the same samples."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

import keras_se
from benchmarks.harness import plots as drawing
from benchmarks.harness import tables as tabled
from benchmarks.harness.results import Comparison, Topic
from benchmarks.harness.timing import QUICK_ROUNDS, ROUNDS, Work
from benchmarks.harness.timing import measure as timed
from benchmarks.topics import litert
from benchmarks.topics.surgery import copied
from keras_se import SEBlock
from keras_se.display.text import Part
from keras_se.litert.gates import GateReader
from keras_se.litert.runtime import Runner

TITLE = "Reading gates and verify"
ABOUT = (
    "The network of the files above with SEBlocks whose gates vary, 256 samples. `GateReader` "
    "holds a loaded file; `read_gates` begins with its bytes, and so does *file alone*, the bare "
    "interpreter. A first `predict` and `read_gates` of a model trace it anew in each round, as a "
    "script does once. `verify` is compared with what it cannot do without: a first `predict` of "
    "the model and running the file."
)
SAMPLES = 256
ALONE, LOADED, PREDICT = "file alone", "file alone, loaded", "first predict"


def network(side: int) -> Any:
    """Four sites whose gates move."""
    keras.utils.set_random_seed(0)
    wide = keras.initializers.RandomNormal(stddev=1.5)
    return litert.network(lambda x: SEBlock(4, kernel_initializer=wide)(x), side)


def twin(model: Any) -> Any:
    """The same model, not traced yet."""
    copy = copied(model)
    copy.compile(jit_compile=False)
    return copy


def of_file(name: str, tflite: bytes, x: Any, rounds: int) -> Comparison:
    """Reading a file, loaded and not."""
    runner, reader = Runner(tflite), GateReader(tflite)
    outputs = list(runner.outputs.values())
    works = {
        LOADED: Work(lambda: list(runner.read(x, outputs))),
        "GateReader": Work(lambda: list(reader.read(x))),
        ALONE: Work(lambda: Runner(tflite).run(x)),
        "read_gates": Work(lambda: keras_se.read_gates(tflite, x)),
    }
    return Comparison.of(f"gates of a file, {name}", timed(works, rounds), LOADED)


def of_verdict(name: str, model: Any, tflite: bytes, x: Any, rounds: int) -> Comparison:
    """A verdict on a file."""

    def least(copy: Any) -> None:
        copy.predict(x, verbose=0)
        Runner(tflite).run(x)

    works = {
        "first predict, file alone": Work(least, prepare=lambda: twin(model)),
        "verify": Work(
            lambda copy: keras_se.verify(copy, tflite, x, progress=False),
            prepare=lambda: twin(model),
        ),
    }
    return Comparison.of(f"verify, {name}", timed(works, rounds), "first predict, file alone")


def measure(quick: bool) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures models and files of two formats."""
    rounds, side = (QUICK_ROUNDS, 16) if quick else (ROUNDS, 64)
    model, samples = network(side), 64 if quick else SAMPLES
    rng = np.random.default_rng(0)
    x = rng.random((samples + 100, side, side, 3)) * rng.uniform(0.2, 1, (samples + 100, 1, 1, 3))
    x = x.astype("float32")
    held_out, calibration = x[:samples], x[samples:]
    works = {
        PREDICT: Work(lambda m: m.predict(held_out, verbose=0), prepare=lambda: twin(model)),
        "read_gates": Work(lambda m: keras_se.read_gates(m, held_out), prepare=lambda: twin(model)),
    }
    comparisons = [Comparison.of("gates of a model", timed(works, rounds), PREDICT)]
    for name in ("float32", "int8"):
        tflite = keras_se.to_tflite(model, name, calibration)
        comparisons.append(of_file(name, tflite, held_out, rounds))
        comparisons.append(of_verdict(name, model, tflite, held_out, rounds))
    return tuple(comparisons), ()


def finding(topic: Topic) -> str:
    """What reading and a verdict cost."""
    said = [
        f"{name} {tabled.words(comparison.ratio(name))} ({comparison.name})"
        for comparison in topic.comparisons
        for name in comparison.names
        if name in ("GateReader", "verify")
        or (name == "read_gates" and comparison.name == "gates of a model")
    ]
    return f"Time over that of running the same samples: {tabled.listed(said)}."


def tables(topic: Topic) -> Iterator[Part]:
    """A table for each comparison."""
    for comparison in topic.comparisons:
        yield from tabled.of_comparison(comparison)


def plots(topic: Topic) -> Iterator[drawing.Plot]:
    """All ratios."""
    yield drawing.ratios("reading", topic.comparisons, "time over that of running the samples")
