"""The samples of a training on the command line, and those kept from it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.data import load_inputs, load_training_and_test, spaced
from keras_se.errors import InputError
from keras_se.graph.inputs import input_shapes
from keras_se.litert.recipe import row_hashes, used_rows
from keras_se.verification.outcome import takes_labels

CALIBRATION = 500  # at most so many training samples calibrate the ranges
_TOO_MANY = 0.01  # share of held-out samples that are trained on, too; some data sets hold a few


@dataclass(frozen=True)
class Samples:
    """The samples to train a classifier on, and those to judge it on.

    Attributes:
        source: What names the samples to train on.
        x: Inputs to train on.
        labels: Their classes.
        held_out: Inputs that are kept from training, with their classes if known; or `None`.
        held_out_source: What names them.
        trained_on: Number of held-out samples that are among those to train on, too.
    """

    source: str
    x: Any
    labels: np.ndarray
    held_out: tuple[Any, np.ndarray | None] | None
    held_out_source: str
    trained_on: int = 0

    @property
    def calibration(self) -> Any:
        """The samples that quantization ranges start from."""
        return spaced(self.x, CALIBRATION)


def load_samples(
    model: keras.Model, source: str, held_out_source: str | None, is_calibrated: bool
) -> Samples:
    """Reads and checks the samples for a model; the test part is held out by default."""
    shapes = input_shapes(model)
    (x, labels), held_out = load_training_and_test(source, shapes)
    if held_out_source is not None:
        held_out = load_inputs(held_out_source, shapes)
    _check_classifier(model, labels, source, "y_train or y")
    where = held_out_source or source
    if held_out is None:
        return Samples(source, x, labels, None, where)
    if held_out[1] is not None:
        _check_classifier(model, held_out[1], where, "y_test or y")
    samples = Samples(source, x, labels, held_out, where, _shared(held_out[0], x))
    used = _shared(held_out[0], samples.calibration) if is_calibrated else 0
    count = len(keras.tree.flatten(held_out[0])[0])
    if used or samples.trained_on > _TOO_MANY * count:
        raise InputError(
            "Held-out samples must be kept from training and calibration. "
            f"Received: {used or samples.trained_on} of {count} samples that are used there, from "
            f"{where!r}"
        )
    return samples


def _shared(held_out: Any, used: Any) -> int:
    """Returns how many held-out samples are used elsewhere."""
    wanted, others = (x if isinstance(x, Mapping) else {"x": x} for x in (held_out, used))
    return int(used_rows(wanted, set(row_hashes(others))).sum())


def _check_classifier(model: keras.Model, labels: Any, source: str, names: str) -> None:
    if len(model.outputs) != 1:
        raise InputError(
            "compress needs a classifier with one output. "
            f"Received: model {model.name!r} with {len(model.outputs)}"
        )
    if labels is None or not takes_labels(model.outputs[0].shape, labels):
        raise InputError(
            f"compress needs labels, {names}, that are classes of the model. "
            f"Received: {source!r} for an output of shape {model.outputs[0].shape}"
        )
