"""The excitation of a site: all between its squeezes and its gates, down to raw operations."""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_se.graph.replay import shared
from keras_se.graph.trace import Graph
from keras_se.sites.flow import Flow, Step, between, compute
from keras_se.sites.recognition import GRID, recognized_gate
from keras_se.sites.shapes import length

# Layers of a matrix, and names of raw operations that may take one.
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_MATRICES = (layers.Dense, layers.EinsumDense, *_CONVOLUTIONS)
_PRODUCTS = {"Conv", "Dot", "Einsum", "Matmul", "Tensordot"}


@dataclass(frozen=True)
class Excitation:
    """An excitation as a graph of its own.

    Attributes:
        flow: Its raw operations; its inputs are the squeezed vectors.
        inputs: The squeezed vectors.
        gates: The gates.
    """

    flow: Flow
    inputs: Sequence[Any]
    gates: Any


class GateFunction:
    """What the steps after the last matrices compute."""

    def __init__(self, flow: Flow, matrices: Sequence[Step], gates: Any) -> None:
        self._steps = between(flow, [step.outputs[0] for step in matrices], gates)
        read = {id(tensor) for step in self._steps or () for tensor in step.inputs} | {id(gates)}
        self._matrices = [step for step in matrices if id(step.outputs[0]) in read]
        self._gates = gates

    def name(self) -> str | None:
        """The name of the gate, `"unknown"`, or `None` for a swish-like activation."""
        if self._steps is None:
            return "unknown"
        name = recognized_gate(self._values(GRID[:, None])[:, 0])
        # A softmax mixes channels, so equal values show nothing of it.
        return "softmax" if name == "unknown" and self._is_softmax() else name

    def _is_softmax(self) -> bool:
        channels = int(length(self._gates) or 1)
        rows = np.random.default_rng(0).normal(size=(8, channels))
        values, moved = self._values(rows), self._values(rows + 1.0)
        sums = values.sum(axis=1)
        is_constant = np.ptp(sums) < 1e-3 * abs(sums[0]) and sums[0] > 0.0
        return bool(channels > 1 and is_constant and np.abs(moved - values).max() < 1e-3)

    def _values(self, rows: np.ndarray) -> np.ndarray:
        """The gates for values (rows, channels) of the last matrices."""
        if rows.shape[1] == 1 and not any(map(_knows_channels, self._steps or ())):
            with contextlib.suppress(Exception):  # such as a reshape to all channels
                return self._computed(rows, channels=2)
        return self._computed(rows)

    def _computed(self, rows: np.ndarray, channels: int | None = None) -> np.ndarray:
        known = {
            id(step.outputs[0]): _activated(step, as_tensor(rows, step.outputs[0], size=channels))
            for step in self._matrices
        }
        return as_rows(compute(self._steps or (), known, self._gates))


def _knows_channels(step: Step) -> bool:
    return any(len(constant.shape) > 0 for constant in step.constants)


def _activated(step: Step, values: Any) -> Any:
    """The output of a layer with a matrix for values of the matrix: its activation is inside."""
    activation = getattr(step.layer, "activation", None)
    return values if activation is None else activation(values)


def as_tensor(
    rows: np.ndarray, tensor: Any, dtype: str | None = None, size: int | None = None
) -> Any:
    """Rows of values, each repeated to the length of a vector, in the shape of the vector.

    `size` is another length of the vector.
    """
    own = int(length(tensor) or rows.shape[1])
    shape = [size if size and n == own else n for n in tensor.shape[1:]]
    shaped = np.broadcast_to(rows, (len(rows), size or own)).reshape(len(rows), *shape)
    return keras.ops.convert_to_tensor(shaped, dtype=dtype or tensor.dtype)


def as_rows(values: Any) -> np.ndarray:
    """Vectors as an array (rows, channels) of float64."""
    array = keras.ops.convert_to_numpy(values).astype("float64")
    return array.reshape(len(array), -1)


def opened(steps: Sequence[Step], squeezed: Sequence[Any], gates: Any) -> Excitation:
    """The excitation of some steps, layers looked into where Keras can record them."""
    try:
        return _recorded(steps, squeezed, gates, _call)
    except Exception:  # the code of a layer may raise anything
        return _recorded(steps, squeezed, gates, shared)


def _call(layer: Any) -> Any:
    if getattr(layer, "groups", 1) > 1 and isinstance(layer, _CONVOLUTIONS):
        return lambda inputs, **_: _ungrouped(layer, inputs)
    return layer.call if isinstance(layer, layers.Layer) else layer


def _ungrouped(layer: Any, inputs: Any) -> Any:
    """A convolution with groups as one without: Keras has no symbolic one with groups."""
    kernel = keras.ops.convert_to_numpy(layer.kernel)
    *window, rows, columns = kernel.shape
    full = np.zeros((*window, layer.groups, rows, columns), kernel.dtype)
    for group, part in enumerate(np.split(np.arange(columns), layer.groups)):
        full[..., group, :, part] = np.moveaxis(kernel[..., part], -1, 0)
    full = full.reshape(*window, layer.groups * rows, columns)
    outputs = keras.ops.conv(inputs, full, 1, layer.padding, layer.data_format)
    if layer.use_bias:
        shape = [1] * len(inputs.shape)
        shape[-1 if layer.data_format == "channels_last" else 1] = columns
        outputs = outputs + keras.ops.reshape(layer.bias, shape)
    return outputs if layer.activation is None else layer.activation(outputs)


def _recorded(
    steps: Sequence[Step], squeezed: Sequence[Any], gates: Any, stand_in: Any
) -> Excitation:
    inputs = [keras.Input(batch_shape=(None, *t.shape[1:]), dtype=t.dtype) for t in squeezed]
    known = {id(tensor): new for tensor, new in zip(squeezed, inputs, strict=True)}
    outputs = compute(steps, known, gates, stand_in)
    graph = Graph(keras.Model(inputs, outputs))
    flow = Flow.of(graph)
    (end,) = flow.ends
    return Excitation(flow, flow.starts, end)


def is_matrix(step: Step) -> bool:
    """Whether a step multiplies all channels of a vector by a learned matrix."""
    if len(step.inputs) != 1 or len(step.outputs) != 1:
        return False
    if not isinstance(step.layer, _MATRICES) and step.kind not in _PRODUCTS:
        return False
    sizes = [c.shape for c in step.constants if len(c.shape) > 1]
    if not sizes:
        return False
    kernel = max(sizes, key=math.prod)
    before, after = length(step.inputs[0]), length(step.outputs[0])
    if before is None or after is None:
        return False
    is_convolution = step.kind == "Conv" or hasattr(step.layer, "groups")
    if not is_convolution:
        return bool(math.prod(kernel) == before * after)
    # With one channel a convolution slides along the vector; with fewer than all, it has groups.
    return kernel[-1] == after and before % kernel[-2] == 0 and (kernel[-2] > 1 or before == 1)


def depth(steps: Sequence[Step], end: Any) -> int:
    """The most matrices on a path to a tensor."""
    # CBAM sends two squeezes through the same matrices, so count per path, not in total.
    depths: dict[int, int] = {}
    for step in steps:
        most = max((depths.get(id(tensor), 0) for tensor in step.inputs), default=0)
        depths |= {id(tensor): most + is_matrix(step) for tensor in step.outputs}
    return depths.get(id(end), 0)
