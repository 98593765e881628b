"""Where an int8 file rounds the outputs of a tf_keras model."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_se.compress.tfmot.bridge.translation import ENTRY
from keras_se.errors import InputError
from keras_se.layers.quantization.activation import ACTIVATIONS
from keras_se.layers.quantization.fake_quantize import SAME_RANGE

_KERNELS = ("Conv1D", "Conv2D", "Dense", "DepthwiseConv2D")
_ACTIVATIONS = ("gelu", "linear", "relu", "sigmoid", "softmax", "swish", "tanh")
# Its outputs lie in the range of its input, whatever its interpolation is here.
_SAME_RANGE = {kind.__name__ for kind in SAME_RANGE} | {"UpSampling2D"}
_TAKES_RELU = (*_KERNELS, "Add", "BatchNormalization", "Multiply", "Rescaling", "Subtract")
_OWN_RANGE = {
    *_TAKES_RELU,
    "Activation",
    "Concatenate",
    "GlobalAveragePooling1D",
    "GlobalAveragePooling2D",
    "LeakyReLU",
    "Maximum",
    "Minimum",
    "ReLU",
    "Softmax",
}
Range = tuple[float, float]  # smallest and largest value that int8 represents
# TFLite prescribes these ranges.
_FIXED = {name: ACTIVATIONS[name].after for name in ("sigmoid", "softmax", "tanh")}
# At these inputs the output is half a step from 1, the last one that 8 bits tell apart. A wider
# range would waste its steps.
_LIMITS = {"sigmoid": math.log(511), "tanh": math.atanh(255 / 256)}


@dataclass(frozen=True)
class Output:
    """The quantization of an output.

    Attributes:
        range: The initial range.
        is_fixed: Whether the range stays constant.
        limit: The largest magnitude that the range may reach.
    """

    range: Range
    is_fixed: bool = False
    limit: float = math.inf


class RoundingPlan:
    """Selects the outputs of a model to round.

    Attributes:
        measured: Names of the layers whose output range must be measured.
        folded: Names of the entries to a BatchNormalization that TFLite folds into a kernel.
        standalone: Names of the entries to any other BatchNormalization; a depthwise kernel of ones
            replaces them.
    """

    def __init__(self, model: Any) -> None:
        self._layers = {layer.name: layer for layer in model.layers}
        self._outputs = {id(tensor) for tensor in model.outputs}
        for layer in self._layers.values():
            _check_known(layer)
        entries = {
            name
            for name, layer in self._layers.items()
            if name.endswith(ENTRY) and kind_of(self._sole_consumer(layer)) == "BatchNormalization"
        }
        self.folded = {name for name in entries if self._folds(name)}
        self.standalone = entries - self.folded
        self.measured = {name for name, layer in self._layers.items() if self._has_range(layer)}

    def output(self, layer: Any, ranges: dict[str, Range]) -> Output | None:
        """Return the quantization of a layer's output, or `None` if it is not rounded."""
        if layer.name not in self.measured:
            return None
        fixed = _fixed_range(layer)
        if fixed is not None:
            return Output(fixed, is_fixed=True)
        following = self._sole_consumer(layer)
        limit = math.inf if following is None else _LIMITS.get(_activation(following), math.inf)
        return Output(ranges[layer.name], limit=limit)

    def _folds(self, name: str) -> bool:
        """Return whether TFLite folds the BatchNormalization after an entry into a kernel."""
        producer = _producer(self._layers[name])
        # A kernel output with another consumer must stay as it is, so TFLite does not fold.
        if kind_of(producer) in _KERNELS and self._sole_consumer(producer) is not None:
            return True
        # The kernel of ones is a DepthwiseConv2D, which takes tensors of rank 4.
        if len(self._layers[name].output.shape) != 4:
            raise InputError(
                "quantize_aware supports BatchNormalization of maps, or right after a layer with a "
                "kernel whose output nothing else uses. "
                f"Received: {self._sole_consumer(self._layers[name]).name!r}"
            )
        return False

    def _has_range(self, layer: Any) -> bool:
        is_same = kind_of(layer) in _SAME_RANGE | {"InputLayer"}
        is_entry = layer.name in self.folded | self.standalone
        return not is_same and not is_entry and not self._is_fused(layer)

    def _is_fused(self, layer: Any) -> bool:
        """Return whether TFLite fuses a layer with the next one."""
        following = self._sole_consumer(layer)
        if following is None:
            return False
        if _is_relu(following):
            return kind_of(layer) in _TAKES_RELU
        # An addition between a kernel and a ReLU, as in hard_sigmoid, becomes part of the bias.
        is_moved = kind_of(following) == "Rescaling" and bool(np.all(following.scale == 1))
        return kind_of(layer) in _KERNELS and (
            following.name in self.folded or (is_moved and self._is_fused(following))
        )

    def _sole_consumer(self, layer: Any) -> Any:
        # outbound_nodes also lists calls outside this model.
        consumers = [n.layer for n in layer.outbound_nodes if n.layer.name in self._layers]
        is_output = any(id(tensor) in self._outputs for tensor in outputs_of(layer))
        return consumers[0] if len(consumers) == 1 and not is_output else None


def _check_known(layer: Any) -> None:
    kind = kind_of(layer)
    if kind == "BatchNormalization" and len(layer.inbound_nodes) > 1:
        raise InputError(
            "quantize_aware with engine='tfmot' supports BatchNormalization that is called once, "
            "since TFLite folds it into one kernel; engine='keras' has no such limit. "
            f"Received: {layer.name!r}, called {len(layer.inbound_nodes)} times"
        )
    is_known = kind in _SAME_RANGE | _OWN_RANGE | {"InputLayer"}
    if not is_known or (kind == "Activation" and _activation(layer) not in _ACTIVATIONS):
        what = kind if kind != "Activation" else _activation(layer)
        raise InputError(
            "quantize_aware supports layers and activations that TFLite computes in int8. "
            f"Received: {layer.name!r} ({what})"
        )


def kind_of(layer: Any) -> str:
    """Return the class name of a layer."""
    return type(layer).__name__


def _producer(layer: Any) -> Any:
    return layer.inbound_nodes[0].inbound_layers


def outputs_of(layer: Any) -> list[Any]:
    """Return the output tensors of all calls of a layer."""
    return [layer.get_output_at(n) for n in range(len(layer.inbound_nodes))]


def _fixed_range(layer: Any) -> Range | None:
    """Return the range of an output that is known in advance, or `None`."""
    if kind_of(layer) != "Rescaling":
        return _FIXED.get(_activation(layer))
    # relu6(x + 3) / 6 lies in [0, 1]: activations.py builds it from a ReLU and this Rescaling.
    is_sixth = np.ndim(layer.scale) == 0 and layer.scale == 1.0 / 6.0
    return (0.0, 1.0) if is_sixth and getattr(_producer(layer), "max_value", None) == 6 else None


def _activation(layer: Any) -> str:
    if kind_of(layer) != "Activation":
        return kind_of(layer).lower()
    name: str = layer.activation.__name__
    return name


def _is_relu(layer: Any) -> bool:
    if kind_of(layer) == "Activation":
        return _activation(layer) == "relu"
    is_plain = kind_of(layer) == "ReLU" and not layer.negative_slope and not layer.threshold
    return is_plain and layer.max_value in (None, 6)
