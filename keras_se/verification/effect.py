"""Measures the effect of gates on the outputs of a model."""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.verification.injection import Injection

# Share of the spread of the outputs; a smaller error of constant gates counts as none.
MIN_RELATIVE = 0.01


@dataclass(frozen=True)
class Effect:
    """The outputs of the Keras model with injected gates, all other layers in float.

    Attributes:
        metric: `"accuracy"`, or without labels `"output error"`: the root mean square difference
            from the outputs of the model, divided by their spread over samples.
        own: With the gates of the model.
        shipped: With the gates of the file.
        constant: With each gate fixed at its mean over the samples, that is, SE that does not
            adapt.
        constant_costs: Whether constant gates are worse than the model's: by more than twice the
            standard error of the difference in accuracy, or by an output error above .01.
    """

    metric: str
    own: float
    shipped: float
    constant: float
    constant_costs: bool

    @property
    def sentence(self) -> str:
        """The effect in words."""
        figures = (
            f"{self.metric} of the Keras model: {self.own:.4f} with its own gates, "
            f"{self.shipped:.4f} with the shipped ones, {self.constant:.4f} with constant ones"
        )
        if self.constant_costs:
            return f"{figures}."
        return f"{figures}: constant gates cost nothing, so that SE does nothing here."


def measure_effect(
    model: keras.Model,
    x: list[np.ndarray],
    own: Mapping[str, np.ndarray],
    shipped: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
) -> Effect | None:
    """Measures the first output with shipped and constant gates; `None` if that fails."""
    try:
        compute = Injection(model)
    except (InputError, ValueError):  # Keras raises ValueError if it cannot cut a graph
        return None
    constant = {name: np.broadcast_to(g.mean(axis=0), g.shape) for name, g in own.items()}
    outputs = [compute(x, dict(gates)) for gates in (own, shipped, constant)]
    if not all(np.isfinite(values).all() for values in outputs):
        return None
    if labels is None:
        own_error, error, constant_error = (_error(values, outputs[0]) for values in outputs)
        costs = constant_error > MIN_RELATIVE
        return Effect("output error", own_error, error, constant_error, costs)
    hits = [_classes(values) == labels for values in outputs]
    accuracy, shipped_accuracy, constant_accuracy = (float(hit.mean()) for hit in hits)
    costs = _is_worse(hits[0], hits[2])
    return Effect("accuracy", accuracy, shipped_accuracy, constant_accuracy, costs)


def takes_labels(model: keras.Model, labels: np.ndarray) -> bool:
    """Whether the first output of a model is classes, and these labels are among them."""
    shape = tuple(model.outputs[0].shape)
    # A single unit distinguishes two classes.
    return len(shape) == 2 and shape[1] is not None and int(labels.max()) < max(2, shape[1])


def _classes(outputs: np.ndarray) -> np.ndarray:
    if outputs.shape[1] > 1:
        classes: np.ndarray = outputs.argmax(axis=1)
        return classes
    # A single unit is a probability, decided at ½, or a logit, decided by its sign.
    is_probability = outputs.min() >= 0.0 and outputs.max() <= 1.0
    return (outputs[:, 0] > (0.5 if is_probability else 0.0)).astype(int)


def _error(values: np.ndarray, reference: np.ndarray) -> float:
    difference = values.astype("float64") - reference
    scale = float(np.sqrt(reference.astype("float64").var(axis=0).mean()))
    return float(np.sqrt((difference**2).mean())) / max(scale, 1e-12)  # outputs may be constant


def _is_worse(reference: np.ndarray, other: np.ndarray) -> bool:
    # Paired by sample, which removes the variance between easy and hard samples.
    difference = reference.astype(int) - other.astype(int)
    return bool(difference.mean() > 2 * difference.std() / np.sqrt(len(difference)))
