"""Runs a second pass over the graph of a model, without a trace in the model or its layers."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from keras_se.errors import InputError


# A layer that is called directly would record a node of the second graph.
class _Shared(keras.layers.Layer):
    """Calls a layer in a second graph, with the same variables."""

    def __init__(self, layer: keras.layers.Layer, constants: dict[str, Any] | None = None) -> None:
        super().__init__(dtype=layer.dtype_policy)
        self.layer = layer
        self.constants = constants
        self.supports_masking = layer.supports_masking
        self.built = True  # the layer has its variables already

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # Keras does not accept a mix of tensors and other values as keyword arguments.
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
    """Represents a Keras layer when only shapes are needed; much cheaper than a layer."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__()
        self.layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = keras.tree.map_structure(self._autocast, (args, kwargs))
        return self.layer.compute_output_spec(*args, **kwargs)

    def _autocast(self, value: Any) -> Any:
        # `compute_output_spec` skips the cast of `Layer.__call__`, so the dtype would be wrong.
        dtype = self.layer.compute_dtype
        is_float = isinstance(value, keras.KerasTensor) and "float" in value.dtype
        if not is_float or not self.layer.autocast or dtype is None or value.dtype == dtype:
            return value
        return keras.KerasTensor(value.shape, dtype=dtype, sparse=value.sparse)


def _holds_tensors(value: Any) -> bool:
    return any(isinstance(part, keras.KerasTensor) for part in keras.tree.flatten(value))


def original(operation: Any) -> Any:
    """Returns the layer or raw operation behind an operation of a replay."""
    return operation.layer if isinstance(operation, _Shared | _Outline) else operation


def replay(
    model: keras.Model,
    inputs: Any,
    call: Callable[..., Any],
    outline: bool = False,
    extra: Sequence[Any] = (),
) -> Any:
    """Calls `call(operation, *args, **kwargs)` for every call of a graph; returns the outputs."""

    def proxied(operation: Any) -> Any:
        if not isinstance(operation, keras.layers.Layer):
            return operation
        # Custom layers may rely on `Layer.__call__`, which an outline skips.
        is_known = type(operation).__module__.startswith(("keras.", "keras_se."))
        return _Outline(operation) if outline and is_known else _Shared(operation)

    if isinstance(model, keras.Sequential):
        for layer in model.layers:
            inputs = call(proxied(layer), inputs)
        return inputs
    return called_again(model, inputs, proxied, call, extra)


def called_again(
    model: keras.Model,
    inputs: Any,
    copy: Callable[[Any], Any],
    call: Callable[..., Any],
    extra: Sequence[Any] = (),
) -> Any:
    """Replays a functional model with `copy(operation)` in place of each operation."""
    passed = [  # explicit names: automatic ones may collide with those of the model's inputs
        keras.Input(batch_shape=t.shape, dtype=t.dtype, name=f"keras_se_extra_{n}")
        for n, t in enumerate(extra)
    ]
    # `clone_model` also compiles the clone and keeps its class, so pass a plain model. It checks
    # the structure of the inputs, so the model must already have those that `call` will need.
    plain = keras.Model([model.input, *passed], [model.output, *passed])
    copied = keras.models.clone_model(
        plain, input_tensors=[inputs, *extra], clone_function=copy, call_function=call
    )
    return copied.output[0]


def input_structure(model: keras.Model) -> Any:
    """Returns the symbolic inputs of a model in their structure."""
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def named_inputs(model: keras.Model) -> dict[str, Any]:
    """Returns the symbolic inputs of a model by key, or else by name of the tensor."""
    structure = input_structure(model)
    if isinstance(structure, dict):
        return dict(structure)
    return {tensor.name: tensor for tensor in model.inputs}


