"""Decides where an int8 file rounds: which tensors have a range and which operations are fused."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.graph.models import is_nested_graph
from keras_se.graph.trace import Graph
from keras_se.layers import (
    QuantizeAware,
    QuantizeAwareActivation,
    QuantizeAwareAffine,
    QuantizeAwareSEBlock,
    SEBlock,
)
from keras_se.layers.quantization.activation import FORMS
from keras_se.layers.quantization.affine import AFFINE
from keras_se.layers.quantization.kernels import KERNELS

# Their outputs lie in the range of their input, so TFLite gives them no range of their own.
_PASSING = (
    keras.layers.ActivityRegularization,
    keras.layers.AveragePooling2D,
    keras.layers.Cropping2D,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Identity,
    keras.layers.MaxPooling2D,
    keras.layers.Permute,
    keras.layers.Reshape,
    keras.layers.SpatialDropout2D,
    keras.layers.ZeroPadding2D,
)
_SUMS = ("Add", "Multiply", "Subtract")  # layers and raw operations
_RANGED = (keras.layers.Concatenate, keras.layers.GlobalAveragePooling2D)


@dataclass(frozen=True)
class Plan:
    """The changes to the calls of one graph.

    Attributes:
        graph: The graph.
        twins: Replacement layers by index of the call.
        ranged: Indices of the calls whose output is rounded.
        is_outer: Whether the graph is the outermost one, whose inputs are rounded.
        dropped: Indices of the calls to remove; their input replaces their output.
    """

    graph: Graph
    twins: dict[int, Any]
    ranged: frozenset[int] = frozenset()
    is_outer: bool = False
    dropped: frozenset[int] = frozenset()


def make_plans(graph: Graph) -> Iterator[Plan]:
    """Yield a plan for the model and for each nested model."""
    shared: dict[int, Any] = {}  # by id: a layer with weights has one twin in all graphs
    for part in graph.family():
        planner = _Planner(part, part is graph)
        calls = range(len(part.calls))
        twins = {n: planner.twin(n, shared) for n in calls}
        yield Plan(
            part,
            {n: twin for n, twin in twins.items() if twin is not None},
            frozenset(filter(planner.is_ranged, calls)),
            part is graph,
        )


class _Planner:
    """The rounding rules for one graph."""

    def __init__(self, graph: Graph, is_outer: bool) -> None:
        self._graph = graph
        self._is_outer = is_outer
        for n in range(len(graph.calls)):
            self._check(n)

    def is_ranged(self, n: int) -> bool:
        """Return whether a `FakeQuantize` follows call `n`."""
        if self._is_relu(n):
            return self._is_fused(n) and not self._is_gathered(n)
        # A fused chain rounds once, at its end; the parts of a concatenation share its range.
        is_wide = self._makes_sums(n) or type(self._graph.calls[n].layer) in _RANGED
        return is_wide and not self._is_gathered(n) and not self._waits(n)

    def twin(self, n: int, shared: dict[int, Any]) -> Any:
        """Return the layer that replaces the layer of call `n`, if any."""
        layer = self._graph.calls[n].layer
        is_last = self._is_outer and self._is_output(n)
        name = _activation(layer)
        # Activations have no weights: each call gets its own twin, so ranges differ by call.
        if name is not None and name != "linear" and not self._is_fused(n):
            return QuantizeAwareActivation(
                name, takes_sums=False, is_last=is_last, name=self._own_name(n)
            )
        if id(layer) not in shared:
            shared[id(layer)] = self._twin_with_weights(n, layer, is_last)
        return shared[id(layer)]

    def _twin_with_weights(self, n: int, layer: Any, is_last: bool) -> Any:
        if type(layer) is SEBlock:
            return QuantizeAwareSEBlock(**layer.get_config())
        if type(layer) in KERNELS:
            return QuantizeAware(_copy(layer), is_last=is_last, name=layer.name)
        if type(layer) in AFFINE and not self._is_folded(n):
            return QuantizeAwareAffine(_copy(layer), name=layer.name)
        return None

    def _own_name(self, n: int) -> str:
        """Return the layer name, with the number of the call if there are several."""
        layer = self._graph.calls[n].layer
        # Keras needs unique names, and one activation layer can have several twins.
        calls = [k for k, call in enumerate(self._graph.calls) if call.layer is layer]
        return layer.name if len(calls) == 1 else f"{layer.name}_call_{calls.index(n) + 1}"

    def _waits(self, n: int) -> bool:
        """Return whether TFLite fuses the next operation into call `n`."""
        after = self._graph.sole_consumer(n)
        if after is None or not self._makes_sums(n):
            return False
        return self._is_relu(after) or self._is_folded(after)

    def _is_gathered(self, n: int) -> bool:
        """Return whether the only consumer of the output is a concatenation."""
        after = self._graph.sole_consumer(n)
        return (
            after is not None and type(self._graph.calls[after].layer) is keras.layers.Concatenate
        )

    def _makes_sums(self, n: int) -> bool:
        """Return whether call `n` accumulates in more than 8 bits and rounds at its end."""
        layer = self._graph.calls[n].layer
        if type(layer) in KERNELS:
            name = _name(layer.activation)
            # QuantizeAware rounds after any other activation itself.
            return name in FORMS and not _is_own(name)
        return type(layer) in AFFINE or _is_sum(layer)

    def _is_folded(self, n: int) -> bool:
        """Return whether call `n` is a BatchNormalization that folds into a kernel."""
        call = self._graph.calls[n]
        if type(call.layer) is not keras.layers.BatchNormalization:
            return False
        before = self._before(n)
        layer: Any = None if before is None else self._graph.calls[before].layer
        # TFLite cannot fold across an activation.
        return type(layer) in KERNELS and _name(layer.activation) == "linear"

    def _is_fused(self, n: int) -> bool:
        """Return whether call `n` is a ReLU that fuses with the operation before it."""
        before = self._before(n)
        return self._is_relu(n) and before is not None and self._makes_sums(before)

    def _before(self, n: int) -> int | None:
        """Return the call whose output only call `n` consumes."""
        before = self._graph.producers.get(self._graph.calls[n].inputs[0])
        return before if before is not None and self._graph.sole_consumer(before) == n else None

    def _is_relu(self, n: int) -> bool:
        return _activation(self._graph.calls[n].layer) in ("relu", "relu6")

    def _is_output(self, n: int) -> bool:
        return any(map(self._graph.is_output, self._graph.calls[n].outputs))

    def _check(self, n: int) -> None:
        call = self._graph.calls[n]
        layer = call.layer
        if is_nested_graph(layer):
            return
        # The int8 operations of TFLite take two tensors; Keras merging layers take any number.
        if not _is_known(layer) or (_is_sum(layer) and len(self._tensors(n)) != 2):
            raise InputError(
                "Quantization-aware training takes layers that TFLite computes in int8, "
                f"{sorted(kind.__name__ for kind in (*KERNELS, *AFFINE, *_RANGED, *_PASSING))}, "
                f"SEBlock, activations among {sorted(FORMS)}, and {list(_SUMS)} of two tensors. "
                f"Received: {layer.name!r} ({type(layer).__name__})"
            )
        if getattr(layer, "data_format", "channels_last") == "channels_first":
            raise InputError(
                "Quantization-aware training takes layers with the channels last. "
                f"Received: {layer.name!r} with data_format='channels_first'"
            )
        if isinstance(layer, keras.layers.Layer) and layer.compute_dtype != "float32":
            raise InputError(
                "Quantization-aware training takes models that compute in float32. "
                f"Received: layer {layer.name!r} in {layer.compute_dtype}"
            )

    def _tensors(self, n: int) -> list[int]:
        return [t for t in self._graph.calls[n].inputs if t in self._graph.tensors]


def _copy(layer: Any) -> Any:
    return type(layer).from_config(layer.get_config())


def _is_sum(layer: Any) -> bool:
    # The layer Add and the operation Add share a name; a custom class of that name is neither.
    return type(layer).__name__ in _SUMS and type(layer).__module__.startswith("keras.")


def _is_known(layer: Any) -> bool:
    kinds = (SEBlock, *KERNELS, *AFFINE, *_RANGED, *_PASSING)
    # Exact types: a subclass may compute something else.
    return type(layer) in kinds or _is_sum(layer) or _activation(layer) in FORMS


def _is_own(name: str) -> bool:
    """Return whether `QuantizeAware` computes an activation itself and rounds after it."""
    return FORMS[name].is_apart or bool(FORMS[name].between)


def _activation(layer: Any) -> str | None:
    """Return the activation name of an activation layer, or `None`."""
    if type(layer) is keras.layers.Activation:
        return _name(layer.activation)
    if type(layer) is keras.layers.Softmax:
        return "softmax" if layer.axis == -1 else None
    if type(layer) is keras.layers.ReLU and not layer.negative_slope and not layer.threshold:
        return {None: "relu", 6: "relu6"}.get(layer.max_value)
    return None


def _name(activation: Any) -> str:
    name = keras.activations.serialize(activation)
    # A custom function serializes to a dictionary, which must not match a known name.
    return name if isinstance(name, str) else repr(name)
