"""SE sites of Keras models and their gate values.

A site is one call of an `SEBlock`, or SE built from other layers in the graph ("inline"). Names are
ordinals in topological order: automatic names of Keras layers differ between processes.
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
        name: Ordinal name in topological order, such as `"se_2"`, or in a nested model
            `"outer/se_1"`.
        channels: C, the number of gated channels.
        width: Number of units of the bottleneck.
        gate: Name of the gate.
        after: Name of the layer (in a TFLite file: of the tensor) whose output is gated.
        layer: Name of the `SEBlock` (for inline SE: of the product; in a TFLite file: of the tensor
            that holds the gates).
        source: `"SEBlock"`, `"inline"` for SE built from other layers, or `"tflite"`.
        kind: `"self"`, or `"cross"` if the squeezed map is not the gated one, as in the heads of
            LR-ASPP and in decoders.
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
    """List the SE sites of a functional or Sequential model, in topological order."""
    return [found.site for found in excitations(model)]


@dataclass(frozen=True)
class Excitation:
    """An SE site with what computes its gates.

    Attributes:
        site: The site.
        source: The `SEBlock`, or the `InlineSE` of an inline site.
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
        """Data format of the feature map."""
        data_format: str = self.source.data_format
        return data_format

    def replay(self, features: np.ndarray) -> np.ndarray:
        """Compute the float gates for feature maps of shape (samples, *map shape)."""
        if isinstance(self.source, SEBlock):
            return self.source.gates(features)
        # The features are an inner tensor: Keras cuts the graph there.
        gates = keras.Model(self.features, self.gates)(features)
        values: np.ndarray = keras.ops.convert_to_numpy(gates)
        return values


def excitations(model: keras.Model) -> list[Excitation]:
    """List the SE sites of a model with symbolic gates, of which only the shapes are valid."""
    check_graph("Finding SE sites", model)
    walk = _Walk(outline=True)
    walk.model(model, fresh_inputs(model), "")
    return walk.sites()


