"""The command `keras-se compress`: training with compression."""

import os
from typing import Any

import click
import keras
import numpy as np

from keras_se.compress import cluster, prune, quantize_aware, strip
from keras_se.compress.quantization import ENGINES
from keras_se.compress.tfmot.pruning import SCHEDULES
from keras_se.compress.tfmot.scopes import SCOPES
from keras_se.data import cross_entropy_of, load_inputs
from keras_se.errors import InputError
from keras_se.files import check_file_name, load_model, model_bytes, refuse_existing, write_files
from keras_se.graph.inputs import input_shapes
from keras_se.litert.convert import to_tflite
from keras_se.verification.effect import takes_labels

METHODS = ("qat", "prune", "cluster")
_CALIBRATION = 500  # at most so many training samples calibrate the ranges
_PROBED = 32  # samples that tell logits from probabilities


@click.command("compress", short_help="Train a model on with compression.")
@click.argument("model")
@click.argument("out")
@click.option(
    "--method",
    required=True,
    type=click.Choice(METHODS),
    help="Quantization-aware training, pruning or clustering.",
)
@click.option(
    "--data",
    required=True,
    help="Training data: FILE.npz with x_train and y_train, or x and y; or "
    "package.module:function that returns them.",
)
@click.option("--epochs", type=click.IntRange(1), default=2, show_default=True)
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True)
@click.option(
    "--learning-rate",
    type=click.FloatRange(0.0, min_open=True),
    default=1e-4,
    show_default=True,
    help="Of Adam.",
)
@click.option(
    "--sparsity",
    type=float,
    default=0.5,
    show_default=True,
    help="prune: share of each kernel that becomes zero.",
)
@click.option(
    "--schedule",
    type=click.Choice(SCHEDULES),
    default=SCHEDULES[0],
    show_default=True,
    help="prune: polynomial grows over the first half of the steps.",
)
@click.option(
    "--clusters",
    type=int,
    default=16,
    show_default=True,
    help="cluster: number of values in each kernel.",
)
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    default=SCOPES[0],
    show_default=True,
    help="prune, cluster: which kernels.",
)
@click.option(
    "--engine",
    type=click.Choice(ENGINES),
    default=ENGINES[0],
    show_default=True,
    help="qat: by way of tf_keras, or in Keras itself.",
)
@click.option("--tflite", help="qat: also write the int8 file.")
@click.option("--overwrite", is_flag=True, help="Rename existing files aside.")
def compress_command(
    model: str,
    out: str,
    method: str,
    data: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    sparsity: float,
    schedule: str,
    clusters: int,
    scope: str,
    engine: str,
    tflite: str | None,
    overwrite: bool,
) -> None:
    """Train MODEL.keras on with compression, and write OUT.keras: a plain model with the weights.

    Nothing is written before all of it is done.
    """
    # Check names before the training, not after it.
    _check_outputs(out, method, tflite, overwrite)
    original = load_model(model)
    inputs = load_inputs(data, input_shapes(original), held_out=False)
    if len(original.outputs) != 1:
        raise InputError(
            "compress trains classifiers with one output. "
            f"Received: model {original.name!r} with {len(original.outputs)}"
        )
    if inputs.labels is None or not takes_labels(original, inputs.labels):
        raise InputError(
            "compress trains classifiers: data need labels y_train or y that are among the model's "
            f"classes. Received: {data!r} for an output of shape {original.outputs[0].shape}"
        )
    if method == "qat":
        compressed = quantize_aware(original, _first(inputs.x, _CALIBRATION), engine=engine)
    elif method == "prune":
        # Round up: `fit` also runs the last, smaller batch.
        steps = epochs * -(-inputs.samples // batch_size)
        if schedule != "constant" and steps < 4:
            raise InputError(
                "--schedule polynomial grows over four steps or more: more epochs, or smaller "
                f"batches. Received: {steps} steps"
            )
        end = None if schedule == "constant" else max(2, steps // 2)
        compressed = prune(original, sparsity, schedule, end_step=end, scope=scope)
    else:
        compressed = cluster(original, clusters, scope=scope)
    loss = cross_entropy_of(original, _first(inputs.x, _PROBED))
    compressed.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    compressed.fit(inputs.x, inputs.labels, batch_size=batch_size, epochs=epochs)
    stripped = strip(compressed)
    # Keras saves NaN weights without complaint.
    if not all(np.isfinite(v.numpy()).all() for v in stripped.weights):
        raise InputError(
            "Training must leave the weights finite: try a lower learning rate. "
            f"Received: NaN or infinity after training with --learning-rate {learning_rate:g}"
        )
    _write(out, stripped, tflite, compressed, overwrite)
    _say_weights(stripped, method, clusters)


def _check_outputs(out: str, method: str, tflite: str | None, overwrite: bool) -> None:
    if not out.endswith(".keras"):
        raise InputError(f"The name of a model file must end in .keras. Received: {out!r}")
    if tflite is not None and method != "qat":
        raise InputError(
            "--tflite is for --method qat; keras-se export converts any other OUT.keras. "
            f"Received: --method {method}"
        )
    if tflite is not None and not tflite.endswith(".tflite"):
        raise InputError(f"The name of a TFLite file must end in .tflite. Received: {tflite!r}")
    for path in (out, tflite):
        if path is not None:
            check_file_name(path)
            refuse_existing(path, overwrite)


def _first(x: Any, count: int) -> Any:
    return {k: v[:count] for k, v in x.items()} if isinstance(x, dict) else x[:count]


def _write(
    out: str, stripped: keras.Model, tflite: str | None, compressed: Any, overwrite: bool
) -> None:
    contents: dict[str | os.PathLike[str], bytes] = {out: model_bytes(stripped)}
    if tflite is not None:
        # Not from `stripped`: it has lost the ranges of quantization.
        contents[tflite] = to_tflite(compressed)
    # Both files or none: the .tflite file belongs to these weights.
    asides = write_files(contents, overwrite)
    for (path, content), aside in zip(contents.items(), asides, strict=True):
        if aside is not None:
            click.echo(f"The old {path} is now {aside}")
        click.echo(f"{path}: {len(content):,} bytes")


def _say_weights(model: keras.Model, method: str, clusters: int) -> None:
    # Kernels only: biases and the vectors of normalizations are not compressed.
    kernels = [v.numpy() for v in model.trainable_variables if len(v.shape) > 1]
    if method == "prune":
        zero, total = sum(int((k == 0).sum()) for k in kernels), sum(k.size for k in kernels)
        click.echo(f"Of {total:,} weights in kernels {zero / total:.0%} are zero.")
    elif method == "cluster":
        few = sum(np.unique(kernel).size <= clusters for kernel in kernels)
        click.echo(f"Of {len(kernels)} kernels {few} have {clusters} values or fewer.")
