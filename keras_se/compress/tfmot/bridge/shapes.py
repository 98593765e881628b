"""Raw Keras 3 operations that move values and compute none, as functions of tf_keras tensors."""

import math
from collections.abc import Callable
from typing import Any

import keras

from keras_se.compress.tfmot.bridge.environment import load_tensorflow
from keras_se.compress.tfmot.bridge.factory import (
    Function,
    LayerFactory,
    NoCounterpartError,
    compose,
)
from keras_se.graph.trace import Call

Converter = Callable[[LayerFactory, Call, str], Function]


def reshape(new_layer: LayerFactory, call: Call, name: str) -> Function:
    """Give a tensor the shape that the operation gave it, values in the same order."""
    shape, wanted = call.args[0].shape, tuple(call.outputs[0].shape)
    open_sizes = -1 if wanted[1:].count(None) == 1 else None
    sizes = tuple(open_sizes if size is None else size for size in wanted)
    keeps_batch = shape[0] == wanted[0] and _size(shape) == _size(wanted)
    if keeps_batch and None not in sizes[1:]:
        return new_layer("Reshape", name, target_shape=sizes[1:])
    given = getattr(call.layer, "newshape", wanted)
    target = [-1 if size is None else size for size in given]
    if target.count(-1) > 1:
        raise NoCounterpartError("which leaves more than one size open")
    return lambda tensor: load_tensorflow().reshape(tensor, target)


def _size(shape: Any) -> int | None:
    """The number of values in a sample; `None` if it is open."""
    return None if None in shape[1:] else math.prod(shape[1:])


def _permuted(new_layer: LayerFactory, axes: list[int], name: str) -> Function:
    if axes[0] == 0:
        return new_layer("Permute", name, dims=tuple(axes[1:]))
    return lambda tensor: load_tensorflow().transpose(tensor, axes)


def _transpose(new_layer: LayerFactory, call: Call, name: str) -> Function:
    rank = len(call.args[0].shape)
    axes = call.layer.axes or reversed(range(rank))
    return _permuted(new_layer, [axis % rank for axis in axes], name)


def _swapaxes(new_layer: LayerFactory, call: Call, name: str) -> Function:
    rank = len(call.args[0].shape)
    axes, one, other = list(range(rank)), call.layer.axis1 % rank, call.layer.axis2 % rank
    axes[one], axes[other] = other, one
    return _permuted(new_layer, axes, name)


def _moveaxis(new_layer: LayerFactory, call: Call, name: str) -> Function:
    rank = len(call.args[0].shape)
    moved = dict(zip(call.layer.destination, call.layer.source, strict=True))
    moved = {to % rank: source % rank for to, source in moved.items()}
    rest = iter(axis for axis in range(rank) if axis not in moved.values())
    axes = [moved[axis] if axis in moved else next(rest) for axis in range(rank)]
    return _permuted(new_layer, axes, name)


def _get_item(new_layer: LayerFactory, call: Call, name: str) -> Function:
    rank = len(call.args[0].shape)
    key = call.args[1] if isinstance(call.args[1], tuple) else (call.args[1],)
    if any(not isinstance(part, int | slice | type(None) | type(...)) for part in key):
        raise NoCounterpartError("which takes values by an array of indices")
    # tf_keras cannot save an ellipsis.
    taken = sum(part is not None and part is not ... for part in key)
    full = (slice(None),) * (rank - taken)
    at = next((n for n, part in enumerate(key) if part is ...), None)
    whole = (*key, *full) if at is None else (*key[:at], *full, *key[at + 1 :])
    only_adds = all(part in (None, slice(None)) for part in whole) and whole[0] is not None
    if only_adds:
        return reshape(new_layer, call, name)
    return lambda tensor: tensor[whole]


def _split(new_layer: LayerFactory, call: Call, name: str) -> Function:
    axis = call.layer.axis
    sizes = [output.shape[axis] for output in call.outputs]
    if None in sizes:
        raise NoCounterpartError("which splits an axis of open size")
    return lambda tensor: load_tensorflow().split(tensor, sizes, axis=axis)


def _unstack(new_layer: LayerFactory, call: Call, name: str) -> Function:
    axis, number = call.layer.axis, len(call.outputs)
    return lambda tensor: load_tensorflow().unstack(tensor, number, axis=axis)


