"""Where an int8 file rounds: which tensors have a range, and which operations are fused."""

from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.graph.models import is_nested_graph, raw_activation
from keras_se.graph.trace import Call, Graph
from keras_se.layers import (
    QuantizeAware,
    QuantizeAwareActivation,
    QuantizeAwareAffine,
    QuantizeAwareSEBlock,
    SEBlock,
)
from keras_se.layers.quantization.activation import ACTIVATIONS, activation_name
from keras_se.layers.quantization.affine import AFFINE
from keras_se.layers.quantization.fake_quantize import SAME_RANGE
from keras_se.layers.quantization.kernels import KERNELS, unbuilt_copy

_SUMS = ("Add", "Multiply", "Subtract")  # layers and raw operations
_RANGED = (keras.layers.Concatenate, keras.layers.GlobalAveragePooling2D)


class Rounding:
    """The rounding rules for one graph; raises `InputError` for calls without an int8 form."""

    def __init__(self, graph: Graph, is_outermost: bool) -> None:
        self._graph = graph
        self._is_outermost = is_outermost
        for call in graph.calls:
            _check(call, sum(tensor in graph.tensors for tensor in call.inputs))

    def is_rounded(self, n: int) -> bool:
        """Return whether a `FakeQuantize` follows call `n`."""
        after = self._graph.sole_consumer(n)
        following = None if after is None else self._graph.calls[after].layer
        # The parts of a concatenation share its range.
        if type(following) is keras.layers.Concatenate:
            return False
        if self._is_relu(n):
            return self._is_fused_relu(n)
        # A fused chain rounds once, at its end.
        if after is not None and self._makes_sums(n):
            return not self._is_relu(after) and not self._is_folded(after)
        return self._makes_sums(n) or type(self._graph.calls[n].layer) in _RANGED

    def replacement(self, n: int, shared: dict[int, Any]) -> Any:
        """Return the layer that replaces that of call `n`, if any; `shared` has those by id."""
        layer = self._graph.calls[n].layer
        is_last = self._is_outermost and any(
            map(self._graph.is_output, self._graph.calls[n].outputs)
        )
        name = _activation(layer)
        # Activations have no weights: each call gets its own layer, so ranges differ by call.
        if name is not None and name != "linear" and not self._is_fused_relu(n):
            return QuantizeAwareActivation(
                name, takes_sums=False, is_last=is_last, name=self._unique_name(n)
            )
        if id(layer) not in shared:
            shared[id(layer)] = self._with_weights(n, is_last)
        return shared[id(layer)]

    def _with_weights(self, n: int, is_last: bool) -> Any:
        layer = self._graph.calls[n].layer
        if type(layer) is SEBlock:
            return QuantizeAwareSEBlock(**layer.get_config())
        if type(layer) in KERNELS:
            return QuantizeAware(unbuilt_copy(layer), is_last=is_last, name=layer.name)
        if type(layer) in AFFINE and not self._is_folded(n):
            return QuantizeAwareAffine(unbuilt_copy(layer), name=layer.name)
        return None

    def _unique_name(self, n: int) -> str:
        """Return the layer name, with the number of the call if there are several."""
        layer = self._graph.calls[n].layer
        # Keras needs unique names, and one activation layer can have several replacements.
        calls = [k for k, call in enumerate(self._graph.calls) if call.layer is layer]
        return layer.name if len(calls) == 1 else f"{layer.name}_call_{calls.index(n) + 1}"

    def _makes_sums(self, n: int) -> bool:
        """Return whether call `n` accumulates in more than 8 bits and rounds at its end."""
        layer = self._graph.calls[n].layer
        if type(layer) in KERNELS:
            # QuantizeAware rounds after any other activation itself.
            known = ACTIVATIONS.get(activation_name(layer.activation))
            return known is not None and known.is_fused
        return type(layer) in AFFINE or _is_sum(layer)

    def _is_folded(self, n: int) -> bool:
        """Return whether call `n` is a BatchNormalization that folds into a kernel."""
        before = self._sole_producer(n)
        if (
            before is None
            or type(self._graph.calls[n].layer) is not keras.layers.BatchNormalization
        ):
            return False
        kernel = self._graph.calls[before].layer
        # TFLite cannot fold across an activation.
        return type(kernel) in KERNELS and activation_name(kernel.activation) == "linear"

    def _is_fused_relu(self, n: int) -> bool:
        """Return whether call `n` is a ReLU that fuses with the operation before it."""
        before = self._sole_producer(n)
        return self._is_relu(n) and before is not None and self._makes_sums(before)

    def _is_relu(self, n: int) -> bool:
        return _activation(self._graph.calls[n].layer) in ("relu", "relu6")

    def _sole_producer(self, n: int) -> int | None:
        """Return the call whose output only call `n` consumes."""
        before = self._graph.producers.get(self._graph.calls[n].inputs[0])
        return before if before is not None and self._graph.sole_consumer(before) == n else None


def _check(call: Call, tensors: int) -> None:
    layer = call.layer
    if is_nested_graph(layer):
        return
    kinds = (*KERNELS, *AFFINE, *_RANGED, *SAME_RANGE)
    # Exact types: a subclass may compute something else.
    is_known = type(layer) in (SEBlock, *kinds) or _activation(layer) in ACTIVATIONS
    # The int8 operations of TFLite take two tensors; Keras merging layers take any number.
    if not is_known and not (_is_sum(layer) and tensors == 2):
        raise InputError(
            "quantize_aware with engine='keras' supports layers that TFLite computes in int8, "
            f"{sorted(kind.__name__ for kind in kinds)}, SEBlock, activations among "
            f"{sorted(ACTIVATIONS)}, and {list(_SUMS)} of two tensors. "
            f"Received: {layer.name!r} ({type(layer).__name__})"
        )
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise InputError(
            "quantize_aware with engine='keras' needs layers with the channels last. "
            f"Received: {layer.name!r} with data_format='channels_first'"
        )


def _is_sum(layer: Any) -> bool:
    # The layer Add and the operation Add share a name; a custom class of that name is neither.
    return type(layer).__name__ in _SUMS and type(layer).__module__.startswith("keras.")


def _activation(layer: Any) -> str | None:
    """Return the activation name of an activation layer, or `None`."""
    if type(layer) is keras.layers.Activation:
        return activation_name(layer.activation)
    if type(layer) is keras.layers.Softmax:
        return "softmax" if layer.axis == -1 else None
    if type(layer) is keras.layers.ReLU and not layer.negative_slope and not layer.threshold:
        return {None: "relu", 6: "relu6"}.get(layer.max_value)
    return raw_activation(layer)
