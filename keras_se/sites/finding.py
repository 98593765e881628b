"""Finds Squeeze-and-Excitation that is built from plain layers, without an `SEBlock`.

A site is a product of a feature map and one value per channel that comes from a global pooling of
the same map through two fully connected layers (dense, or convolutions of size 1), as in
MobileNetV3 and EfficientNet.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_se.graph.trace import Call, Graph
from keras_se.graph.visits import Visit
from keras_se.layers.gates import GATES
from keras_se.layers.se_block import DataFormat
from keras_se.layers.squeezes import SqueezeName

_SQUEEZES: dict[str, SqueezeName] = {
    **dict.fromkeys((f"GlobalAveragePooling{n}D" for n in (1, 2, 3)), "avg"),
    **dict.fromkeys((f"GlobalMaxPooling{n}D" for n in (1, 2, 3)), "max"),
}
_RESHAPES = (layers.Reshape, layers.Flatten)
_ELEMENTWISE = (layers.Activation, layers.ELU, layers.LeakyReLU, layers.ReLU, layers.Rescaling)
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_ACTIVATIONS = (
    "relu",
    "linear",
    "silu",
    "gelu",
    "elu",
    "leaky_relu",
    "hard_silu",
    "relu6",
    "tanh",
    "sigmoid",
    "hard_sigmoid",
    "softplus",
    "mish",
    "selu",
)
_GRID = np.linspace(-8.0, 8.0, 161, dtype="float32")
_TOLERANCES = {"float16": 0.01, "bfloat16": 0.05}  # for rounding near the end of the grid, 8


@dataclass(frozen=True)
class InlineSE:
    """An SE site that is built from plain layers.

    Attributes:
        call: Index of the product in the graph.
        position: Position of the feature map among the arguments of the product.
        gates: The tensor of the gates.
        hidden: The tensor of the bottleneck's activations.
        first: The layer that holds W1.
        second: The layer that holds W2.
        squeeze: `"avg"` or `"max"`.
        activation: Name of the activation of the bottleneck, or `None` if it is unknown.
        gate: Name of the gate, or `None` if it is unknown.
        data_format: Data format of the feature map.
    """

    call: int
    position: int
    gates: Any
    hidden: Any
    first: Any
    second: Any
    squeeze: SqueezeName
    activation: str | None
    gate: str | None
    data_format: DataFormat

    @property
    def channels(self) -> int:
        """Number of gated channels."""
        return _units(self.second)

    @property
    def width(self) -> int:
        """Number of units of the bottleneck."""
        return _units(self.first)


class InlineSites:
    """The inline sites of the graphs that a walk meets; each graph is searched once."""

    def __init__(self) -> None:
        self._found: dict[int, dict[int, InlineSE]] = {}  # by id of the graph

    def at(self, visit: Visit) -> InlineSE | None:
        """The site whose product a visit is, if it is one."""
        graph = visit.graph
        if id(graph) not in self._found:
            self._found[id(graph)] = {site.call: site for site in find_inline(graph)}
        return self._found[id(graph)].get(visit.index)


def find_inline(graph: Graph) -> list[InlineSE]:
    """Returns the inline SE sites of a graph in topological order."""
    found = []
    for n, call in enumerate(graph.calls):
        # Constants are arguments, too, but only tensors can be a map or a gate.
        given = [(p, i) for p, i in enumerate(call.inputs) if i in graph.tensors]
        # By name: the class of the raw operation `x * y` is not public in Keras.
        if type(call.layer).__name__ == "Multiply" and len(given) == 2:
            # Either factor may be the gate.
            for (_, gate), (position, feature) in (given, given[::-1]):
                site = _site(graph, n, gate, position, feature)
                if site is not None:
                    found.append(site)
                    break
    return found


def _site(graph: Graph, n: int, gate: int, position: int, feature: int) -> InlineSE | None:
    gates, shape = graph.tensors[gate], graph.tensors[feature].shape
    chain = _chain(graph, gate, feature)
    if chain is None or len(gates.shape) != len(shape):
        return None
    pooling, *rest = chain
    first, second = (call for call in rest if _is_matrix(call.layer))
    data_format = pooling.layer.data_format
    spatial = gates.shape[1:-1] if data_format == "channels_last" else gates.shape[2:]
    channels = shape[-1 if data_format == "channels_last" else 1]
    if any(size != 1 for size in spatial) or _units(second.layer) != channels:
        return None
    between = rest[rest.index(second) - 1].outputs[0]
    activations = {name: keras.activations.get(name) for name in _ACTIVATIONS}
    # A softmax mixes channels, so a grid of single values cannot recognize it.
    functions = {name: facts.function for name, facts in GATES.items() if name != "softmax"}
    return InlineSE(
        call=n,
        position=position,
        gates=gates,
        hidden=between,
        first=first.layer,
        second=second.layer,
        squeeze=_SQUEEZES[type(pooling.layer).__name__],
        activation=_recognized(first, between, activations),
        gate=_recognized(second, gates, functions),
        data_format=data_format,
    )


def _chain(graph: Graph, gate: int, feature: int) -> list[Call] | None:
    """Returns the calls from a global pooling of `feature` to the gate, if they form SE."""
    chain: list[Call] = []
    tensor = gate
    while tensor in graph.producers:
        call = graph.calls[graph.producers[tensor]]
        inputs = [i for i in call.inputs if i in graph.tensors]
        chain.insert(0, call)
        if type(call.layer).__name__ in _SQUEEZES:
            matrices = sum(_is_matrix(c.layer) for c in chain)
            # A pooling of another map is cross-excitation, not SE.
            return chain if inputs == [feature] and matrices == 2 else None
        # Raw operations pass, since gates are often written as relu6(x + 3) / 6.
        is_operation = not isinstance(call.layer, layers.Layer)
        passes = is_operation or isinstance(call.layer, _RESHAPES + _ELEMENTWISE)
        if len(inputs) != 1 or not (passes or _is_matrix(call.layer)):
            return None
        tensor = inputs[0]
    return None


def _is_matrix(layer: Any) -> bool:
    if isinstance(layer, _CONVOLUTIONS):
        return set(layer.kernel_size) == {1} and layer.groups == 1 and set(layer.strides) == {1}
    return isinstance(layer, layers.Dense)


def _units(layer: Any) -> int:
    return layer.units if isinstance(layer, layers.Dense) else layer.filters


def _recognized(start: Call, end: Any, known: Mapping[str, Callable[[Any], Any]]) -> str | None:
    # Compare values on a grid: the same function has many spellings as layers and operations.
    shape = (1, *start.outputs[0].shape[1:])
    grid = np.broadcast_to(_GRID.reshape(-1, *[1] * (len(shape) - 1)), (len(_GRID), *shape[1:]))
    # The activation is part of the layer, so the graph has no tensor before it.
    values = start.layer.activation(keras.ops.convert_to_tensor(grid))
    if end is not start.outputs[0]:
        values = keras.Model(start.outputs[0], end)(values)
    values = keras.ops.convert_to_numpy(keras.ops.cast(values, "float32"))
    computed = values.reshape(len(_GRID), -1)[:, 0]
    errors = {}
    for name, function in known.items():
        expected = function(keras.ops.convert_to_tensor(_GRID))
        errors[name] = np.abs(computed - keras.ops.convert_to_numpy(expected)).max()
    nearest = min(errors, key=lambda name: errors[name])
    tolerance = _TOLERANCES.get(start.layer.compute_dtype, 1e-5)
    return nearest if errors[nearest] <= tolerance else None
