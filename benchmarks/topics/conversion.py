"""Making a TFLite file, beside TensorFlow's converter and Keras's export."""

from collections.abc import Iterator

import numpy as np

import keras_se
from benchmarks.harness import plots as drawing
from benchmarks.harness import tables as tabled
from benchmarks.harness.results import Comparison, Topic
from benchmarks.harness.timing import QUICK_ROUNDS, ROUNDS, Work
from benchmarks.harness.timing import measure as timed
from benchmarks.peers import layers
from benchmarks.topics import litert
from keras_se.display.text import Part

TITLE = "Conversion"
ABOUT = (
    "The network of the files above with SEBlocks. `to_tflite` also checks the calibration, loads "
    "and runs the file, and compares it with the model; the others do not."
)
CONVERTER, OWN = "converter", "to_tflite"


def measure(quick: bool) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures float32 and int8."""
    rounds, side = QUICK_ROUNDS if quick else ROUNDS, 16 if quick else litert.SIDE
    model = litert.network(layers.se_block, side)
    layers.with_same_weights({"": model})
    shape = (litert.CALIBRATION, side, side, 3)
    samples = np.random.default_rng(0).normal(size=shape).astype("float32")
    float32 = {
        CONVERTER: Work(lambda: litert.by_converter(model)),
        OWN: Work(lambda: keras_se.to_tflite(model, "float32", progress=False)),
        "export": Work(lambda: litert.by_export(model)),
    }
    int8 = {
        CONVERTER: Work(lambda: litert.by_converter(model, samples)),
        OWN: Work(lambda: keras_se.to_tflite(model, "int8", samples, progress=False)),
    }
    return (
        Comparison.of("float32", timed(float32, rounds), CONVERTER),
        Comparison.of("int8, 100 samples", timed(int8, rounds), CONVERTER),
    ), ()


def finding(topic: Topic) -> str:
    """How to_tflite does in each format."""
    said = [f"{tabled.words(c.ratio(OWN))} in {c.name}" for c in topic.comparisons]
    return f"Time of to_tflite over that of TensorFlow's converter: {tabled.listed(said)}."


def tables(topic: Topic) -> Iterator[Part]:
    """A table a format."""
    for comparison in topic.comparisons:
        yield from tabled.of_comparison(comparison)


def plots(topic: Topic) -> Iterator[drawing.Plot]:
    """All ratios."""
    yield drawing.ratios("conversion", topic.comparisons, "time over that of the plain converter")
