"""The command `demo`: from images to SE gates verified in an int8 file."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
from rich.console import Console

import keras_se
from keras_se.cli.options import overwrite_option
from keras_se.data import load_images
from keras_se.errors import InputError, import_extra
from keras_se.files import free_name, output_folder, refuse_existing
from keras_se.litert.recipe import row_hashes
from keras_se.verification.reports.text import described
from keras_se.verification.verdict import MIN_SAMPLES
from tuning.data.splits import split_in_two
from tuning.result import SearchResult
from tuning.searching import search
from tuning.space import SESpace
from tuning.trials.records import TrialRecord

# Without a baseline: the winner must have SE blocks, whose gates the demo verifies.
SPACE = SESpace(ratios=(2, 4, 8), gates=("sigmoid", "one_plus_tanh"), baseline=False)
_FLOAT32, _INT8 = "model_float32.tflite", "model_int8.tflite"


@dataclass(frozen=True)
class _Split:
    """Images and labels in three disjoint parts."""

    source: str
    fit: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def training(self) -> tuple[np.ndarray, np.ndarray]:
        (x, y), (x_validation, y_validation) = self.fit, self.validation
        return np.concatenate([x, x_validation]), np.concatenate([y, y_validation])


@click.command("demo")
@click.option("--directory", default="runs/demo", help="Folder of the results.")
@click.option(
    "--data",
    help="FILE.npz with x_train, y_train, x_test and y_test, or x and y; or "
    "package.module:function, which returns such arrays. Default: the digits of scikit-learn.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=30,
    help="Epochs of the winner; each candidate of the search gets a third.",
)
@click.option("--seed", type=click.IntRange(0), default=0)
@overwrite_option
def demo_command(directory: str, data: str | None, epochs: int, seed: int, overwrite: bool) -> bool:
    """Search, train, convert and verify a small SE network on images.

    Exit code 0 if the gates survive in both TFLite files, 1 if they do not.
    """
    started = time.monotonic()
    console = Console(highlight=False, markup=False, emoji=False)
    # `output_folder` checks again, but only after the data are loaded.
    refuse_existing(directory, overwrite)
    if Path(directory).exists():
        console.print(f"The old {directory} will be renamed to {free_name(Path(directory))}")
    split = load_split(data, seed)
    with output_folder(directory, overwrite) as folder:
        passed = _run(console, folder, split, epochs, seed)
    names = ", ".join(sorted(path.name for path in Path(directory).iterdir()))
    console.print(f"Files in {directory}: {names}")
    console.print(f"Done in {time.monotonic() - started:.0f} s.")
    return passed


def load_split(data: str | None, seed: int) -> _Split:
    """Loads the images; splits 60/20/20 where the source has no test images."""
    if data is None:
        digits = import_extra("sklearn.datasets", "tuning").load_digits()
        source, test = "scikit-learn's digits", None
        train = digits.images.astype("float32")[..., None], digits.target
    else:
        source, (train, test) = data, load_images(data)
    # `verify` needs MIN_SAMPLES test images.
    sizes = [len(train[0])] if test is None else [len(train[0]), len(test[0])]
    needed = [5 * MIN_SAMPLES] if test is None else [4 * MIN_SAMPLES, MIN_SAMPLES]
    if any(size < least for size, least in zip(sizes, needed, strict=True)):
        raise InputError(
            f"The demo needs at least {4 * MIN_SAMPLES} training and {MIN_SAMPLES} test images, or "
            f"{5 * MIN_SAMPLES} to split. Received: {' and '.join(map(str, sizes))} from {source}"
        )
    if test is None:
        train, test = split_in_two(*train, share=0.2, seed=seed)
    return _Split(source, *split_in_two(*train, share=0.25, seed=seed), test)


def _unseen(console: Console, split: _Split) -> tuple[np.ndarray, np.ndarray]:
    """The test images that are not among the training images: data may hold an image twice."""
    x, y = split.test
    known = set(row_hashes({"x": split.training[0]}))
    is_new = np.array([row not in known for row in row_hashes({"x": x})])
    if not is_new.all():
        console.print(f"Test images that are also training images, left out: {(~is_new).sum()}")
    if is_new.sum() < MIN_SAMPLES:
        raise InputError(
            f"The demo needs at least {MIN_SAMPLES} test images that are no training images. "
            f"Received: {is_new.sum()} from {split.source}"
        )
    return x[is_new], y[is_new]


def _run(console: Console, folder: Path, split: _Split, epochs: int, seed: int) -> bool:
    x_test, y_test = _unseen(console, split)
    console.print(
        f"Data: {split.source}; {len(split.fit[0])} images to fit, {len(split.validation[0])} to "
        f"validate, {len(x_test)} to test, of shape {x_test.shape[1:]}"
    )
    result = _search(console, folder, split, max(1, epochs // 3), seed)
    console.print(f"Training the winner on all training images, epochs: {epochs}")
    report_loss = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: _print_epoch(console, epoch + 1, epochs, logs["loss"])
    )
    model = result.retrain(seed, train=split.training, epochs=epochs, callbacks=[report_loss])
    console.print("Converting to TFLite ...")
    _convert(model, folder, split, seed)
    console.print("Reading the gates from the bytes of both files ...")
    reports = {
        name: keras_se.verify(model, folder / name, x_test, y_test) for name in (_FLOAT32, _INT8)
    }
    for name, report in reports.items():
        console.print(f"\n{name} against model.keras")
        console.print(described(report, "command line"), markup=False, end="")
    outcome = reports[_INT8].outcome
    accuracy = {"model.keras": outcome.reference, "with constant gates": outcome.constant}
    accuracy |= {name: report.outcome.file for name, report in reports.items()}
    content = {
        "passed": all(report.passed for report in reports.values()),
        "data": split.source,
        "test_images": len(x_test),
        "epochs": epochs,
        "seed": seed,
        "accuracy": accuracy,
        "files": {name: json.loads(report.to_json()) for name, report in reports.items()},
        "versions": {"keras_se": keras_se.__version__, "keras": keras.__version__},
    }
    model.save(folder / "model.keras")
    (folder / "plan.json").write_text(json.dumps(result.plan, indent=2))
    (folder / "report.json").write_text(json.dumps(content, indent=2) + "\n")
    return bool(content["passed"])


def _convert(model: keras.Model, folder: Path, split: _Split, seed: int) -> None:
    x = split.training[0]
    calibration = x[np.random.default_rng(seed).permutation(len(x))[:500]]
    keras_se.to_tflite(model, "float32", path=folder / _FLOAT32)
    # The network divides by the maximum of the data, so the range is right even if the short
    # training leaves the batch statistics inaccurate.
    keras_se.to_tflite(model, "int8", calibration, check_range=False, path=folder / _INT8)


def _search(console: Console, folder: Path, split: _Split, epochs: int, seed: int) -> SearchResult:
    console.print(
        f"Search: {len(SPACE.ratios)} ratios x {len(SPACE.gates)} gates with keras-tuner, "
        f"epochs: {epochs} each, one seed: a screening only. Loss and accuracy of validation:"
    )
    result = search(
        lambda: _network(split),
        split.fit,
        split.validation,
        SPACE,
        epochs=epochs,
        compile=_compile,
        directory=folder / "search",
        batch_size=32,
        seeds=(seed,),
        fresh_seeds=0,
        on_trial=lambda record: console.print(f"  {_outcome(record)}"),
        progress=False,
    )
    console.print(f"Best of the screening, which may be chance: {result.chosen}")
    return result


def _outcome(record: TrialRecord) -> str:
    name = f"ratio {record.values['se_ratio']}, {record.values['se_gate']}"
    if record.cause:
        return f"{name}: failed: {record.cause}"
    loss, accuracy = record.metrics["val_loss"], record.metrics["val_accuracy"]
    return f"{name}, {record.parameters:,} parameters: loss {loss:.4f}, accuracy {accuracy:.4f}"


def _print_epoch(console: Console, epoch: int, epochs: int, loss: float) -> None:
    """Prints at most ten of the epochs."""
    if epoch % math.ceil(epochs / 10) == 0 or epoch == epochs:
        console.print(f"  epoch {epoch}/{epochs}: loss {loss:.4f}")


def _network(split: _Split) -> keras.Model:
    x, labels = split.fit[0], np.concatenate([split.training[1], split.test[1]])
    # The scale comes from training images only; all-zero images must not divide by 0.
    scale = float(np.abs(x).max()) or 1.0
    layers: list[Any] = [keras.Input(x.shape[1:]), keras.layers.Rescaling(1.0 / scale)]
    for width, stride in ((16, 1 if min(x.shape[1:3]) <= 16 else 2), (32, 2), (32, 1)):
        layers += [
            keras.layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False),
            # 0.99, the default, needs more steps than the demo runs.
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(int(labels.max()) + 1)]
    return keras.Sequential(layers)


def _compile(model: keras.Model) -> None:
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # compiling each candidate costs more than it saves
    )
