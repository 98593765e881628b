"""A second pass over the graph of a model, with its own layers and without a trace in it."""

from collections.abc import Callable, Iterator, Sequence
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
    """Stands for a layer of Keras where only shapes are asked for: far cheaper than a layer."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__()
        self.layer = layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = keras.tree.map_structure(self._autocast, (args, kwargs))
        return self.layer.compute_output_spec(*args, **kwargs)

    def _autocast(self, value: Any) -> Any:
        """A tensor as the layer would take it, in its own precision."""
        dtype = self.layer.compute_dtype
        is_float = isinstance(value, keras.KerasTensor) and "float" in value.dtype
        if not is_float or not self.layer.autocast or dtype is None or value.dtype == dtype:
            return value
        return keras.KerasTensor(value.shape, dtype=dtype, sparse=value.sparse)


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


def replay(
    model: keras.Model,
    inputs: Any,
    call: Callable[..., Any],
    outline: bool = False,
    extra: Sequence[Any] = (),
) -> Any:
    """Goes through a model's graph in topological order.

    Args:
        model: A model for which `is_graph` holds. It is not changed.
        inputs: Symbolic inputs, in the structure of `model.input`.
        call: Called as `call(operation, *args, **kwargs)` for every call of a layer or of a raw
            operation; returns what stands for its outputs, normally `operation(*args, **kwargs)`.
        outline: Whether only the shapes of the outputs are needed: masks and variables are not
            followed then.
        extra: Further symbolic inputs that `call` makes use of.

    Returns:
        The outputs.
    """

    def proxied(operation: Any) -> Any:
        if not isinstance(operation, keras.layers.Layer):
            return operation
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
    """Calls what stands for the operations of a functional model, in topological order.

    Args:
        model: A functional model. It is not changed.
        inputs: Symbolic inputs, in the structure of `model.input`.
        copy: Called once for each layer and raw operation; returns what stands for it.
        call: As for `replay`, with what `copy` returned.
        extra: As for `replay`.

    Returns:
        The outputs.
    """
    passed = [  # named, since automatic names may be those of the model's inputs
        keras.Input(batch_shape=t.shape, dtype=t.dtype, name=f"keras_se_extra_{n}")
        for n, t in enumerate(extra)
    ]
    # Neither compiled nor of a class of its own, and with all inputs that its outputs will need.
    plain = keras.Model([model.input, *passed], [model.output, *passed])
    copied = keras.models.clone_model(
        plain, input_tensors=[inputs, *extra], clone_function=copy, call_function=call
    )
    return copied.output[0]


def input_structure(model: keras.Model) -> Any:
    """The symbolic inputs of a model, in the structure that it takes them in.

    Args:
        model: A built model with known inputs.

    Returns:
        A tensor, or a structure of them.
    """
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def named_inputs(model: keras.Model) -> dict[str, Any]:
    """The symbolic inputs of a model by the names that it takes them under.

    Args:
        model: A built model with known inputs.

    Returns:
        By key of a dictionary of inputs, which may nest them, else by name of the tensor.
    """
    structure = input_structure(model)
    if isinstance(structure, dict):
        return dict(structure)
    return {tensor.name: tensor for tensor in model.inputs}


def fresh_inputs(model: keras.Model, shapes: Sequence[tuple[int, ...]] | None = None) -> Any:
    """New symbolic inputs like those of a model, in their structure.

    Args:
        model: A model for which `is_graph` holds.
        shapes: Other shapes of an example, for each input.

    Returns:
        `keras.Input`s of the same shapes, dtypes and names.

    Raises:
        InputError: If `shapes` do not fit the model.
    """
    if shapes is not None:
        _check_shapes(model, shapes)
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


def is_nested_graph(layer: Any) -> bool:
    """Whether a layer of a model is a model whose graph can be gone through.

    Args:
        layer: Any layer or operation of a graph.

    Returns:
        False for a Sequential model on several tensors, too: Keras keeps no graph of it.
    """
    return is_graph(layer) and bool(getattr(layer, "inputs", None))


def can_inline(model: keras.Model, inputs: Any) -> bool:
    """Whether the graph of a nested model can be gone through with the inputs of its call.

    Args:
        model: A nested model.
        inputs: Symbolic tensors.

    Returns:
        False where Keras would first change their rank, dtype or structure.
    """
    given, own = keras.tree.flatten(inputs), model.inputs
    return len(given) == len(own) and all(
        len(a.shape) == len(b.shape) and a.dtype == b.dtype for a, b in zip(given, own, strict=True)
    )


def sublayers(layer: Any) -> Iterator[Any]:
    """The layers that a layer holds, at whatever depth, each once.

    Args:
        layer: Any layer.

    Yields:
        Layers, those that hold others before these.
    """
    seen = {id(layer)}
    to_visit = [layer]
    while to_visit:
        holder = to_visit.pop(0)
        if type(holder).__module__.startswith("keras.") and not isinstance(holder, _COMPOSITES):
            continue  # a layer of Keras that holds no other layer
        for value in vars(holder).values():
            for part in _layers_of(value):
                if id(part) not in seen:
                    seen.add(id(part))
                    to_visit.append(part)
                    yield part


def _layers_of(value: Any) -> Iterator[Any]:
    """The layers in an attribute: itself, or in lists and dictionaries."""
    if isinstance(value, keras.layers.Layer):
        yield value
    elif isinstance(value, dict | list | tuple | set):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _layers_of(part)


_COMPOSITES = (keras.Model, keras.layers.RNN, keras.layers.Wrapper, keras.layers.Pipeline)


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
            if id(call.layer) not in self._met and is_nested_graph(call.layer):
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
    model: keras.Model, shapes: Sequence[tuple[int, ...]] | None = None, purpose: str = "insert"
) -> Graph:
    """The graph of a model, nested models as single calls.

    Args:
        model: A built functional or Sequential model. It is not changed.
        shapes: Other shapes of an example, for each input.
        purpose: What an error says that the graph is needed for.

    Returns:
        The `Graph`.

    Raises:
        InputError: If the model is not a built graph of layers, or the shape does not fit.
    """
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
