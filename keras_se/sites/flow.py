"""Every operation of a Keras model in one list, whatever nested model or layer it is in."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras

from keras_se.graph.composites import is_composite
from keras_se.graph.models import sublayers
from keras_se.graph.replay import takes_training
from keras_se.graph.trace import Graph
from keras_se.graph.visits import Place, Visit, handed, operation_name, walk
from keras_se.layers import GraphSEBlock, SEBlock
from keras_se.sites.shapes import is_vector

FILLS = {"OnesLike": 1.0, "ZerosLike": 0.0}  # they read a shape, and no values


@dataclass(frozen=True)
class Step:
    """One call in the list.

    Attributes:
        layer: The layer or raw operation.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        returned: Its outputs, in their structure; tensors have shapes only.
        path: Names of the models and composite layers around it, each with a slash.
        place: Its place in the model, as `Visit.place`.
        home: The graph of the innermost model around it, as `Visit.home`.
        local: Its place in that model, as `Visit.local`.
    """

    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    returned: Any
    path: str = ""
    place: Place = ()
    home: Any = None
    local: Place = ()

    @cached_property
    def arguments(self) -> list[Any]:
        """All arguments, flattened."""
        return keras.tree.flatten((self.args, self.kwargs))

    @cached_property
    def slots(self) -> list[int]:
        """The positions of tensors among the arguments."""
        return [n for n, a in enumerate(self.arguments) if isinstance(a, keras.KerasTensor)]

    @cached_property
    def inputs(self) -> list[Any]:
        """The tensors among the arguments."""
        return [self.arguments[n] for n in self.slots]

    @cached_property
    def outputs(self) -> list[Any]:
        """The output tensors."""
        return keras.tree.flatten(self.returned)

    @property
    def name(self) -> str:
        """The name of the layer or operation."""
        return operation_name(self.layer, self.local)

    @property
    def kind(self) -> str:
        """The name of the class: that of a raw operation such as `x * y` is not public."""
        return type(self.layer).__name__

    @cached_property
    def constants(self) -> list[Any]:
        """The weights of the layer, and the variables and arrays among the arguments."""
        own = getattr(self.layer, "weights", [])
        return [*own, *(part for part in self.arguments if is_array(part))]


def is_array(part: Any) -> bool:
    """Whether an argument is a variable or an array."""
    return hasattr(part, "shape") and not isinstance(part, keras.KerasTensor)


@dataclass
class Flow:
    """The calls of a model and of all that is inside it, in topological order.

    Attributes:
        steps: The calls. Composite layers that Keras can record are not among them.
        producers: By id of a tensor, the index of the step that made it.
        closed: By index of a step, why a composite layer could not be looked into.
        starts: The inputs of the model.
        ends: Its outputs.
        made: By computation, what its first step returned.
    """

    steps: list[Step] = field(default_factory=list)
    producers: dict[int, int] = field(default_factory=dict)
    closed: dict[int, str] = field(default_factory=dict)
    starts: list[Any] = field(default_factory=list)
    ends: list[Any] = field(default_factory=list)
    made: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, graph: Graph) -> "Flow":
        """Lists the calls of a model's graph."""
        flow, opening = cls(starts=keras.tree.flatten(graph.inputs)), _Opening()
        ends = walk(graph, graph.inputs, flow._add, stand_in=_unused, enter=handed, opens=opening)
        flow.ends = keras.tree.flatten(ends)
        return flow

    def _add(self, visit: Visit) -> Any:
        # A nested model that is called twice has tensors of its own in each call.
        returned = keras.tree.map_structure(_alike, visit.recorded.returned)
        step = Step(
            layer=visit.layer,
            args=visit.args,
            kwargs=visit.kwargs,
            returned=returned,
            path=visit.path,
            place=visit.place,
            home=visit.home,
            local=visit.local,
        )
        if isinstance(reason := visit.graph.looked(visit.index), str):
            self.closed[len(self.steps)] = reason
        self.steps.append(step)
        # What is computed twice, such as one slice, is one tensor, as in a file.
        key = _computation(step)
        if key not in self.made:
            self.made[key] = returned
            self.producers |= {id(tensor): len(self.steps) - 1 for tensor in step.outputs}
        return self.made[key]

    def producer(self, tensor: Any) -> Step | None:
        """The step that made a tensor, or `None` for an input of the model."""
        index = self.producers.get(id(tensor))
        return None if index is None else self.steps[index]

    def is_first(self, step: Step) -> bool:
        """Whether no earlier step computes the same."""
        return self.producer(step.outputs[0]) is step

    def fill(self, tensor: Any) -> Any:
        """The value of a tensor that is the same whatever the inputs are, or `None`."""
        step = self.producer(tensor)
        if step is None or step.kind not in FILLS:
            return None
        sizes = [size or 1 for size in tensor.shape]
        return keras.ops.full(sizes, FILLS[step.kind], dtype=tensor.dtype)


