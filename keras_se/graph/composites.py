"""What a composite layer computes, as a graph: its `call` on symbolic inputs records its parts."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from keras_se.errors import reason
from keras_se.graph.models import is_nested_graph, sublayers
from keras_se.graph.replay import takes_training

# Layers of Keras that call other layers, or a function, and compute nothing of their own.
_OPEN = (
    *(keras.layers.Lambda, keras.layers.Pipeline, keras.layers.Wrapper),
    *(keras.layers.GroupQueryAttention, keras.layers.MultiHeadAttention),
)
_PUBLIC = frozenset(kind for kind in vars(keras.layers).values() if isinstance(kind, type))
# TensorFlow's operations that can squeeze a map.
_REDUCTIONS = {"AvgPool", "AvgPool3D", "Einsum", "Max", "MaxPool", "MaxPool3D", "Mean", "Sum"}
_ASSIGNS = "assigns weights"
# The operators of a variable; its class takes symbolic tensors only on the left.
_OPERATORS = {
    "add": "add",
    "floordiv": "floor_divide",
    "ge": "greater_equal",
    "gt": "greater",
    "le": "less_equal",
    "lt": "less",
    "matmul": "matmul",
    "mod": "mod",
    "mul": "multiply",
    "pow": "power",
    "sub": "subtract",
    "truediv": "true_divide",
}


def is_composite(layer: Any) -> bool:
    """Whether a layer may hold other layers and operations: one of the user's, or a wrapper."""
    if not isinstance(layer, keras.layers.Layer) or is_nested_graph(layer):
        return False
    return not _is_known(type(layer)) or isinstance(layer, _OPEN)


def _is_known(kind: type) -> bool:
    """Whether a class is a layer that Keras has for its users, a model of Keras, or one of ours."""
    # keras.applications writes layers of its own, as other packages do.
    is_model = issubclass(kind, keras.Model) and kind.__module__.startswith("keras.")
    return is_model or kind.__module__.startswith("keras_se.") or kind in _PUBLIC


def symbolic_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
    """The symbolic tensors among the arguments of a recorded call."""
    return [part for part in keras.tree.flatten((args, kwargs)) if _is_symbolic(part)]


def recorded_call(
    layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> keras.Model | str:
    """A functional model of a call, or the reason why Keras cannot record it.

    Its inputs are the symbolic tensors among the arguments, in the precision of the layer.
    """
    return _recorded(layer, args, kwargs)[0]


def _recorded(
    layer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[keras.Model | str, list[str]]:
    """What `recorded_call` gives, and what the call does besides."""
    inputs: list[Any] = []

    def fresh(part: Any) -> Any:
        if not _is_symbolic(part):
            return part
        dtype = precision(layer, part.dtype)
        inputs.append(keras.Input(batch_shape=part.shape, dtype=dtype, sparse=part.sparse))
        return inputs[-1]

    args, kwargs = keras.tree.map_structure(fresh, (args, dict(kwargs)))
    effects: list[str] = []
    with _recording(layer, effects):
        try:
            # Not `layer(...)`, which would record the layer itself, as one call.
            return keras.Model(inputs, layer.call(*args, **kwargs)), effects
        except Exception as error:  # the code of the user's layer may raise anything
            return reason(error).split(". ")[0].rstrip(".:"), effects


@contextmanager
def _recording(layer: Any, effects: list[str]) -> Iterator[None]:
    """Keeps a call on symbolic tensors from changing its layer, and notes what it would change."""
    assign = keras.Variable.assign

    def assigned(variable: Any, value: Any) -> Any:
        if not _is_symbolic(value):
            return assign(variable, value)
        effects.append(_ASSIGNS)
        return value

    given = {f"__{name}__": _symbolic(f"__{name}__", of) for name, of in _OPERATORS.items()}
    given |= {"assign": assigned}
    before = {name: vars(keras.Variable).get(name) for name in given}
    # Keras takes losses of values only.
    vars(layer)["add_loss"] = lambda loss: effects.append("adds a loss")
    try:
        for name, function in given.items():
            setattr(keras.Variable, name, function)
        with keras.StatelessScope() as scope:
            yield
    finally:
        del vars(layer)["add_loss"]
        for name, function in before.items():
            setattr(keras.Variable, name, function) if function else delattr(keras.Variable, name)
    if any(scope.get_current_value(variable) is not None for variable in layer.variables):
        effects.append(_ASSIGNS)


def _symbolic(name: str, operation: str) -> Any:
    """An operator of variables that takes symbolic tensors, too."""
    plain = getattr(keras.Variable, name)

    def operator(variable: Any, other: Any) -> Any:
        if _is_symbolic(other):
            return getattr(keras.ops, operation)(variable, other)
        return plain(variable, other)

    return operator


def precision(layer: Any, dtype: str) -> str:
    """The dtype in which a layer takes a tensor of some dtype."""
    is_cast = "float" in dtype and layer.autocast and layer.compute_dtype
    return str(layer.compute_dtype) if is_cast else dtype


def _is_symbolic(part: Any) -> bool:
    return isinstance(part, keras.KerasTensor)


def why_closed(call: Any) -> str | None:
    """What a composite layer does that its parts would not do by themselves; `None` if nothing."""
    modes = [{"training": False}, {"training": True}] if takes_training(call.layer) else [{}]
    recorded = [_recorded(call.layer, call.args, {**call.kwargs, **mode}) for mode in modes]
    first, last = (_parts(model) for model, _ in (recorded[0], recorded[-1]))
    if len(modes) > 1 and (not first or first != last):
        return "differs in training"
    if getattr(call.layer, "activity_regularizer", None) is not None:
        return "adds a loss"
    return next((effect for _, effects in recorded for effect in effects), None)


def takes_variables(call: Any) -> bool:
    """Whether a recorded call takes variables as they are, and not in a layer."""
    return any(isinstance(a, keras.Variable) for a in keras.tree.flatten((call.args, call.kwargs)))


def has_own_weights(layer: Any, calls: Iterable[Any], known: Collection[int] = ()) -> bool:
    """Whether a composite layer computes with weights that no layer inside it applies.

    `calls` are those recorded inside it, `known` the ids of weights that need not be inside.
    """
    held = {id(v) for part in sublayers(layer) for v in part.variables}.union(known)
    is_held = all(id(variable) in held for variable in layer.variables)
    return not is_held or any(map(takes_variables, calls))


def _parts(model: keras.Model | str) -> list[Any]:
    """The layers and kinds of operations in a recorded call; empty if Keras cannot record it."""
    return [_part(o) for o in ([] if isinstance(model, str) else model.operations)]


def _part(operation: Any) -> Any:
    """What a layer or operation is, the same for each recording of it."""
    # Raw operations are new objects in each recording, and so are inputs and the layers that a call
    # makes, which can hold no weights.
    is_layer = isinstance(operation, keras.layers.Layer)
    if not is_layer or isinstance(operation, keras.layers.InputLayer):
        return type(operation)
    if operation.variables or type(operation) not in _PUBLIC:
        return operation
    return type(operation), {**operation.get_config(), "name": None}


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
        with keras.StatelessScope():  # a loss that it adds would stay in the layer
            traced = tf.function(call, autograph=False).get_concrete_function(*specs)
        graph = traced.graph.as_graph_def()
    except Exception:  # the code of the user's layer may raise anything
        return True
    functions = [function.node_def for function in graph.library.function]
    return any(node.op in _REDUCTIONS for nodes in (graph.node, *functions) for node in nodes)
