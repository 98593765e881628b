"""SE sites of Keras models: where they are, and what their gates say.

A site is one call of an `SEBlock`, or SE that is written out in the graph. Sites are named by
ordinals in topological order (`se_1`, `se_2`), inside nested models with the path (`outer/se_1`);
the automatic names of Keras layers are not used, since they differ from one process to the next.
"""

import dataclasses
import inspect
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.data import finite_float32
from keras_se.errors import InputError
from keras_se.inline import InlineSE, find_inline
from keras_se.layers import SEBlock
from keras_se.layers import gates as gates_module
from keras_se.replay import Graph, check_graph, fresh_inputs, is_graph, original, replay


@dataclass(frozen=True)
class Site:
    """One SE site of a Keras model or of a TFLite file.

    Attributes:
        name: Ordinal name, such as `"se_2"` or `"outer/se_1"`.
        channels: C, the number of gated channels.
        width: Number of units of the bottleneck.
        gate: Name of the gate.
        after: Name of the layer (in a TFLite file: of the tensor) whose output is gated.
        layer: Name of the `SEBlock` (of the product, where SE is written out; in a TFLite file: of
            the tensor that holds the gates).
        source: `"SEBlock"`, `"inline"` where SE is written out, or `"tflite"`.
    """

    name: str
    channels: int
    width: int
    gate: str
    after: str
    layer: str
    source: str = "SEBlock"


def model_sites(model: keras.Model) -> list[Site]:
    """The SE sites of a functional or Sequential model, in topological order.

    Args:
        model: A built model. It is not changed.

    Returns:
        One `Site` per call of an `SEBlock` and per SE that is written out; empty if there is none.

    Raises:
        InputError: If the graph of the model cannot be walked, or a layer hides an `SEBlock`.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> [site.name for site in model_sites(model)]
        ['se_1']
    """
    check_graph("Finding SE sites", model)
    walk = _Walk(outline=True)
    walk.model(model, fresh_inputs(model), "")
    return [site for site, _ in walk.sites()]


def model_gates(model: keras.Model, x: Any, batch_size: int = 32) -> dict[str, np.ndarray]:
    """The gate values of every SE site of a model.

    Args:
        model: A built functional or Sequential model. It is not changed; the gates are those of
            its present weights.
        x: Inputs as `model.predict` takes them, or an iterator of batches of inputs, each alone or
            with its targets in a tuple.
        batch_size: Samples per batch, where `x` is arrays.

    Returns:
        By site name, an array of shape (samples, channels). Empty if there is no site.

    Raises:
        InputError: If the graph of the model cannot be walked, or `x` does not fit its input or is
            not finite.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> model_gates(model, np.zeros((3, 8, 8, 4), "float32"))["se_1"].shape
        (3, 4)
    """
    sites, reader = _gate_reader(model)
    if reader is None:
        return {}
    if isinstance(x, Iterator):
        values = _gates_of_batches(model, reader, x)
        return {site.name: values[site.name] for site in sites}
    _check_array(model, reader, x)
    is_arrays = isinstance(x, np.ndarray | list | tuple | dict) or keras.ops.is_tensor(x)
    values = reader.predict(x, batch_size=batch_size if is_arrays else None, verbose=0)
    return {site.name: values[site.name] for site in sites}


def _gates_of_batches(
    model: keras.Model, reader: keras.Model, batches: Iterator[Any]
) -> dict[str, np.ndarray]:
    """The gates for an iterator of batches, of which one is held at a time."""
    rows: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        x = batch[0] if isinstance(batch, tuple) else batch
        _check_array(model, reader, x)
        for name, values in reader.predict_on_batch(x).items():
            rows.setdefault(name, []).append(values)
    if not rows:
        raise InputError("x must yield batches of inputs. Received: an iterator without any")
    return {name: np.concatenate(values) for name, values in rows.items()}


def _check_array(model: keras.Model, reader: keras.Model, x: Any) -> None:
    if not isinstance(x, np.ndarray) or len(reader.inputs) != 1:
        return
    expected = tuple(reader.inputs[0].shape)
    fits = x.ndim == len(expected) and len(x) > 0
    if not fits or any(e not in (None, n) for e, n in zip(expected[1:], x.shape[1:], strict=True)):
        raise InputError(
            f"x must have the shape (samples, {', '.join(map(str, expected[1:]))}) of model "
            f"{model.name!r}. Received: x of shape {x.shape}"
        )
    if x.dtype.kind == "f":
        finite_float32("x", x)


_Reader = tuple[list[Site], keras.Model | None]
_READERS: "weakref.WeakKeyDictionary[keras.Model, tuple[list[Any], _Reader]]" = (
    weakref.WeakKeyDictionary()
)


def _gate_reader(model: keras.Model) -> _Reader:
    """The sites of `model` and a model from its inputs to their gates, kept for the next call."""
    check_graph("Finding SE sites", model)
    state = list(_state(model))
    known = _READERS.get(model)
    if (
        known is None
        or len(known[0]) != len(state)
        or any(old is not new for old, new in zip(known[0], state, strict=True))
    ):
        known = (state, _walk(model))
        _READERS[model] = known
    return known[1]


def _state(model: keras.Model) -> Iterator[Any]:
    """What a traced function holds on to: layers, variables, and statistics that are constants."""
    for layer in model.layers:
        yield layer
        yield from layer.variables
        if isinstance(layer, keras.layers.Normalization):
            yield from (layer.mean, layer.variance)
        if isinstance(layer, keras.Model):
            yield from _state(layer)


