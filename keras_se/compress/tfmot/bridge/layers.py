"""Built-in Keras 3 layers as tf_keras layers of the same class name."""

import inspect
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.compress.tfmot.bridge.activations import activation
from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.factory import Carried, Function, Maker, chained
from keras_se.errors import InputError
from keras_se.graph.models import sublayers

_LEFT_OUT = {"name", "dtype", "activation", "trainable", "seed"}


@dataclass(frozen=True)
class Twin:
    """The tf_keras counterpart of a Keras 3 layer.

    Attributes:
        function: Maps the inputs of the layer to its outputs.
        carried: The layers that hold its weights.
    """

    function: Function
    carried: tuple[Carried, ...] = ()


def twin(make: Maker, layer: keras.layers.Layer, name: str) -> Twin | None:
    """Return the counterpart of a built-in Keras 3 layer, or `None` if it is unknown."""
    kind = type(layer).__name__
    if not _is_known(layer, kind):
        return None
    after = _after(make, layer, name)
    if after is None:
        return None
    if kind == "Activation":
        return Twin(after)
    if kind == "Normalization":
        rescaled = _normalization(make, layer, name)
        return None if rescaled is None else Twin(rescaled)
    if kind == "Rescaling":
        return Twin(rescaling(make, name, layer.scale, layer.offset))
    if kind == "Average":
        return Twin(_average(make, name))
    if kind == "SeparableConv2D":
        return _separable(make, layer, name, after)
    own = make(kind, name, **_arguments(layer, kind))
    own.trainable = layer.trainable
    carried = (Carried(own.name, tuple(layer.weights)),) if layer.weights else ()
    return Twin(lambda inputs, **kwargs: after(own(inputs, **kwargs)), carried)


def ported(kind: str, own: Any) -> Any:
    """Convert a regularizer or constraint, or raise `InputError` if tf_keras has none."""
    if own is None:
        return None
    counterpart = getattr(getattr(load_tf_keras(), f"{kind}s"), type(own).__name__, None)
    if counterpart is None or not type(own).__module__.startswith("keras."):
        raise InputError(
            f"A {kind} is carried to tf_keras where that has it, too. "
            f"Received: {type(own).__name__}"
        )
    return counterpart(**own.get_config())


def _is_known(layer: keras.layers.Layer, kind: str) -> bool:
    is_built_in = type(layer) is getattr(keras.layers, kind, None)
    # The bridge does not carry masks.
    makes_masks = kind == "Masking" or getattr(layer, "mask_zero", False)
    return (
        is_built_in
        and hasattr(load_tf_keras().layers, kind)
        and not makes_masks
        and not any(True for _ in sublayers(layer))
        and not isinstance(layer, keras.layers.RNN | keras.layers.Lambda)
        and getattr(layer, "data_format", None) != "channels_first"
    )


def rescaling(make: Maker, name: str, scale: Any, offset: Any) -> Function:
    """Compute scale·x + offset with one Rescaling layer for each of the two parts."""
    # int8 has a range after each part, so they are separate layers.
    has_scale, has_offset = np.any(np.asarray(scale) != 1), np.any(np.asarray(offset) != 0)
    layers = []
    if has_scale or not has_offset:
        layers.append(make("Rescaling", name, scale=scale))
    if has_offset:
        layers.append(make("Rescaling", f"{name}_offset", scale=1.0, offset=offset))
    return chained(*layers)


def _average(make: Maker, name: str) -> Function:
    # rounding.py has no int8 form for Average, but for Add and Rescaling.
    total = make("Add", name)

    def average(tensors: Any) -> Any:
        return make("Rescaling", f"{name}_share", scale=1.0 / len(tensors))(total(tensors))

    return average


def _after(make: Maker, layer: Any, name: str) -> Function | None:
    """Build the activation of a layer as a layer of its own."""
    if not hasattr(layer, "activation"):
        return chained()
    is_all = isinstance(layer, keras.layers.Activation)
    return activation(make, layer.activation, name if is_all else f"{name}_activation")


def _separable(make: Maker, layer: Any, name: str, after: Function) -> Twin:
    """Split a SeparableConv2D into two convolutions."""
    # tfmot quantizes and prunes ordinary convolutions, not SeparableConv2D.
    known = _arguments(layer, "SeparableConv2D")
    shared = ("padding", "strides", "dilation_rate", "kernel_size", "depth_multiplier")
    depthwise = make(
        "DepthwiseConv2D",
        name,
        use_bias=False,
        **{key: known[key] for key in known if key in shared or key.startswith("depthwise_")},
    )
    renamed = {
        key.replace("pointwise", "kernel"): value
        for key, value in known.items()
        if key.startswith(("pointwise_", "bias_", "use_bias"))
    }
    pointwise = make("Conv2D", f"{name}_pointwise", filters=layer.filters, kernel_size=1, **renamed)
    depthwise.trainable = pointwise.trainable = layer.trainable
    first, *rest = layer.weights
    carried = Carried(depthwise.name, (first,)), Carried(pointwise.name, tuple(rest))
    return Twin(chained(depthwise, pointwise, after), carried)


def _arguments(layer: keras.layers.Layer, kind: str) -> dict[str, Any]:
    """Return the part of a layer's configuration that tf_keras accepts."""
    known = inspect.signature(getattr(load_tf_keras().layers, kind).__init__).parameters
    config = layer.get_config()
    # tf_keras has another name for this argument.
    if kind == "LeakyReLU":
        config["alpha"] = config["negative_slope"]
    # Initializers are dropped because the weights are copied.
    arguments = {
        key: value
        for key, value in config.items()
        if key in known and key not in _LEFT_OUT and not key.endswith("_initializer")
    }
    for key in arguments:
        for kind_of in ("regularizer", "constraint"):
            if key.endswith(f"_{kind_of}"):
                arguments[key] = ported(kind_of, getattr(layer, key))
    return arguments


def _normalization(make: Maker, layer: Any, name: str) -> Function | None:
    """Build (x - mean) / deviation with the adapted statistics as constants."""
    axes, rank = layer.axis, len(layer.mean.shape)
    if layer.invert or axes not in ((-1,), (rank - 1,), ()):
        return None
    mean, variance = (keras.ops.convert_to_numpy(v) for v in (layer.mean, layer.variance))
    # Keras guards against a deviation of zero in the same way.
    scale = 1.0 / np.maximum(np.sqrt(variance), keras.backend.epsilon())
    shape = mean.shape[-1:] if axes else ()
    scale, offset = (v.reshape(shape).tolist() for v in (scale, -mean * scale))
    return rescaling(make, name, scale, offset)
