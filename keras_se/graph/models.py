"""Which models and layers have a graph that can be read, the layers inside, and free names."""

import itertools
import re
from collections.abc import Collection, Iterator
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError

_RAW_ACTIVATIONS = (
    *("hard_sigmoid", "hard_silu", "relu", "relu6", "selu", "sigmoid", "silu", "softmax"),
    *("softplus", "softsign", "tanh"),
)
_COMPOSITES = (
    *(keras.Model, keras.layers.Pipeline, keras.layers.Wrapper),
    *(keras.layers.Bidirectional, keras.layers.RNN, keras.layers.StackedRNNCells),
    *(keras.layers.GroupQueryAttention, keras.layers.MultiHeadAttention),
)


def is_graph(model: Any) -> bool:
    """Whether a model is Sequential or functional, and its class does not override `call`."""
    if not isinstance(model, keras.Model):
        return False
    # With a `call` of its own, the graph does not say what the model computes.
    own = [c for c in type(model).__mro__ if not c.__module__.startswith("keras.")]
    if any("call" in vars(c) for c in own):
        return False
    return isinstance(model, keras.Sequential) or len(getattr(model, "operations", ())) > 0


def is_nested_graph(layer: Any) -> bool:
    """Whether a layer is a model whose graph can be visited."""
    # Keras keeps no graph of a Sequential model on several tensors: it has no inputs.
    return is_graph(layer) and bool(getattr(layer, "inputs", None))


def check_graph(purpose: str, model: Any) -> None:
    """Raises `InputError` for anything but a built functional or Sequential model."""
    if not is_graph(model):
        raise InputError(
            f"{purpose} needs a functional or Sequential Keras model; of a subclassed model, pass "
            f"the functional part that holds the layers. Received: {type(model).__name__}"
        )
    if not model.built or not model.inputs:
        raise InputError(
            f"{purpose} needs a built model: call it once, or give it an Input. "
            f"Received: model {model.name!r}, not built"
        )


def check_weights(purpose: str, model: Any) -> None:
    """Raises `InputError` for NaN or infinite weights, also of a model of tf_keras."""
    for variable in model.weights:
        values = variable.numpy()
        # The kind of bfloat16 is not "f".
        if "float" in values.dtype.name and not np.isfinite(values).all():
            name = getattr(variable, "path", variable.name)
            raise InputError(
                f"{purpose} needs finite weights. "
                f"Received: NaN or infinity in {name!r} of model {model.name!r}"
            )


def raw_activation(operation: Any) -> str | None:
    """The name of the activation that a raw operation such as `keras.ops.relu` computes."""
    kind = type(operation).__name__
    if isinstance(operation, keras.layers.Layer) or not isinstance(operation, keras.Operation):
        return None
    if kind == "ReLU":  # what `keras.activations.relu` records
        is_plain = not operation.negative_slope and not operation.threshold
        return {None: "relu", 6: "relu6"}.get(operation.max_value) if is_plain else None
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", kind).lower()
    # Operations with settings, such as the slope of a leaky ReLU, are not told apart here.
    is_last = getattr(operation, "axis", -1) == -1
    return name if name in _RAW_ACTIVATIONS and is_last else None


def sublayers(layer: Any) -> Iterator[Any]:
    """Yields the layers inside a layer, at any depth, each once and after its holder."""
    seen = {id(layer)}
    to_visit = [layer]
    while to_visit:
        holder = to_visit.pop(0)
        # Most layers of Keras hold no other layer; looking into each attribute would be slow.
        if type(holder).__module__.startswith("keras.") and not isinstance(holder, _COMPOSITES):
            continue
        for value in vars(holder).values():
            for part in _layers_of(value):
                if id(part) not in seen:
                    seen.add(id(part))
                    to_visit.append(part)
                    yield part


def free_name(name: str, taken: Collection[str], first: int = 1) -> str:
    """Returns `name`, with a number from `first` on appended if it is taken."""
    numbered = (f"{name}_{number}" for number in itertools.count(first))
    return next(free for free in itertools.chain([name], numbered) if free not in taken)


def _layers_of(value: Any) -> Iterator[Any]:
    if isinstance(value, keras.layers.Layer):
        yield value
    elif isinstance(value, dict | list | tuple | set):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _layers_of(part)
