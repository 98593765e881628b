"""The symbolic inputs of a Keras model: structure, names, shapes, and new ones like them."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from numbers import Integral
from typing import Any

import keras

from keras_se.data import Shape, fits
from keras_se.errors import InputError, keras_errors
from keras_se.graph.models import check_graph


def _input_structure(model: keras.Model) -> Any:
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def packed_inputs(model: keras.Model, tensors: Iterable[Any]) -> Any:
    """One tensor for each of `model.inputs`, packed into the structure that the model takes."""
    return keras.tree.pack_sequence_as(_input_structure(model), list(tensors))


def named_inputs(model: keras.Model) -> dict[str, Any]:
    """The inputs by the keys of a dictionary of inputs, else by the names of the tensors."""
    structure = _input_structure(model)
    if isinstance(structure, dict):
        return dict(structure)
    return {tensor.name: tensor for tensor in model.inputs}


def input_shapes(model: keras.Model) -> dict[str, Shape]:
    """The shape of one sample of each input, by the name under which the model takes it."""
    check_graph("keras-se", model)
    named = named_inputs(model)
    if not all(isinstance(tensor, keras.KerasTensor) for tensor in named.values()):
        raise InputError(
            "A model that takes data from a file must have inputs with names, not nested ones. "
            f"Received: model {model.name!r} with inputs {list(named)}"
        )
    return {name: tuple(tensor.shape[1:]) for name, tensor in named.items()}


def fresh_inputs(
    model: keras.Model,
    shapes: Sequence[tuple[int, ...]] | None = None,
    precision: Callable[[str], str] = lambda dtype: dtype,
) -> Any:
    """New `keras.Input`s like those of a model, optionally with other shapes or dtypes."""
    if shapes is not None:
        _check_shapes(model, shapes)
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.InputLayer)]
    known = {id(layer.output): layer for layer in layers}
    sizes = [tuple(t.shape[1:]) for t in model.inputs] if shapes is None else shapes
    given = {id(t): tuple(size) for t, size in zip(model.inputs, sizes, strict=True)}

    def fresh(tensor: Any) -> Any:
        layer = known.get(id(tensor))
        return keras.Input(
            batch_shape=(tensor.shape[0], *given[id(tensor)]),
            dtype=precision(tensor.dtype),
            name=tensor.name if layer is None else layer.name,
            sparse=getattr(layer, "sparse", False),
            optional=getattr(layer, "optional", False),
        )

    return keras.tree.map_structure(fresh, _input_structure(model))


def checked_shape(model: keras.Model, input_shape: Any) -> tuple[int, ...]:
    """The shape of one sample, given for the sizes that a model leaves open."""
    is_shape = isinstance(input_shape, list | tuple) and all(
        isinstance(size, Integral) and int(size) > 0 for size in input_shape
    )
    if not is_shape:
        raise InputError(
            "input_shape must be the sizes of one sample, such as (224, 224, 3). "
            f"Received: input_shape={input_shape!r}"
        )
    shape = tuple(map(int, input_shape))
    _check_shapes(model, [shape])
    return shape


def computable(
    model: keras.Model, input_shape: tuple[int, ...] | None
) -> AbstractContextManager[None]:
    """Turns what Keras raises where a layer cannot take a given size into an `InputError`."""
    if input_shape is None:
        return nullcontext()
    return keras_errors(
        f"input_shape must be one that model {model.name!r} can compute",
        f"input_shape={input_shape}",
    )


def _check_shapes(model: keras.Model, shapes: Sequence[tuple[int, ...]]) -> None:
    if len(shapes) != len(model.inputs):
        raise InputError(
            "input_shape is for models with one input. "
            f"Received: model {model.name!r} with {len(model.inputs)} inputs"
        )
    for tensor, shape in zip(model.inputs, shapes, strict=True):
        expected = tuple(tensor.shape[1:])
        if not fits(shape, expected):
            raise InputError(
                f"input_shape must fit the input of the model, {expected}. "
                f"Received: input_shape={tuple(shape)}"
            )
