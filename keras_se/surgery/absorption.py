"""The layers of a graph whose weights can take up a multiplication of channels by constants."""

from collections import Counter
from typing import Any, Literal

import keras
import numpy as np

from keras_se.graph.models import is_nested_graph
from keras_se.graph.trace import Call, Graph
from keras_se.surgery.scaling import passes, takes_input, takes_output


def absorbing_layers(
    whole: Graph, layer: Any, factors: np.ndarray
) -> tuple[Literal["before", "after"], list[Any]] | None:
    """The layer before a multiplication, or those after it, that take it up; empty if none can.

    `None` if the multiplication is in no graph of the model.
    """
    for graph in whole.family():
        for n, call in enumerate(graph.calls):
            if call.layer is layer:
                search = _Search(graph, _uses(whole), factors)
                if before := search.before(n):
                    return "before", before
                return "after", search.after(n) or []
    return None


def _uses(whole: Graph) -> Counter[int]:
    """By id of a variable, the number of calls that compute with it."""
    uses: Counter[int] = Counter()
    for graph in whole.family():
        for call in graph.calls:
            if not is_nested_graph(call.layer):  # its own calls count
                given = keras.tree.flatten((call.args, call.kwargs))
                held = [part for part in given if isinstance(part, keras.Variable)]
                uses.update({id(v) for v in [*getattr(call.layer, "weights", ()), *held]})
    return uses


class _Search:
    """Looks for layers that take up factors, from a multiplication on."""

    def __init__(self, graph: Graph, uses: Counter[int], factors: np.ndarray) -> None:
        self._graph = graph
        self._uses = uses
        self._factors = factors

    def before(self, n: int) -> list[Any]:
        """The layer before call `n` whose output alone the call multiplies; empty if none can."""
        call = self._graph.calls[n]
        axis = self._axis(call)
        while (producer := self._sole_producer(n)) is not None:
            n = producer
            call = self._graph.calls[n]
            rank = len(call.outputs[0].shape)
            if weights := takes_output(call.layer, self._factors, axis, rank):
                return [call.layer] if self._are_free(weights) else []
            if not passes(call.layer, self._factors, axis, rank):
                return []
        return []

    def after(self, n: int) -> list[Any] | None:
        """The layers that take all that call `n` multiplies; `None` if another takes some."""
        call = self._graph.calls[n]
        return self._takers(call.outputs[0], self._axis(call))

    def _takers(self, tensor: Any, axis: int) -> list[Any] | None:
        edges = self._graph.consumers.get(id(tensor), [])
        if not edges or self._graph.is_output(tensor):
            return None
        found: list[Any] = []
        for n, _ in edges:
            taken = self._of_consumer(self._graph.calls[n], tensor, axis)
            if taken is None:
                return None
            found += taken
        return found

    def _of_consumer(self, call: Call, tensor: Any, axis: int) -> list[Any] | None:
        if len(_tensors(self._graph, call)) != 1 or len(call.outputs) != 1:
            return None
        rank = len(tensor.shape)
        if weights := takes_input(call.layer, axis, rank):
            return [call.layer] if self._are_free(weights) else None
        if not passes(call.layer, self._factors, axis, rank):
            return None
        (output,) = call.outputs
        # A global pooling without kept dimensions leaves the channels alone.
        return self._takers(output, axis if len(output.shape) == rank else 1)

    def _sole_producer(self, n: int) -> int | None:
        """The call whose only output only call `n` takes, as its only input."""
        given = _tensors(self._graph, self._graph.calls[n])
        producer = self._graph.producers.get(given[0]) if len(given) == 1 else None
        is_sole = producer is not None and self._graph.sole_consumer(producer) == n
        return producer if is_sole else None

    def _are_free(self, weights: list[Any]) -> bool:
        """Whether no other call computes with these weights."""
        return all(self._uses[id(weight)] == 1 for weight in weights)

    def _axis(self, call: Call) -> int:
        """The axis of the channels in what a multiplication makes."""
        shape = np.shape(call.layer.scale)
        rank = len(call.outputs[0].shape)
        # One channel has factors on no axis: the last one is as good.
        return next((n + rank for n in range(-len(shape), 0) if shape[n] > 1), rank - 1)


def _tensors(graph: Graph, call: Call) -> list[int]:
    return [tensor for tensor in call.inputs if tensor in graph.tensors]
