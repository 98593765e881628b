"""Quantization-aware training in Keras 3 itself, with ranges as layers."""

from typing import Any

import keras
import numpy as np

from keras_se.adoption import adopt
from keras_se.compress.plan import Plan, make_plans
from keras_se.compress.samples import calibration_samples
from keras_se.errors import InputError
from keras_se.inline import find_inline
from keras_se.layers import (
    FakeQuantize,
    QuantizeAware,
    QuantizeAwareActivation,
    QuantizeAwareAffine,
    QuantizeAwareSEBlock,
)
from keras_se.layers.fake_quantize import is_quantize_aware
from keras_se.litert.signature import batches, packed_inputs
from keras_se.rebuilding import Edit, Rebuilding
from keras_se.replay import Graph, sublayers, trace

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
    rewritings = {id(plan.graph.model): _Rewriting(plan) for plan in plans}
    edits = {key: Edit(rewriting, rewriting.chain) for key, rewriting in rewritings.items()}
    new_model = Rebuilding(edits).model(graph.model)
    for plan in plans:
        for n, twin in plan.twins.items():
            _copy_state(plan.graph.calls[n].layer, twin)
    return new_model


class _Rewriting:
    """Repeats the calls of one graph as its plan says."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._calls = 0
        self._made: dict[int, Any] = {}  # by id, outputs of earlier calls
        self._inputs: dict[int, Any] = {}  # by id, rounded inputs
        self._names: list[str] = []

    def __call__(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        n, self._calls = self._calls, self._calls + 1
        if n in self._plan.dropped:
            return args[0]
        args, kwargs = keras.tree.map_structure(self._input, (args, kwargs))
        # Twins do not take a mask, and `mask=None` is part of the traced call.
        given = {name: value for name, value in kwargs.items() if value is not None}
        outputs = self._twin(n, operation)(*args, **given)
        if n in self._plan.ranged:
            outputs = self._range(self._name(n))(outputs)
        self._made |= {id(tensor): tensor for tensor in keras.tree.flatten(outputs)}
        return outputs

    def chain(self, n: int, layer: Any) -> list[Any]:
        """Return layer `n` of a Sequential model or its twin, with the ranges around it."""
        if n in self._plan.dropped:
            return []
        before = [self._range("input")] if n == 0 and self._plan.is_outer else []
        after = [self._range(self._name(n))] if n in self._plan.ranged else []
        return [*before, self._twin(n, layer), *after]

    def _twin(self, n: int, operation: Any) -> Any:
        return self._plan.twins.get(n, operation)

    def _name(self, n: int) -> str:
        return self._plan.graph.calls[n].layer.name

    def _input(self, value: Any) -> Any:
        # A symbolic tensor that no earlier call returned is an input. All its uses share one range.
        is_input = isinstance(value, keras.KerasTensor) and id(value) not in self._made
        if not is_input or not self._plan.is_outer:
            return value
        if id(value) not in self._inputs:
            self._inputs[id(value)] = self._range(value.name)(value)
        return self._inputs[id(value)]

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
