"""The command `compress`."""

from typing import Any

import click
import keras
import numpy as np

from keras_se.cli.files import check_output, write_outputs
from keras_se.cli.options import (
    POSITIVE,
    choice_option,
    input_shape_option,
    overwrite_option,
)
from keras_se.compress import cluster, prune, quantize_aware, strip
from keras_se.compress.quantization import ENGINES, Engine
from keras_se.compress.tfmot.pruning import SCHEDULES, Schedule
from keras_se.compress.tfmot.scopes import SCOPES, Scope
from keras_se.data import cross_entropy_of, load_inputs
from keras_se.errors import InputError
from keras_se.files import load_model, model_bytes
from keras_se.graph.inputs import input_shapes
from keras_se.litert.convert import convert
from keras_se.litert.formats import Options
from keras_se.litert.recipe import recipe_path
from keras_se.verification.outcome import takes_labels

_CALIBRATION = 500  # at most so many training samples calibrate the ranges


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
    help="Training data: FILE.npz with x_train and y_train, or x and y. Or "
    "package.module:function, which returns such arrays.",
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
    "--engine", ENGINES, "qat: with TensorFlow Model Optimization (tf_keras), or in Keras itself."
)
@input_shape_option
@click.option("--tflite", help="qat: also write this int8 file.")
@overwrite_option
def compress_command(
    model: str,
    out: str,
    method: str,
    data: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    sparsity: float,
    schedule: Schedule,
    clusters: int,
    scope: Scope,
    engine: Engine,
    input_shape: tuple[int, ...] | None,
    tflite: str | None,
    overwrite: bool,
) -> None:
    """Train MODEL.keras with compression and write OUT.keras, a plain model with its weights.

    All files are written at the end, or none.
    """
    # Check names before the training, not after it.
    check_output(out, overwrite, ".keras")
    _check_tflite(tflite, method, overwrite)
    _check_input_shape(input_shape, method)
    original, x, labels = _classifier(model, data)
    if method == "qat":
        calibration = keras.tree.map_structure(lambda part: part[:_CALIBRATION], x)
        compressed = quantize_aware(original, calibration, engine=engine, input_shape=input_shape)
    elif method == "prune":
        # Round up: `fit` also runs the last, smaller batch.
        end = _last_pruning_step(schedule, epochs * -(-len(labels) // batch_size))
        compressed = prune(original, sparsity, schedule, end_step=end, scope=scope)
    else:
        compressed = cluster(original, clusters, scope=scope)
    loss = cross_entropy_of(original, x)
    compressed.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    compressed.fit(x, labels, batch_size=batch_size, epochs=epochs)
    stripped = _stripped(compressed, learning_rate)
    contents = {out: model_bytes(stripped)}
    if tflite is not None:
        # Not from `stripped`: it has lost the ranges of quantization.
        conversion = convert(compressed, None, Options(input_shape=input_shape))
        contents[tflite] = conversion.tflite
        contents[str(recipe_path(tflite))] = conversion.recipe.encode()
    write_outputs(contents, overwrite)
    _print_files(contents)
    _print_weights(stripped, method, clusters)


def _check_tflite(tflite: str | None, method: str, overwrite: bool) -> None:
    if tflite is not None and method != "qat":
        raise InputError(
            "--tflite needs --method qat; keras-se export converts any other OUT.keras. "
            f"Received: --method {method}"
        )
    check_output(tflite, overwrite, ".tflite")
    if tflite is not None:
        check_output(str(recipe_path(tflite)), overwrite)


def _check_input_shape(input_shape: tuple[int, ...] | None, method: str) -> None:
    if input_shape is not None and method != "qat":
        raise InputError(
            "--input-shape needs --method qat; the other methods leave sizes open. "
            f"Received: --method {method}"
        )


def _classifier(model: str, data: str) -> tuple[keras.Model, Any, np.ndarray]:
    original = load_model(model)
    x, labels = load_inputs(data, input_shapes(original), held_out=False)
    _check_classifier(original, labels, data)
    return original, x, labels


def _print_files(contents: dict[str, bytes]) -> None:
    for path, content in contents.items():
        click.echo(f"{path}: {len(content):,} bytes")


def _stripped(compressed: Any, learning_rate: float) -> keras.Model:
    stripped = strip(compressed)
    # Keras saves NaN weights without complaint.
    if not all(np.isfinite(v.numpy()).all() for v in stripped.weights):
        raise InputError(
            "Training must leave the weights finite: try a lower learning rate. "
            f"Received: NaN or infinity after training with --learning-rate {learning_rate:g}"
        )
    return stripped


def _check_classifier(model: keras.Model, labels: Any, data: str) -> None:
    if len(model.outputs) != 1:
        raise InputError(
            "compress needs a classifier with one output. "
            f"Received: model {model.name!r} with {len(model.outputs)}"
        )
    if labels is None or not takes_labels(model.outputs[0].shape, labels):
        raise InputError(
            "compress needs labels, y_train or y, that are classes of the model. "
            f"Received: {data!r} for an output of shape {model.outputs[0].shape}"
        )


def _last_pruning_step(schedule: str, steps: int) -> int | None:
    if schedule == "constant":
        return None
    if steps < 4:
        raise InputError(
            "--schedule polynomial needs four steps or more: more epochs or smaller batches. "
            f"Received: {steps} steps"
        )
    return steps // 2


def _print_weights(model: keras.Model, method: str, clusters: int) -> None:
    # Kernels only: biases and the vectors of normalizations are not compressed.
    kernels = [v.numpy() for v in model.trainable_variables if len(v.shape) > 1]
    if method == "prune":
        zero, total = sum(int((k == 0).sum()) for k in kernels), sum(k.size for k in kernels)
        click.echo(f"Zero weights in kernels: {zero / total:.0%} of {total:,}")
    elif method == "cluster":
        few = sum(np.unique(kernel).size <= clusters for kernel in kernels)
        click.echo(f"Kernels with at most {clusters} values: {few} of {len(kernels)}")
