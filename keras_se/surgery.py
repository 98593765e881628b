"""SE blocks put into models that exist: pure, with the weights carried over.

This version puts a block after each convolution with its normalization and activation, in
Sequential and functional models, and refuses nested models.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError
from keras_se.layers import SEBlock, gates
from keras_se.replay import check_graph, fresh_inputs, original, replay

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
        model: A built functional or Sequential model.

    Returns:
        One `Candidate` after each convolution with its normalization and activation.

    Raises:
        InputError: If the model is not built, holds nested models or SE blocks, or has no
            convolution.

    Example:
        >>> conv = keras.layers.Conv2D(8, 3, activation="relu", name="conv")
        >>> model = keras.Sequential([keras.Input((8, 8, 1)), conv])
        >>> [(c.name, c.after, c.channels) for c in candidates(model)]
        [('se_1', 'conv', 8)]
    """
    return [unit.candidate for unit in _units(model)]


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
        model: A built functional or Sequential model. It is not changed.
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
    units = _units(model)
    names = [unit.candidate.name for unit in units]
    plan = {name: {} for name in names} if plan is None else _checked_plan(plan, names)
    settings = {
        unit.call: _block_arguments(unit, {"ratio": ratio, **block}, plan[unit.candidate.name])
        for unit in units
        if unit.candidate.name in plan
    }
    new_model = _rebuilt(model, _Insertion(settings))
    _copy_state(model, new_model)
    return new_model


def hold_gates(model: keras.Model, gates_of_blocks: Mapping[str, Any]) -> keras.Model:
    """A copy of a model whose SE gates are constants: the control that says what adaptivity buys.

    Args:
        model: A built model with `SEBlock`s, each with a bias and called once.
        gates_of_blocks: By layer name of the block, the gate of each channel, shape (channels,).

    Returns:
        A new model, uncompiled, in which those blocks multiply by these constants for every input.

    Raises:
        InputError: If a block has no bias to hold the constants, or a gate without known inverse.

    Example:
        >>> model = keras.Sequential([keras.Input((4, 4, 2)), SEBlock(2, name="se")])
        >>> held = hold_gates(model, {"se": [0.25, 0.75]})
        >>> held.get_layer("se").gates(keras.ops.ones((1, 4, 4, 2))).round(6).tolist()
        [[0.25, 0.75]]
    """
    held = keras.models.clone_model(model)
    _copy_state(model, held)
    for name, values in gates_of_blocks.items():
        block = held.get_layer(name)
        if not block.use_bias:
            raise InputError(
                "Gates are held by the bias of a block, so use_bias must be True. "
                f"Received: block {name!r} without a bias"
            )
        facts, margin = gates.get(block.gate), 1e-6
        if facts.inverse is None:
            raise InputError(
                f"Gates are held where their inverse is known. Received: gate={facts.name!r}"
            )
        inside = np.clip(np.asarray(values, "float64"), facts.low + margin, facts.high - margin)
        block.w2.assign(np.zeros(block.w2.shape))
        block.b2.assign(facts.inverse(inside))
    return held


@dataclass(frozen=True)
class _Call:
    """One call of a layer or raw operation in a model's graph."""

    layer: Any
    inputs: tuple[int, ...]
    output: Any


@dataclass(frozen=True)
class _Unit:
    """A convolution with its normalization and activation: the call after which a block goes."""

    candidate: Candidate
    call: int
    dtype_policy: Any


def _units(model: keras.Model) -> list[_Unit]:
    check_graph("insert", model)
    calls = _calls(model)
    consumers: dict[int, list[int]] = {}
    for position, call in enumerate(calls):
        for tensor in call.inputs:
            consumers.setdefault(tensor, []).append(position)
    units: list[_Unit] = []
    for position, call in enumerate(calls):
        if isinstance(call.layer, _CONVOLUTIONS):
            end = _end(position, calls, consumers)
            candidate = _candidate(f"se_{len(units) + 1}", call.layer, calls[end])
            units.append(_Unit(candidate, end, calls[end].layer.dtype_policy))
    if not units:
        raise InputError(
            "insert puts SE blocks after convolutions. "
            f"Received: model {model.name!r}, which has none"
        )
    return units


