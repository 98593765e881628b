"""Where an int8 file rounds: which tensors have a range, and which operations are fused."""

from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.graph.composites import symbolic_arguments
from keras_se.graph.compressed import is_pruned
from keras_se.graph.models import is_nested_graph, raw_activation
from keras_se.graph.replay import takes_training
from keras_se.graph.trace import Call, Graph
from keras_se.layers import (
    QuantizeAware,
    QuantizeAwareActivation,
    QuantizeAwareAffine,
    QuantizeAwareMerge,
    QuantizeAwarePooling,
    QuantizeAwareSEBlock,
    SEBlock,
)
from keras_se.layers.quantization.activation import ACTIVATIONS, activation_name, int8_form
from keras_se.layers.quantization.fake_quantize import SAME_RANGE
from keras_se.layers.quantization.wrapper import arguments_of, unbuilt_copy
from keras_se.sites.gated import given_mask

_SUMS = ("Add", "Divide", "Multiply", "Subtract", "TrueDivide")  # layers and raw operations
# Layers and raw operations that have an int8 form, and a range of their own.
_RANGED = {
    *("Abs", "Cast", "Concatenate", "Exp", "Gelu", "LeakyReLU", "LeakyRelu", "Maximum", "Mean"),
    *("Minimum", "PReLU", "Stack", "Sum"),
    *(f"GlobalAveragePooling{rank}D" for rank in (1, 2, 3)),
}
# Raw operations whose outputs lie in the range of their input.
_SAME = {
    *("Amax", "Amin", "BroadcastTo", "Cast", "Copy", "ExpandDims", "Flip", "GetItem", "Identity"),
    *("Max", "MaxPool", "Min", "Moveaxis", "Pad", "Ravel", "Repeat", "Reshape", "Roll", "Split"),
    *("Squeeze", "StopGradient", "Swapaxes", "Take", "Tile", "Transpose"),
}
_RESIZING = keras.layers.Resizing | keras.layers.UpSampling2D


class Rounding:
    """The rounding rules for one graph.

    What has no int8 form is computed in float32, between rounded inputs and rounded outputs.
    """

    def __init__(self, graph: Graph, is_outermost: bool, preserves_zeros: bool = False) -> None:
        self._graph = graph
        self._is_outermost = is_outermost
        self._preserves_zeros = preserves_zeros
        for call in graph.calls:
            _check(call)
        self._keeps_range = [_keeps_range(call) for call in graph.calls]

    def is_rounded(self, n: int) -> bool:
        """Return whether a `FakeQuantize` follows call `n`."""
        call = self._graph.calls[n]
        layer = call.layer
        if self._keeps_range[n] or is_nested_graph(layer) or type(layer) is SEBlock:
            return False
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
        # These round by themselves.
        is_kernel = QuantizeAware.takes(layer) and not self._makes_sums(n)
        return not is_kernel and _activation(call) in (None, "linear")

    def is_integer(self, n: int) -> bool:
        """Return whether a file computes call `n` in int8."""
        call = self._graph.calls[n]
        layer, kind = call.layer, type(call.layer).__name__
        if type(layer) is SEBlock:
            return QuantizeAwareSEBlock(**arguments_of(layer)).is_integer
        if QuantizeAware.takes(layer):
            return int8_form(layer.activation).is_integer
        if self._keeps_range[n] or is_nested_graph(layer) or _is_affine(call):
            return True
        is_known = kind in _RANGED and _is_of_keras(layer)
        return (
            is_known or _is_sum(layer) or QuantizeAwareMerge.takes(layer) or bool(_activation(call))
        )

    def replacement(self, n: int, shared: dict[int, Any]) -> Any:
        """Return the layer that replaces that of call `n`, if any; `shared` has those by id."""
        call = self._graph.calls[n]
        layer = call.layer
        is_last = self._is_outermost and any(map(self._graph.is_output, call.outputs))
        name = _activation(call)
        # Activations have no weights: each call gets its own layer, so ranges differ by call.
        if name is not None and name != "linear" and not self._is_fused_relu(n):
            return QuantizeAwareActivation(
                name,
                takes_sums=False,
                is_last=is_last,
                name=self._unique_name(n),
                dtype="float32",
            )
        if QuantizeAwareMerge.takes(layer) and self._is_merged_in_steps(n):
            return QuantizeAwareMerge(unbuilt_copy(layer), name=self._unique_name(n))
        if QuantizeAwarePooling.takes(layer):
            return QuantizeAwarePooling(unbuilt_copy(layer), name=self._unique_name(n))
        if id(layer) not in shared:
            shared[id(layer)] = self._with_weights(n, is_last)
        return shared[id(layer)]

    def _is_merged_in_steps(self, n: int) -> bool:
        call = self._graph.calls[n]
        tensors = sum(tensor in self._graph.tensors for tensor in call.inputs)
        return type(call.layer) is keras.layers.Average or tensors > 2

    def _with_weights(self, n: int, is_last: bool) -> Any:
        call = self._graph.calls[n]
        layer, preserves = call.layer, self._preserves_zeros and is_pruned(call.layer)
        if type(layer) is SEBlock:
            return QuantizeAwareSEBlock(**arguments_of(layer), preserves_zeros=preserves)
        if QuantizeAware.takes(layer):
            return QuantizeAware(
                unbuilt_copy(layer), is_last=is_last, preserves_zeros=preserves, name=layer.name
            )
        if _is_affine(call) and not self._is_folded(n):
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
        call = self._graph.calls[n]
        if QuantizeAware.takes(call.layer):
            # QuantizeAware rounds after any other activation itself.
            return int8_form(call.layer.activation).is_fused
        return _is_affine(call) or _is_sum(call.layer)

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
        return QuantizeAware.takes(kernel) and activation_name(kernel.activation) == "linear"

    def _is_fused_relu(self, n: int) -> bool:
        """Return whether call `n` is a ReLU that fuses with the operation before it."""
        before = self._sole_producer(n)
        return self._is_relu(n) and before is not None and self._makes_sums(before)

    def _is_relu(self, n: int) -> bool:
        return _activation(self._graph.calls[n]) in ("relu", "relu6")

    def _sole_producer(self, n: int) -> int | None:
        """Return the call whose output only call `n` consumes."""
        before = self._graph.producers.get(self._graph.calls[n].inputs[0])
        return before if before is not None and self._graph.sole_consumer(before) == n else None


