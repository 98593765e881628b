"""The gates of a Keras model for inputs, and the means of what they gate."""

import reprlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np

from keras_se.data import finite_float32, fits
from keras_se.display.progress import counted, step
from keras_se.errors import InputError, keras_errors
from keras_se.graph.inputs import fresh_inputs
from keras_se.graph.models import check_weights
from keras_se.graph.replay import Computation
from keras_se.graph.trace import Graph, trace
from keras_se.graph.visits import Visit, holds, walk
from keras_se.layers import GraphSEBlock
from keras_se.sites.gated import GatedSite, gated_sites, search
from keras_se.sites.site import Site


def model_sites(model: keras.Model) -> list[Site]:
    """Lists the SE sites of a functional or Sequential model, in topological order."""
    return [part.site for part in search(_trace(model)).warned()]


def model_gates(model: keras.Model, x: Any, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Computes the gates of every SE site, shape (samples, channels), by site name."""
    return gate_reader(model)(x, batch_size)


def gate_reader(model: keras.Model) -> Callable[[Any, int], dict[str, np.ndarray]]:
    """Returns `model_gates` for one model, to be called often; it reads the weights of then."""
    graph = _trace(model)
    found = search(graph).warned()
    if not found:
        return lambda x, batch_size: {}
    reader = _reader(graph, found, lambda site, features, gates: gates)
    # A batch of nodes would split graphs.
    is_union = any(isinstance(part.source, GraphSEBlock) for part in found)

    def read(x: Any, batch_size: int) -> dict[str, np.ndarray]:
        # Some kernels swallow NaN: the gates would look plausible.
        check_weights("read_gates", model)
        values = _gates(model, reader, x, batch_size, is_union)
        return {part.site.name: values[part.site.name] for part in found}

    return read


def _gates(
    model: keras.Model, reader: keras.Model, x: Any, batch_size: int, is_union: bool
) -> dict[str, np.ndarray]:
    if isinstance(x, Iterator):
        return _gates_of_batches(model, reader, x, is_union)
    _check_arrays(model, reader, x, is_union)
    # Datasets have batches of their own, and Keras wants no batch_size for them.
    is_arrays = isinstance(x, np.ndarray | list | tuple | dict) or keras.ops.is_tensor(x)
    with _computable(model):
        if is_arrays and is_union:
            return reader.predict_on_batch(x)
        return _predicted(reader, x, batch_size if is_arrays else None)


def _predicted(reader: keras.Model, x: Any, batch_size: int | None) -> dict[str, np.ndarray]:
    is_sized = batch_size is not None and hasattr(leaf := keras.tree.flatten(x)[0], "__len__")
    total = -(-len(leaf) // batch_size) if is_sized and batch_size else None
    with step("gates of the model", total) as advance:
        watch = _Batches(advance)
        return reader.predict(x, batch_size=batch_size, verbose=0, callbacks=[watch])


class _Batches(keras.callbacks.Callback):
    def __init__(self, advance: Callable[[], None]) -> None:
        super().__init__()
        self._advance = advance

    def on_predict_batch_end(self, batch: int, logs: Any = None) -> None:
        self._advance()


def gates_and_means(model: keras.Model, x: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Computes by site name the gates and the means of each gated feature map over positions."""
    graph = _trace(model)
    found = gated_sites(graph)
    reader = _reader(graph, found, lambda site, x, gates: (gates, _means(x, site.data_format)))
    values = reader.predict(x, verbose=0)
    return {part.site.name: values[part.site.name] for part in found}


def _trace(model: keras.Model) -> Graph:
    return trace(model, "Finding SE sites")


def _reader(
    graph: Graph, found: list[GatedSite], read: Callable[[GatedSite, Any, Any], Any]
) -> keras.Model:
    """A model from the inputs to what `read` makes of the features and gates of each site."""
    sites, tensors = {part.place: part for part in found}, {}

    def look(visit: Visit) -> Any:
        if visit.place not in sites:
            return visit.outputs()
        site = sites[visit.place]
        outputs, features, gates = site.observe(visit)
        compute = Computation(lambda x, g: read(site, x, g))
        tensors[site.site.name] = compute(features, gates)
        return outputs

    inputs = fresh_inputs(graph.model)
    walk(graph, inputs, look, opens=holds(sites))
    reader = keras.Model(inputs, tensors)
    # XLA compilation costs more than it saves for one reading.
    reader.compile(jit_compile=False)
    return reader


def _means(features: Any, data_format: str) -> Any:
    rank = len(features.shape)
    spatial = range(1, rank - 1) if data_format == "channels_last" else range(2, rank)
    return keras.ops.mean(features, axis=tuple(spatial))


def _gates_of_batches(
    model: keras.Model, reader: keras.Model, batches: Iterator[Any], is_union: bool
) -> dict[str, np.ndarray]:
    rows: dict[str, list[np.ndarray]] = {}
    # Hold one batch at a time: memory stays bounded.
    for batch in counted(batches, 0, "gates of the model"):
        x = batch[0] if isinstance(batch, tuple) and batch else batch
        _check_arrays(model, reader, x, is_union)
        with _computable(model):
            gates = reader.predict_on_batch(x)
        for name, values in gates.items():
            rows.setdefault(name, []).append(values)
    if not rows:
        raise InputError("x must yield batches of inputs. Received: an iterator without any")
    return {name: np.concatenate(values) for name, values in rows.items()}


def _computable(model: keras.Model) -> AbstractContextManager[None]:
    return keras_errors(f"x must be inputs of model {model.name!r}", "x")


def _check_arrays(model: keras.Model, reader: keras.Model, x: Any, is_union: bool) -> None:
    leaves = keras.tree.flatten(x) if isinstance(x, list | tuple | dict) else [x]
    # An optional input may be None.
    if all(leaf is None for leaf in leaves) or any(map(np.isscalar, leaves)):
        raise InputError(
            f"x must be inputs of model {model.name!r}: arrays, a dataset, or a generator of "
            f"batches. Received: x={reprlib.repr(x)[:80]}"
        )
    arrays = [a for a in leaves if isinstance(a, np.ndarray) or keras.ops.is_tensor(a)]
    if len(arrays) == len(reader.inputs) == 1:
        shape, expected = tuple(arrays[0].shape), tuple(reader.inputs[0].shape)
        if not shape or shape[0] == 0 or not fits(shape[1:], expected[1:]):
            raise InputError(
                f"x must have the shape (samples, {', '.join(map(str, expected[1:]))}) of model "
                f"{model.name!r}. Received: x of shape {shape}"
            )
    lengths = [array.shape[0] for array in arrays if len(array.shape) > 0]
    if len(set(lengths)) > 1 and not is_union:  # there may be more edges than nodes
        raise InputError(
            f"The inputs of a model must have one number of samples. Received: {lengths} for "
            f"model {model.name!r}"
        )
    # Arrays and tensors only: to check a dataset takes a pass over all of its batches.
    for array in arrays:
        values = keras.ops.convert_to_numpy(array)
        if values.dtype.kind == "f":
            finite_float32("x", values)