def _calls(model: keras.Model) -> list[_Call]:
    """Every call in the graph, in topological order, with the ids of its tensors."""
    calls: list[_Call] = []

    def record(operation: Any, *args: Any, **kwargs: Any) -> Any:
        layer = original(operation)
        if isinstance(layer, SEBlock):
            raise InputError(
                "insert takes a model without SE blocks. "
                f"Received: model {model.name!r}, which has them already"
            )
        if isinstance(layer, keras.Model):
            raise InputError(
                "insert takes models without nested models. "
                f"Received: model {model.name!r}, which holds {layer.name!r}"
            )
        output = operation(*args, **kwargs)
        tensors = keras.tree.flatten((args, kwargs))
        calls.append(_Call(layer, tuple(map(id, tensors)), output))  # outputs are kept: ids hold
        return output

    replay(model, fresh_inputs(model), record)
    return calls


def _end(position: int, calls: list[_Call], consumers: Mapping[int, list[int]]) -> int:
    """The last call of convolution + normalization + activation, each the only consumer."""
    for kinds in (_NORMALIZATIONS, _ACTIVATIONS):
        following = consumers.get(id(calls[position].output), [])
        if len(following) == 1 and isinstance(calls[following[0]].layer, kinds):
            position = following[0]
    return position


def _candidate(name: str, convolution: Any, end: _Call) -> Candidate:
    shape = tuple(end.output.shape)
    channels = shape[-1 if convolution.data_format == "channels_last" else 1]
    if channels is None:
        raise InputError(
            "insert needs a known number of channels. "
            f"Received: shape {shape} after layer {end.layer.name!r}"
        )
    return Candidate(name, end.layer.name, channels, shape, convolution.data_format)


def _checked_plan(plan: Any, names: list[str]) -> dict[str, Mapping[str, Any]]:
    if not isinstance(plan, Mapping) or not all(isinstance(v, Mapping) for v in plan.values()):
        raise InputError(
            "A plan is a dictionary of dictionaries, such as {'se_1': {'ratio': 4}}. "
            f"Received: {plan!r}"
        )
    unknown = sorted(set(plan) - set(names))
    if unknown:
        raise InputError(f"A plan names sites among {names}. Received: {unknown}")
    return dict(plan)


def _block_arguments(
    unit: _Unit, shared: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    arguments = {
        "gate": "one_plus_tanh",
        "data_format": unit.candidate.data_format,
        "dtype": unit.dtype_policy,
        **shared,
        **own,
    }
    one_at = gates.get(arguments["gate"]).one_at
    can_be_identity = one_at == 0.0 or (one_at is not None and arguments.get("use_bias", True))
    return {"identity_init": can_be_identity, **arguments}


class _Insertion:
    """Calls an operation and, where the settings of its call say so, a block on its output."""

    def __init__(self, settings: Mapping[int, dict[str, Any]]) -> None:
        self._settings = settings
        self._calls = 0

    def __call__(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        output = operation(*args, **kwargs)
        for block in self.blocks():
            output = block(output)
        return output

    def blocks(self) -> Iterator[SEBlock]:
        """The block after the next call, if there is one."""
        call, self._calls = self._calls, self._calls + 1
        if call in self._settings:
            yield SEBlock(**self._settings[call])


def _rebuilt(model: keras.Model, insertion: _Insertion) -> keras.Model:
    inputs = fresh_inputs(model)
    if not isinstance(model, keras.Sequential):
        copy = keras.models.clone_model(
            model, input_tensors=inputs, clone_function=_copied, call_function=insertion
        )
        return keras.Model(inputs, copy.output, name=model.name)  # the copy may be compiled
    layers: list[Any] = [inputs]
    for layer in model.layers:
        layers += [_copied(layer), *insertion.blocks()]
    return keras.Sequential(layers, name=model.name)


def _copied(layer: Any) -> Any:
    try:
        return type(layer).from_config(layer.get_config())
    except Exception as error:  # whatever the layer's own code raises
        raise InputError(
            "A model is rebuilt from the configurations of its layers. "
            f"Received: layer {layer.name!r} ({type(layer).__name__}), which gives: {error}"
        ) from error


def _copy_state(model: keras.Model, new_model: keras.Model) -> None:
    """Weights, adapted statistics and trainable flags, layer by layer, by their names."""
    new_model.trainable = model.trainable
    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        twin = new_model.get_layer(layer.name)
        twin.set_weights(layer.get_weights())
        if hasattr(twin, "finalize_state"):
            twin.finalize_state()
        twin.trainable = layer.trainable
