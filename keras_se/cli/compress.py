"""The command `compress`."""

import dataclasses
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
from click.core import ParameterSource

from keras_se.cli.files import check_output, write_outputs
from keras_se.cli.options import (
    DATA_HELP,
    POSITIVE,
    choice_option,
    input_shape_option,
    json_option,
    overwrite_option,
)
from keras_se.cli.samples import Samples, load_samples
from keras_se.compress import cluster, prune, quantize_aware, strip
from keras_se.compress.quantization import ENGINES, Engine
from keras_se.compress.tfmot.pruning import SCHEDULES, Schedule
from keras_se.compress.tfmot.scopes import SCOPES, Scope
from keras_se.data import cross_entropy_of, spaced
from keras_se.errors import InputError
from keras_se.files import load_model, model_bytes
from keras_se.graph.compressed import QUANTIZED
from keras_se.graph.inputs import input_shapes
from keras_se.litert.convert import convert
from keras_se.litert.formats import Options
from keras_se.litert.recipe import recipe_path
from keras_se.verification.compression import compression_report
from keras_se.verification.reports.compression_report import CompressionReport, described

_SHOWN = 1000  # at most so many training samples stand in for held-out ones
# Options that only some methods take, and what to do instead.
_OF_METHOD = {
    "engine": (("qat",), ""),
    "input_shape": (("qat",), "; the other methods leave sizes open"),
    "tflite": (("qat",), "; keras-se export converts any other OUT.keras"),
    "sparsity": (("prune",), ""),
    "schedule": (("prune",), ""),
    "clusters": (("cluster",), ""),
    "scope": (("prune", "cluster"), ""),
}


@click.command("compress")
@click.argument("model")
@click.argument("out")
@click.option(
    "--method",
    required=True,
    type=click.Choice(("qat", "prune", "cluster")),
    help="Quantization-aware training, pruning or clustering.",
)
@click.option(
    "--data",
    required=True,
    help="Training data: FILE.npz with x_train and y_train, or x and y; and x_test and y_test, on "
    "which the result is judged. Or package.module:function, which returns such arrays.",
)
@click.option(
    "--held-out",
    help=f"Judge on these data, which were kept from training, and not on x_test. {DATA_HELP}",
)
@click.option("--epochs", type=click.IntRange(1), default=2)
@click.option("--batch-size", type=click.IntRange(1), default=32)
@click.option("--learning-rate", type=POSITIVE, default=1e-4, help="Learning rate of Adam.")
@click.option("--sparsity", default=0.5, help="prune: share of zeros in each kernel.")
@choice_option(
    "--schedule",
    SCHEDULES,
    "prune: polynomial reaches the sparsity after half of the steps, constant at once.",
)
@click.option("--clusters", default=16, help="cluster: number of different values in each kernel.")
@choice_option("--scope", SCOPES, "prune, cluster: the kernels to compress.")
@choice_option(
    "--engine", ENGINES, "qat: in Keras itself, or in tf_keras with TensorFlow Model Optimization."
)
@input_shape_option
@click.option("--tflite", help="qat: also write this int8 file.")
@json_option
@overwrite_option
def compress_command(
    model: str,
    out: str,
    data: str,
    held_out: str | None,
    tflite: str | None,
    json_path: str | None,
    overwrite: bool,
    **settings: Any,
) -> bool:
    """Train MODEL.keras with compression and write OUT.keras, a plain model with its weights.

    The files are written after the training, or none; then a table compares them with MODEL on
    held-out data. Exit code 0, or 1 if the table says that gates are lost.
    """
    training = _Training(**settings)
    # Check all arguments before the training, not after it.
    _check_method(training.method)
    files = _Files(model, out, tflite)
    files.check(json_path, overwrite)
    original = load_model(model)
    samples = load_samples(original, data, held_out, is_calibrated=training.method == "qat")
    compressed = training.compressed(original, samples)
    training.fit(compressed, cross_entropy_of(original, samples.x), samples)
    contents = {out: model_bytes(training.stripped(compressed))}
    if tflite is not None:
        # Not from the stripped model: it has lost the ranges of quantization.
        conversion = convert(compressed, None, Options(input_shape=training.input_shape))
        contents[tflite] = conversion.tflite
        contents[str(recipe_path(tflite))] = conversion.recipe.encode()
    # Before the table: whatever happens there, nothing of the training is lost.
    write_outputs(contents, overwrite)
    for path, content in contents.items():
        click.echo(f"{path}: {len(content):,} bytes")
    report = _reported(original, compressed, samples, tflite)
    command = files.next_command(report, original, samples)
    report = dataclasses.replace(report, next_step=command)
    if report.technique == QUANTIZED and files.tflite is None:
        note = f"{files.out} has not the ranges that were trained: --tflite writes the file."
        report = _noted(report, note)
    click.echo(described(report, "command line"), nl=False)
    if json_path is not None:
        write_outputs({json_path: report.to_json().encode()}, overwrite)
    return report.passed


