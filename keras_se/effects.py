"""What gates do to the outputs of a model."""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from keras_se.injection import Injection

MIN_RELATIVE = 0.01  # of the spread of the outputs: below it constant gates cost nothing


@dataclass(frozen=True)
class Effect:
    """The outputs of the Keras model with gates put in, everything else in float.

    Attributes:
        metric: `"accuracy"`, or without labels `"output error"`: the root mean square difference
            to the model's own outputs, over their spread over samples.
        own: With its own gates.
        shipped: With the gates of the file.
        constant: With each gate held at its mean over the samples: what SE would be without
            adapting.
        constant_costs: Whether that is worse than its own gates: by more than twice the standard
            error of the difference in accuracy, or by an output error above .01.
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
) -> Effect:
    """Puts the gates of a file, and constant ones, into the Keras model.

    Args:
        model: The Keras model. It is not changed.
        x: One array for each of its inputs.
        own: Its gates for them, by site.
        shipped: Those of the file.
        labels: Integer labels, shape (samples,), where the first output is logits or
            probabilities of classes.

    Returns:
        An `Effect`, on the first output of the model.

    Raises:
        InputError: If gates cannot be put into the model.
    """
    compute = Injection(model)
    constant = {name: np.broadcast_to(g.mean(axis=0), g.shape) for name, g in own.items()}
    outputs = [compute(x, dict(gates)) for gates in (own, shipped, constant)]
    if labels is None:
        own_error, error, constant_error = (_error(values, outputs[0]) for values in outputs)
        costs = constant_error > MIN_RELATIVE
        return Effect("output error", own_error, error, constant_error, costs)
    hits = [values.argmax(axis=-1) == labels for values in outputs]
    accuracy, shipped_accuracy, constant_accuracy = (float(hit.mean()) for hit in hits)
    costs = _is_worse(hits[0], hits[2])
    return Effect("accuracy", accuracy, shipped_accuracy, constant_accuracy, costs)


def _error(values: np.ndarray, reference: np.ndarray) -> float:
    difference = values.astype("float64") - reference
    scale = float(np.sqrt(reference.astype("float64").var(axis=0).mean()))
    return float(np.sqrt((difference**2).mean())) / max(scale, 1e-12)


def _is_worse(reference: np.ndarray, other: np.ndarray) -> bool:
    """By more than twice the standard error of the paired difference."""
    difference = reference.astype(int) - other.astype(int)
    return bool(difference.mean() > 2 * difference.std() / np.sqrt(len(difference)))
