"""Builds an `SEBlock` from tf_keras layers: pooling, two 1×1 convolutions, gate and product."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras_se.compress.tfmot.bridge.activations import activation, hard_sigmoid
from keras_se.compress.tfmot.bridge.factory import Carried, Function, Maker, chained
from keras_se.compress.tfmot.bridge.layers import ported
from keras_se.layers import SEBlock


@dataclass(frozen=True)
class Unfolded:
    """The layers of an `SEBlock`.

    Attributes:
        function: Maps the feature map to the recalibrated feature map.
        carried: The layers that hold the weights of the block.
        product: Name of the layer that multiplies the feature map, its first input, by the gates.
    """

    function: Function
    carried: tuple[Carried, ...]
    product: str


def unfold(make: Maker, block: SEBlock, name: str, rank: int) -> Unfolded | None:
    """Build a block from built-in layers, or return `None` if a setting has no counterpart."""
    channels = int(block.w2.shape[-1])
    squeeze = _squeeze(make, block, name, rank)
    middle = activation(make, block.activation, f"{name}_activation")
    gate = _gate(make, block.gate, f"{name}_gate", channels)
    if squeeze is None or middle is None or gate is None or block.data_format != "channels_last":
        return None
    reduce = _matrix(make, block, f"{name}_reduce", int(block.w1.shape[-1]))
    expand = _matrix(make, block, f"{name}_expand", channels)
    unpooled = _unpooled(make, f"{name}_gates", rank, channels)
    product = make("Multiply", f"{name}_product")
    carried = [_carried(reduce, block.w1, block.b1), _carried(expand, block.w2, block.b2)]
    moved = chained()
    if block.shift:
        moved, shift = _shift(make, block, name, rank)
        carried.append(_carried(shift, block.w_shift, block.b_shift))

    def function(features: Any) -> Any:
        hidden = middle(reduce(squeeze(features)))
        # Features first: gates.py reads the second operand as the gates.
        outputs = product([features, unpooled(gate(expand(hidden)))])
        return moved(outputs, hidden) if block.shift else outputs

    return Unfolded(function, tuple(carried), product.name)


def _carried(layer: Any, *variables: Any) -> Carried:
    return Carried(layer.name, tuple(v for v in variables if v is not None), is_se=True)


def _matrix(make: Maker, block: SEBlock, name: str, units: int) -> Any:
    layer = make(
        "Conv2D",
        name,
        filters=units,
        kernel_size=1,
        use_bias=block.use_bias,
        **{
            f"{part}_{kind}": ported(kind, getattr(block, f"{part}_{kind}"))
            for part in ("kernel", "bias")
            for kind in ("regularizer", "constraint")
        },
    )
    layer.trainable = block.trainable
    return layer


def _squeeze(make: Maker, block: SEBlock, name: str, rank: int) -> Function | None:
    kinds = {"avg": ("Average",), "max": ("Max",), "avg_max": ("Average", "Max")}
    if block.squeeze not in kinds:
        return None
    poolings = [
        make(f"Global{kind}Pooling{rank - 2}D", f"{name}_squeeze", keepdims=True)
        for kind in kinds[block.squeeze]
    ]
    # Conv2D takes rank 4, so the squeeze of a sequence or volume is reshaped.
    flat = make("Reshape", f"{name}_pooled", target_shape=(1, 1, -1)) if rank != 4 else chained()
    if len(poolings) == 1:
        return chained(poolings[0], flat)
    # rounding.py has no int8 form for Average, but for Add and Rescaling.
    half = make("Rescaling", f"{name}_half", scale=0.5)
    both = make("Add", f"{name}_squeezes")
    return lambda features: flat(half(both([pooling(features) for pooling in poolings])))


def _unpooled(make: Maker, name: str, rank: int, channels: int) -> Function:
    if rank == 4:
        return chained()
    # Undo the reshape of the squeeze: the gates broadcast over the feature map.
    return make("Reshape", name, target_shape=(*(1,) * (rank - 2), channels))


def _shift(make: Maker, block: SEBlock, name: str, rank: int) -> tuple[Function, Any]:
    channels = int(block.w2.shape[-1])
    shift = _matrix(make, block, f"{name}_shift", channels)
    unpooled = _unpooled(make, f"{name}_shifts", rank, channels)
    add = make("Add", f"{name}_moved")
    return lambda outputs, hidden: add([outputs, unpooled(shift(hidden))]), shift


def _gate(make: Maker, gate: Any, name: str, channels: int) -> Function | None:
    gates: dict[str, Callable[[], Function]] = {
        "hard_sigmoid": lambda: hard_sigmoid(make, name),
        "one_plus_tanh": lambda: chained(
            make("Activation", name, activation="tanh"),
            make("Rescaling", f"{name}_plus_one", scale=1.0, offset=1.0),
        ),
        "relu": lambda: make("ReLU", name),
        "sigmoid": lambda: make("Activation", name, activation="sigmoid"),
        "softmax": lambda: chained(
            make("Softmax", name),
            make("Rescaling", f"{name}_times", scale=float(channels)),
        ),
        "tanh": lambda: make("Activation", name, activation="tanh"),
    }
    return gates[gate]() if gate in gates else None