class _Opening:
    """Opens composite layers, but for those built like one in which nothing can be part of SE."""

    def __init__(self) -> None:
        self._plain: set[Any] = set()

    def __call__(self, visit: Visit) -> bool:
        built = _built(visit.layer)
        if built in self._plain:
            return False
        inside = visit.graph.look_into(visit.index)
        if visit.layer.weights and isinstance(inside, Graph) and _is_plain(inside):
            self._plain.add(built)
            return False
        return True


def _built(layer: Any) -> Any:
    """What a layer is made of. SE has weights, so that two layers alike in them both have it."""
    parts = [layer, *sublayers(layer)]
    return tuple((type(part), tuple(len(w.shape) for w in part.weights)) for part in parts)


def _is_plain(graph: Graph) -> bool:
    """Whether a graph has maps only, and no product."""
    return not any(
        isinstance(call.layer, SEBlock | GraphSEBlock)
        or type(call.layer).__name__ == "Multiply"
        or (is_composite(call.layer) and part.inside(n) is None)
        or any(map(is_vector, call.outputs))
        for part in graph.family()
        for n, call in enumerate(part.calls)
    )


def _computation(step: Step) -> Any:
    """What a step computes, the same for another step that computes the same."""

    def named(part: Any) -> Any:
        is_tensor = isinstance(part, keras.KerasTensor) or is_array(part)
        return f"#{id(part)}" if is_tensor else part

    given = repr(keras.tree.map_structure(named, (step.args, step.kwargs)))
    layer = step.layer
    if not getattr(layer, "variables", None) and not is_composite(layer):
        # Each call of a raw operation has an object of its own, with its settings as attributes.
        own = {key: v for key, v in vars(layer).items() if not hasattr(type(layer), key)}
        settings = {key: v for key, v in own.items() if key[0] != "_" and key != "name"}
        return type(layer), repr(keras.tree.map_structure(named, settings)), given
    # Seeds are no weights: two calls of a random layer differ.
    is_random = len(getattr(layer, "variables", ())) > len(getattr(layer, "weights", ()))
    return id(layer), id(step) if is_random else None, given


def _unused(layer: Any) -> Any:
    return layer


def _alike(part: Any) -> Any:
    is_tensor = isinstance(part, keras.KerasTensor)
    return keras.KerasTensor(part.shape, dtype=part.dtype) if is_tensor else part


def compute(
    steps: Sequence[Step],
    values: Mapping[int, Any],
    wanted: Any,
    stand_in: Callable[[Any], Any] = lambda layer: layer,
) -> Any:
    """Computes a tensor from the values of others, by id, with the steps between them."""
    known = dict(values)

    def value(part: Any) -> Any:
        return known.get(id(part), part)

    for step in steps:
        args, kwargs = keras.tree.map_structure(value, (step.args, step.kwargs))
        if takes_training(step.layer):
            kwargs = {**kwargs, "training": False}
        outputs = keras.tree.flatten(stand_in(step.layer)(*args, **kwargs))
        known |= {id(t): value for t, value in zip(step.outputs, outputs, strict=True)}
    return known[id(wanted)]


def between(flow: Flow, start: Sequence[Any], end: Any, limit: int = 64) -> list[Step] | None:
    """The steps from some tensors to another; `None` if it depends on anything else."""
    known, found, to_visit = set(map(id, start)), set[int](), [end]
    while to_visit:
        tensor = to_visit.pop()
        if id(tensor) in known:
            continue
        index = flow.producers.get(id(tensor))
        if index is None or len(found) > limit:
            return None
        if index not in found:
            found.add(index)
            to_visit += flow.steps[index].inputs
    return [flow.steps[index] for index in sorted(found)]


def starts_of(flow: Flow, tensor: Any) -> set[int]:
    """The ids of the inputs of the model on whose values a tensor depends."""
    found, seen, to_visit = set[int](), set[int](), [tensor]
    while to_visit:
        tensor = to_visit.pop()
        step = flow.producer(tensor)
        if step is None:
            found.add(id(tensor))
        elif id(tensor) not in seen and step.kind not in FILLS:
            seen.add(id(tensor))
            to_visit += step.inputs
    return found
