"""THE walk over a Keras model: every operation of every level, and the names of SE sites."""

import collections
import dataclasses
import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.graph.composites import is_composite, precision, symbolic_arguments
from keras_se.graph.replay import shared, with_known_outputs
from keras_se.graph.trace import Call, Graph

Place = tuple[int, ...]


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
        place: The positions of the calls of all levels, outermost first. It ends in `index`, and
            is the same on every walk.
        home: The graph of the innermost model, also within a composite layer of it.
        local: The place in that model.
        values: By id of a tensor of the graph, what it is on this walk.
        stand_in: What is called in place of the layer; `None` for a nested model that is entered.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    path: str
    graph: Graph
    index: int
    place: Place
    home: Graph
    local: Place
    values: Mapping[int, Any]
    stand_in: Any

    @property
    def recorded(self) -> Call:
        """The call as the graph holds it."""
        return self.graph.calls[self.index]

    @property
    def name(self) -> str:
        """The name of the layer or operation."""
        return operation_name(self.layer, self.local)

    @property
    def arguments(self) -> list[Any]:
        """All arguments, flattened, as `Call.inputs` has their ids."""
        return keras.tree.flatten((self.args, self.kwargs))

    def value(self, tensor: Any) -> Any:
        """What a tensor of the graph is on this walk; other values are what they are."""
        return self.values.get(id(tensor), tensor)

    def outputs(self) -> Any:
        """Calls what stands for the layer with the arguments as they are."""
        called = with_known_outputs(self.stand_in, self._known_outputs())
        return called(*self.args, **self.kwargs)

    def _known_outputs(self) -> Any:
        """The recorded outputs, if a call on symbolic tensors gives the same shapes."""
        recorded = self.recorded
        before, now = (
            [(part.shape, part.dtype) for part in symbolic_arguments(args, kwargs)]
            for args, kwargs in ((recorded.args, recorded.kwargs), (self.args, self.kwargs))
        )
        return recorded.returned if now and now == before else None


@contextmanager
def replaying() -> Iterator[None]:
    """Silences what Keras says of a mask that ends at a layer: it said so when it was called."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Layer '.*' .* was passed an input with a mask attached")
        yield


def walk(
    graph: Graph,
    inputs: Any,
    visit: Callable[[Visit], Any],
    *,
    stand_in: Callable[[Any], Any] = shared,
    enter: Callable[[Visit], Any] | None = None,
    opens: Callable[[Visit], bool] = lambda visit: False,
    is_deep: bool = True,
) -> Any:
    """Visits every call of a model in topological order, nested models call by call.

    `inputs` are tensors of any kind, in the structure of the model's; so are the returned outputs.
    `visit` returns the outputs of a call, normally `Visit.outputs()`, and `stand_in` what is called
    in place of a layer or raw operation. `enter` returns the inputs that a nested model takes from
    its call; by default those of the call, in the precision and rank, and under the mask, that
    Keras would give them. `opens` chooses the composite layers that are entered, too, if Keras can
    record what is inside. Without `is_deep`, nested models are visited as single calls.
    """
    stand_ins: dict[int, Any] = {}  # by id of the layer: shared layers stay shared

    def level(graph: Graph, inputs: Any, around: Visit | None, training: Any) -> Any:
        values = _paired(graph.inputs, inputs)
        place: Place
        local: Place
        path, place, home, local = "", (), graph, ()
        if around is not None:
            path, place = f"{around.path}{around.layer.name}/", around.place
            if graph.is_composite:
                home, local = around.home, around.local

        def value(part: Any) -> Any:
            return values.get(id(part), part)

        for index, call in enumerate(graph.calls):
            args, kwargs = keras.tree.map_structure(value, (call.args, call.kwargs))
            if training is not None and _takes_training(call):
                kwargs = {**kwargs, "training": training}
            layer, here, there = call.layer, (*place, index), (*local, index)
            met = Visit(layer, args, kwargs, path, graph, index, here, home, there, values, None)
            inside = graph.inside(index) if is_deep else None
            inside = inside or _opened(met, opens)
            if inside is None:
                if id(layer) not in stand_ins:
                    stand_ins[id(layer)] = stand_in(layer)
                outputs = visit(dataclasses.replace(met, stand_in=stand_ins[id(layer)]))
            else:
                mode = _mode(call.layer, args, kwargs)
                outputs = level(inside, (enter or entered)(met), met, mode)
                outputs = _left(met, inside, outputs)
            values |= _paired(call.returned, outputs)
        return keras.tree.map_structure(value, graph.outputs)

    with replaying():
        return level(graph, inputs, None, None)


def holds(places: Iterable[Place]) -> Callable[[Visit], bool]:
    """Chooses the composite layers around some places, for `walk(opens=...)`."""
    around = {place[:n] for place in places for n in range(1, len(place))}
    return lambda visit: visit.place in around


def _opened(visit: Visit, opens: Callable[[Visit], bool]) -> Graph | None:
    if not is_composite(visit.layer) or not opens(visit):
        return None
    looked = visit.graph.look_into(visit.index)
    return None if isinstance(looked, str) else looked


def _paired(own: Any, given: Any) -> dict[int, Any]:
    pairs = zip(keras.tree.flatten(own), keras.tree.flatten(given), strict=True)
    return {id(tensor): counterpart for tensor, counterpart in pairs}


def _takes_training(call: Call) -> bool:
    """Whether a call takes `training`, and was not given it."""
    if not isinstance(call.layer, keras.layers.Layer) or call.kwargs.get("training") is not None:
        return False
    return "training" in list(inspect.signature(call.layer.call).parameters)[len(call.args) :]


def _mode(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The `training` that a nested model or composite layer is called with."""
    if not is_composite(layer):
        return nested_arguments(args, kwargs)["training"]
    names = inspect.signature(layer.call).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs}.get("training")


