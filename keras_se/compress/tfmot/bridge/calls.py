"""Calls of Keras 3 layers, raw operations and functions as functions of tf_keras tensors."""

from typing import Any

import keras

from keras_se.compress.tfmot.bridge.factory import (
    Converted,
    Function,
    LayerFactory,
    NoCounterpartError,
)
from keras_se.compress.tfmot.bridge.layers import ENTIRE, convert_layer
from keras_se.compress.tfmot.bridge.operations import convert_operation
from keras_se.errors import reason
from keras_se.graph.composites import is_composite, why_closed
from keras_se.graph.models import is_graph
from keras_se.graph.trace import Graph
from keras_se.graph.visits import Visit, handed, walk


def convert_call(new_layer: LayerFactory, visit: Visit, name: str) -> Converted:
    """Convert a call that is not opened, or raise `NoCounterpartError` with the reason."""
    call = visit.recorded
    if not isinstance(call.layer, keras.layers.Layer):
        converted = convert_operation(new_layer, call, name)
    else:
        converted = None if is_graph(call.layer) else convert_layer(new_layer, call, name)
    if converted is None:
        raise NoCounterpartError(_why_not_opened(visit) if is_composite(call.layer) else "")
    return converted


def is_opened(visit: Visit) -> bool:
    """Whether a composite layer becomes what is inside it."""
    return type(visit.layer) not in ENTIRE and why_closed(visit.recorded) is None


def open_function(new_layer: LayerFactory, function: Any, name: str) -> Function:
    """Return the function of tf_keras tensors that computes what a function of Keras does."""
    converted: dict[tuple[int, ...], Function] = {}  # by place: made once, called often

    def visited(visit: Visit) -> Any:
        if visit.place not in converted:
            kind = type(visit.layer).__name__.lower()
            try:
                made = convert_call(new_layer, visit, f"{name}_{kind}")
            except NoCounterpartError as reason:
                raise NoCounterpartError(_uncalled(function, visit, str(reason))) from reason
            if made.weights:
                raise NoCounterpartError(f"with weights in its activation {_called(function)}")
            converted[visit.place] = made.function
        return converted[visit.place](*visit.args, **visit.kwargs)

    def call(tensor: Any) -> Any:
        inputs = keras.Input(tuple(tensor.shape)[1:], dtype=tensor.dtype.name)
        try:
            graph = Graph(keras.Model(inputs, function(inputs)))
        except Exception as error:  # the code of the user's function may raise anything
            raise NoCounterpartError(
                f"whose activation {_called(function)} Keras cannot record: {reason(error)}"
            ) from error
        return walk(
            graph, tensor, visited, stand_in=lambda layer: layer, enter=handed, opens=is_opened
        )

    return call


def _uncalled(function: Any, visit: Visit, reason: str) -> str:
    computed = f"whose activation {_called(function)} computes {type(visit.layer).__name__}"
    return f"{computed}, {reason}" if reason else computed


def _called(function: Any) -> str:
    return repr(getattr(function, "__name__", type(function).__name__))


def _why_not_opened(visit: Visit) -> str:
    looked = visit.graph.look_into(visit.index)
    if isinstance(looked, str):
        return f"which Keras cannot record: {looked}"
    reason = why_closed(visit.recorded)
    return f"which {reason}" if reason else ""
