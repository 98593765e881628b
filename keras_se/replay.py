"""A second pass over the graph of a model, with its own layers and without a trace in it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from keras_se.errors import InputError


class _Shared(keras.layers.Layer):
    """Calls a layer in a second graph, with the same variables and no trace in the first."""

    def __init__(self, layer: keras.layers.Layer, constants: dict[str, Any] | None = None) -> None:
        super().__init__(dtype=layer.dtype_policy)
        self.layer = layer
        self.constants = constants
        self.supports_masking = layer.supports_masking
        self.built = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Binds what is no tensor first: Keras does not take both among keyword arguments."""
        if self.constants is not None:
            return super().__call__(*args, **kwargs)
        tensors = {name: value for name, value in kwargs.items() if _holds_tensors(value)}
        constants = {name: value for name, value in kwargs.items() if name not in tensors}
        return _Shared(self.layer, constants)(*args, **tensors)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs, **(self.constants or {}))

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs, **(self.constants or {}))


class _Outline(keras.Operation):
    """Stands for a layer where only shapes are asked for: far cheaper than a layer."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__()
        self.layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(part, keras.KerasTensor) for part in keras.tree.flatten(value))


def original(operation: Any) -> Any:
    """The layer or raw operation of the model that stands behind an operation of a replay.

    Args:
        operation: What `replay` gave to `call`.

    Returns:
        The layer or operation itself.
    """
    return operation.layer if isinstance(operation, _Shared | _Outline) else operation


def replay(model: keras.Model, inputs: Any, call: Callable[..., Any], outline: bool = False) -> Any:
    """Goes through a model's graph in topological order.

    Args:
        model: A model for which `is_graph` holds. It is not changed.
        inputs: Symbolic inputs, in the structure of `model.input`.
        call: Called as `call(operation, *args, **kwargs)` for every call of a layer or of a raw
            operation; returns what stands for its outputs, normally `operation(*args, **kwargs)`.
        outline: Whether only the shapes of the outputs are needed: masks and variables are not
            followed then.

    Returns:
        The outputs.
    """
    proxy = _Outline if outline else _Shared

    def proxied(operation: Any) -> Any:
        return proxy(operation) if isinstance(operation, keras.layers.Layer) else operation

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = call(proxied(layer), inputs)
        return inputs
    copy = keras.models.clone_model(
        model, input_tensors=inputs, clone_function=proxied, call_function=call
    )
    return copy.output


def fresh_inputs(model: keras.Model, input_shape: tuple[int, ...] | None = None) -> Any:
    """New symbolic inputs like those of a model, in their structure.

    Args:
        model: A model for which `is_graph` holds.
        input_shape: Another shape of an example, for models with one input.

    Returns:
        `keras.Input`s of the same shapes, dtypes and names.

    Raises:
        InputError: If `input_shape` does not fit the model.
    """
    if input_shape is not None:
        _check_input_shape(model, input_shape)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.InputLayer)]
    known = {id(layer.output): layer for layer in layers}

    def fresh(tensor: Any) -> Any:
        layer = known.get(id(tensor))
        return keras.Input(
            batch_shape=tensor.shape if input_shape is None else (tensor.shape[0], *input_shape),
            dtype=tensor.dtype,
            name=tensor.name if layer is None else layer.name,
            sparse=getattr(layer, "sparse", False),
            optional=getattr(layer, "optional", False),
        )

    return keras.tree.map_structure(
        fresh,
        model.inputs[0] if isinstance(model, keras.Sequential) else model.input,
    )


def _check_input_shape(model: keras.Model, input_shape: tuple[int, ...]) -> None:
    expected = tuple(model.inputs[0].shape[1:])
    fits = len(model.inputs) == 1 and len(expected) == len(input_shape)
    if not fits or any(e not in (None, n) for e, n in zip(expected, input_shape, strict=True)):
        raise InputError(
            f"input_shape must fit the one input of the model, {expected}. "
            f"Received: input_shape={input_shape} for {len(model.inputs)} inputs"
        )


def is_graph(model: Any) -> bool:
    """Whether a model is its graph of layers: Sequential or functional, without a call of its own.

    Args:
        model: Anything.

    Returns:
        False for models whose class overrides `call`: their graph does not say what they compute.

    Example:
        >>> is_graph(keras.Sequential([keras.Input((2,))]))
        True
    """
    if not isinstance(model, keras.Model):
        return False
    own = [c for c in type(model).__mro__ if not c.__module__.startswith("keras.")]
    if any("call" in vars(c) for c in own):
        return False
    return isinstance(model, keras.Sequential) or len(getattr(model, "operations", ())) > 0


def check_graph(purpose: str, model: Any) -> None:
    """Refuses what is no built graph of layers.

    Args:
        purpose: What the message says the graph is needed for.
        model: Anything.

    Raises:
        InputError: If `model` is no Keras model, is subclassed, or is not built.
    """
    if not is_graph(model):
        raise InputError(
            f"{purpose} takes functional and Sequential Keras models; of a subclassed model pass "
            f"the functional part that holds the layers. Received: {type(model).__name__}"
        )
    if not model.built or not model.inputs:
        raise InputError(
            f"{purpose} takes built models: call the model once, or give it an Input. "
            f"Received: model {model.name!r}, not built"
        )


@dataclass(frozen=True)
class Call:
    """One call of a layer or raw operation in a model's graph.

    Attributes:
        layer: The layer or operation.
        inputs: Ids of all its arguments, flattened: tensors and others.
        outputs: Its output tensors, flattened.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[Any, ...]