def _check(call: Call) -> None:
    layer = call.layer
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        raise InputError(
            "quantize_aware with engine='keras' needs layers with the channels last. "
            f"Received: {layer.name!r} with data_format='channels_first'"
        )


def _keeps_range(call: Call) -> bool:
    """Return whether the outputs of a call lie in the range of its input at inference."""
    layer = call.layer
    if isinstance(layer, _RESIZING):
        return layer.interpolation in ("nearest", "bilinear")
    if isinstance(layer, keras.layers.Layer):
        # Exact types: a subclass may compute something else.
        return type(layer) in SAME_RANGE or (takes_training(layer) and _is_idle(call))
    is_cast = type(layer).__name__ == "Cast"
    if is_cast and any("float" not in t.dtype for t in symbolic_arguments(call.args, {})):
        return False
    return type(layer).__name__ in _SAME and _is_of_keras(layer)


def _is_idle(call: Call) -> bool:
    """Return whether a layer returns its input at inference, such as augmentation."""
    layer = call.layer
    if is_nested_graph(layer) or layer.weights or call.kwargs.get("training") is not None:
        return False
    tensors = symbolic_arguments(call.args, call.kwargs)
    if len(tensors) != 1 or "float" not in tensors[0].dtype:
        return False
    shape = [size or 2 for size in tensors[0].shape]
    x = np.random.default_rng(0).random(shape).astype(tensors[0].dtype)
    try:
        with keras.StatelessScope():
            found = keras.ops.convert_to_numpy(layer(x, training=False))
    except Exception:  # the code of the user's layer may raise anything
        return False
    return np.array_equal(found, x)


def _is_affine(call: Call) -> bool:
    axis = getattr(call.layer, "axis", -1)
    last = len(call.outputs[0].shape) - 1
    return QuantizeAwareAffine.takes(call.layer) and axis in (-1, last, (-1,), (last,), ())


def _is_sum(layer: Any) -> bool:
    # The layer Add and the operation Add share a name; a custom class of that name is neither.
    return type(layer).__name__ in _SUMS and _is_of_keras(layer)


def _is_of_keras(layer: Any) -> bool:
    return type(layer).__module__.startswith("keras.")


def _activation(call: Call) -> str | None:
    """Return the name in `ACTIVATIONS` of what a call of an activation computes, or `None`."""
    layer = call.layer
    if type(layer) is keras.layers.Activation:
        return activation_name(layer.activation)
    if type(layer) is keras.layers.Softmax:
        return "softmax" if layer.axis == -1 and given_mask(call) is None else None
    if type(layer) is keras.layers.ReLU and not layer.negative_slope and not layer.threshold:
        return {None: "relu", 6: "relu6"}.get(layer.max_value)
    name = raw_activation(layer)
    return name if name in ACTIVATIONS else None
