"""SE sites of Keras models: where they are, and what their gates say.

A site is one call of an `SEBlock`, or SE that is written out in the graph. Sites are named by
ordinals in topological order (`se_1`, `se_2`), inside nested models with the path (`outer/se_1`);
the automatic names of Keras layers are not used, since they differ from one process to the next.
"""

import dataclasses
import inspect
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.data import finite_float32
from keras_se.errors import InputError
from keras_se.inline import InlineSE, find_inline
from keras_se.layers import SEBlock
from keras_se.layers import gates as gates_module
from keras_se.replay import (
    Graph,
    check_graph,
    fresh_inputs,
    is_nested_graph,
    original,
    replay,
    sublayers,
)


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
        kind: `"self"`, or `"cross"` where another map is squeezed than the gated one, as in the
            heads of LR-ASPP and in decoders.
    """

    name: str
    channels: int
    width: int
    gate: str
    after: str
    layer: str
    source: str = "SEBlock"
    kind: str = "self"


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
    return [found.site for found in excitations(model)]


@dataclass(frozen=True)
class Excitation:
    """An SE site with what computes its gates.

    Attributes:
        site: The site.
        source: The `SEBlock`, or the `InlineSE` where SE is written out.
        features: The symbolic feature map.
        gates: The symbolic gates, shape (batch, channels).
        pooled: The symbolic means of the features over positions, of the same shape.
    """

    site: Site
    source: SEBlock | InlineSE
    features: Any
    gates: Any
    pooled: Any

    @property
    def data_format(self) -> str:
        """Of the feature map."""
        data_format: str = self.source.data_format
        return data_format

    def replay(self, features: np.ndarray) -> np.ndarray:
        """The gates that the float excitation gives to feature maps.

        Args:
            features: Shape (samples, *map shape).

        Returns:
            Shape (samples, channels).
        """
        if isinstance(self.source, SEBlock):
            return self.source.gates(features)
        gates = keras.Model(self.features, self.gates)(features)
        values: np.ndarray = keras.ops.convert_to_numpy(gates)
        return values


def excitations(model: keras.Model) -> list[Excitation]:
    """The SE sites of a model with what computes their gates, in topological order.

    Args:
        model: As for `model_sites`.

    Returns:
        One `Excitation` per site; its symbolic gates have shapes only.

    Raises:
        InputError: As `model_sites`.
    """
    check_graph("Finding SE sites", model)
    walk = _Walk(outline=True)
    walk.model(model, fresh_inputs(model), "")
    return walk.sites()


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
    _check_arrays(model, reader, x)
    is_arrays = isinstance(x, np.ndarray | list | tuple | dict) or keras.ops.is_tensor(x)
    with _computable(model):
        values = reader.predict(x, batch_size=batch_size if is_arrays else None, verbose=0)
    return {site.name: values[site.name] for site in sites}


def _gates_of_batches(
    model: keras.Model, reader: keras.Model, batches: Iterator[Any]
) -> dict[str, np.ndarray]:
    """The gates for an iterator of batches, of which one is held at a time."""
    rows: dict[str, list[np.ndarray]] = {}
    for batch in batches:
        x = batch[0] if isinstance(batch, tuple) and batch else batch
        _check_arrays(model, reader, x)
        with _computable(model):
            gates = reader.predict_on_batch(x)
        for name, values in gates.items():
            rows.setdefault(name, []).append(values)
    if not rows:
        raise InputError("x must yield batches of inputs. Received: an iterator without any")
    return {name: np.concatenate(values) for name, values in rows.items()}


@contextmanager
def _computable(model: keras.Model) -> Iterator[None]:
    """What the backend says of inputs that it cannot compute with becomes a sentence."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # Keras and its backends have exceptions of many types for it
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(
            f"x must be inputs that model {model.name!r} takes. Received: x of type or values of "
            f"which the backend says: {first_line}"
        ) from error