class Graph:
    """The calls of a model's graph in topological order, and who consumes what.

    Attributes:
        model: The model.
        inputs: The symbolic inputs of this pass over the graph, in their structure.
        calls: The calls so far.
        tensors: By id, the tensors so far, inputs included.
        producers: By id of a tensor, the index of the call that made it; inputs are not in it.
        outputs: Ids of the output tensors.
        path: Names of the models that this one is nested in and its own, each with a slash after
            it; empty for the outermost.
    """

    def __init__(
        self, model: keras.Model, inputs: Any, path: str = "", met: set[int] | None = None
    ) -> None:
        self.model = model
        self.path = path
        self._met = {id(model)} if met is None else met  # models that have a graph in the family
        self.inputs = inputs
        self.calls: list[Call] = []
        self.tensors: dict[int, Any] = {id(t): t for t in keras.tree.flatten(inputs)}
        self.producers: dict[int, int] = {}
        self.outputs: set[int] = set()

    def add(self, layer: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        """Adds a call; its outputs are kept, so that ids stay valid."""
        arguments = tuple(map(id, keras.tree.flatten((args, kwargs))))
        tensors = tuple(keras.tree.flatten(outputs))
        self.tensors |= {id(t): t for t in tensors}
        self.producers |= {id(t): len(self.calls) for t in tensors}
        self.calls.append(Call(layer, arguments, tensors))

    @cached_property
    def consumers(self) -> dict[int, list[tuple[int, int]]]:
        """By id of a tensor, the edges that take it: (index of the call, position)."""
        edges: dict[int, list[tuple[int, int]]] = {}
        for n, call in enumerate(self.calls):
            for position, tensor in enumerate(call.inputs):
                edges.setdefault(tensor, []).append((n, position))
        return edges

    @cached_property
    def nested(self) -> dict[int, "Graph"]:
        """By index of a call, the graph of the model nested there; each model once."""
        graphs = {}
        for n, call in enumerate(self.calls):
            if id(call.layer) not in self._met and is_graph(call.layer):
                self._met.add(id(call.layer))
                graphs[n] = _traced(call.layer, None, f"{self.path}{call.layer.name}/", self._met)
        return graphs

    def family(self) -> Iterator["Graph"]:
        """This graph and all that are nested in it, in the order of their first calls."""
        yield self
        for graph in self.nested.values():
            yield from graph.family()

    @cached_property
    def ancestors(self) -> list[frozenset[int]]:
        """By index of a call, the indices of the calls that it depends on, itself included."""
        known: list[frozenset[int]] = []
        for n, call in enumerate(self.calls):
            before = [known[self.producers[t]] for t in call.inputs if t in self.producers]
            known.append(frozenset({n}).union(*before))
        return known

    def sole_consumer(self, n: int) -> int | None:
        """The call that alone takes the output of call `n`, if it is so."""
        tensor = id(self.calls[n].outputs[0])
        edges = self.consumers.get(tensor, [])
        if len(self.calls[n].outputs) != 1 or len(edges) != 1 or tensor in self.outputs:
            return None
        return edges[0][0]


def trace(
    model: keras.Model, input_shape: tuple[int, ...] | None = None, purpose: str = "insert"
) -> Graph:
    """The graph of a model, nested models as single calls.

    Args:
        model: A built functional or Sequential model. It is not changed.
        input_shape: Another shape of an example, for models with one input.
        purpose: What an error says that the graph is needed for.

    Returns:
        The `Graph`.

    Raises:
        InputError: If the model is not a built graph of layers, or the shape does not fit.
    """
    check_graph(purpose, model)
    return _traced(model, input_shape)


def _traced(
    model: keras.Model,
    input_shape: tuple[int, ...] | None,
    path: str = "",
    met: set[int] | None = None,
) -> Graph:
    graph = Graph(model, fresh_inputs(model, input_shape), path, met)

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = operation(*args, **kwargs)
        graph.add(original(operation), args, kwargs, outputs)
        return outputs

    outputs = replay(model, graph.inputs, call, outline=True)
    graph.outputs = {id(t) for t in keras.tree.flatten(outputs)}
    return graph
