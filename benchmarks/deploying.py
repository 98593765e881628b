"""What `deploy` and `repair` make of trained networks: before, after, and what it costs.

    python benchmarks/deploying.py cifar10.npz [--seeds 3] [--models FOLDER]

The networks of `compressing.py`, as they are and with two outlier channels of 200 times the size,
each as a Keras model and as a float TFLite file, which nothing can equalize; MobileNetV3Small of
`folding.py` in both ways; and a pair of files of another converter: the float file, and what
litert-quantizer makes of it by its own ranges, averages over samples. For each: what int8 alone
gives, what is taken, with accuracy on all test images (the paired 95 % interval of its change), the
work that is kept, bytes, and latency in one run.
"""

import contextlib
import io
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import click
import keras
import numpy as np
from compressing import EPOCHS, Images, fitted, network, with_outliers
from folding import known, mobilenet, trained
from litert_quantizer import quantizer, recipe
from rich.console import Console
from rich.table import Table

import keras_se
from keras_se.data import load_images

Case = tuple[str, keras_se.Deployment, float]


def averaged(float32: bytes, calibration: np.ndarray) -> bytes:
    """An int8 file whose ranges are averages of those of the samples."""
    made = quantizer.Quantizer(float32, recipe.static_wi8_ai8())
    rows = [{"inputs": calibration[n : n + 1]} for n in range(len(calibration))]
    with contextlib.redirect_stderr(io.StringIO()):
        ranges = made.calibrate({"serving_default": rows}, num_threads=1)
        found = made.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(found.quantized_model)


def of_one(name: str, model: keras.Model, images: Images) -> Iterator[Case]:
    """A network, by each way."""
    x, y = images.x_test, images.y_test
    float32 = keras_se.to_tflite(model, "float32")
    for way, source in (("Keras", model), ("file", float32)):
        started = time.monotonic()
        found = keras_se.deploy(source, images.calibration, x, y, progress=False)
        yield f"{name}, {way}", found, time.monotonic() - started
    started = time.monotonic()
    pair = averaged(float32, images.calibration)
    found = keras_se.repair(float32, pair, x, y, progress=False)
    yield f"{name}, pair", found, time.monotonic() - started


def small(seed: int, images: Images) -> keras.Model:
    """The network of `compressing.py`, trained."""
    keras.utils.set_random_seed(seed)
    return fitted(network(images.x_train.shape[1:]), images, EPOCHS, 2e-3)


def cases(images: Images, seeds: int, models: Path | None) -> Iterator[Case]:
    """All networks."""
    for seed in range(seeds):
        path = models and models / f"small_{seed}.keras"
        model = known(path, partial(small, seed, images))
        yield from of_one(f"SE, seed {seed}", model, images)
        yield from of_one(f"outliers, seed {seed}", with_outliers(model), images)
    raw = Images(255 * images.x_train, images.y_train, 255 * images.x_test, images.y_test)
    data = (raw.x_train, raw.y_train, raw.x_test, raw.y_test)
    path = models and models / "MobileNetV3Small_0.keras"  # as folding.py names it
    yield from of_one("MobileNetV3Small", known(path, lambda: trained(mobilenet, 0, data, 12)), raw)


def row(case: Case) -> list[str]:
    """The figures of a case."""
    name, found, seconds = case
    first, last = found.attempts[0], found.attempt
    before = (last.accuracy or 0.0) - (last.difference or 0.0)
    low, high = last.interval or (0.0, 0.0)
    ratio = ""
    if first.latency is not None and last.latency is not None:
        ratio = f"{last.latency.median / first.latency.median:.2f}"
    return [
        name,
        f"{before:.4f}",
        f"{first.accuracy:.4f} {'passes' if first.passed else first.verdict}",
        last.name + ("" if found.passed else " (nearest)"),
        f"{last.accuracy:.4f} ({low:+.4f} to {high:+.4f})",
        "" if last.work_kept is None else f"{last.work_kept:.3f}",
        f"{last.bytes / first.bytes:.2f}",
        ratio,
        f"{len(found.attempts)} in {seconds:.0f} s",
    ]


@click.command()
@click.argument("data")
@click.option("--seeds", default=3)
@click.option("--models", type=click.Path(path_type=Path), help="Where trained models are kept.")
def main(data: str, seeds: int, models: Path | None) -> None:
    """Prints a line for each case, and the table."""
    images = Images.of(*load_images(data))
    titles = ("network", "float", "int8 alone", "taken", "accuracy", "W", "bytes", "time", "tried")
    table = Table(*titles)
    for case in cases(images, seeds, models):
        figures = row(case)
        print(" | ".join(figures), flush=True)
        table.add_row(*figures)
    Console(width=200).print(table)


if __name__ == "__main__":
    main()
