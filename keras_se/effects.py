"""What gates do to the outputs of a model."""

from collections.abc import Mapping
from dataclasses import dataclass

import keras
import numpy as np

from keras_se.errors import InputError
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
) -> Effect | None:
    """Puts the gates of a file, and constant ones, into the Keras model.

    Args:
        model: The Keras model. It is not changed.
        x: One array for each of its inputs.
        own: Its gates for them, by site.
        shipped: Those of the file.
        labels: Integer labels, shape (samples,), where the first output is logits or
            probabilities of classes.

    Returns:
        An `Effect`, on the first output of the model; `None` where gates cannot be put into the
        model, as into a nested one that is called on its own output, or outputs are not finite.
    """
    try:
        compute = Injection(model)
    except (InputError, ValueError):  # the latter from Keras, where a graph cannot be cut
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
    """Whether the first output of a model is of classes among which these labels are.

    Args:
        model: A built model.
        labels: Integer labels.

    Returns:
        True for outputs of shape (samples, classes), or (samples, 1) and two classes.

    Example:
        >>> inputs = keras.Input((4,))
        >>> takes_labels(keras.Model(inputs, keras.layers.Dense(3)(inputs)), np.array([0, 2]))
        True
    """
    shape = tuple(model.outputs[0].shape)
    return len(shape) == 2 and shape[1] is not None and int(labels.max()) < max(2, shape[1])


def _classes(outputs: np.ndarray) -> np.ndarray:
    """The classes that outputs say: of one value by half a probability, or the sign of a logit."""
    if outputs.shape[1] > 1:
        classes: np.ndarray = outputs.argmax(axis=1)
        return classes
    is_probability = outputs.min() >= 0.0 and outputs.max() <= 1.0
    return (outputs[:, 0] > (0.5 if is_probability else 0.0)).astype(int)


def _error(values: np.ndarray, reference: np.ndarray) -> float:
    difference = values.astype("float64") - reference
    scale = float(np.sqrt(reference.astype("float64").var(axis=0).mean()))
    return float(np.sqrt((difference**2).mean())) / max(scale, 1e-12)


def _is_worse(reference: np.ndarray, other: np.ndarray) -> bool:
    """By more than twice the standard error of the paired difference."""
    difference = reference.astype(int) - other.astype(int)
    return bool(difference.mean() > 2 * difference.std() / np.sqrt(len(difference)))
