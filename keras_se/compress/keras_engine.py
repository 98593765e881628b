"""Quantization-aware training in Keras 3 itself, with ranges as layers."""

from typing import Any

import keras
import numpy as np

from keras_se.compress.rounding import Plan, make_plans
from keras_se.errors import InputError
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.models import sublayers
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Graph, trace
from keras_se.graph.visits import Visit
from keras_se.layers import (
    FakeQuantize,
    QuantizeAware,
    QuantizeAwareActivation,
    QuantizeAwareAffine,
    QuantizeAwareSEBlock,
)
from keras_se.layers.quantization.fake_quantize import is_quantize_aware
from keras_se.litert.calibration import calibration_samples
from keras_se.litert.inputs import batches
from keras_se.sites.finding import find_inline
from keras_se.surgery.adoption import adopt

_TWINS = (QuantizeAware, QuantizeAwareActivation, QuantizeAwareAffine, QuantizeAwareSEBlock)


def quantize_natively(model: keras.Model, calibration: Any) -> keras.Model:
    """Make a quantize-aware Keras 3 model; see `quantize_aware`."""
    graph = trace(model, purpose="Quantization-aware training")
    if is_quantize_aware(model):
        raise InputError(
            "Quantization-aware training starts from a plain model: strip it first. "
            f"Received: model {model.name!r}, which holds ranges already"
        )
    samples = calibration_samples(model, calibration)
    # Only SEBlock has a quantize-aware twin, so inline SE becomes SEBlocks first.
    if any(site.activation and site.gate for part in graph.family() for site in find_inline(part)):
        graph = trace(adopt(model))
    new_model = _rebuilt(graph, list(make_plans(graph)))
    # Losses in a dictionary are assigned by these names.
    if not isinstance(model, keras.Sequential):
        new_model.output_names = list(model.output_names)
    _observe(new_model, samples)
    return new_model


def strip_natively(model: keras.Model) -> keras.Model:
    """Return the plain model of a quantize-aware Keras 3 model, with its weights."""
    graph = trace(model, purpose="Stripping")
    if not is_quantize_aware(model):
        raise InputError(
            "Stripping takes a quantize-aware model. "
            f"Received: model {model.name!r}, which holds no ranges"
        )
    plain: dict[int, Any] = {}  # by id, common to all graphs so that shared layers stay shared
    return _rebuilt(graph, [_stripping(part, plain) for part in graph.family()])


def _stripping(graph: Graph, plain: dict[int, Any]) -> Plan:
    """Plan to drop all ranges and to replace quantize-aware layers by plain ones."""
    twins, dropped = {}, set()
    for n, call in enumerate(graph.calls):
        if isinstance(call.layer, FakeQuantize):
            dropped.add(n)
        elif isinstance(call.layer, _TWINS):
            twins[n] = plain.setdefault(id(call.layer), call.layer.plain())
    return Plan(graph, twins, dropped=frozenset(dropped))


def _rebuilt(graph: Graph, plans: list[Plan]) -> keras.Model:
    """Rebuild a model by its plans and copy the state of replaced layers."""
    edits = {id(plan.graph.model): _Rewriting(plan) for plan in plans}
    new_model = Rebuilding(edits).model(graph.model)
    for plan in plans:
        for n, twin in plan.twins.items():
            _copy_state(plan.graph.calls[n].layer, twin)
    return new_model


class _Rewriting:
    """Repeats the calls of one graph as its plan says."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._inputs: dict[int, Any] = {}  # rounded inputs, by id of the input
        self._names: list[str] = []

    def __call__(self, visit: Visit) -> Any:
        if visit.index in self._plan.dropped:
            return visit.args[0]
        flat = [
            self._input(visit, own, value)
            for own, value in zip(visit.recorded.inputs, visit.arguments, strict=True)
        ]
        args, kwargs = keras.tree.pack_sequence_as((visit.args, visit.kwargs), flat)
        # Twins do not take a mask, and `mask=None` is part of the traced call.
        given = {name: value for name, value in kwargs.items() if value is not None}
        outputs = self._plan.twins.get(visit.index, visit.stand_in)(*args, **given)
        if visit.index in self._plan.ranged:
            outputs = self._range(visit.layer.name)(outputs)
        return outputs

    def _input(self, visit: Visit, own: int, value: Any) -> Any:
        """Rounds an input of the model. All its uses share one range."""
        inputs = keras.tree.flatten(visit.graph.inputs)
        if not self._plan.is_outer or all(own != id(tensor) for tensor in inputs):
            return value
        if own not in self._inputs:
            name = "input" if len(inputs) == 1 else value.name
            self._inputs[own] = self._range(name)(value)
        return self._inputs[own]

    def _range(self, name: str) -> FakeQuantize:
        # A model needs unique layer names, but a shared layer can have several ranges.
        own, number = f"{name}_range", 1
        while own in self._names:
            number += 1
            own = f"{name}_range_{number}"
        self._names.append(own)
        return FakeQuantize(name=own)


def _copy_state(old: Any, new: Any) -> None:
    """Copy the weights and flags of a layer."""
    # A twin holds the weights of the plain layer first and its ranges after them, so zip stops
    # at the right place in both directions.
    for variable, value in zip(new.weights, old.weights, strict=False):
        variable.assign(np.array(value.numpy()))  # JAX: without a copy, buffers are shared
    for part in (new, *sublayers(new)):
        # Normalization derives its mean and variance from the assigned weights only here.
        if hasattr(part, "finalize_state"):
            part.finalize_state()
    new.trainable = old.trainable


def _observe(model: keras.Model, samples: dict[str, np.ndarray]) -> None:
    """Set the ranges of a model from its activations on samples."""
    ranges = [layer for layer in sublayers(model) if isinstance(layer, FakeQuantize)]
    for layer in ranges:
        layer.observe()
    for batch in batches(samples.values()):
        model(packed_inputs(model, batch), training=False)
    for layer in ranges:
        layer.observing = False
    # A range of zero width would have a scale of zero.
    dead = [r.path for r in ranges if r.fixed is None and float(r.high) <= float(r.low)]
    if dead:
        raise InputError(
            "Calibration needs data on which every activation is somewhere not zero. "
            f"Received: data on which these ranges are empty: {dead}"
        )
