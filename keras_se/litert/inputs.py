"""The inputs of a converted model, by name."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.data import Shape, finite_float32, fits
from keras_se.errors import InputError
from keras_se.graph.inputs import named_inputs

_MAP_RANK = 3  # with the samples; outputs of less are vectors, such as classes
_KEPT = 4096  # values of an output map for each sample

Samples = dict[str, np.ndarray]  # by the name of the input in the file

# Keras makes these names up; their numbers depend on what the process built before.
_AUTOMATIC = re.compile(r"(keras_tensor|input_layer)(_\d+)?")


@dataclass(frozen=True)
class InputSpec:
    """One input of a model, for a batch of one.

    Attributes:
        name: Its name in the signature of the file.
        key: Its name in the Keras model.
        shape: Shape of one sample; `None` stands for any size.
        dtype: Its dtype in the Keras model.
    """

    name: str
    key: str
    shape: Shape
    dtype: str


def input_specs(model: keras.Model, purpose: str, any_size: bool = False) -> list[InputSpec]:
    """Returns the inputs of a built model, in the order of `model.inputs`.

    An `InputError` names the purpose. Sizes must be known, unless any will do.
    """
    _check_inputs(model, purpose)
    tensors = model.inputs
    keys = {id(tensor): key for key, tensor in named_inputs(model).items()}
    specs = []
    for n, tensor in enumerate(tensors):
        key = keys.get(id(tensor), tensor.name)
        # Names must be identifiers.
        name = f"input_{n}" if _AUTOMATIC.fullmatch(key) else re.sub(r"\W|^(?=\d)", "_", key)
        shape = tuple(tensor.shape[1:])
        if None in shape and not any_size:
            is_one = len(tensors) == 1
            advice = "give input_shape, that of one sample" if is_one else "use fixed Inputs"
            raise InputError(
                f"{purpose} needs a model with inputs of known size: {advice}. "
                f"Received: model {model.name!r} with input shape {(None, *shape)}"
            )
        specs.append(InputSpec(name if len(tensors) > 1 else "inputs", key, shape, tensor.dtype))
    if len({spec.name for spec in specs}) < len(specs):
        raise InputError(
            f"{purpose} needs input names that differ in letters, digits and underscores. "
            f"Received: {[spec.key for spec in specs]}"
        )
    return specs


def _check_inputs(model: keras.Model, purpose: str) -> None:
    if not isinstance(model, keras.Model) or not model.built:
        raise InputError(
            f"{purpose} needs a built keras.Model: call it once, or give it an Input. "
            f"Received: {type(model).__name__}"
        )
    if not getattr(model, "inputs", None):
        raise InputError(
            f"{purpose} needs a model with known inputs: wrap a subclassed one as "
            "keras.Model(inputs, model(inputs)) with inputs = keras.Input(shape). "
            f"Received: model {model.name!r} ({type(model).__name__})"
        )


def input_arrays(specs: list[InputSpec], x: Any, what: str) -> Samples:
    """Returns samples as arrays of the model's dtypes, by their names in the signature."""
    given = _by_name(specs, x, what)
    arrays = {spec.name: _fitted(spec, given[spec.name], what, len(specs)) for spec in specs}
    samples = {name: len(array) for name, array in arrays.items()}
    if len(set(samples.values())) != 1:
        raise InputError(
            f"{what} must have the same number of samples for each input. Received: {samples}"
        )
    return arrays


def batches(samples: Iterable[np.ndarray], size: int = 32) -> Iterator[list[np.ndarray]]:
    """Yields the rows of each array in batches; the last one may be smaller."""
    arrays = list(samples)
    for start in range(0, len(arrays[0]), size):
        yield [array[start : start + size] for array in arrays]


def filled(rows: np.ndarray, size: int) -> np.ndarray:
    """Repeats the last row of an incomplete batch: all batches have one size."""
    missing = size - len(rows)
    return np.concatenate([rows, *[rows[-1:]] * missing]) if missing else rows


def thinned(outputs: np.ndarray) -> np.ndarray:
    """Keeps some positions of large output maps, so that memory does not grow with their size."""
    if outputs.ndim < _MAP_RANK:
        return outputs
    count, channels = outputs.shape[0], outputs.shape[-1]
    rows = outputs.reshape(count, -1, channels)
    step = -(-rows.shape[1] * channels // _KEPT)
    return outputs if step <= 1 else rows[:, ::step]


def _by_name(specs: list[InputSpec], x: Any, what: str) -> dict[str, Any]:
    if (hasattr(x, "__iter__") and not hasattr(x, "__len__")) or hasattr(x, "element_spec"):
        raise InputError(
            f"{what} must be arrays: collect the samples of a generator or a dataset first, with "
            f"np.concatenate. Received: {type(x).__name__}"
        )
    if isinstance(x, Mapping):
        names = {key: spec.name for spec in specs for key in (spec.key, spec.name)}
        given: dict[str, Any] = {names.get(key, str(key)): value for key, value in x.items()}
        if set(given) != {spec.name for spec in specs}:
            raise InputError(
                f"{what} must hold the inputs {list(map(_called, specs))}. Received: {list(x)}"
            )
        return given
    if len(specs) == 1:
        # A list of one array is that array; a list of numbers is data.
        is_one_in_a_list = isinstance(x, list | tuple) and len(x) == 1 and np.ndim(x[0]) > 1
        return {specs[0].name: x[0] if is_one_in_a_list else x}
    if not isinstance(x, list | tuple) or len(x) != len(specs):
        raise InputError(
            f"{what} must be {len(specs)} arrays, in a list or a dictionary with the keys "
            f"{list(map(_called, specs))}. Received: {type(x).__name__}"
        )
    return {spec.name: value for spec, value in zip(specs, x, strict=True)}


def _called(spec: InputSpec) -> str:
    """Returns the name that the user gave an input, or else that in the file."""
    return spec.name if _AUTOMATIC.fullmatch(spec.key) else spec.key


def _fitted(spec: InputSpec, x: Any, what: str, inputs: int) -> np.ndarray:
    name = what if inputs == 1 else f"{what}[{spec.name!r}]"
    array = finite_float32(name, x, booleans=spec.dtype == "bool")
    if array.ndim and len(array) == 0:
        raise InputError(f"{name} must hold a sample or more. Received: shape {array.shape}")
    if not fits(array.shape[1:], spec.shape):
        raise InputError(
            f"{name} must have the shape (samples, {', '.join(map(str, spec.shape))}). "
            f"Received: shape {array.shape}"
        )
    if "float" not in spec.dtype:
        # A cast would drop fractions silently.
        if (array != np.round(array)).any():
            raise InputError(
                f"{name} must be integers for an input of {spec.dtype}. Received: fractions"
            )
        # Cast from `x`: float32 does not represent large integers exactly.
        return np.asarray(x).astype(spec.dtype)
    return array