def _check_arrays(model: keras.Model, reader: keras.Model, x: Any) -> None:
    """Checks arrays and tensors; datasets pass."""
    leaves = keras.tree.flatten(x) if isinstance(x, list | tuple | dict) else [x]
    arrays = [a for a in leaves if isinstance(a, np.ndarray) or keras.ops.is_tensor(a)]
    if len(arrays) == len(reader.inputs) == 1:
        shape, expected = tuple(arrays[0].shape), tuple(reader.inputs[0].shape)
        fits = len(shape) == len(expected) and shape[0] > 0
        if not fits or any(
            e not in (None, n) for e, n in zip(expected[1:], shape[1:], strict=True)
        ):
            raise InputError(
                f"x must have the shape (samples, {', '.join(map(str, expected[1:]))}) of model "
                f"{model.name!r}. Received: x of shape {shape}"
            )
    for array in arrays:
        values = keras.ops.convert_to_numpy(array)
        if values.dtype.kind == "f":
            finite_float32("x", values)


def model_means(model: keras.Model, x: Any) -> dict[str, np.ndarray]:
    """The means over positions of what each SE site gates.

    Args:
        model: As for `model_gates`.
        x: Inputs as `model.predict` takes them.

    Returns:
        By site name, an array of shape (samples, channels).
    """
    walk, inputs = _Walk(), fresh_inputs(model)
    walk.model(model, inputs, "")
    reader = keras.Model(inputs, {part.site.name: part.pooled for part in walk.sites()})
    reader.compile(jit_compile=False)
    means: dict[str, np.ndarray] = reader.predict(x, verbose=0)
    return means


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
    found = walk.sites()
    reader = keras.Model(inputs, {part.site.name: part.gates for part in found})
    reader.compile(jit_compile=False)
    return [part.site for part in found], reader


class _Walk:
    """One pass over a model's graph, in topological order, into nested models.

    With `outline` the gates that it meets have shapes only.
    """

    def __init__(self, outline: bool = False) -> None:
        self._outline = outline
        self.found: list[tuple[int, Excitation]] = []  # when it was met; without its ordinal
        self._clock = 0

    def sites(self) -> list[Excitation]:
        """The sites in the order in which they were met, named."""
        ordinals: dict[str, int] = {}
        named = []
        for _, found in sorted(self.found, key=lambda item: item[0]):
            path = found.site.name
            ordinals[path] = ordinals.get(path, 0) + 1
            site = dataclasses.replace(found.site, name=f"{path}se_{ordinals[path]}")
            named.append(dataclasses.replace(found, site=site))
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
        if is_nested_graph(layer):
            arguments = {**dict(zip(("inputs", "training", "mask"), args, strict=False)), **kwargs}
            return self._nested(operation, f"{path}{layer.name}/", **arguments)
        check_hidden(layer)
        return operation(*args, **kwargs)

    def _nested(self, operation: Any, path: str, inputs: Any, **kwargs: Any) -> Any:
        """Calls a nested model with its gates as further outputs, if it has any."""
        start, own = len(self.found), fresh_inputs(original(operation))
        outputs = self.model(original(operation), own, path)
        found = self.found[start:]
        if not found or self._outline:
            return operation(inputs, **kwargs)
        reader = keras.Model(own, [outputs, [[part.gates, part.pooled] for _, part in found]])
        outputs, read = reader(inputs, **kwargs)
        self.found[start:] = [
            (time, dataclasses.replace(part, gates=gates, pooled=pooled))
            for (time, part), (gates, pooled) in zip(found, read, strict=True)
        ]
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
        self._add(self._clock, site, block, x, gates)
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
        features = graph.tensors[product.inputs[site.position]]
        gates = keras.ops.reshape(site.gates, (-1, site.channels))
        self._add(time, found, site, features, gates)

    def _add(
        self, time: int, site: Site, source: SEBlock | InlineSE, features: Any, gates: Any
    ) -> None:
        pooled = gates if self._outline else _means(features, source.data_format)
        self.found.append((time, Excitation(site, source, features, gates, pooled)))


def _means(features: Any, data_format: str) -> Any:
    rank = len(features.shape)
    spatial = range(1, rank - 1) if data_format == "channels_last" else range(2, rank)
    return keras.ops.mean(features, axis=tuple(spatial))


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
    if not isinstance(layer, keras.layers.Layer):
        return
    hidden = next((part for part in sublayers(layer) if isinstance(part, SEBlock)), None)
    if hidden is not None:
        raise InputError(
            "SE sites are found where an SEBlock is a layer of a functional or Sequential model. "
            f"Received: {hidden.name!r} inside the layer {layer.name!r} ({type(layer).__name__})"
        )
