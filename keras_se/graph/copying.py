"""Copies of layers, with variables of their own: from a configuration, or from life.

The configuration of a layer of the user's may be missing, or describe another layer than the one
that was built. Such a layer is copied from life: a new object of its class, with a copy of each
attribute. What is met twice, be it a layer, a variable or a list, has one copy.
"""

import copy
import functools
from collections.abc import Callable
from contextlib import suppress
from types import CellType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError, reason
from keras_se.graph.attributes import (
    attributes,
    emptied,
    is_plain,
    kind_of,
    of_training,
    tracker,
)
from keras_se.graph.models import is_nested_graph, sublayers

_UNCHANGED = (
    *(NoneType, bool, int, float, complex, str, bytes),
    *(type, ModuleType, keras.KerasTensor),
)


class Copies:
    """Copies layers with all that they hold, each object once.

    `nested` copies a model whose graph can be visited, by another name if one is given, as a model
    of the same class where `keeps_class` says so. `precision` gives the dtype or the policy of a
    copy for that of the original.
    """

    def __init__(
        self,
        nested: Callable[[keras.Model, str | None], keras.Model],
        keeps_class: Callable[[keras.Model], bool],
        precision: Callable[[Any], Any] = lambda dtype: dtype,
    ) -> None:
        self._nested = nested
        self._keeps_class = keeps_class
        self._precision = precision
        # By id of an object, the object and its copy: a reference to the object keeps its id valid.
        self._made: dict[int, tuple[Any, Any]] = {}
        self._configured: list[tuple[Any, Any]] = []  # layers made from their configurations

    def of(self, layer: Any, name: str | None = None) -> Any:
        """The copy of a layer or raw operation, optionally by another name."""
        return self._once(layer, lambda: self._layer(layer, name, not _has_true_config(layer)))

    def __contains__(self, layer: Any) -> bool:
        return id(layer) in self._made

    def started(self, old: Any, kind: Any, **arguments: Any) -> Any:
        """A new object of the same class, which a class of Keras starts, with copied attributes."""
        own: Any = type(old)
        new = own.__new__(own)
        kind.__init__(new, **arguments)
        self._made[id(old)] = (old, new)
        for name, value in attributes(old, new):
            setattr(new, name, self._copied(value))
        return new

    def finish(self, model: keras.Model) -> None:
        """Gives the copies the state of their originals. By now, all that are used are built."""
        self._check_shared()
        for old in (model, *sublayers(model)):
            # Holders first: Keras hands their flag to what they hold.
            if old in self:
                self._made[id(old)][1].trainable = old.trainable
        for old, new in self._configured:
            # An edit may drop a layer. Its copy is never called and has no weights to set.
            if new.built or not old.weights:
                _copy_state(old, new)
        for old, new in self._made.values():
            if isinstance(old, keras.Variable):
                new.trainable = old.trainable

    def _once(self, value: Any, make: Callable[[], Any]) -> Any:
        if id(value) not in self._made:
            self._made[id(value)] = (value, make())
        return self._made[id(value)][1]

    def _layer(self, layer: Any, name: str | None, is_from_life: bool) -> Any:
        if isinstance(layer, keras.Sequential) and not getattr(layer, "inputs", None):
            raise InputError(
                "Each nested model must be built, and Keras does not build a Sequential model on "
                f"several tensors. Received: {layer.name!r}"
            )
        from_life: Callable[[Any, str | None], Any] = self._from_life
        if is_nested_graph(layer):
            if not self._keeps_class(layer):
                return self._nested(layer, name)
            from_life = self._nested
        ways = [from_life, self._from_config]
        before, errors = (dict(self._made), list(self._configured)), []
        for way in ways if is_from_life else ways[::-1]:
            try:
                return way(layer, name)
            except Exception as error:  # the code of a layer of the user's may raise anything
                errors.append(error)
                self._made, self._configured = dict(before[0]), list(before[1])
        raise InputError(
            "Each layer must allow a copy, from its configuration or as it is. "
            f"Received: layer {layer.name!r} ({type(layer).__name__}), which raises: "
            f"{'; '.join(map(reason, errors))}"
        ) from errors[-1]

    def _from_config(self, layer: Any, name: str | None) -> Any:
        config = layer.get_config()
        dtype = getattr(layer, "dtype_policy", config.get("dtype"))
        if self._precision(dtype) is not dtype:
            config = {**config, "dtype": self._precision(dtype)}
        new = type(layer).from_config(config if name is None else {**config, "name": name})
        if isinstance(layer, keras.layers.Layer):
            self._configured.append((layer, new))
        return new

    def _from_life(self, layer: Any, name: str | None) -> Any:
        arguments = {"name": name or layer.name}
        if isinstance(layer, keras.layers.Layer):
            arguments["dtype"] = self._precision(layer.dtype_policy)
        new = self.started(layer, kind_of(layer), **arguments)
        self._track_alike(layer, new)
        # The constants of `Normalization` are in its precision.
        if hasattr(new, "finalize_state") and new.dtype_policy != layer.dtype_policy:
            new.finalize_state()
        return new

    def _track_alike(self, old: Any, new: Any) -> None:
        """Tracks in a copy what the original tracks, in the same order: that of its weights."""
        if tracker(old) is None:  # a raw operation
            return
        left_out = {id(value) for value in of_training(old)}
        for _, stored in tracker(new).config.values():
            for value in [*stored]:
                tracker(new).untrack(value)
        for name, (_, stored) in tracker(old).config.items():
            for value in stored:
                if id(value) not in left_out:
                    tracker(new).add_to_store(name, self._copied(value))

    def _copied(self, value: Any) -> Any:
        if isinstance(value, _UNCHANGED):
            return value
        if isinstance(value, keras.DTypePolicy):
            return keras.dtype_policies.get(self._precision(value))
        return self._once(value, lambda: self._copy(value))

    def _copy(self, value: Any) -> Any:
        """A copy of an attribute, by its type."""
        if isinstance(value, keras.Operation):
            return self._part(value)
        if isinstance(value, keras.metrics.Metric):
            return self._from_life(value, None)
        if isinstance(value, keras.Variable):
            return self._variable(value)
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            return MethodType(value.__func__, self._copied(value.__self__))
        if isinstance(value, functools.partial):
            keywords = {key: self._copied(part) for key, part in value.keywords.items()}
            return functools.partial(
                self._copied(value.func), *map(self._copied, value.args), **keywords
            )
        if isinstance(value, tuple | frozenset):
            parts = [self._copied(part) for part in value]
            # Not `type(value)`: TensorFlow wraps the tuples that a layer has.
            kind = value.__class__
            return kind(*parts) if hasattr(value, "_fields") else kind(parts)
        if isinstance(value, dict | list | set):
            return self._container(value)
        return self._object(value) if is_plain(value) else self._constant(value)

    def _part(self, layer: Any) -> Any:
        """The copy of a layer that another one holds: built, since only the holder may build it."""
        new = self._layer(layer, None, is_from_life=True)
        if isinstance(layer, keras.layers.Layer) and layer.built and not new.built:
            new.build_from_config(layer.get_build_config())
        return new

    def _variable(self, old: keras.Variable) -> keras.Variable:
        value = keras.ops.cast(old.value, self._precision(old.dtype))
        # JAX: without a copy, buffers are shared.
        array = np.array(keras.ops.convert_to_numpy(value))
        # PyTorch has no trainable integers, such as the state of a seed.
        dtype, trainable = self._precision(old.dtype), old.trainable
        new = keras.Variable(array, dtype=dtype, trainable=trainable, name=old.name)
        # Its path and settings; the value, and the dtype, are its own.
        settings = {
            name: part
            for name, part in vars(old).items()
            if (isinstance(part, bool | str) and part != old.dtype) or callable(part)
        }
        vars(new).update(settings)
        return new

    def _function(self, function: FunctionType) -> FunctionType:
        """A local function that holds something, with copies of that; any other as it is."""
        closure, defaults = function.__closure__ or (), function.__defaults__
        keywords = function.__kwdefaults__
        if "<" not in function.__qualname__ or not (closure or defaults or keywords):
            return function
        cells = tuple(CellType() for _ in closure)
        parts = (function.__code__, function.__globals__, function.__name__)
        new = FunctionType(*parts, self._copied(defaults), cells)
        self._made[id(function)] = (function, new)
        new.__qualname__, new.__doc__ = function.__qualname__, function.__doc__
        new.__kwdefaults__ = self._copied(keywords)
        new.__dict__.update(self._copied(vars(function)))
        for cell, own in zip(cells, closure, strict=True):
            with suppress(ValueError):  # an empty cell
                cell.cell_contents = self._copied(own.cell_contents)
        return new

    def _container(self, value: Any) -> Any:
        new = emptied(value)
        self._made[id(value)] = (value, new)
        if isinstance(value, dict):
            new.update({self._copied(key): self._copied(part) for key, part in value.items()})
        elif isinstance(value, list):
            new.extend(map(self._copied, value))
        else:
            new.update(map(self._copied, value))
        return new

    def _object(self, value: Any) -> Any:
        new = object.__new__(type(value))
        self._made[id(value)] = (value, new)
        vars(new).update({name: self._copied(part) for name, part in vars(value).items()})
        return new

    def _constant(self, value: Any) -> Any:
        # With a memo: a `tf.function` of a method, for one, refers to its layer.
        new = copy.deepcopy(value, {key: made for key, (_, made) in self._made.items()})
        if not keras.ops.is_tensor(new) or hasattr(new, "assign"):
            return new
        dtype = keras.backend.standardize_dtype(new.dtype)
        wanted = self._precision(dtype)
        return new if wanted == dtype else keras.ops.cast(new, wanted)

    def _check_shared(self) -> None:
        # The configurations of the two would make two layers, and the shared weights would part.
        met = set(self._made)
        for old, _ in self._configured:
            for part in sublayers(old):
                if id(part) in met:
                    raise InputError(
                        "A layer inside another one must not be used elsewhere in the model. "
                        f"Received: {part.name!r} inside {old.name!r}"
                    )
                met.add(id(part))


def _has_true_config(layer: Any) -> bool:
    """Whether a layer is of Keras, or of this package, and holds none but such."""
    if type(layer).__module__.startswith("keras_se."):
        return True
    is_of_keras = type(layer).__module__.startswith("keras.")
    return is_of_keras and not isinstance(layer, keras.layers.Lambda) and not any(sublayers(layer))


def _copy_state(layer: Any, new: Any) -> None:
    try:
        new.set_weights(layer.get_weights())
    except ValueError as error:
        raise InputError(
            "The configuration of a layer must be that of its weights. "
            f"Received: layer {layer.name!r} ({type(layer).__name__}): {reason(error)}"
        ) from error
    for old, own in [(layer, new), *zip(sublayers(layer), sublayers(new), strict=False)]:
        # `Normalization` derives its constants from the weights only here.
        if hasattr(own, "finalize_state"):
            own.finalize_state()
        own.trainable = old.trainable
    for variable, own in zip(layer.weights, new.weights, strict=True):
        own.trainable = variable.trainable
