"""Networks of each peer as TFLite files: as its users get them, and by to_tflite."""

import contextlib
import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_se
from benchmarks.harness import plots as drawing
from benchmarks.harness import tables as tabled
from benchmarks.harness.results import Comparison, Topic
from benchmarks.harness.timing import QUICK_ROUNDS, ROUNDS, Work
from benchmarks.harness.timing import measure as timed
from benchmarks.peers import layers
from keras_se.display.text import Part
from keras_se.litert.devices.delegation import delegation
from keras_se.litert.runtime import Runner
from keras_se.stderr import capture_stderr

TITLE = "Files for LiteRT"
ABOUT = (
    "A network with four SE sites on maps of 64x64x32 and smaller, one thread, batch 1. "
    "*converter* is `tf.lite.TFLiteConverter.from_keras_model(model)`, int8 with "
    '`Optimize.DEFAULT` and 100 samples; *export* is `model.export(format="litert")`. Both leave '
    "the batch open, as they do for a user who says no more. Operators and partitions are those of "
    "the file and of XNNPACK, LiteRT's default delegate; between two partitions tensors leave it."
)
SIDE, CALIBRATION = 64, 100
BASELINE = f"{layers.SE_BLOCK}, to_tflite"


def network(layer: Callable[[Any], Any], side: int = SIDE) -> Any:
    """Four sites."""
    x = inputs = keras.Input((side, side, 3))
    for strides in (1, 1, 2, 2):
        x = keras.layers.Conv2D(32, 3, strides=strides, padding="same", activation="relu")(x)
        x = layer(x)
    return keras.Model(inputs, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))


def by_converter(model: Any, samples: Any = None) -> bytes:
    """The plain converter, for int8 if there are samples."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if samples is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([row[None]] for row in samples)
    with quiet():
        return bytes(converter.convert())


def by_export(model: Any) -> bytes:
    """Keras's own export."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        path = Path(folder, "model.tflite")
        model.export(str(path), format="litert", verbose=False)
        return path.read_bytes()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps what converters print out of the tables."""
    with contextlib.redirect_stdout(io.StringIO()), capture_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def files(models: dict[str, Any], samples: Any, int8: bool) -> dict[str, bytes]:
    """Every file of a format, by name."""
    found = {}
    for name, model in models.items():
        calibration = samples if int8 else None
        if name != layers.NONE:
            found[f"{name}, converter"] = by_converter(model, calibration)
            if not int8:
                found[f"{name}, export"] = by_export(model)
        format = "int8" if int8 else "float32"
        found[f"{name}, to_tflite"] = keras_se.to_tflite(model, format, calibration)
    return found


def measure(quick: bool) -> tuple[tuple[Comparison, ...], tuple[str, ...]]:
    """Measures the files of each format."""
    peers, missing = layers.available()
    side = 16 if quick else SIDE
    models = {name: network(layer, side) for name, layer in peers.items()}
    layers.with_same_weights(models)
    models[layers.NONE] = network(layers.nothing, side)
    samples = np.random.default_rng(0).normal(size=(CALIBRATION, side, side, 3)).astype("float32")
    comparisons = []
    for int8 in (False, True):
        made = files(models, samples, int8)
        seconds = timed(
            {n: Work(inference(f, samples)) for n, f in made.items()},
            QUICK_ROUNDS if quick else 2 * ROUNDS,
        )
        known = {name: facts(content) for name, content in made.items()}
        name = "int8" if int8 else "float32"
        comparisons.append(Comparison.of(name, seconds, BASELINE, facts=known))
    return tuple(comparisons), missing


def inference(tflite: bytes, x: Any) -> Callable[[], object]:
    """A call of the interpreter alone."""
    runner = Runner(tflite)
    runner.run({name: array[: runner.batch] for name, array in runner.arranged(x).items()})
    return lambda: runner.interpreter.invoke()


def facts(tflite: bytes) -> dict[str, Any]:
    """Operators and partitions."""
    found = delegation(tflite)
    return {
        "operators": len(found.operators),
        "partitions": found.partitions,
        "undelegated": len(found.delegated) - sum(found.delegated),
    }


def finding(topic: Topic) -> str:
    """The files that need more than ours, and what the converter alone costs."""
    said = []
    for comparison in topic.comparisons:
        own = comparison[BASELINE].facts
        split = [v.name for v in comparison.variants if v.facts["partitions"] > own["partitions"]]
        users = [name for name in comparison.names if not name.endswith("to_tflite")]
        ratios = {name: comparison.ratio(name) for name in users}
        least, most = (choose(users, key=lambda n: ratios[n].median) for choose in (min, max))
        said.append(
            f"In {comparison.name} SEBlock by to_tflite has {own['operators']} operators in "
            f"{own['partitions']} partition{'s' * (own['partitions'] != 1)}; "
            f"{len(split)} of {len(comparison.names) - 1} other files have more partitions. "
            f"Files as users get them take from {tabled.words(ratios[least])} of its time, "
            f"{least}, to {tabled.words(ratios[most])}, {most}."
        )
    return " ".join(said)


def tables(topic: Topic) -> Iterator[Part]:
    """A table a format."""
    for comparison in topic.comparisons:
        yield from tabled.of_comparison(comparison, ("operators", "partitions", "undelegated"))


def plots(topic: Topic) -> Iterator[drawing.Plot]:
    """The ratios of all files."""
    yield drawing.ratios("litert", topic.comparisons, f"latency over that of {BASELINE}")
