"""Builds an `SEBlock` from tf_keras layers: pooling, two 1×1 convolutions, gate and product."""

from typing import Any

from keras_se.compress.tfmot.bridge.activations import convert_activation
from keras_se.compress.tfmot.bridge.factory import (
    Converted,
    Function,
    LayerFactory,
    LayerWeights,
    compose,
)
from keras_se.compress.tfmot.bridge.layers import average, counterpart
from keras_se.layers import SEBlock

_GATES = ("hard_sigmoid", "relu", "sigmoid", "tanh")  # also activations
_POOLINGS: dict[Any, tuple[str, ...]] = {
    "avg": ("Average",),
    "max": ("Max",),
    "avg_max": ("Average", "Max"),
}


def convert_block(
    new_layer: LayerFactory, block: SEBlock, name: str, rank: int
) -> Converted | None:
    """Build a block from built-in layers, or return `None` if a setting has no counterpart."""
    channels = int(block.w2.shape[-1])
    activation = convert_activation(new_layer, block.activation, f"{name}_activation")
    gate = _gate(new_layer, block.gate, f"{name}_gate", channels)
    is_supported = block.squeeze in _POOLINGS and block.data_format == "channels_last"
    if activation is None or gate is None or not is_supported:
        return None
    squeeze = _squeeze(new_layer, block, name, rank)
    reduce = _matrix(new_layer, block, f"{name}_reduce", int(block.w1.shape[-1]))
    expand = _matrix(new_layer, block, f"{name}_expand", channels)
    broadcast = _broadcast(new_layer, f"{name}_gates", rank, channels)
    product = new_layer("Multiply", f"{name}_product")
    weights = [_weights(reduce, block.w1, block.b1), _weights(expand, block.w2, block.b2)]
    if block.shift:
        add_shift, shift = _shift(new_layer, block, name, rank)
        weights.append(_weights(shift, block.w_shift, block.b_shift))

    def function(features: Any) -> Any:
        hidden = activation(reduce(squeeze(features)))
        # Features first: gates.py reads the second operand as the gates.
        outputs = product([features, broadcast(gate(expand(hidden)))])
        return add_shift(outputs, hidden) if block.shift else outputs

    return Converted(function, tuple(weights))


def _weights(layer: Any, *variables: Any) -> LayerWeights:
    return LayerWeights(layer.name, tuple(v for v in variables if v is not None), is_se=True)


def _matrix(new_layer: LayerFactory, block: SEBlock, name: str, units: int) -> Any:
    own = {
        f"{part}_{kind}": counterpart(kind, getattr(block, f"{part}_{kind}"))
        for part in ("kernel", "bias")
        for kind in ("regularizer", "constraint")
    }
    layer = new_layer("Conv2D", name, filters=units, kernel_size=1, use_bias=block.use_bias, **own)
    layer.trainable = block.trainable
    return layer


def _squeeze(new_layer: LayerFactory, block: SEBlock, name: str, rank: int) -> Function:
    poolings = [
        new_layer(f"Global{kind}Pooling{rank - 2}D", f"{name}_squeeze", keepdims=True)
        for kind in _POOLINGS[block.squeeze]
    ]
    squeeze: Function = poolings[0]
    if len(poolings) > 1:
        mean = average(new_layer, f"{name}_squeezes", len(poolings))
        squeeze = compose(lambda features: [pooling(features) for pooling in poolings], mean)
    if rank == 4:
        return squeeze
    # Conv2D takes rank 4, so the squeeze of a sequence or volume is reshaped.
    return compose(squeeze, new_layer("Reshape", f"{name}_pooled", target_shape=(1, 1, -1)))


def _broadcast(new_layer: LayerFactory, name: str, rank: int, channels: int) -> Function:
    if rank == 4:
        return compose()
    # Undo the reshape of the squeeze: the gates broadcast over the feature map.
    return new_layer("Reshape", name, target_shape=(*(1,) * (rank - 2), channels))


def _shift(new_layer: LayerFactory, block: SEBlock, name: str, rank: int) -> tuple[Function, Any]:
    channels = int(block.w2.shape[-1])
    shift = _matrix(new_layer, block, f"{name}_shift", channels)
    broadcast = _broadcast(new_layer, f"{name}_shifts", rank, channels)
    add = new_layer("Add", f"{name}_moved")
    return lambda outputs, hidden: add([outputs, broadcast(shift(hidden))]), shift


def _gate(new_layer: LayerFactory, gate: Any, name: str, channels: int) -> Function | None:
    if gate == "one_plus_tanh":
        tanh = new_layer("Activation", name, activation="tanh")
        plus_one = new_layer("Rescaling", f"{name}_plus_one", scale=1.0, offset=1.0)
        return compose(tanh, plus_one)
    if gate == "softmax":
        softmax = new_layer("Activation", name, activation="softmax")
        return compose(softmax, new_layer("Rescaling", f"{name}_times", scale=float(channels)))
    return convert_activation(new_layer, gate, name) if gate in _GATES else None
