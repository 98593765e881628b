"""Built-in Keras 3 layers as tf_keras layers of the same class name."""

import inspect
from typing import Any

import keras
import numpy as np

from keras_se.compress.tfmot.bridge.activations import convert_activation
from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.factory import (
    Converted,
    Function,
    LayerFactory,
    LayerWeights,
    compose,
)
from keras_se.errors import InputError
from keras_se.graph.models import sublayers
from keras_se.graph.trace import Call

_LEFT_OUT = {"name", "dtype", "activation", "trainable", "seed"}
# With layers inside, and a counterpart in tf_keras.
ENTIRE = (keras.layers.MultiHeadAttention,)
_DEPTHWISE = {"padding", "strides", "dilation_rate", "kernel_size", "depth_multiplier"}


def convert_layer(new_layer: LayerFactory, call: Call, name: str) -> Converted | None:
    """Convert the call of a built-in Keras 3 layer, or return `None` if it is not supported."""
    layer = call.layer
    kind = type(layer).__name__
    after = _activation_after(new_layer, layer, name) if _is_supported(layer, kind) else None
    if after is None:
        return None
    if kind == "Activation":
        return Converted(after)
    if kind == "Normalization":
        return _normalization(new_layer, layer, name)
    if kind == "Rescaling":
        return Converted(rescaling(new_layer, name, layer.scale, layer.offset))
    if kind == "Average":
        return Converted(average(new_layer, name, len(call.args[0])))
    if kind == "SeparableConv2D":
        return _separable(new_layer, layer, name, after)
    own = new_layer(kind, name, **_arguments(layer, kind))
    own.trainable = layer.trainable
    weights = (LayerWeights(own.name, tuple(layer.weights)),) if layer.weights else ()
    return Converted(lambda *args, **kwargs: after(own(*args, **kwargs)), weights)


def counterpart(kind: str, value: Any) -> Any:
    """Return the tf_keras regularizer or constraint, or raise `InputError` if there is none."""
    if value is None:
        return None
    known = getattr(getattr(load_tf_keras(), f"{kind}s"), type(value).__name__, None)
    if known is None or not type(value).__module__.startswith("keras."):
        raise InputError(
            f"to_tf_keras supports the {kind}s that tf_keras has. Received: {type(value).__name__}"
        )
    return known(**value.get_config())


def rescaling(new_layer: LayerFactory, name: str, scale: Any, offset: Any) -> Function:
    """Compute scale·x + offset with one Rescaling layer for each of the two parts."""
    # int8 has a range after each part, so they are separate layers.
    has_scale, has_offset = np.any(np.asarray(scale) != 1), np.any(np.asarray(offset) != 0)
    parts = []
    if has_scale or not has_offset:
        parts.append(new_layer("Rescaling", name, scale=scale))
    if has_offset:
        parts.append(new_layer("Rescaling", f"{name}_offset", scale=1.0, offset=offset))
    return compose(*parts)


def average(new_layer: LayerFactory, name: str, number: int) -> Function:
    """Compute the average of a list of tensors."""
    # quantize_aware has no int8 form for Average, but for Add and Rescaling.
    share = new_layer("Rescaling", f"{name}_share", scale=1.0 / number)
    return compose(new_layer("Add", name), share)


def _is_supported(layer: Any, kind: str) -> bool:
    is_built_in = type(layer) is getattr(keras.layers, kind, None)
    # The conversion does not keep masks.
    makes_masks = kind == "Masking" or getattr(layer, "mask_zero", False)
    return (
        is_built_in
        and hasattr(load_tf_keras().layers, kind)
        and not makes_masks
        and (type(layer) in ENTIRE or not any(True for _ in sublayers(layer)))
        and not isinstance(layer, keras.layers.RNN | keras.layers.Lambda)
        and getattr(layer, "data_format", None) != "channels_first"
    )


def _activation_after(new_layer: LayerFactory, layer: Any, name: str) -> Function | None:
    """Build the activation of a layer as a layer of its own."""
    if not hasattr(layer, "activation"):
        return compose()
    is_all = isinstance(layer, keras.layers.Activation)
    return convert_activation(new_layer, layer.activation, name if is_all else f"{name}_activation")


def _separable(new_layer: LayerFactory, layer: Any, name: str, after: Function) -> Converted:
    """Split a SeparableConv2D into two convolutions."""
    # tfmot quantizes and prunes ordinary convolutions, not SeparableConv2D.
    known = _arguments(layer, "SeparableConv2D")
    own = {key: known[key] for key in known if key in _DEPTHWISE or key.startswith("depthwise_")}
    depthwise = new_layer("DepthwiseConv2D", name, use_bias=False, **own)
    own = {
        key.replace("pointwise", "kernel"): value
        for key, value in known.items()
        if key.startswith(("pointwise_", "bias_", "use_bias"))
    }
    pointwise = new_layer(
        "Conv2D", f"{name}_pointwise", filters=layer.filters, kernel_size=1, **own
    )
    depthwise.trainable = pointwise.trainable = layer.trainable
    kernel, *others = layer.weights
    weights = (LayerWeights(depthwise.name, (kernel,)), LayerWeights(pointwise.name, tuple(others)))
    return Converted(compose(depthwise, pointwise, after), weights)


def _arguments(layer: Any, kind: str) -> dict[str, Any]:
    """Return the part of a layer's configuration that tf_keras accepts."""
    known = inspect.signature(getattr(load_tf_keras().layers, kind).__init__).parameters
    try:
        config = layer.get_config()
    except Exception:  # an activation without a configuration, such as a lambda
        config = {key: getattr(layer, key) for key in known if hasattr(layer, key)}
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
        if key.endswith(("_regularizer", "_constraint")):
            kind = key.rpartition("_")[-1]
            own = getattr(keras, f"{kind}s").get(config[key])
            arguments[key] = counterpart(kind, own)
    return arguments


def _normalization(new_layer: LayerFactory, layer: Any, name: str) -> Converted | None:
    """Build (x - mean) / deviation with the adapted statistics as constants."""
    axes, rank = layer.axis, len(layer.mean.shape)
    if layer.invert or axes not in ((-1,), (rank - 1,), ()):
        return None
    mean, variance = (keras.ops.convert_to_numpy(v) for v in (layer.mean, layer.variance))
    # Keras guards against a deviation of zero in the same way.
    scale = 1.0 / np.maximum(np.sqrt(variance), keras.backend.epsilon())
    shape = mean.shape[-1:] if axes else ()
    scale, offset = (v.reshape(shape).tolist() for v in (scale, -mean * scale))
    return Converted(rescaling(new_layer, name, scale, offset))