def _stack(new_layer: LayerFactory, call: Call, name: str) -> Function:
    axis = call.layer.axis
    return lambda tensors: load_tensorflow().stack(list(tensors), axis=axis)


def _concatenate(new_layer: LayerFactory, call: Call, name: str) -> Function:
    return new_layer("Concatenate", name, axis=call.layer.axis)


def _pad(new_layer: LayerFactory, call: Call, name: str) -> Function:
    widths = [list(map(int, pair)) for pair in call.layer.pad_width]
    mode, value = call.layer.mode, _pad_value(call)
    rank, is_spatial = len(widths), widths[0] == widths[-1] == [0, 0]
    if mode == "constant" and value == 0.0 and is_spatial and 3 <= rank <= 5:
        padding = tuple(map(tuple, widths[1:-1]))
        kind = f"ZeroPadding{rank - 2}D"
        return new_layer(kind, name, padding=padding[0] if rank == 3 else padding)
    if mode not in ("constant", "reflect", "symmetric"):
        raise NoCounterpartError(f"with mode {mode!r}")
    pad = load_tensorflow().pad
    return lambda tensor: pad(tensor, widths, mode=mode.upper(), constant_values=value)


def _pad_value(call: Call) -> float:
    given = [*call.args[1:], *call.kwargs.values(), None][0]
    return 0.0 if given is None else float(given)


def _resize(new_layer: LayerFactory, call: Call, name: str) -> Function:
    own, shape = call.layer, call.args[0].shape
    is_plain = not (own.antialias or own.crop_to_aspect_ratio or own.pad_to_aspect_ratio)
    if own.data_format != "channels_last" or not is_plain or len(shape) != 4:
        raise NoCounterpartError("with an anti-aliasing, cropping or padding of its own")
    factors = [to / size if size else 0.0 for to, size in zip(own.size, shape[1:3], strict=True)]
    is_repeated = all(factor >= 1.0 and factor.is_integer() for factor in factors)
    if is_repeated and own.interpolation in ("nearest", "bilinear"):
        sizes = tuple(map(int, factors))
        return new_layer("UpSampling2D", name, size=sizes, interpolation=own.interpolation)
    height, width = own.size
    return new_layer("Resizing", name, height=height, width=width, interpolation=own.interpolation)


def _extract_patches(new_layer: LayerFactory, call: Call, name: str) -> Function:
    own = call.layer
    if own.is_3d or own.data_format != "channels_last":
        raise NoCounterpartError("of volumes or channels first")

    def sizes(value: Any) -> list[int]:
        height, width = (value, value) if isinstance(value, int) else value
        return [1, height, width, 1]

    settings = {
        "sizes": sizes(own.size),
        "strides": sizes(own.strides or own.size),
        "rates": sizes(own.dilation_rate),
        "padding": own.padding.upper(),
    }
    return lambda tensor: load_tensorflow().image.extract_patches(tensor, **settings)


def _cast(new_layer: LayerFactory, call: Call, name: str) -> Function:
    dtype = call.layer.dtype
    if keras.backend.standardize_dtype(call.args[0].dtype) == dtype:
        return compose()
    return lambda tensor: load_tensorflow().cast(tensor, dtype)


def _flip(new_layer: LayerFactory, call: Call, name: str) -> Function:
    axis, rank = call.layer.axis, len(call.args[0].shape)
    axes = range(rank) if axis is None else [axis] if isinstance(axis, int) else axis
    return lambda tensor: load_tensorflow().reverse(tensor, list(axes))


CONVERTERS: dict[str, Converter] = {
    "ArraySplit": _split,
    "Cast": _cast,
    "Concatenate": _concatenate,
    "ExpandDims": reshape,
    "ExtractPatches": _extract_patches,
    "Flip": _flip,
    "GetItem": _get_item,
    "Moveaxis": _moveaxis,
    "Pad": _pad,
    "Reshape": reshape,
    "Resize": _resize,
    "Split": _split,
    "Squeeze": reshape,
    "Stack": _stack,
    "Swapaxes": _swapaxes,
    "Transpose": _transpose,
    "Unstack": _unstack,
}
