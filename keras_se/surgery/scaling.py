"""Factors of channels taken up by weights: f(c·x) and c·f(x) computed by f with other weights."""

from typing import Any

import numpy as np
from keras import activations, layers

from keras_se.graph.models import raw_activation

# Exact types only, everywhere: a subclass may compute anything.
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D)
_TRANSPOSED = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)
_KERNELS = (*_CONVOLUTIONS, *_TRANSPOSED, *_DEPTHWISE, *_SEPARABLE, layers.Dense)
_NORMALIZATIONS = (
    layers.BatchNormalization,
    layers.GroupNormalization,
    layers.LayerNormalization,
)
_ELEMENTWISE = (layers.Dropout, layers.Identity)
_POSITIONS = (  # linear, and each channel by itself
    *(layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D),
    *(layers.Cropping1D, layers.Cropping2D, layers.Cropping3D),
    *(layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D),
    *(layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D),
    *(layers.UpSampling1D, layers.UpSampling2D, layers.UpSampling3D),
    *(layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D),
)
_MAXIMA = (
    *(layers.GlobalMaxPooling1D, layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D),
    *(layers.MaxPooling1D, layers.MaxPooling2D, layers.MaxPooling3D),
)
_HOMOGENEOUS_ACTIVATIONS = (activations.relu, activations.leaky_relu)  # f(c·x) = c·f(x) for c ≥ 0


def passes(layer: Any, factors: np.ndarray, axis: int | None, rank: int) -> bool:
    """Whether factors of the channels of its input come out of a layer or raw operation as such.

    The channels are on an axis of tensors of some rank; `None` stands for any axis, for one factor.
    """
    kind, is_positive = type(layer), bool((factors >= 0.0).all())
    if kind in _POSITIONS or (kind in _MAXIMA and is_positive):
        return axis in (None, _channels(layer, rank))
    if kind is layers.Rescaling:
        return not np.any(layer.offset)
    if kind is layers.Activation and layer.activation is activations.linear:
        return True
    return kind in _ELEMENTWISE or (is_positive and _is_rectifier(layer))


def _is_rectifier(layer: Any) -> bool:
    if type(layer) is layers.ReLU:  # a cap or a threshold does not scale with the input
        return layer.max_value is None and not layer.threshold
    if type(layer) is layers.Activation:
        return layer.activation in _HOMOGENEOUS_ACTIVATIONS
    return type(layer) in (layers.LeakyReLU, layers.PReLU) or raw_activation(layer) == "relu"


def takes_output(layer: Any, factors: np.ndarray, axis: int | None, rank: int) -> list[Any]:
    """The weights of a layer that scale the channels of its output; empty if none do.

    Axis and rank are as in `passes`.
    """
    kind = type(layer)
    if kind in _NORMALIZATIONS:
        weights = [layer.gamma, layer.beta]
        fits = layer.gamma is not None and (axis is None or _axes(layer, rank) == [axis])
    elif kind in _KERNELS:
        weights = [_last_kernel(layer), layer.bias]
        fits = _has_plain_kernel(layer) and axis in (None, _channels(layer, rank))
        fits = fits and (
            layer.activation is activations.linear
            or (layer.activation in _HOMOGENEOUS_ACTIVATIONS and bool((factors >= 0.0).all()))
        )
    else:
        return []
    return [weight for weight in weights if weight is not None] if fits else []


def scale_output(layer: Any, factors: np.ndarray) -> None:
    """Multiplies the channels of the output of a layer, whose weights take that up."""
    is_normalization = type(layer) in _NORMALIZATIONS
    kernel = layer.gamma if is_normalization else _last_kernel(layer)
    shape = [1] * (len(kernel.shape) - 1) + [-1]
    if type(layer) in _TRANSPOSED:
        shape[-2:] = [-1, 1]
    elif type(layer) in _DEPTHWISE and factors.size > 1:
        shape = list(kernel.shape[-2:])
    _multiply(kernel, factors.reshape(shape))
    bias = layer.beta if is_normalization else layer.bias
    if bias is not None:
        _multiply(bias, factors.ravel())


def takes_input(layer: Any, axis: int, rank: int) -> list[Any]:
    """The weights of a layer that scale the channels of its input; empty if none do."""
    if type(layer) not in _KERNELS or not _has_plain_kernel(layer):
        return []
    # A grouped kernel has only the channels of one group.
    is_fit = _channels(layer, rank) == axis and getattr(layer, "groups", 1) == 1
    return [_first_kernel(layer)] if is_fit else []


def scale_input(layer: Any, factors: np.ndarray) -> None:
    """Lets a layer compute what it did for an input whose channels are multiplied."""
    kernel = _first_kernel(layer)
    # A transposed kernel has the channels of its input last.
    shape = [1, -1] if type(layer) in _TRANSPOSED else [-1, 1]
    _multiply(kernel, factors.reshape(shape))


def _multiply(variable: Any, factors: np.ndarray) -> None:
    variable.assign(np.asarray(variable.numpy(), "float64") * factors)


def _first_kernel(layer: Any) -> Any:
    return layer.depthwise_kernel if type(layer) in _SEPARABLE else layer.kernel


def _last_kernel(layer: Any) -> Any:
    return layer.pointwise_kernel if type(layer) in _SEPARABLE else layer.kernel


def _has_plain_kernel(layer: Any) -> bool:
    # The kernel of a quantized or LoRA layer is not a plain float variable.
    return not (getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False))


def _channels(layer: Any, rank: int) -> int:
    return 1 if getattr(layer, "data_format", None) == "channels_first" else rank - 1


def _axes(layer: Any, rank: int) -> list[int]:
    axes = layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]
    return [axis % rank for axis in axes]
