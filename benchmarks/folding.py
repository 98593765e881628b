"""What folding does to trained networks: sites, operators, latency, accuracy.

    python benchmarks/folding.py CIFAR10.npz [--models FOLDER] [--quick]

Trains a small residual SE network (six sites, three seeds) and MobileNetV3Small at half width on
images of twice the size (nine sites, one seed), both briefly, on a part of the images; `--models`
keeps the trained models and takes those that are there. Each is folded on 512 training images with
several tolerances and judged on the test images: accuracy with the paired 95 % interval of its
change, operators and latency of the float32 and the int8 file, the cycles of the int8 file on an
Ethos-U55-128 as its compiler estimates them, whether the gates of the int8 file pass. Latencies are
ratios of medians, taken in turns in one run: folded over original.
"""

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import keras_se
from keras_se import SEBlock
from keras_se.data import load_images
from keras_se.litert import npu
from keras_se.litert.graph.flatbuffer import TFLiteModel
from keras_se.litert.runtime import Runner
from keras_se.verification.outcome import outcome

TOLERANCES = (0.01, 0.1, 0.5, math.inf)
FOLDED_ON, CALIBRATED_ON = 512, 200  # training images
ROUNDS, RUNS = 21, 30
Images = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def residual(seed: int) -> keras.Model:
    """A residual network with six SE blocks."""
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1.0)(x)
    x = _normalized(layers.Conv2D(16, 3, strides=2, padding="same", use_bias=False)(x))
    for filters, strides in ((16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        shortcut = x
        x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = _normalized(x)
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = SEBlock(8, gate="sigmoid")(layers.BatchNormalization(momentum=0.9)(x))
        if strides > 1:
            shortcut = layers.Conv2D(filters, 1, strides=strides, use_bias=False)(shortcut)
        x = layers.ReLU()(layers.Add()([x, shortcut]))
    return keras.Model(inputs, layers.Dense(10)(layers.GlobalAveragePooling2D()(x)))


def _normalized(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.ReLU()(keras.layers.BatchNormalization(momentum=0.9)(x))


def mobilenet(seed: int) -> keras.Model:
    """MobileNetV3Small of half the width, on images of twice the size."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.UpSampling2D(2, interpolation="bilinear")(inputs)
    network = keras.applications.MobileNetV3Small(
        input_tensor=x, alpha=0.5, weights=None, classes=10, classifier_activation=None
    )
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # the default needs more steps than are taken here
    return network


NETWORKS: dict[str, tuple[Callable[[int], keras.Model], range, int]] = {  # with seeds and epochs
    "residual SE": (residual, range(3), 8),
    "MobileNetV3Small": (mobilenet, range(1), 12),
}


def trained(
    build: Callable[[int], keras.Model], seed: int, data: Images, epochs: int
) -> keras.Model:
    """A trained network."""
    model, (x, y, *_) = build(seed), data
    steps = epochs * -(-len(x) // 64)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, steps)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        flipped = rng.random(len(x)) < 0.5
        images = np.where(flipped[:, None, None, None], x[:, :, ::-1], x)
        model.fit(images, y, batch_size=64, verbose=0)
    return model


def known(path: Path | None, make: Callable[[], keras.Model]) -> keras.Model:
    """A model from a file, or a new one, which the file then holds."""
    if path is not None and path.exists():
        return keras.saving.load_model(path)
    model = make()
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model


def ratio(before: bytes, after: bytes, x: np.ndarray) -> str:
    """The ratio of two latencies: median and quartiles over rounds in which both take turns."""
    runners = [Runner(file) for file in (before, after)]
    for runner in runners:
        runner.run(runner.arranged(x[:1]))  # leaves the input in the interpreter
    ratios = []
    for _ in range(ROUNDS):
        medians = [np.median([_seconds(runner) for _ in range(RUNS)]) for runner in runners]
        ratios.append(medians[1] / medians[0])
    low, median, high = np.percentile(ratios, (25, 50, 75))
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def _seconds(runner: Runner) -> float:
    started = time.perf_counter()
    runner.interpreter.invoke()
    return time.perf_counter() - started


def operators(tflite: bytes) -> int:
    """The number of operators of a file."""
    return sum(len(graph.operators) for graph in TFLiteModel.of(tflite).graphs)


def files(model: keras.Model, data: Images) -> dict[str, bytes]:
    """The float32 and the int8 file of a model."""
    calibration = data[0][-CALIBRATED_ON:]
    return {name: keras_se.to_tflite(model, name, calibration) for name in ("float32", "int8")}


def passes(model: keras.Model, tflite: bytes, data: Images) -> str:
    """Whether the gates of a file pass, and the lowest R²."""
    if not keras_se.find_sites(model):
        return "no site"
    report = keras_se.verify(model, tflite, data[2][:256], data[3][:256], progress=False)
    lowest = min((s.r2 for s in report.sites.values() if s.r2 is not None), default=math.nan)
    return f"{report.verdict} ({lowest:.2f})"


def rows(name: str, seed: int, model: keras.Model, data: Images) -> Iterator[list[str]]:
    """What each tolerance makes of a network."""
    x, _, test, labels = data
    original = files(model, data)
    logits = model.predict(test, verbose=0)
    accuracy = f"{(logits.argmax(axis=1) == labels).mean():.4f}"
    counts = [f"{operators(original[kind])}" for kind in original]
    sites = len(keras_se.find_sites(model))
    verdict = passes(model, original["int8"], data)
    cycles = npu(original["int8"]).cycles
    start = [name, str(seed), "original", f"{sites}", "-", accuracy]
    yield [*start, *counts, "-", "-", f"{cycles:,}", verdict]
    for tolerance in TOLERANCES:
        folding = keras_se.fold(model, x[:FOLDED_ON], tolerance=tolerance, progress=False)
        if not folding.folded:
            yield [name, str(seed), f"{tolerance:g}", f"{sites}", "1.000", *["as before"] * 7]
            continue
        new = files(folding.model, data)
        found = outcome([logits], [folding.model.predict(test, verbose=0)], None, labels)
        low, high = found.interval or (math.nan, math.nan)
        yield [
            *(name, str(seed), f"{tolerance:g}", str(sites - len(folding.folded))),
            "-" if folding.work_kept is None else f"{folding.work_kept:.3f}",
            f"{found.difference:+.4f} ({low:+.4f} to {high:+.4f})",
            *(f"{operators(new[kind])}" for kind in new),
            *(ratio(original[kind], new[kind], test) for kind in new),
            f"{npu(new['int8']).cycles / cycles:.2f}",
            passes(folding.model, new["int8"], data),
        ]


def main() -> None:
    """Prints a table, a row when it is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", help="FILE.npz as for keras-se demo --data")
    parser.add_argument("--models", type=Path, help="folder of the trained models")
    parser.add_argument("--images", type=int, default=12_000, help="training images")
    parser.add_argument("--quick", action="store_true", help="one seed and one epoch")
    arguments = parser.parse_args()
    train, test = load_images(arguments.data)
    count = 1_000 if arguments.quick else arguments.images
    data = (*(part[:count] for part in train), *(part[:10_000] for part in test or train))
    titles = ("network", "seed", "tolerance", "sites", "work kept", "accuracy")
    titles += ("ops float32", "ops int8", "latency float32", "latency int8", "cycles", "int8 gates")
    table = Table(*titles)
    for name, (build, seeds, epochs) in NETWORKS.items():
        for seed in seeds if not arguments.quick else seeds[:1]:
            folder = arguments.models
            path = None if folder is None else folder / f"{name.replace(' ', '_')}_{seed}.keras"
            length = 1 if arguments.quick else epochs
            model = known(path, lambda: trained(build, seed, data, length))  # noqa: B023
            for row in rows(name, seed, model, data):
                print(" | ".join(row), flush=True)
                table.add_row(*row)
    Console(width=200).print(table)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