def fresh_inputs(model: keras.Model, shapes: Sequence[tuple[int, ...]] | None = None) -> Any:
    """Returns new `keras.Input`s like those of a model, optionally of other shapes."""
    if shapes is not None:
        _check_shapes(model, shapes)
    # Only the layer of an input knows whether it is sparse or optional.
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.InputLayer)]
    known = {id(layer.output): layer for layer in layers}
    given = (
        None if shapes is None else {id(t): s for t, s in zip(model.inputs, shapes, strict=True)}
    )

    def fresh(tensor: Any) -> Any:
        layer = known.get(id(tensor))
        return keras.Input(
            batch_shape=tensor.shape if given is None else (tensor.shape[0], *given[id(tensor)]),
            dtype=tensor.dtype,
            name=tensor.name if layer is None else layer.name,
            sparse=getattr(layer, "sparse", False),
            optional=getattr(layer, "optional", False),
        )

    return keras.tree.map_structure(fresh, input_structure(model))


def _check_shapes(model: keras.Model, shapes: Sequence[tuple[int, ...]]) -> None:
    if len(shapes) != len(model.inputs):
        raise InputError(
            "input_shape is for models with one input. "
            f"Received: model {model.name!r} with {len(model.inputs)} inputs"
        )
    for tensor, shape in zip(model.inputs, shapes, strict=True):
        expected = tuple(tensor.shape[1:])
        fits = len(expected) == len(shape)
        if not fits or any(e not in (None, n) for e, n in zip(expected, shape, strict=True)):
            raise InputError(
                f"input_shape must fit the input of the model, {expected}. "
                f"Received: input_shape={tuple(shape)}"
            )


def is_graph(model: Any) -> bool:
    """Whether a model is defined by its graph: Sequential or functional, with no own `call`."""
    if not isinstance(model, keras.Model):
        return False
    # The graph of a class with its own `call` does not say what the model computes.
    own = [c for c in type(model).__mro__ if not c.__module__.startswith("keras.")]
    if any("call" in vars(c) for c in own):
        return False
    return isinstance(model, keras.Sequential) or len(getattr(model, "operations", ())) > 0


def is_nested_graph(layer: Any) -> bool:
    """Whether a layer of a model is itself a model with a graph."""
    # Keras keeps no graph of a Sequential model on several tensors: it has no inputs.
    return is_graph(layer) and bool(getattr(layer, "inputs", None))


def can_inline(model: keras.Model, inputs: Any) -> bool:
    """Whether a nested model takes these symbolic inputs without a change by Keras."""
    # A functional model adapts the rank and dtype of its inputs, which a replay would skip.
    given, own = keras.tree.flatten(inputs), model.inputs
    return len(given) == len(own) and all(
        len(a.shape) == len(b.shape) and a.dtype == b.dtype for a, b in zip(given, own, strict=True)
    )


def sublayers(layer: Any) -> Iterator[Any]:
    """Yields the layers inside of a layer at any depth, each once, outer before inner."""
    seen = {id(layer)}
    to_visit = [layer]
    while to_visit:
        holder = to_visit.pop(0)
        if type(holder).__module__.startswith("keras.") and not isinstance(holder, _COMPOSITES):
            continue  # other Keras layers hold no layers
        for value in vars(holder).values():
            for part in _layers_of(value):
                if id(part) not in seen:
                    seen.add(id(part))
                    to_visit.append(part)
                    yield part


def _layers_of(value: Any) -> Iterator[Any]:
    """Yields the layers in an attribute: the value itself, or in lists and dictionaries."""
    if isinstance(value, keras.layers.Layer):
        yield value
    elif isinstance(value, dict | list | tuple | set):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _layers_of(part)


_COMPOSITES = (keras.Model, keras.layers.RNN, keras.layers.Wrapper, keras.layers.Pipeline)