@dataclass(frozen=True, kw_only=True)
class _Training:
    """The options of training, as the command line has them."""

    method: str
    epochs: int
    batch_size: int
    learning_rate: float
    sparsity: float
    schedule: Schedule
    clusters: int
    scope: Scope
    engine: Engine
    input_shape: tuple[int, ...] | None

    def compressed(self, original: keras.Model, samples: Samples) -> Any:
        """Returns the model to train."""
        if self.method == "qat":
            return quantize_aware(
                original, samples.calibration, engine=self.engine, input_shape=self.input_shape
            )
        if self.method == "cluster":
            return cluster(original, self.clusters, scope=self.scope)
        # Round up: `fit` also runs the last, smaller batch.
        end = self._last_step(self.epochs * -(-len(samples.labels) // self.batch_size))
        return prune(original, self.sparsity, self.schedule, end_step=end, scope=self.scope)

    def _last_step(self, steps: int) -> int | None:
        if self.schedule == "constant":
            return None
        if steps < 4:
            raise InputError(
                "--schedule polynomial needs four steps or more: more epochs or smaller batches. "
                f"Received: {steps} steps"
            )
        return steps // 2

    def fit(self, compressed: Any, loss: keras.losses.Loss, samples: Samples) -> None:
        """Trains a model, with a bar on a terminal and plain lines elsewhere."""
        optimizer = keras.optimizers.Adam(self.learning_rate)
        compressed.compile(optimizer, loss, metrics=["accuracy"])
        compressed.fit(
            samples.x,
            samples.labels,
            batch_size=self.batch_size,
            epochs=self.epochs,
            verbose=1 if sys.stdout.isatty() else 2,
        )

    def stripped(self, compressed: Any) -> keras.Model:
        """Returns the plain model; Keras saves NaN weights without complaint."""
        stripped = strip(compressed)
        if not all(np.isfinite(v.numpy()).all() for v in stripped.weights):
            raise InputError(
                "Training must leave the weights finite: try a lower learning rate. Received: NaN "
                f"or infinity after training with --learning-rate {self.learning_rate:g}"
            )
        return stripped


def _check_method(method: str) -> None:
    """Refuses options of other methods, which would have no effect."""
    context = click.get_current_context()
    for name, (methods, remedy) in _OF_METHOD.items():
        is_given = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if is_given and method not in methods:
            raise InputError(
                f"--{name.replace('_', '-')} needs --method {' or '.join(methods)}{remedy}. "
                f"Received: --method {method}"
            )


def _reported(
    original: keras.Model, compressed: Any, samples: Samples, tflite: str | None
) -> CompressionReport:
    if samples.held_out is not None:
        report = compression_report(original, compressed, *samples.held_out, tflite=tflite)
        if not samples.trained_on:
            return report
        note = f"Of the held-out samples {samples.trained_on} are among the training samples, too."
        return _noted(report, note)
    x, labels = spaced((samples.x, samples.labels), _SHOWN)
    report = compression_report(original, compressed, x, labels, tflite=tflite, held_out=False)
    note = "Held-out samples are x_test and y_test in --data, or those of --held-out."
    return _noted(report, note)


def _noted(report: CompressionReport, note: str) -> CompressionReport:
    return dataclasses.replace(report, notes=(*report.notes, note))


@dataclass(frozen=True)
class _Files:
    """The files of a run, as they are named on the command line."""

    model: str
    out: str
    tflite: str | None

    def check(self, json_path: str | None, overwrite: bool) -> None:
        """Raises if an output cannot be written."""
        check_output(self.out, overwrite, ".keras")
        check_output(self.tflite, overwrite, ".tflite")
        check_output(json_path, overwrite)
        outputs = [Path(self.out)]
        if self.tflite is not None:
            outputs += [Path(self.tflite), recipe_path(self.tflite)]
            check_output(str(outputs[-1]), overwrite)
        # Compare resolved paths: `a.keras` and `./a.keras` are the same file.
        taken = [path.resolve() for path in outputs]
        if json_path is not None and Path(json_path).resolve() in taken:
            raise InputError(
                f"--json needs a file of its own. Received: {json_path!r}, which is an output"
            )

    def next_command(
        self, report: CompressionReport, original: keras.Model, samples: Samples
    ) -> str:
        """Returns the command to run next, with the names of this run; empty if there is none."""
        if self.tflite is None and report.technique == QUANTIZED:
            return ""
        group = click.get_current_context().parent
        modules = () if group is None else group.params.get("modules", ())
        words = ["keras-se", *(word for module in modules for word in ("--import", module))]
        if self.tflite is None:
            target = f"{self.out.removesuffix('.keras')}.tflite"
            words += ["export", self.out, target, "--calibration", samples.source]
            if any(os.path.lexists(path) for path in (target, recipe_path(target))):
                words.append("--overwrite")
        # The original may have been renamed, and `verify` needs gates and held-out samples.
        elif report.gates is None or Path(self.model).resolve() == Path(self.out).resolve():
            return ""
        else:
            words += ["verify", self.model, self.tflite, "--data", samples.held_out_source]
            words += ["--trained", self.out]
        if any(None in shape for shape in input_shapes(original).values()):
            words += ["--input-shape", ",".join(map(str, samples.x.shape[1:]))]
        return shlex.join(words)
