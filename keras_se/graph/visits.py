"""THE walk over a Keras model: every operation of every level, and the names of SE sites."""

import collections
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.graph.replay import masked, shared
from keras_se.graph.trace import Call, Graph


@dataclass(frozen=True)
class Visit:
    """One call of a layer or raw operation, met on a walk.

    Attributes:
        layer: The layer or operation of the model.
        args: Its positional arguments on this walk.
        kwargs: Its keyword arguments.
        path: Names of the models around it, each with a slash after it.
        graph: The graph of the innermost of these models.
        index: The position of the call in it.
        number: How many calls of all levels the walk met before.
        values: By id of a tensor of the graph, what it is on this walk.
        stand_in: What is called in place of the layer; `None` for a nested model that is entered.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    path: str
    graph: Graph
    index: int
    number: int
    values: Mapping[int, Any]
    stand_in: Any

    @property
    def recorded(self) -> Call:
        """The call as the graph holds it."""
        return self.graph.calls[self.index]

    @property
    def arguments(self) -> list[Any]:
        """All arguments, flattened, as `Call.inputs` has their ids."""
        return keras.tree.flatten((self.args, self.kwargs))

    def value(self, tensor: Any) -> Any:
        """What a tensor of the graph is on this walk; other values are what they are."""
        return self.values.get(id(tensor), tensor)

    def outputs(self) -> Any:
        """Calls what stands for the layer with the arguments as they are."""
        return self.stand_in(*self.args, **self.kwargs)


def walk(
    graph: Graph,
    inputs: Any,
    visit: Callable[[Visit], Any],
    *,
    stand_in: Callable[[Any], Any] = shared,
    enter: Callable[[Visit], Any] | None = None,
    is_deep: bool = True,
) -> Any:
    """Visits every call of a model in topological order, nested models call by call.

    Args:
        graph: The graph of the model.
        inputs: Its inputs on this walk, in their structure: tensors of any kind.
        visit: Returns the outputs of a call, normally `Visit.outputs()`.
        stand_in: Gives what is called in place of a layer or raw operation.
        enter: Returns the inputs that a nested model takes from its call; by default those of the
            call, in the precision and rank, and under the mask, that Keras would give them.
        is_deep: Whether to enter nested models, rather than visit them as single calls.

    Returns:
        The outputs, in the structure of the model's.
    """
    steps = _Walk(visit, stand_in, enter or entered, is_deep)
    return steps.level(graph, inputs, "", None)


class _Walk:
    def __init__(
        self,
        visit: Callable[[Visit], Any],
        stand_in: Callable[[Any], Any],
        enter: Callable[[Visit], Any],
        is_deep: bool,
    ) -> None:
        self._visit = visit
        self._stand_in = stand_in
        self._enter = enter
        self._is_deep = is_deep
        self._stand_ins: dict[int, Any] = {}  # by id of the layer: shared layers stay shared
        self._number = 0

    def level(self, graph: Graph, inputs: Any, path: str, training: Any) -> Any:
        values = _paired(graph.inputs, inputs)

        def value(part: Any) -> Any:
            return values.get(id(part), part)

        for index, call in enumerate(graph.calls):
            args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
            if training is not None and kwargs.get("training") is None and _is_moded(call.layer):
                kwargs = {**kwargs, "training": training}
            inside = graph.inside(index) if self._is_deep else None
            stand_in = None if inside is not None else self._made(call.layer)
            visit = Visit(
                call.layer, args, kwargs, path, graph, index, self._number, values, stand_in
            )
            self._number += 1
            outputs = self._visit(visit) if inside is None else self._inside(inside, visit)
            values |= _paired(call.returned, outputs)
        return keras.tree.map_structure(value, graph.outputs)

    def _made(self, layer: Any) -> Any:
        if id(layer) not in self._stand_ins:
            self._stand_ins[id(layer)] = self._stand_in(layer)
        return self._stand_ins[id(layer)]

    def _inside(self, graph: Graph, visit: Visit) -> Any:
        path, training = f"{visit.path}{visit.layer.name}/", visit.kwargs.get("training")
        return self.level(graph, self._enter(visit), path, training)


def _paired(own: Any, given: Any) -> dict[int, Any]:
    pairs = zip(keras.tree.flatten(own), keras.tree.flatten(given), strict=True)
    return {id(tensor): counterpart for tensor, counterpart in pairs}


def _is_moded(layer: Any) -> bool:
    """Whether a call of a layer takes `training`."""
    is_layer = isinstance(layer, keras.layers.Layer)
    return is_layer and "training" in inspect.signature(layer.call).parameters


def nested_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """The inputs and the mask of a call of a nested model, however they were given."""
    given = {**dict(zip(("inputs", "training", "mask"), args, strict=False)), **kwargs}
    # The first argument of a subclass may have another name.
    inputs = given.get("inputs", next(iter(given.values()), None))
    return inputs, given.get("mask")


def entered(visit: Visit) -> list[Any]:
    """The inputs of a nested model as Keras makes them of the arguments of its call."""
    inputs, mask = nested_arguments(visit.args, visit.kwargs)
    given, own = keras.tree.flatten(inputs), visit.layer.inputs
    masks = [None] * len(given) if mask is None else keras.tree.flatten(mask)
    if not len(given) == len(own) == len(masks):
        raise InputError(
            "A nested model is called with one tensor for each of its inputs. "
            f"Received: {len(given)} tensors for the {len(own)} inputs of {visit.layer.name!r}"
        )
    return [_adapted(*parts) for parts in zip(given, own, masks, strict=True)]


def _adapted(tensor: Any, own: Any, mask: Any) -> Any:
    if len(tensor.shape) == len(own.shape) + 1:
        tensor = keras.ops.squeeze(tensor, axis=-1)
    elif len(tensor.shape) == len(own.shape) - 1:
        tensor = keras.ops.expand_dims(tensor, axis=-1)
    if tensor.dtype != own.dtype:
        tensor = keras.ops.cast(tensor, own.dtype)
    return tensor if mask is None else masked(tensor, mask)


def changes_inputs(visit: Visit) -> bool:
    """Whether Keras changes the number, rank or dtype of what a nested model is called with."""
    inputs, _ = nested_arguments(visit.recorded.args, visit.recorded.kwargs)
    given, own = keras.tree.flatten(inputs), visit.layer.inputs
    return len(given) != len(own) or any(
        len(a.shape) != len(b.shape) or a.dtype != b.dtype for a, b in zip(given, own, strict=True)
    )


def site_names(paths: Iterable[str]) -> Iterator[str]:
    """Yields the names of SE sites: ordinals within each path, in topological order.

    Example:
        >>> list(site_names(["", "inner/", ""]))
        ['se_1', 'inner/se_1', 'se_2']
    """
    ordinals: collections.Counter[str] = collections.Counter()
    for path in paths:
        ordinals[path] += 1
        yield f"{path}se_{ordinals[path]}"
