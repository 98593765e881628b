"""SE blocks put into models that exist: pure, with the weights carried over.

This version takes models that are one chain of layers (a Sequential model, or a functional model
without branches), and puts a block after each convolution with its normalization and activation.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.layers import SEBlock, gates

_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)
_NORMALIZATIONS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
)
_ACTIVATIONS = (
    keras.layers.Activation,
    keras.layers.ELU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ReLU,
)


@dataclass(frozen=True)
class Candidate:
    """A place where `insert` would put an SE block.

    Attributes:
        name: Ordinal name, the key of a plan: `"se_1"`, `"se_2"`, ...
        after: Name of the layer that the block would follow.
        channels: C, the number of channels there.
        shape: Shape of the feature map there, with `None` for the batch and for unknown sizes.
        data_format: `"channels_last"` or `"channels_first"`, as the convolution has it.
    """

    name: str
    after: str
    channels: int
    shape: tuple[int | None, ...]
    data_format: str


def candidates(model: keras.Model) -> list[Candidate]:
    """The places where `insert` would put an SE block, in topological order.

    Args:
        model: A built model that is one chain of layers.

    Returns:
        One `Candidate` after each convolution with its normalization and activation.

    Raises:
        InputError: If the model is not built, branches, holds SE blocks, or has no convolution.

    Example:
        >>> conv = keras.layers.Conv2D(8, 3, activation="relu", name="conv")
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), conv])
        >>> [(c.name, c.after, c.channels) for c in candidates(model)]
        [('se_1', 'conv', 8)]
    """
    layers = _chain(model)
    if any(isinstance(layer, SEBlock) for layer in layers):
        raise InputError(
            "insert takes a model without SE blocks. "
            f"Received: model {model.name!r}, which has them already"
        )
    units = list(_units(layers))
    if not units:
        raise InputError(
            "insert puts SE blocks after convolutions. "
            f"Received: model {model.name!r}, which has none"
        )
    shapes = _output_shapes(model, layers)
    return [
        _candidate(f"se_{n}", end.name, shapes[end.name], convolution.data_format)
        for n, (convolution, end) in enumerate(units, start=1)
    ]


def insert(
    model: keras.Model,
    ratio: float = 16,
    *,
    plan: Mapping[str, Mapping[str, Any]] | None = None,
    **block: Any,
) -> keras.Model:
    """A new model with an SE block after each convolution, its normalization and activation.

    With the default gate the new model computes the same function as the old one, to the last bit
    when called eagerly: `one_plus_tanh` blocks start as the identity. Blocks with another gate
    start at their own fresh value (½ for the sigmoids), and do change the function.

    Args:
        model: A built model that is one chain of layers. It is not changed.
        ratio: The reduction ratio of every block.
        plan: Settings per site, `{"se_1": {"ratio": 4}, ...}`, each over those given here. If
            given, only the sites that it names get a block.
        **block: Further arguments of `SEBlock`. By default `gate="one_plus_tanh"`, and
            `identity_init=True` where the gate allows it.

    Returns:
        A new model, uncompiled, with the weights, names and trainable flags of the old one; a
        Sequential model stays one.

    Raises:
        InputError: If the model cannot be rebuilt, or the plan names an unknown site.

    Source: Hu et al., arXiv 1709.01507v4, section 3.3.

    Example:
        >>> conv = keras.layers.Conv2D(8, 3, activation="relu")
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), conv])
        >>> [layer.__class__.__name__ for layer in insert(model, ratio=4).layers]
        ['Conv2D', 'SEBlock']
    """
    places = candidates(model)
    names = [place.name for place in places]
    unknown = sorted(set(plan or {}) - set(names))
    if unknown:
        raise InputError(f"A plan names sites among {names}. Received: {unknown}")
    settings = {
        place.after: _block_arguments(place, {"ratio": ratio, **block}, (plan or {}))
        for place in places
        if plan is None or place.name in plan
    }
    old_layers = _chain(model)
    new_layers: list[Any] = []
    for layer in old_layers:
        new_layers.append(type(layer).from_config(layer.get_config()))
        if layer.name in settings:
            new_layers.append(SEBlock(**settings[layer.name]))
    new_model = _rebuilt(model, new_layers)
    for layer in old_layers:
        new_model.get_layer(layer.name).set_weights(layer.get_weights())
    return new_model


def hold_gates(model: keras.Model, gates_of_blocks: Mapping[str, Any]) -> keras.Model:
    """A copy of a model whose SE gates are constants: the control that says what adaptivity buys.

    Args:
        model: A built model with `SEBlock`s, each with a bias and called once.
        gates_of_blocks: By layer name of the block, the gate of each channel, shape (channels,).

    Returns:
        A new model, uncompiled, in which those blocks multiply by these constants for every input.

    Raises:
        InputError: If a block has no bias to hold the constants.

    Example:
        >>> model = keras.Sequential([keras.Input((4, 4, 2)), SEBlock(2, name="se")])
        >>> held = hold_gates(model, {"se": [0.25, 0.75]})
        >>> held.get_layer("se").gates(keras.ops.ones((1, 4, 4, 2))).round(6).tolist()
        [[0.25, 0.75]]
    """
    held = keras.models.clone_model(model)
    held.set_weights(model.get_weights())
    for name, values in gates_of_blocks.items():
        block = held.get_layer(name)
        if not block.use_bias:
            raise InputError(
                "Gates are held by the bias of a block, so use_bias must be True. "
                f"Received: block {name!r} without a bias"
            )
        facts, margin = gates.get(block.gate), 1e-6
        inside = np.clip(np.asarray(values, "float64"), facts.low + margin, facts.high - margin)
        block.w2.assign(np.zeros(block.w2.shape))
        block.b2.assign(facts.inverse(inside))
    return held


def _candidate(name: str, after: str, shape: tuple[int | None, ...], data_format: str) -> Candidate:
    channels = shape[-1 if data_format == "channels_last" else 1]
    if channels is None:
        raise InputError(
            "insert needs a known number of channels. "
            f"Received: shape {shape} after layer {after!r}"
        )
    return Candidate(name, after, channels, shape, data_format)


def _block_arguments(
    place: Candidate, shared: Mapping[str, Any], plan: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    arguments = {
        "gate": "one_plus_tanh",
        "data_format": place.data_format,
        **shared,
        **plan.get(place.name, {}),
    }
    can_be_identity = gates.get(arguments["gate"]).one_at is not None
    return {"identity_init": can_be_identity, **arguments}


def _rebuilt(model: keras.Model, layers: list[Any]) -> keras.Model:
    old_input = model.inputs[0]
    inputs = keras.Input(batch_shape=old_input.shape, dtype=old_input.dtype, name=old_input.name)
    if isinstance(model, keras.Sequential):
        new_model = keras.Sequential([inputs, *layers], name=model.name)
    else:
        outputs = inputs
        for layer in layers:
            outputs = layer(outputs)
        new_model = keras.Model(inputs, outputs, name=model.name)
    if not model.trainable:
        new_model.trainable = False
    return new_model


def _chain(model: keras.Model) -> list[Any]:
    """The layers of `model` after its input, if they are one chain."""
    if not isinstance(model, keras.Model) or not model.built or not getattr(model, "inputs", None):
        raise InputError(
            "insert takes a built Sequential or functional model. "
            f"Received: {type(model).__name__} {getattr(model, 'name', '')!r}"
        )
    if isinstance(model, keras.Sequential):
        operations = list(model.layers)
    else:
        operations = list(getattr(model, "operations", []))
        _check_chain(model, operations)
        operations = operations[1:]
    for operation in operations:
        if isinstance(operation, keras.Model) or not isinstance(operation, keras.layers.Layer):
            raise InputError(
                "insert takes models made of layers, without nested models or raw operations. "
                f"Received: model {model.name!r}, which holds {operation.name!r}"
            )
    return operations


def _check_chain(model: keras.Model, operations: list[Any]) -> None:
    """Each operation feeds the next, and the last one is the output, on its first call."""
    links = [(operation, operation.input, last.output) for last, operation in pairwise(operations)]
    links.append((operations[-1], model.output, operations[-1].output))
    for operation, tensor, expected in links:
        if tensor is not expected:
            raise InputError(
                "insert takes models that are one chain of layers, without branches or shared "
                f"layers. Received: model {model.name!r}, not a chain at {operation.name!r}"
            )


def _units(layers: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Each convolution, with the last layer of convolution + normalization + activation."""
    for index, layer in enumerate(layers):
        if isinstance(layer, _CONVOLUTIONS):
            end = index
            for kinds in (_NORMALIZATIONS, _ACTIVATIONS):
                if end + 1 < len(layers) and isinstance(layers[end + 1], kinds):
                    end += 1
            yield layer, layers[end]


def _output_shapes(model: keras.Model, layers: list[Any]) -> dict[str, tuple[int | None, ...]]:
    shapes, spec = {}, keras.KerasTensor(model.inputs[0].shape, model.inputs[0].dtype)
    for layer in layers:
        spec = layer.compute_output_spec(spec)
        shapes[layer.name] = tuple(spec.shape)
    return shapes
