"""The `demo` command: from images to SE gates verified in an int8 file."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

import keras_se
from keras_se.cli.commands import FAILED, PASSED
from keras_se.cli.tables import report_table
from keras_se.data import load_data
from keras_se.errors import InputError, import_extra
from keras_se.files import free_name, output_folder, refuse_existing
from keras_se.litert.runtime import predict
from keras_se.verification.injection import Injection
from keras_se.verification.report import GateReport
from keras_se.verification.verdict import MIN_SAMPLES
from tuning.result import SearchResult
from tuning.searching import search
from tuning.space import SESpace
from tuning.trials.records import TrialRecord
from tuning.trials.splits import split_in_two

# Without a baseline: the winner must have SE blocks, whose gates the demo verifies.
SPACE = SESpace(ratios=(2, 4, 8), gates=("sigmoid", "one_plus_tanh"), baseline=False)
DIGITS = "scikit-learn's digits"
_BATCH_SIZE = 32


@dataclass(frozen=True)
class Split:
    """Images and labels in three disjoint parts."""

    source: str
    fit: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: int

    @property
    def training(self) -> tuple[np.ndarray, np.ndarray]:
        """All training images: those to fit and those to validate."""
        (x, y), (x_validation, y_validation) = self.fit, self.validation
        return np.concatenate([x, x_validation]), np.concatenate([y, y_validation])


@click.command("demo", short_help="Do the whole way once, on images.")
@click.option(
    "--directory", default="runs/demo", show_default=True, help="New folder for the files."
)
@click.option(
    "--data",
    help="FILE.npz with x_train, y_train, x_test, y_test (or x, y), or "
    "package.module:function; by default scikit-learn's digits.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=30,
    show_default=True,
    help="Epochs of the winner; a candidate gets a third.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True)
@click.option("--overwrite", is_flag=True, help="Rename an existing folder aside.")
def demo_command(directory: str, data: str | None, epochs: int, seed: int, overwrite: bool) -> int:
    """Search, train, convert and verify a small SE network on images: the whole way once.

    Exit code 0 if the gates survive in the int8 file, 1 if they do not.
    """
    started = time.monotonic()
    console = Console(highlight=False)
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
    return PASSED if passed else FAILED


def _run(console: Console, folder: Path, split: Split, epochs: int, seed: int) -> bool:
    console.print(
        f"Data: {split.source}; {len(split.fit[0])} images to fit, {len(split.validation[0])} to "
        f"validate, {len(split.test[0])} to test, of shape {split.test[0].shape[1:]}"
    )
    result = _search(console, folder, split, max(1, epochs // 3), seed)
    model = _train(console, split, result, epochs, seed)
    console.print("Converting to TFLite ...")
    files = {
        # `build_network` rescales by the maximum of the data, so the range is right even if the
        # short training leaves the batch statistics inaccurate.
        name: keras_se.to_tflite(model, file_format, samples, check_range=False, path=folder / name)
        for name, file_format, samples in (
            ("model_float32.tflite", "float32", None),
            ("model_int8.tflite", "int8", _calibration(split, seed)),
        )
    }
    console.print("Reading the gates from the bytes of both files ...")
    x_test, y_test = split.test
    reports = {
        name: keras_se.verify(model, tflite, x_test, y=y_test) for name, tflite in files.items()
    }
    accuracy = {
        "model.keras": _accuracy(model.predict(x_test, verbose=0), y_test),
        **{name: _accuracy(predict(tflite, x_test), y_test) for name, tflite in files.items()},
        "model.keras with constant gates": _accuracy_with_constant_gates(model, split),
    }
    _show(console, reports, accuracy, len(y_test))
    model.save(folder / "model.keras")
    (folder / "plan.json").write_text(json.dumps(result.plan, indent=2))
    (folder / "report.json").write_text(_report(split, epochs, seed, accuracy, reports))
    return all(report.passed for report in reports.values())


def load_split(data: str | None, seed: int) -> Split:
    """Loads the images; splits 60/20/20 where the source has no test images."""
    if data is None:
        datasets: Any = import_extra("sklearn.datasets", "tuning")
        digits = datasets.load_digits()
        source, parts = DIGITS, (digits.images.astype("float32")[..., None], digits.target)
        train, test = split_in_two(*parts, share=0.2, seed=seed)
    else:
        loaded = load_data(data)
        source, train = data, (loaded.x_train, loaded.y_train)
        # Checked before splitting: `verify` needs MIN_SAMPLES test images.
        _check_size(source, train[0], loaded.x_test)
        if loaded.x_test is not None and loaded.y_test is not None:
            test = (loaded.x_test, loaded.y_test)
        else:
            train, test = split_in_two(*train, share=0.2, seed=seed)
    fit, validation = split_in_two(*train, share=0.25, seed=seed)
    classes = int(max(train[1].max(), test[1].max())) + 1
    return Split(source, fit, validation, test, classes)


def _check_size(source: str, x_train: np.ndarray, x_test: np.ndarray | None) -> None:
    given = [len(x_train), *([] if x_test is None else [len(x_test)])]
    needed = [5 * MIN_SAMPLES] if x_test is None else [4 * MIN_SAMPLES, MIN_SAMPLES]
    if any(n < m for n, m in zip(given, needed, strict=True)):
        raise InputError(
            f"The demo needs at least {4 * MIN_SAMPLES} training and {MIN_SAMPLES} test images, or "
            f"{5 * MIN_SAMPLES} to split. Received: {' and '.join(map(str, given))} from {source}"
        )


def build_network(shape: tuple[int, ...], classes: int, scale: float) -> keras.Model:
    """Builds the base network without SE: three convolutions, pooling, logits."""
    layers: list[Any] = [keras.Input(shape), keras.layers.Rescaling(1.0 / scale)]
    for width, stride in ((16, 1 if min(shape[:2]) <= 16 else 2), (32, 2), (32, 1)):
        layers += [
            keras.layers.Conv2D(width, 3, strides=stride, padding="same", use_bias=False),
            keras.layers.BatchNormalization(
                momentum=0.9
            ),  # 0.99 needs more steps than the demo runs
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(classes)]
    return keras.Sequential(layers)


def _base(split: Split) -> keras.Model:
    # The scale comes from training images only; all-zero images must not divide by 0.
    x = split.fit[0]
    return build_network(x.shape[1:], split.classes, float(np.abs(x).max()) or 1.0)


def _compile(model: keras.Model) -> None:
    model.compile(
        keras.optimizers.Adam(3e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=False,  # compiling each candidate costs more than it saves
    )


def _search(console: Console, folder: Path, split: Split, epochs: int, seed: int) -> SearchResult:
    console.print(
        f"Search: {len(SPACE.ratios)} ratios x {len(SPACE.gates)} gates with keras-tuner, "
        f"epochs: {epochs} each, one seed: a screening only"
    )
    with _progress(console, "search", SPACE.size) as advance:
        result = search(
            lambda: _base(split),
            split.fit,
            split.validation,
            SPACE,
            epochs=epochs,
            compile=_compile,
            directory=folder / "search",
            batch_size=_BATCH_SIZE,
            seeds=(seed,),
            fresh_seeds=0,
            on_trial=lambda record: advance(_one_line(record)),
        )
    table = Table("ratio", "gate", "parameters", "validation loss", "validation accuracy", "")
    for record in result.records:
        loss, accuracy = (record.metrics.get(name) for name in ("val_loss", "val_accuracy"))
        table.add_row(
            *(str(record.values[f"se_{name}"]) for name in ("ratio", "gate")),
            f"{record.parameters:,}",
            *("failed" if value is None else f"{value:.4f}" for value in (loss, accuracy)),
            "chosen" if record.values == result.values else "",
        )
    console.print(table)
    return result


def _one_line(record: TrialRecord) -> str:
    loss = record.metrics.get("val_loss")
    outcome = record.cause if loss is None else f"validation loss {loss:.4f}"
    return f"{record.label}: {outcome}"


def _train(
    console: Console, split: Split, result: SearchResult, epochs: int, seed: int
) -> keras.Model:
    console.print(f"Training the winner on all training images, epochs: {epochs}")
    with _progress(console, "train", epochs) as advance:
        report = keras.callbacks.LambdaCallback(
            on_epoch_end=lambda _, logs: advance(f"loss {logs['loss']:.4f}")
        )
        return result.retrain(seed, train=split.training, epochs=epochs, callbacks=[report])


def _calibration(split: Split, seed: int) -> np.ndarray:
    """Returns up to 500 training images."""
    # Never test images: their accuracy would then be too good.
    x = split.training[0]
    return x[np.random.default_rng(seed).permutation(len(x))[:500]]


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=-1) == labels).mean())


def _accuracy_with_constant_gates(model: keras.Model, split: Split) -> float:
    # Mean gates remove what SE adapts to each image, but keep its mean effect.
    gates = keras_se.read_gates(model, split.training[0])
    x, labels = split.test
    means = {
        name: np.broadcast_to(values.mean(axis=0), (len(x), values.shape[1]))
        for name, values in gates.items()
    }
    return _accuracy(Injection(model)([x], means), labels)


def _show(
    console: Console,
    reports: Mapping[str, GateReport],
    accuracy: Mapping[str, float],
    images: int,
) -> None:
    for name, report in reports.items():
        console.print(report_table(f"{name}, gates against model.keras", report))
    console.print(
        "spread/step: how far a gate moves from image to image, in steps of its code in the file "
        "(in int8 1/256 for sigmoid, 1/128 for one_plus_tanh); below 1.5 it is 'not adaptive'. A "
        "float32 file has no such step.\n"
    )
    table = Table("model", "accuracy on test images")
    for name, value in accuracy.items():
        table.add_row(name, f"{value:.4f}")
    console.print(table)
    # The first entry is the Keras model, the last one has constant gates.
    values = list(accuracy.values())
    console.print(_worth_of_adaptivity(values[0], values[-1], images))
    for name, report in reports.items():
        console.print(f"{name}: {report.verdict}.")


def _worth_of_adaptivity(adaptive: float, constant: float, images: int) -> str:
    """Compares the cost of constant gates with the noise of the test accuracy."""
    cost, p = adaptive - constant, (adaptive + constant) / 2
    # Two standard errors of a difference of two proportions.
    matters = cost > 2.0 * math.sqrt(2.0 * p * (1.0 - p) / images)
    verdict = "adaptivity matters here" if matters else f"{images} images cannot tell it from none"
    return f"Gates held constant cost {100 * cost:.2f} points of accuracy: {verdict}."


def _report(
    split: Split,
    epochs: int,
    seed: int,
    accuracy: Mapping[str, float],
    reports: Mapping[str, GateReport],
) -> str:
    content = {
        "passed": all(report.passed for report in reports.values()),
        "data": split.source,
        "test_images": len(split.test[0]),
        "epochs": epochs,
        "seed": seed,
        "accuracy": dict(accuracy),
        "files": {name: json.loads(report.to_json()) for name, report in reports.items()},
        "versions": {"keras_se": keras_se.__version__, "keras": keras.__version__},
    }
    return json.dumps(content, indent=2) + "\n"


@contextmanager
def _progress(console: Console, label: str, total: int) -> Iterator[Callable[[str], None]]:
    """Shows a progress bar on a terminal, and at most ten lines elsewhere."""
    if not console.is_terminal:
        steps, every = iter(range(1, total + 1)), math.ceil(total / 10)

        def advance(text: str) -> None:
            step = next(steps)
            if step % every == 0 or step == total:
                console.print(f"  {label} {step}/{total}: {text}")

        yield advance
        return
    columns = (TextColumn("  {task.description}"), BarColumn(bar_width=20), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), TextColumn("{task.fields[text]}"), console=console
    ) as progress:
        task = progress.add_task(label, total=total, text="")
        yield lambda text: progress.update(task, advance=1, text=text)
