"""Raw Keras 3 operations on a weight of a layer, as layers of tf_keras that train that weight."""

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_se.compress.tfmot.bridge.factory import (
    Converted,
    Function,
    LayerFactory,
    LayerWeights,
    NoCounterpartError,
    compose,
)
from keras_se.graph.trace import Call


def convert_trained(new_layer: LayerFactory, call: Call, name: str) -> Converted:
    """Convert an operation on a tensor and a weight."""
    kind = type(call.layer).__name__
    if kind not in _KINDS or len(call.args) != 2 or call.kwargs:
        raise NoCounterpartError("which computes with a weight that no layer of tf_keras trains so")
    is_weight = [isinstance(argument, keras.Variable) for argument in call.args]
    position = is_weight.index(False) if False in is_weight else 0
    tensor, weight = call.args[position], call.args[1 - position]
    if all(is_weight):
        raise NoCounterpartError("which makes a tensor of weights")
    layer, function = _KINDS[kind](new_layer, call, tensor, weight, name)
    layer.trainable = weight.trainable
    return Converted(
        lambda *given: function(given[position]), (LayerWeights(layer.name, (weight,)),)
    )


def _scale(
    new_layer: LayerFactory, call: Call, tensor: Any, weight: Any, name: str
) -> tuple[Any, Function]:
    """Multiply by a weight of the shape of the last axes, or by one number."""
    shape = tuple(tensor.shape)
    if call.outputs[0].shape != shape:
        raise NoCounterpartError("which makes a tensor larger by a weight")
    if math.prod(weight.shape) == 1:
        return _scale_by_number(new_layer, shape, name)
    sizes = tuple(weight.shape)
    while sizes[0] == 1:
        sizes = sizes[1:]
    if sizes != shape[-len(sizes) :]:
        raise NoCounterpartError(f"which multiplies by a weight of shape {tuple(weight.shape)}")
    if len(shape) == 4 and len(sizes) == 1:  # the one that has an int8 form
        layer = new_layer("DepthwiseConv2D", name, kernel_size=1, use_bias=False)
        return layer, layer
    axes = "abcdefgh"[: len(sizes)]
    equation = f"...{axes},{axes}->...{axes}"
    layer = new_layer("EinsumDense", name, equation=equation, output_shape=sizes)
    return layer, layer


def _scale_by_number(
    new_layer: LayerFactory, shape: tuple[int | None, ...], name: str
) -> tuple[Any, Function]:
    sizes = tuple(-1 if size is None else size for size in shape[1:])
    if sizes.count(-1) > 1:
        raise NoCounterpartError("which scales a tensor of open size by a weight of one value")
    # Dense would be pruned: to zero.
    layer = new_layer("EinsumDense", name, equation="...a,ab->...b", output_shape=(1,))
    column = new_layer("Reshape", f"{name}_column", target_shape=(*sizes, 1))
    return layer, compose(column, layer, new_layer("Reshape", f"{name}_whole", target_shape=sizes))


def _shift(
    new_layer: LayerFactory, call: Call, tensor: Any, weight: Any, name: str
) -> tuple[Any, Function]:
    """Add a weight: ones that are scaled by it, as tf_keras has no layer with an offset alone."""
    layer, scale = _scale(new_layer, call, tensor, weight, name)
    ones = new_layer("Rescaling", f"{name}_ones", scale=0.0, offset=1.0)
    total = new_layer("Add", f"{name}_moved")
    return layer, lambda tensor: total([tensor, scale(ones(tensor))])


def _product(
    new_layer: LayerFactory, call: Call, tensor: Any, weight: Any, name: str
) -> tuple[Any, Function]:
    """Multiply by a matrix."""
    is_right = call.args[1] is weight and len(weight.shape) == 2
    if not is_right:
        raise NoCounterpartError("which multiplies by a weight that is no matrix")
    layer = new_layer("Dense", name, units=int(weight.shape[-1]), use_bias=False)
    return layer, layer


_KINDS: dict[str, Callable[[LayerFactory, Call, Any, Any, str], tuple[Any, Function]]] = {
    "Add": _shift,
    "Matmul": _product,
    "Multiply": _scale,
}
