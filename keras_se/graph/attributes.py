"""The attributes of layers and other objects of Keras: which are Keras's own, and which are not."""

import copy
import functools
from collections import OrderedDict
from collections.abc import Iterator
from types import NoneType
from typing import Any

import keras

_KINDS = (keras.Model, keras.layers.Layer, keras.metrics.Metric, keras.Operation)
_FACTS = (NoneType, bool, int, float, str)
_REDUCERS = ("__deepcopy__", "__getstate__", "__reduce__", "__reduce_ex__")


def kind_of(thing: Any) -> Any:
    """The class of Keras that a layer, model, metric or operation is of."""
    return next(kind for kind in _KINDS if isinstance(thing, kind))


def attributes(old: Any, new: Any) -> Iterator[tuple[str, Any]]:
    """The attributes that go over to a new object of the class, which a class of Keras has started.

    They are those of the user and of the user's class, and plain facts, such as `built`. All others
    belong to one object alone: its place in a graph, its lists of variables, its training.
    """
    of_keras = _names(kind_of(old))
    facts = of_keras - _names_of_training()
    for name, value in [*vars(old).items(), *_torch_layers(old)]:
        is_new = name not in vars(new) and name not in of_keras
        if is_new or (name in vars(new) and name in facts and _is_fact(value)):
            yield name, value
    for name in ("input_spec", "activity_regularizer"):
        if isinstance(old, keras.layers.Layer):
            yield name, getattr(old, name)


def _torch_layers(old: Any) -> Iterator[tuple[str, Any]]:
    """The layers that a layer has as attributes, by name, which PyTorch keeps apart from others."""
    if keras.backend.backend() != "torch" or not isinstance(old, keras.layers.Layer):
        return
    for name, value in old.named_modules(remove_duplicate=False):
        if name and "." not in name and isinstance(value, keras.layers.Layer):
            yield name, value


def of_training(thing: Any) -> list[Any]:
    """What Keras gives a model when it is compiled; nothing for a layer."""
    names = _names(kind_of(thing)) & _names_of_training()
    return [value for name, value in vars(thing).items() if name in names]


def tracker(thing: Any) -> Any:
    """The lists, by name, of the variables, layers, metrics and seeds that Keras tracks."""
    return next((v for v in vars(thing).values() if type(v).__name__ == "Tracker"), None)


def is_plain(value: Any) -> bool:
    """Whether an object is no more than its attributes."""
    kind = type(value)
    if not hasattr(value, "__dict__"):
        return False
    is_default = all(getattr(kind, n, None) is getattr(object, n, None) for n in _REDUCERS)
    return is_default or kind.__module__.startswith("keras.")


def emptied(container: Any) -> Any:
    """An empty container of the same kind. One that Keras tracks becomes a plain one."""
    if type(container).__module__.startswith("keras."):
        kinds = (OrderedDict, dict, list, set)
        return next(kind for kind in kinds if isinstance(container, kind))()
    new = copy.copy(container)
    new.clear()
    return new


@functools.cache
def _names(kind: Any) -> frozenset[str]:
    """The names of the attributes that Keras itself gives an object, and TensorFlow a trackable."""
    example = kind(name="example")
    example.variable = keras.Variable(0.0, name="example")
    if kind is keras.Model:
        example.compile()
    return frozenset(vars(example)) - {"variable"}


def _names_of_training() -> frozenset[str]:
    return _names(keras.Model) - _names(keras.layers.Layer)


def _is_fact(value: Any) -> bool:
    if isinstance(value, list | set):  # one of Keras's lists
        return False
    # The arguments of the constructor, of which Keras makes the default configuration.
    if type(value).__name__ == "SerializableDict":
        return True
    return all(isinstance(leaf, _FACTS) for leaf in keras.tree.flatten(value))