def _walk(model: keras.Model) -> _Reader:
    inputs = fresh_inputs(model)
    walk = _Walk()
    walk.model(model, inputs, "")
    if not walk.found:
        return [], None
    sites = walk.sites()
    reader = keras.Model(inputs, {site.name: gates for site, gates in sites})
    reader.compile(jit_compile=False)
    return [site for site, _ in sites], reader


class _Walk:
    """One pass over a model's graph, in topological order, into nested models.

    With `outline` the gates that it meets have shapes only.
    """

    def __init__(self, outline: bool = False) -> None:
        self._outline = outline
        self.found: list[tuple[int, Site, Any]] = []  # when it was met, without its ordinal
        self._clock = 0

    def sites(self) -> list[tuple[Site, Any]]:
        """The sites in the order in which they were met, named, with their gates."""
        ordinals: dict[str, int] = {}
        named = []
        for _, site, gates in sorted(self.found, key=lambda item: item[0]):
            ordinals[site.name] = ordinals.get(site.name, 0) + 1
            name = f"{site.name}se_{ordinals[site.name]}"
            named.append((dataclasses.replace(site, name=name), gates))
        return named

    def model(self, model: keras.Model, inputs: Any, path: str) -> Any:
        graph, times = Graph(model, inputs), []

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            self._clock += 1
            times.append(self._clock)
            outputs = self._call(operation, path, graph, *args, **kwargs)
            graph.add(original(operation), args, kwargs, outputs)
            return outputs

        outputs = replay(model, inputs, call, self._outline)
        for site in find_inline(graph):
            self._add_inline(site, times[site.call], path, graph)
        return outputs

    def _call(self, operation: Any, path: str, graph: Graph, *args: Any, **kwargs: Any) -> Any:
        layer = original(operation)
        if isinstance(layer, SEBlock):
            return self._call_block(operation, path, graph, call_arguments(*args, **kwargs))
        if is_graph(layer) and len(args) == 1:
            return self._nested(operation, f"{path}{layer.name}/", *args, **kwargs)
        check_hidden(layer)
        return operation(*args, **kwargs)

    def _nested(self, operation: Any, path: str, x: Any, **kwargs: Any) -> Any:
        """Calls a nested model with its gates as further outputs, if it has any."""
        start, inputs = len(self.found), fresh_inputs(original(operation))
        outputs = self.model(original(operation), inputs, path)
        found = self.found[start:]
        if not found or self._outline:
            return operation(x, **kwargs)
        reader = keras.Model(inputs, [outputs, [gates for *_, gates in found]])
        outputs, gates = reader(x, **kwargs)
        self.found[start:] = [(*site, g) for (*site, _), g in zip(found, gates, strict=True)]
        return outputs

    def _call_block(
        self, operation: Any, path: str, graph: Graph, arguments: dict[str, Any]
    ) -> Any:
        x, mask = arguments["inputs"], arguments.get("mask")
        outputs, gates = operation(x, mask=mask, return_gates=True)
        block = original(operation)
        site = Site(
            name=path,
            channels=gates.shape[-1],
            width=block.w1.shape[-1],
            gate=gates_module.get(block.gate).name,
            after=_producer(graph, id(x)),
            layer=block.name,
        )
        self.found.append((self._clock, site, gates))
        return (outputs, gates) if arguments.get("return_gates") else outputs

    def _add_inline(self, site: InlineSE, time: int, path: str, graph: Graph) -> None:
        product = graph.calls[site.call]
        found = Site(
            name=path,
            channels=site.channels,
            width=site.width,
            gate=site.gate or "unknown",
            after=_producer(graph, product.inputs[site.position]),
            layer=product.layer.name,
            source="inline",
        )
        self.found.append((time, found, keras.ops.reshape(site.gates, (-1, site.channels))))


def _producer(graph: Graph, tensor: int) -> str:
    """Name of the layer that made a tensor; empty for an input."""
    producer = graph.producers.get(tensor)
    return "" if producer is None else graph.calls[producer].layer.name


def call_arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of a call of an `SEBlock`, by name, however they were given.

    Args:
        *args: Positional arguments.
        **kwargs: Keyword arguments.

    Returns:
        `inputs`, and `mask` and `return_gates` where they were given.

    Example:
        >>> call_arguments(1, return_gates=True)
        {'inputs': 1, 'return_gates': True}
    """
    arguments = inspect.signature(SEBlock.call).bind(None, *args, **kwargs).arguments
    return {name: value for name, value in arguments.items() if name != "self"}


def check_hidden(layer: Any) -> None:
    """Refuses a layer that holds an `SEBlock` where the graph does not show it.

    Args:
        layer: Any layer or operation of a graph.

    Raises:
        InputError: If it holds one.
    """
    if type(layer).__module__.startswith("keras.") and not isinstance(layer, _COMPOSITES):
        return  # a layer of Keras that holds no other layer
    hidden = next(_hidden_blocks(layer, set()), None)
    if hidden is not None:
        raise InputError(
            "SE sites are found where an SEBlock is a layer of a functional or Sequential model. "
            f"Received: {hidden.name!r} inside the layer {layer.name!r} ({type(layer).__name__})"
        )


_COMPOSITES = (keras.Model, keras.layers.RNN, keras.layers.Wrapper, keras.layers.Pipeline)


def _hidden_blocks(layer: Any, seen: set[int]) -> Iterator[SEBlock]:
    if not isinstance(layer, keras.layers.Layer) or id(layer) in seen:
        return
    seen.add(id(layer))
    for value in vars(layer).values():
        for part in keras.tree.flatten(value):
            if isinstance(part, SEBlock):
                yield part
            yield from _hidden_blocks(part, seen)
