"""Quantization-aware training in Keras itself: ranges as layers, without another library."""

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
    """A model that computes as its int8 file will, and can be trained so.

    Kernels are rounded with a scale for each output channel, tensors wherever the file rounds
    them: convolution, BatchNormalization and ReLU are one operation there, and are rounded once at
    its end. The ranges start from calibration data and follow the batches in training.
    `keras_se.to_tflite` of the model needs no calibration.

    Args:
        model: A built functional or Sequential model of float32; nested ones are gone through. SE
            that is written out becomes `SEBlock`s. It is not changed.
        calibration: Representative inputs, as for `keras_se.to_tflite`.

    Returns:
        A new model, uncompiled.

    Raises:
        InputError: If the model is no graph of layers that are known in int8, or the data do not
            fit it.

    Source: Jacob et al., arXiv 1712.05877, section 3; Krishnamoorthi, arXiv 1806.08342, section 4.

    Example:
        >>> import numpy as np
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> x = np.random.default_rng(0).random((64, 8, 8, 4)).astype("float32")
        >>> [type(layer).__name__ for layer in quantize_natively(model, x).layers]
        ['FakeQuantize', 'QuantizeAwareSEBlock']
    """
    graph = trace(model, purpose="Quantization-aware training")
    if is_quantize_aware(model):
        raise InputError(
            "Quantization-aware training starts from a plain model: strip it first. "
            f"Received: model {model.name!r}, which holds ranges already"
        )
    samples = calibration_samples(model, calibration)
    if any(site.activation and site.gate for part in graph.family() for site in find_inline(part)):
        graph = trace(adopt(model))
    new_model = _rebuilt(graph, list(make_plans(graph)))
    if not isinstance(model, keras.Sequential):  # losses go by these names
        new_model.output_names = list(model.output_names)
    _observe(new_model, samples)
    return new_model


def strip_natively(model: keras.Model) -> keras.Model:
    """The plain model in a quantize-aware one, with its trained weights.

    Args:
        model: What `quantize_natively` made, trained or not. It is not changed.

    Returns:
        A new model without ranges, uncompiled: `SEBlock`s and layers of Keras.

    Raises:
        InputError: If the model holds no ranges.

    Example:
        >>> import numpy as np
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        >>> x = np.random.default_rng(0).random((64, 2)).astype("float32")
        >>> [type(layer).__name__ for layer in strip_natively(quantize_natively(model, x)).layers]
        ['Dense']
    """
    graph = trace(model, purpose="Stripping")
    if not is_quantize_aware(model):
        raise InputError(
            "Stripping takes a quantize-aware model. "
            f"Received: model {model.name!r}, which holds no ranges"
        )
    plain: dict[int, Any] = {}  # by id of the layer
    return _rebuilt(graph, [_stripping(part, plain) for part in graph.family()])


def _stripping(graph: Graph, plain: dict[int, Any]) -> Plan:
    """Ranges are dropped, and layers that round become those of which they were made."""
    twins, dropped = {}, set()
    for n, call in enumerate(graph.calls):
        if isinstance(call.layer, FakeQuantize):
            dropped.add(n)
        elif isinstance(call.layer, _TWINS):
            twins[n] = plain.setdefault(id(call.layer), call.layer.plain())
    return Plan(graph, twins, dropped=frozenset(dropped))


def _rebuilt(graph: Graph, plans: list[Plan]) -> keras.Model:
    """The model of a graph as its plans say, with the state of the layers that have twins."""
    rewritings = {id(plan.graph.model): _Rewriting(plan) for plan in plans}
    edits = {key: Edit(rewriting, rewriting.chain) for key, rewriting in rewritings.items()}
    new_model = Rebuilding(edits).model(graph.model)
    for plan in plans:
        for n, twin in plan.twins.items():
            _copy_state(plan.graph.calls[n].layer, twin)
    return new_model


class _Rewriting:
    """Calls the operations of a model again as a plan says.

    Inputs of the model are rounded at their first use.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._calls = 0
        self._made: dict[int, Any] = {}  # by id, tensors that are no inputs of the model
        self._inputs: dict[int, Any] = {}  # by id, the rounded inputs
        self._names: list[str] = []

    def __call__(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        n, self._calls = self._calls, self._calls + 1
        if n in self._plan.dropped:
            return args[0]
        args, kwargs = keras.tree.map_structure(self._input, (args, kwargs))
        given = {name: value for name, value in kwargs.items() if value is not None}  # no mask
        outputs = self._twin(n, operation)(*args, **given)
        if n in self._plan.ranged:
            outputs = self._range(self._name(n))(outputs)
        self._made |= {id(tensor): tensor for tensor in keras.tree.flatten(outputs)}
        return outputs

    def chain(self, n: int, layer: Any) -> list[Any]:
        """Layer `n` of a Sequential model or its twin, with the ranges around it."""
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
        is_input = isinstance(value, keras.KerasTensor) and id(value) not in self._made
        if not is_input or not self._plan.is_outer:
            return value
        if id(value) not in self._inputs:
            self._inputs[id(value)] = self._range(value.name)(value)
        return self._inputs[id(value)]

    def _range(self, name: str) -> FakeQuantize:
        own, number = f"{name}_range", 1
        while own in self._names:
            number += 1
            own = f"{name}_range_{number}"
        self._names.append(own)
        return FakeQuantize(name=own)


def _copy_state(old: Any, new: Any) -> None:
    """Weights and flags; a plain layer has the weights that its twin has first."""
    for variable, value in zip(new.weights, old.weights, strict=False):
        variable.assign(np.array(value.numpy()))  # under JAX a variable would share its buffer
    for part in (new, *sublayers(new)):
        if hasattr(part, "finalize_state"):
            part.finalize_state()
    new.trainable = old.trainable


def _observe(model: keras.Model, samples: dict[str, np.ndarray]) -> None:
    """Sets the ranges of a model to what it computes on samples."""
    ranges = [layer for layer in sublayers(model) if isinstance(layer, FakeQuantize)]
    for layer in ranges:
        layer.observe()
    for batch in batches(samples.values()):
        model(packed_inputs(model, batch), training=False)
    for layer in ranges:
        layer.observing = False
    dead = [r.path for r in ranges if r.fixed is None and float(r.high) <= float(r.low)]
    if dead:
        raise InputError(
            "Calibration needs data on which every activation is somewhere not zero. "
            f"Received: data on which these ranges are empty: {dead}"
        )
