"""The graph of a Keras model: its calls in topological order, recorded once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from keras_se.graph.composites import recorded_call, symbolic_arguments
from keras_se.graph.inputs import fresh_inputs
from keras_se.graph.models import check_graph, is_nested_graph
from keras_se.graph.replay import default_training, outlined, replayable


@dataclass(frozen=True)
class Call:
    """One call of a layer or raw operation in a model's graph.

    Attributes:
        layer: The layer or operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        returned: Its output tensors, in their structure.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returned: Any

    @cached_property
    def inputs(self) -> tuple[int, ...]:
        """Ids of all arguments, flattened: tensors and others."""
        return tuple(map(id, keras.tree.flatten((self.args, self.kwargs))))

    @cached_property
    def outputs(self) -> tuple[Any, ...]:
        """The output tensors, flattened."""
        return tuple(keras.tree.flatten(self.returned))


class Graph:
    """The calls of a model in topological order, nested models as single calls.

    Attributes:
        model: The model.
        path: Names of the models around it and its own, each with a slash; empty for the outermost.
        inputs: Its symbolic inputs in this recording, in their structure. They have shapes only.
        outputs: Its symbolic outputs, in their structure.
        calls: The calls.
        tensors: By id, all tensors, inputs included.
        producers: By id of a tensor, the index of the call that made it; inputs are not in it.
        is_composite: Whether the model is what Keras recorded inside a composite layer.
    """

    def __init__(
        self,
        model: keras.Model,
        shapes: Sequence[tuple[int, ...]] | None = None,
        path: str = "",
        family: "dict[int, Graph] | None" = None,
        is_composite: bool = False,
    ) -> None:
        self.model = model
        self.path = path
        self.is_composite = is_composite
        self._has_own_shapes = shapes is None
        self.inputs = fresh_inputs(model, shapes)
        self.calls: list[Call] = []
        self.tensors: dict[int, Any] = {id(t): t for t in keras.tree.flatten(self.inputs)}
        self.producers: dict[int, int] = {}
        self._family: dict[int, Graph] = {} if family is None else family  # by id of the model
        self._family[id(model)] = self
        self._looked: dict[int, Graph | str] = {}  # by index of the call
        self.outputs = self._record()

    def _record(self) -> Any:
        if isinstance(self.model, keras.Sequential):
            tensor = self.inputs
            for layer in self.model.layers:
                tensor = self._call(layer, tensor)
            return tensor
        plain = self.model
        # `clone_model` would compile the clone, or keep a class of its own.
        if not type(plain).__module__.startswith("keras.") or plain.compiled:
            plain = keras.Model(plain.input, plain.output)
        clone = keras.models.clone_model(
            plain,
            input_tensors=self.inputs,
            clone_function=lambda layer: layer,
            call_function=self._call,
        )
        return clone.output

    def _call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        layer = replayable(layer)
        # Keras records the default of the layer as if the user had ordered it.
        if kwargs.get("training") in (None, default_training(layer)):
            kwargs.pop("training", None)
        stand_in = outlined(layer, self._known_output(layer, symbolic_arguments(args, kwargs)))
        call = Call(layer, args, kwargs, stand_in(*args, **kwargs))
        self.tensors |= {id(t): t for t in call.outputs}
        self.producers |= {id(t): len(self.calls) for t in call.outputs}
        self.calls.append(call)
        return call.returned

    def _known_output(self, layer: Any, inputs: list[Any]) -> Any:
        """The output of the first call of a layer, if it fits; `None` if it must be computed."""
        # The output of a model is the one inside, whose shape may be more general.
        if not self._has_own_shapes or isinstance(layer, keras.Model):
            return None
        try:
            first = keras.tree.flatten(layer.input)
            return layer.output if _shapes(first) == _shapes(inputs) else None
        except (AttributeError, ValueError):  # never called, or a raw operation
            return None

    def inside(self, n: int) -> "Graph | None":
        """The graph of the model that call `n` calls, if it is one."""
        # `nested` first: all graphs of this level are recorded before any of a level below, so that
        # neither paths nor the family depend on who asks first.
        return self.nested.get(n) or self._family.get(id(self.calls[n].layer))

    @cached_property
    def nested(self) -> "dict[int, Graph]":
        """By index of a call, the graph of the model nested there; each model once."""
        graphs: dict[int, Graph] = {}
        for n, call in enumerate(self.calls):
            layer = call.layer
            if id(layer) not in self._family and is_nested_graph(layer):
                path = f"{self.path}{layer.name}/"
                graphs[n] = Graph(layer, path=path, family=self._family)
        return graphs

    def look_into(self, n: int) -> "Graph | str":
        """The graph inside the composite layer of call `n`, or the reason why there is none."""
        if n not in self._looked:
            call = self.calls[n]
            model = recorded_call(call.layer, call.args, call.kwargs)
            path = f"{self.path}{call.layer.name}/"
            self._looked[n] = (
                model if isinstance(model, str) else Graph(model, path=path, is_composite=True)
            )
        return self._looked[n]

    def looked(self, n: int) -> "Graph | str | None":
        """What `look_into` found at call `n`, if it was asked."""
        return self._looked.get(n)

    def family(self) -> "Iterator[Graph]":
        """Yields this graph and all that are nested in it, in the order of their first calls."""
        yield self
        for graph in self.nested.values():
            yield from graph.family()

    @cached_property
    def consumers(self) -> dict[int, list[tuple[int, int]]]:
        """By id of a tensor, the edges that take it: (index of the call, position)."""
        edges: dict[int, list[tuple[int, int]]] = {}
        for n, call in enumerate(self.calls):
            for position, tensor in enumerate(call.inputs):
                edges.setdefault(tensor, []).append((n, position))
        return edges

    @cached_property
    def ancestors(self) -> list[frozenset[int]]:
        """By index of a call, the indices of the calls that it depends on, itself included."""
        known: list[frozenset[int]] = []
        for n, call in enumerate(self.calls):
            before = [known[self.producers[t]] for t in call.inputs if t in self.producers]
            known.append(frozenset({n}).union(*before))
        return known

    def is_output(self, tensor: Any) -> bool:
        """Whether a tensor is an output of the model."""
        return any(tensor is output for output in keras.tree.flatten(self.outputs))

    def sole_consumer(self, n: int) -> int | None:
        """The only call that takes the only output of call `n`, or `None`."""
        outputs = self.calls[n].outputs
        edges = self.consumers.get(id(outputs[0]), [])
        if len(outputs) != 1 or len(edges) != 1 or self.is_output(outputs[0]):
            return None
        return edges[0][0]

    def producer_name(self, tensor: int) -> str:
        """The name of the layer that made the tensor of this id; empty for an input."""
        producer = self.producers.get(tensor)
        return "" if producer is None else str(self.calls[producer].layer.name)


def _shapes(tensors: list[Any]) -> list[Any]:
    return [(tensor.shape, tensor.dtype) for tensor in tensors]


def trace(
    model: keras.Model, purpose: str, shapes: Sequence[tuple[int, ...]] | None = None
) -> Graph:
    """Records the graph of a user's model, or raises `InputError` that names the purpose."""
    check_graph(purpose, model)
    return Graph(model, shapes)
