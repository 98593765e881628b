"""Measures what gates do to the outputs of a model, by putting other gates into it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.graph.inputs import fresh_inputs
from keras_se.graph.trace import trace
from keras_se.graph.visits import Visit, holds, walk
from keras_se.sites.finding import InlineSE
from keras_se.sites.gated import GatedSite, call_arguments, gated_sites
from keras_se.sites.statistics import spread

# Share of the spread of the outputs; a smaller error of constant gates counts as none.
_MIN_RELATIVE = 0.01


@dataclass(frozen=True)
class Effect:
    """The outputs of the Keras model with injected gates, all other layers in float.

    Attributes:
        metric: `"accuracy"`, or without labels `"output error"`: the root mean square difference
            from the outputs of the model, divided by their spread over samples.
        own: With the gates of the model.
        shipped: With the gates of the file.
        constant: With each gate fixed at its mean over the samples: SE that does not adapt.
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
        return f"{figures}; constant gates cost nothing, so SE does nothing here."


def measure_effect(
    model: keras.Model,
    x: list[np.ndarray],
    own: Mapping[str, np.ndarray],
    shipped: Mapping[str, np.ndarray],
    labels: np.ndarray | None = None,
) -> Effect | None:
    """Measures the first output with shipped and constant gates; `None` if that fails."""
    # The shipped gates must cover all sites, or the effect mixes two models.
    if not set(own) <= set(shipped) or not _are_finite(shipped.values()):
        return None
    try:
        compute = Injection(model)
    except ValueError:  # Keras cannot cut every graph
        return None
    constant = {name: np.broadcast_to(g.mean(axis=0), g.shape) for name, g in own.items()}
    outputs = [compute(x, dict(gates)) for gates in (own, shipped, constant)]
    if not _are_finite(outputs):
        return None
    if labels is None:
        figures = [_relative_error(values, outputs[0]) for values in outputs]
        metric, costs = "output error", figures[2] > _MIN_RELATIVE
    else:
        hits = [_classes(values) == labels for values in outputs]
        figures = [float(hit.mean()) for hit in hits]
        # Paired by sample, which removes the variance between easy and hard samples.
        loss = hits[0].astype(int) - hits[2].astype(int)
        metric, costs = "accuracy", bool(loss.mean() > 2 * loss.std() / np.sqrt(len(loss)))
    return Effect(metric, figures[0], figures[1], figures[2], costs)


def _are_finite(arrays: Iterable[np.ndarray]) -> bool:
    return all(np.isfinite(values).all() for values in arrays)


def takes_labels(model: keras.Model, labels: np.ndarray) -> bool:
    """Whether the first output of a model is classes, and these labels are among them."""
    shape = tuple(model.outputs[0].shape)
    # A single unit distinguishes two classes.
    return len(shape) == 2 and shape[1] is not None and int(labels.max()) < max(2, shape[1])


def _classes(outputs: np.ndarray) -> np.ndarray:
    if outputs.shape[1] > 1:
        return outputs.argmax(axis=1)
    # A single unit is a probability, decided at ½, or a logit, decided by its sign.
    is_probability = outputs.min() >= 0.0 and outputs.max() <= 1.0
    return (outputs[:, 0] > (0.5 if is_probability else 0.0)).astype(int)


def _relative_error(values: np.ndarray, reference: np.ndarray) -> float:
    difference = values.astype("float64") - reference
    # The outputs may be constant.
    return float(np.sqrt((difference**2).mean())) / max(spread(reference), 1e-12)


class Injection:
    """Computes the outputs of a model for given gates, sample by sample."""

    def __init__(self, model: keras.Model) -> None:
        graph = trace(model, "verify")
        found = [part for part in gated_sites(graph) if part.site.kind == "self"]
        self._sites = {part.place: part for part in found}
        # Explicit names: automatic ones may collide with names of the model's inputs.
        self._gates = {
            part.site.name: keras.Input((part.site.channels,), name=f"keras_se_gates_{n}")
            for n, part in enumerate(self._sites.values())
        }
        inputs = fresh_inputs(model)
        outputs = walk(graph, inputs, self._visit, opens=holds(self._sites))
        given = [*keras.tree.flatten(inputs), *self._gates.values()]
        self._model = keras.Model(given, keras.tree.flatten(outputs))
        self._model.compile(jit_compile=False)

    def __call__(self, x: list[np.ndarray], gates: dict[str, np.ndarray]) -> np.ndarray:
        """Returns the first output as a float array, for inputs and gates by site name."""
        given = [gates[name].astype("float32") for name in self._gates]
        outputs = self._model.predict([*x, *given], batch_size=32, verbose=0)
        return np.asarray(outputs[0] if isinstance(outputs, list) else outputs)

    def _visit(self, visit: Visit) -> Any:
        site = self._sites.get(visit.place)
        if site is None:
            return visit.outputs()
        if isinstance(site.source, InlineSE):
            gated = self._gated(site, visit.arguments[site.source.position])
            others = {site.source.position, site.source.gate_position}
            for n in site.source.product.slots:  # a product may have more than two factors
                gated = gated if n in others else gated * visit.arguments[n]
            return gated
        outputs, x, gates = site.observe(visit)
        with_gates = call_arguments(site.source, visit).get("return_gates")
        gated = self._gated(site, x)
        if site.source.shift:  # its value is unknown here: move the output by the difference
            gated += (outputs[0] if with_gates else outputs) - _per_channel(site, gates, x) * x
        return (gated, gates) if with_gates else gated

    def _gated(self, site: GatedSite, x: Any) -> Any:
        gates = keras.ops.cast(self._gates[site.site.name], x.dtype)
        return x * _per_channel(site, gates, x)


def _per_channel(site: GatedSite, gates: Any, x: Any) -> Any:
    """Reshapes (batch, channels) gates so that they broadcast over a feature map."""
    shape = [1] * (len(x.shape) - 1)
    shape[-1 if site.data_format == "channels_last" else 0] = site.site.channels
    return keras.ops.reshape(gates, (-1, *shape))