def check_graph(purpose: str, model: Any) -> None:
    """Raises `InputError` unless `model` is a built graph of layers."""
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
        inputs: Ids of all arguments, flattened, not only of tensors.
        outputs: The output tensors, flattened.
    """

    layer: Any
    inputs: tuple[int, ...]
    outputs: tuple[Any, ...]


class Graph:
    """The calls of a model's graph in topological order, with producers and consumers.

    Attributes:
        model: The model.
        inputs: The symbolic inputs of this pass over the graph, in their structure.
        calls: The calls so far.
        tensors: By id, the tensors so far, including inputs.
        producers: By id of a tensor, the index of the call that made it; without inputs.
        outputs: Ids of the output tensors.
        path: Names of the enclosing models and of this one, each followed by a slash; empty for
            the outermost model.
    """

    def __init__(
        self, model: keras.Model, inputs: Any, path: str = "", met: set[int] | None = None
    ) -> None:
        self.model = model
        self.path = path
        self._met = {id(model)} if met is None else met  # shared by the family: each model once
        self.inputs = inputs
        self.calls: list[Call] = []
        self.tensors: dict[int, Any] = {id(t): t for t in keras.tree.flatten(inputs)}
        self.producers: dict[int, int] = {}
        self.outputs: set[int] = set()

    def add(self, layer: Any, args: Any, kwargs: Any, outputs: Any) -> None:
        """Adds a call."""
        arguments = tuple(map(id, keras.tree.flatten((args, kwargs))))
        tensors = tuple(keras.tree.flatten(outputs))
        # A reference to each tensor, since Python reuses the ids of freed objects.
        self.tensors |= {id(t): t for t in tensors}
        self.producers |= {id(t): len(self.calls) for t in tensors}
        self.calls.append(Call(layer, arguments, tensors))

    @cached_property
    def consumers(self) -> dict[int, list[tuple[int, int]]]:
        """By id of a tensor, the edges to its consumers: (index of the call, position)."""
        edges: dict[int, list[tuple[int, int]]] = {}
        for n, call in enumerate(self.calls):
            for position, tensor in enumerate(call.inputs):
                edges.setdefault(tensor, []).append((n, position))
        return edges

    @cached_property
    def nested(self) -> dict[int, "Graph"]:
        """By index of a call, the graph of the nested model, once for each model."""
        graphs = {}
        for n, call in enumerate(self.calls):
            if id(call.layer) not in self._met and is_nested_graph(call.layer):
                self._met.add(id(call.layer))
                graphs[n] = _traced(call.layer, None, f"{self.path}{call.layer.name}/", self._met)
        return graphs

    def family(self) -> Iterator["Graph"]:
        """Yields this graph and all nested ones, in the order of their first calls."""
        yield self
        for graph in self.nested.values():
            yield from graph.family()

    @cached_property
    def ancestors(self) -> list[frozenset[int]]:
        """By index of a call, the indices of the calls that it depends on, and its own."""
        known: list[frozenset[int]] = []
        for n, call in enumerate(self.calls):
            before = [known[self.producers[t]] for t in call.inputs if t in self.producers]
            known.append(frozenset({n}).union(*before))
        return known

    def sole_consumer(self, n: int) -> int | None:
        """Returns the only call that takes the output of call `n`, if there is just one."""
        tensor = id(self.calls[n].outputs[0])
        edges = self.consumers.get(tensor, [])
        if len(self.calls[n].outputs) != 1 or len(edges) != 1 or tensor in self.outputs:
            return None
        return edges[0][0]


def trace(
    model: keras.Model, shapes: Sequence[tuple[int, ...]] | None = None, purpose: str = "insert"
) -> Graph:
    """Returns the graph of a model, with nested models as single calls."""
    check_graph(purpose, model)
    return _traced(model, shapes)


def _traced(
    model: keras.Model,
    shapes: Sequence[tuple[int, ...]] | None,
    path: str = "",
    met: set[int] | None = None,
) -> Graph:
    graph = Graph(model, fresh_inputs(model, shapes), path, met)

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = operation(*args, **kwargs)
        graph.add(original(operation), args, kwargs, outputs)
        return outputs

    outputs = replay(model, graph.inputs, call, outline=True)
    graph.outputs = {id(t) for t in keras.tree.flatten(outputs)}
    return graph
