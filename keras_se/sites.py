"""SE sites of Keras models: where they are, and what their gates say.

A site is one call of an `SEBlock`. Sites are named by ordinals in topological order (`se_1`,
`se_2`), inside nested models with the path (`outer/se_1`); the automatic names of Keras layers are
not used, since they differ from one process to the next.
"""

import weakref
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.layers import SEBlock


@dataclass(frozen=True)
class Site:
    """One SE site of a Keras model or of a TFLite file.

    Attributes:
        name: Ordinal name, such as `"se_2"` or `"outer/se_1"`.
        channels: C, the number of gated channels.
        width: Number of units of the bottleneck.
        gate: Name of the gate.
        after: Name of the layer (in a TFLite file: of the tensor) whose output is gated.
        layer: Name of the `SEBlock` (in a TFLite file: of the tensor that holds the gates).
    """

    name: str
    channels: int
    width: int
    gate: str
    after: str
    layer: str


def model_sites(model: keras.Model) -> list[Site]:
    """The SE sites of a functional or Sequential model, in topological order.

    Args:
        model: A built model. It is not changed.

    Returns:
        One `Site` per call of an `SEBlock`; empty if there is none.

    Raises:
        InputError: If the graph of the model cannot be walked.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> [site.name for site in model_sites(model)]
        ['se_1']
    """
    return _gate_reader(model)[0]


def model_gates(model: keras.Model, x: Any, batch_size: int = 32) -> dict[str, np.ndarray]:
    """The gate values of every SE site of a model.

    Args:
        model: A built functional or Sequential model. It is not changed; the gates are those of
            its present weights.
        x: Inputs as `model.predict` takes them.
        batch_size: Samples per batch, where `x` is an array.

    Returns:
        By site name, an array of shape (samples, channels). Empty if there is no site.

    Raises:
        InputError: If the graph of the model cannot be walked, or `x` does not fit its input.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2)])
        >>> model_gates(model, np.zeros((3, 8, 8, 4), "float32"))["se_1"].shape
        (3, 4)
    """
    sites, reader = _gate_reader(model)
    if reader is None:
        return {}
    is_array = isinstance(x, np.ndarray | list | tuple) or keras.ops.is_tensor(x)
    if is_array and len(reader.inputs) == 1:
        _check_shape(model, tuple(reader.inputs[0].shape), tuple(np.shape(x)))
    values = reader.predict(x, batch_size=batch_size if is_array else None, verbose=0)
    return {site.name: values[site.name] for site in sites}


def _check_shape(
    model: keras.Model, expected: tuple[int | None, ...], shape: tuple[int, ...]
) -> None:
    fits = len(shape) == len(expected) and shape[0] > 0
    if not fits or any(e not in (None, n) for e, n in zip(expected[1:], shape[1:], strict=True)):
        raise InputError(
            f"x must have the shape (samples, {', '.join(map(str, expected[1:]))}) of model "
            f"{model.name!r}. Received: x of shape {shape}"
        )


class _Shared(keras.layers.Layer):
    """Calls a layer in a second graph, with the same variables and no trace in the first."""

    def __init__(self, layer: keras.layers.Layer) -> None:
        super().__init__(dtype=layer.dtype_policy)
        self.layer = layer
        self.supports_masking = layer.supports_masking
        self.built = True

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)


_Reader = tuple[list[Site], keras.Model | None]
_READERS: "weakref.WeakKeyDictionary[keras.Model, tuple[tuple[int, ...], _Reader]]" = (
    weakref.WeakKeyDictionary()
)


def _gate_reader(model: keras.Model) -> _Reader:
    """The sites of `model` and a model from its inputs to their gates, kept for the next call."""
    if not isinstance(model, keras.Model) or not _is_graph(model):
        raise InputError(
            "SE sites are found in functional and Sequential Keras models; for a subclassed model "
            f"pass the functional part that holds the blocks. Received: {type(model).__name__}"
        )
    if not model.built:
        raise InputError(
            "SE sites are found in built models: call the model once, or give it an Input. "
            f"Received: model {model.name!r}, not built"
        )
    structure = tuple(id(layer) for layer in model.layers)
    known = _READERS.get(model)
    if known is None or known[0] != structure:
        known = (structure, _walk(model))
        _READERS[model] = known
    return known[1]


def _is_graph(model: keras.Model) -> bool:
    return isinstance(model, keras.Sequential) or len(getattr(model, "operations", ())) > 0


def _walk(model: keras.Model) -> _Reader:
    inputs = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name),
        model.inputs[0] if isinstance(model, keras.Sequential) else model.input,
    )
    walk = _Walk()
    walk.model(model, inputs, "")
    if not walk.sites:
        return [], None
    reader = keras.Model(inputs, walk.gates)
    reader.compile(jit_compile=False)
    return walk.sites, reader


class _Walk:
    """One pass over a model's graph, in topological order, into nested models."""

    def __init__(self) -> None:
        self.sites: list[Site] = []
        self.gates: dict[str, Any] = {}
        self._producers: dict[int, tuple[str, Any]] = {}
        self._ordinals: dict[str, int] = {}

    def model(self, model: keras.Model, inputs: Any, path: str) -> Any:
        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            return self._call(operation, path, *args, **kwargs)

        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                inputs = call(_shared(layer), inputs)
            return inputs
        copy = keras.models.clone_model(
            model, input_tensors=inputs, clone_function=_shared, call_function=call
        )
        return copy.output

    def _call(self, operation: Any, path: str, *args: Any, **kwargs: Any) -> Any:
        layer = operation.layer if isinstance(operation, _Shared) else operation
        if isinstance(layer, SEBlock):
            outputs = self._call_block(operation, path, *args, **kwargs)
        elif isinstance(layer, keras.Model) and _is_graph(layer) and len(args) == 1:
            outputs = self.model(layer, args[0], f"{path}{layer.name}/")
        else:
            outputs = operation(*args, **kwargs)
        for tensor in keras.tree.flatten(outputs):
            self._producers[id(tensor)] = (layer.name, tensor)  # the tensor is kept: ids stay valid
        return outputs

    def _call_block(self, operation: Any, path: str, x: Any, **kwargs: Any) -> Any:
        wants_gates = kwargs.pop("return_gates", False)
        outputs, gates = operation(x, return_gates=True, **kwargs)
        block = operation.layer
        self._ordinals[path] = self._ordinals.get(path, 0) + 1
        site = Site(
            name=f"{path}se_{self._ordinals[path]}",
            channels=gates.shape[-1],
            width=block.w1.shape[-1],
            gate=block.gate,
            after=self._producers[id(x)][0] if id(x) in self._producers else "",
            layer=block.name,
        )
        self.sites.append(site)
        self.gates[site.name] = gates
        return (outputs, gates) if wants_gates else outputs


def _shared(operation: Any) -> Any:
    return _Shared(operation) if isinstance(operation, keras.layers.Layer) else operation