def model_gates(model: keras.Model, x: Any, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Compute the gates of every SE site, shape (samples, channels), by site name."""
    sites, reader = _gate_reader(model)
    if reader is None:
        return {}
    if isinstance(x, Iterator):
        values = _gates_of_batches(model, reader, x)
        return {site.name: values[site.name] for site in sites}
    _check_arrays(model, reader, x)
    # Datasets have batches of their own, and Keras wants no batch_size for them.
    is_arrays = isinstance(x, np.ndarray | list | tuple | dict) or keras.ops.is_tensor(x)
    with _computable(model):
        values = reader.predict(x, batch_size=batch_size if is_arrays else None, verbose=0)
    return {site.name: values[site.name] for site in sites}


def _gates_of_batches(
    model: keras.Model, reader: keras.Model, batches: Iterator[Any]
) -> dict[str, np.ndarray]:
    """Compute the gates for an iterator of batches."""
    rows: dict[str, list[np.ndarray]] = {}
    # Hold one batch at a time: memory stays bounded.
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
    """Turn errors of Keras and its backend about inputs into an `InputError`."""
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
    """Check the shape of a single input, and that arrays and tensors are finite."""
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
    # Arrays and tensors only: to check a dataset takes a pass over all of its batches.
    for array in arrays:
        values = keras.ops.convert_to_numpy(array)
        if values.dtype.kind == "f":
            finite_float32("x", values)


def model_means(model: keras.Model, x: Any) -> dict[str, np.ndarray]:
    """Compute the means over positions of each gated feature map, by site name."""
    walk, inputs = _Walk(), fresh_inputs(model)
    walk.model(model, inputs, "")
    reader = keras.Model(inputs, {part.site.name: part.pooled for part in walk.sites()})
    # XLA compilation costs more than it saves for one reading.
    reader.compile(jit_compile=False)
    means: dict[str, np.ndarray] = reader.predict(x, verbose=0)
    return means


_Reader = tuple[list[Site], keras.Model | None]
# Weak keys: the cache must not keep models alive.
_READERS: "weakref.WeakKeyDictionary[keras.Model, tuple[list[Any], _Reader]]" = (
    weakref.WeakKeyDictionary()
)


def _gate_reader(model: keras.Model) -> _Reader:
    """Return the sites of a model and a model that computes their gates, from a cache."""
    check_graph("Finding SE sites", model)
    state = list(_state(model))
    # A traced function keeps what it captured. Trace again if any of it is another object, as after
    # `Sequential.add` or `Normalization.adapt`.
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
    """Yield the layers, variables and constants that a traced function captures."""
    for layer in model.layers:
        yield layer
        yield from layer.variables
        # `adapt` replaces these tensors, which are not variables.
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
    """One pass over a model and its nested models; with `outline`, gates have shapes only."""

    def __init__(self, outline: bool = False) -> None:
        self._outline = outline
        # (time of the call, site without its ordinal)
        self.found: list[tuple[int, Excitation]] = []
        self._clock = 0

    def sites(self) -> list[Excitation]:
        """Return the named sites in topological order."""
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
        # Inline SE shows only in the complete graph; the times of its products restore the order.
        for site in find_inline(graph):
            self._add_inline(site, times[site.call], path, graph)
        return outputs

    def _call(self, operation: Any, path: str, graph: Graph, *args: Any, **kwargs: Any) -> Any:
        layer = original(operation)
        if isinstance(layer, SEBlock):
            return self._call_block(operation, path, graph, call_arguments(*args, **kwargs))
        if is_nested_graph(layer):
            # Keras may pass these three positionally.
            arguments = {**dict(zip(("inputs", "training", "mask"), args, strict=False)), **kwargs}
            return self._nested(operation, f"{path}{layer.name}/", **arguments)
        # Calls inside another layer cannot be observed: refuse the model, do not miss the site.
        check_hidden(layer)
        return operation(*args, **kwargs)

    def _nested(self, operation: Any, path: str, inputs: Any, **kwargs: Any) -> Any:
        """Call a nested model with its gates as additional outputs, if it has any."""
        start, own = len(self.found), fresh_inputs(original(operation))
        outputs = self.model(original(operation), own, path)
        found = self.found[start:]
        if not found or self._outline:
            return operation(inputs, **kwargs)
        # Tensors inside a nested model do not belong to the outer graph: return them as outputs.
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
        # Always ask for the gates; the caller gets them only if the model uses them.
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
        # An outline needs only shapes, and the gates have the shape of the means.
        pooled = gates if self._outline else _means(features, source.data_format)
        self.found.append((time, Excitation(site, source, features, gates, pooled)))


def _means(features: Any, data_format: str) -> Any:
    rank = len(features.shape)
    spatial = range(1, rank - 1) if data_format == "channels_last" else range(2, rank)
    return keras.ops.mean(features, axis=tuple(spatial))


def _producer(graph: Graph, tensor: int) -> str:
    """Return the name of the layer that made a tensor, or an empty string for an input."""
    producer = graph.producers.get(tensor)
    return "" if producer is None else graph.calls[producer].layer.name


def call_arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a call of an `SEBlock` by name."""
    arguments = inspect.signature(SEBlock.call).bind(None, *args, **kwargs).arguments
    return {name: value for name, value in arguments.items() if name != "self"}


def check_hidden(layer: Any) -> None:
    """Refuse a layer that contains an `SEBlock` which the graph does not show."""
    if not isinstance(layer, keras.layers.Layer):
        return
    hidden = next((part for part in sublayers(layer) if isinstance(part, SEBlock)), None)
    if hidden is not None:
        raise InputError(
            "SE sites are found where an SEBlock is a layer of a functional or Sequential model. "
            f"Received: {hidden.name!r} inside the layer {layer.name!r} ({type(layer).__name__})"
        )
