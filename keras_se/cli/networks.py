"""A float network that a command takes: a Keras model, or a TFLite file of any converter."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import click
import numpy as np

from keras_se.cli.files import check_tflite
from keras_se.data import Shape, load_inputs
from keras_se.files import load_model
from keras_se.graph.inputs import input_shapes
from keras_se.litert.runtime import Runner
from keras_se.verification.outcome import takes_labels


@dataclass(frozen=True)
class Network:
    """A float network from a file.

    Attributes:
        source: The model, or the path of the TFLite file.
        shapes: The shape of one sample of each input, by name.
        output_shape: The shape of the first output, with the axis of the samples.
    """

    source: Any
    shapes: Mapping[str, Shape]
    output_shape: tuple[int | None, ...]

    def held_out(self, data: str) -> tuple[Any, np.ndarray | None]:
        """Returns samples to judge on, and their labels if they are classes of the output."""
        x, labels = load_inputs(data, self.shapes)
        fits = fitting(labels, self.output_shape)
        if fits is None:
            why = "it has no y_test or y"
            if labels is not None:
                low, high = labels.min(), labels.max()
                why = f"its labels, {low} to {high}, are no classes of {self.output_shape[1:]}"
            click.echo(f"{data}: accuracy is not compared, for {why}.", err=True)
        return x, fits


def fitting(labels: np.ndarray | None, output_shape: tuple[int | None, ...]) -> np.ndarray | None:
    """Returns labels, or `None` if they are no classes of an output: data may hold other ones."""
    return labels if labels is not None and takes_labels(output_shape, labels) else None


def load_network(path: str) -> Network:
    """Returns the network of MODEL.keras or of FLOAT.tflite."""
    if path.lower().endswith(".tflite"):
        check_tflite(path)
        runner = Runner(path)
        return Network(path, runner.shapes, runner.output_shape)
    model = load_model(path)
    return Network(model, input_shapes(model), tuple(model.outputs[0].shape))
