"""What a composite layer computes, as a graph: its `call` on symbolic inputs records its parts."""

from collections.abc import Mapping
from typing import Any

import keras

from keras_se.errors import first_line
from keras_se.graph.models import is_nested_graph
from keras_se.graph.replay import takes_training

# Layers of Keras that call other layers, or a function, and compute nothing of their own.
_OPEN = (keras.layers.Lambda, keras.layers.Pipeline, keras.layers.Wrapper)
# TensorFlow's operations that can squeeze a map.
_REDUCTIONS = {"AvgPool", "AvgPool3D", "Einsum", "Max", "MaxPool", "MaxPool3D", "Mean", "Sum"}


def is_composite(layer: Any) -> bool:
    """Whether a layer may hold other layers and operations: one of the user's, or a wrapper."""
    if not isinstance(layer, keras.layers.Layer) or is_nested_graph(layer):
        return False
    is_own = not type(layer).__module__.startswith(("keras.", "keras_se."))
    return is_own or isinstance(layer, _OPEN)


def symbolic_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The symbolic tensors among the arguments of a recorded call."""
    return [part for part in keras.tree.flatten((args, kwargs)) if _is_symbolic(part)]


def recorded_call(
    layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> keras.Model | str:
    """A functional model of a call, or the reason why Keras cannot record it.

    Its inputs are the symbolic tensors among the arguments, in the precision of the layer.
    """
    inputs: list[Any] = []

    def fresh(part: Any) -> Any:
        if not _is_symbolic(part):
            return part
        dtype = precision(layer, part.dtype)
        inputs.append(keras.Input(batch_shape=part.shape, dtype=dtype, sparse=part.sparse))
        return inputs[-1]

    args, kwargs = keras.tree.map_structure(fresh, (args, dict(kwargs)))
    try:
        # Not `layer(...)`, which would record the layer itself, as one call.
        return keras.Model(inputs, layer.call(*args, **kwargs))
    except Exception as error:  # the code of the user's layer may raise anything
        return first_line(error).split(". ")[0].rstrip(".:")


def precision(layer: Any, dtype: str) -> str:
    """The dtype in which a layer takes a tensor of some dtype."""
    is_cast = "float" in dtype and layer.autocast and layer.compute_dtype
    return str(layer.compute_dtype) if is_cast else dtype


def _is_symbolic(part: Any) -> bool:
    return isinstance(part, keras.KerasTensor)


def is_same_in_training(call: Any) -> bool:
    """Whether a composite layer calls the same layers and operations in training."""
    if not takes_training(call.layer):
        return True

    def parts(training: bool) -> list[Any] | None:
        model = recorded_call(call.layer, call.args, {**call.kwargs, "training": training})
        if isinstance(model, str):
            return None
        # Raw operations are new objects in each recording.
        return [o if isinstance(o, keras.layers.Layer) else type(o) for o in model.operations]

    inference, training = parts(False), parts(True)
    is_known = inference is not None and training is not None
    inputs = (keras.layers.InputLayer,)
    kept = [
        [p for p in found or () if not isinstance(p, inputs)] for found in (inference, training)
    ]
    return is_known and kept[0] == kept[1]


def may_reduce(layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call may reduce a tensor, by the operations that TensorFlow traces in it."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    specs = [tf.TensorSpec(part.shape, part.dtype) for part in symbolic_arguments(args, kwargs)]

    def call(*tensors: Any) -> Any:
        rest = iter(tensors)
        given = keras.tree.map_structure(
            lambda part: next(rest) if _is_symbolic(part) else part, (args, dict(kwargs))
        )
        return layer(*given[0], **given[1])

    try:
        traced = tf.function(call, autograph=False).get_concrete_function(*specs)
        graph = traced.graph.as_graph_def()
    except Exception:  # the code of the user's layer may raise anything
        return True
    functions = [function.node_def for function in graph.library.function]
    return any(node.op in _REDUCTIONS for nodes in (graph.node, *functions) for node in nodes)