def nested_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call of a nested model by name, however they were given."""
    given = {**dict(zip(("inputs", "training", "mask"), args, strict=False)), **kwargs}
    # The first argument of a subclass may have another name.
    first = next(iter(given.values()), None)
    return {"inputs": first, "training": None, "mask": None, **given}


def handed(visit: Visit) -> Any:
    """The inputs of a nested model or composite layer as its call has them."""
    if is_composite(visit.layer):
        recorded = visit.recorded
        return [visit.value(t) for t in symbolic_arguments(recorded.args, recorded.kwargs)]
    return nested_arguments(visit.args, visit.kwargs)["inputs"]


def entered(visit: Visit) -> list[Any]:
    """The inputs of a nested model or composite layer as Keras makes them of its arguments."""
    if is_composite(visit.layer):
        return [_cast(tensor, precision(visit.layer, _dtype(tensor))) for tensor in handed(visit)]
    arguments = nested_arguments(visit.args, visit.kwargs)
    given, own = keras.tree.flatten(arguments["inputs"]), visit.layer.inputs
    mask = arguments["mask"]
    masks = [None] * len(given) if mask is None else keras.tree.flatten(mask)
    if not len(given) == len(own) == len(masks):
        raise InputError(
            "A nested model needs one tensor for each of its inputs. "
            f"Received: {len(given)} tensors for the {len(own)} inputs of {visit.layer.name!r}"
        )
    return [_adapted(*parts) for parts in zip(given, own, masks, strict=True)]


def _adapted(tensor: Any, own: Any, mask: Any) -> Any:
    if len(tensor.shape) == len(own.shape) + 1:
        tensor = keras.ops.squeeze(tensor, axis=-1)
    elif len(tensor.shape) == len(own.shape) - 1:
        tensor = keras.ops.expand_dims(tensor, axis=-1)
    tensor = _cast(tensor, own.dtype)
    return tensor if mask is None else _Masked()([tensor, mask])


def _cast(tensor: Any, dtype: str) -> Any:
    return tensor if _dtype(tensor) == dtype else keras.ops.cast(tensor, dtype)


def _dtype(tensor: Any) -> str:
    return str(keras.backend.standardize_dtype(tensor.dtype))


def _left(visit: Visit, inside: Graph, outputs: Any) -> Any:
    """The outputs of an opened composite layer, under the mask of its input if it hands that on."""
    given = keras.tree.flatten((visit.args, visit.kwargs))
    tensors = [part for part in given if isinstance(part, keras.KerasTensor)]
    if not inside.is_composite or not visit.layer.supports_masking or len(tensors) != 1:
        return outputs
    return keras.tree.map_structure(lambda output: _MaskOf()([output, tensors[0]]), outputs)


class _Masked(keras.layers.Layer):
    """Hands on its first input under a mask, its second."""

    def __init__(self) -> None:
        super().__init__(autocast=False)
        self.supports_masking = True

    def call(self, inputs: Any) -> Any:
        return inputs[0]

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return inputs[1]

    def compute_output_spec(self, inputs: Any) -> Any:
        return keras.KerasTensor(inputs[0].shape, dtype=inputs[0].dtype)


class _MaskOf(_Masked):
    """Hands on its first input under the mask of its second."""

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        return previous_mask[1]


def changes_inputs(visit: Visit) -> bool:
    """Whether Keras changes the number, rank or dtype of what a nested model is called with."""
    inputs = nested_arguments(visit.recorded.args, visit.recorded.kwargs)["inputs"]
    given, own = keras.tree.flatten(inputs), visit.layer.inputs
    return len(given) != len(own) or any(
        len(a.shape) != len(b.shape) or a.dtype != b.dtype for a, b in zip(given, own, strict=True)
    )


def operation_name(operation: Any, local: Place) -> str:
    """The name of a layer or raw operation, by its place in its model.

    Keras makes up new names of raw operations each time that it records a composite layer.
    """
    if len(local) == 1 or isinstance(operation, keras.layers.Layer):
        return str(operation.name)
    return f"{type(operation).__name__.lower()}_{local[-1] + 1}"


def site_names(paths: Iterable[str], prefix: str = "se") -> Iterator[str]:
    """Yields the names of SE sites: ordinals within each path, in topological order.

    Example:
        >>> list(site_names(["", "inner/", ""]))
        ['se_1', 'inner/se_1', 'se_2']
    """
    ordinals: collections.Counter[str] = collections.Counter()
    for path in paths:
        ordinals[path] += 1
        yield f"{path}{prefix}_{ordinals[path]}"
