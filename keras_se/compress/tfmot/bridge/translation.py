"""Conversion of Keras 3 models to tf_keras, which tensorflow-model-optimization requires."""

import inspect
import math
import re
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.factory import Carried, Function, Maker
from keras_se.compress.tfmot.bridge.layers import twin
from keras_se.compress.tfmot.bridge.operations import operation_twin
from keras_se.compress.tfmot.bridge.se_block import unfold
from keras_se.errors import InputError
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.models import is_graph
from keras_se.graph.trace import trace
from keras_se.graph.visits import Visit, changes_inputs, nested_arguments, walk
from keras_se.layers import SEBlock
from keras_se.litert.compressed import check_plain
from keras_se.sites.blocks import call_arguments, check_hidden

MAX_DIFFERENCE = 1e-5  # relative to the largest output
ENTRY = "_entry"  # suffix of the names of identity layers
_SAMPLES = 2
_UNKNOWN_SIZE = 96  # InceptionV3 rejects images smaller than 75


def to_tf_keras(model: keras.Model) -> Any:
    """Converts a Keras 3 model to a tf_keras model that computes the same outputs.

    `SEBlock`s become built-in layers and nested models are flattened. Raw operations, and
    activations that the two libraries define differently, become layers. Before it returns, the
    function runs both models on the same input and compares the outputs.

    Args:
        model: A built functional or Sequential model that computes in float32, channels last. The
            function does not change it.

    Returns:
        An uncompiled functional `tf_keras.Model` with the same weights.

    Raises:
        InputError: If tf_keras has no counterpart for a layer, an operation, a gate or a squeeze,
            or if the two models differ by more than 1e-5 of the largest output.
        MissingExtraError: If TensorFlow or tf_keras is not installed.

    Source: model-optimization issues 1119 and 1270.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2, name="se")])
        >>> [layer.name for layer in to_tf_keras(model).layers if "Conv2D" in str(type(layer))]
        ['se_reduce', 'se_expand']
    """
    return translate(model).model


@dataclass(frozen=True)
class Translation:
    """A tf_keras model and its relation to the Keras 3 model.

    Attributes:
        model: The tf_keras model.
        carried: The layers that hold weights; a shared layer is listed once.
        products: Names of the layers that multiply by the gates of an `SEBlock`, in call order.
    """

    model: Any
    carried: tuple[Carried, ...]
    products: tuple[str, ...]


def translate(model: keras.Model) -> Translation:
    """Convert a model like `to_tf_keras`, and return which layers hold which weights."""
    builder, translation = translated(model)
    check_same(model, translation.model, builder)
    return translation


def translated(model: keras.Model, quantizable: bool = False) -> tuple["Builder", Translation]:
    """Convert a model without comparing outputs; `quantizable` adds identity layers."""
    check_plain(model)
    tf_keras = load_tf_keras()
    builder = Builder(quantizable)
    graph = trace(model, purpose="The bridge to tf_keras")
    inputs = keras.tree.map_structure(
        lambda t: tf_keras.Input(
            t.shape[1:], batch_size=t.shape[0], dtype=t.dtype, name=plain_name(t.name)
        ),
        graph.inputs,
    )
    entries = keras.tree.map_structure(lambda t: builder.entry(t, plain_name(t.name)), inputs)
    outputs = walk(
        graph,
        builder.keep(entries),
        builder.visit,
        stand_in=lambda layer: layer,
        enter=builder.enter,
    )
    new_model = tf_keras.Model(inputs, outputs, name=plain_name(model.name))
    for carried in builder.carried:
        _set_weights(new_model.get_layer(carried.layer), carried.variables)
    return builder, Translation(new_model, tuple(builder.carried), tuple(builder.products))


def _set_weights(layer: Any, variables: tuple[Any, ...]) -> None:
    # Compare sizes, not shapes: a matrix of an SEBlock becomes a 1×1 convolution kernel.
    shapes = [tuple(w.shape) for w in layer.weights]
    if [math.prod(s) for s in shapes] != [math.prod(v.shape) for v in variables]:
        raise InputError(
            "The bridge to tf_keras takes layers that hold the same weights there. "
            f"Received: layer {layer.name!r} with {len(variables)} weights, in tf_keras {shapes}"
        )
    # NaN never equals NaN, so check_same would report a wrong conversion instead.
    if not all(np.isfinite(v.numpy()).all() for v in variables):
        raise InputError(
            "The bridge to tf_keras takes models whose weights are finite. "
            f"Received: NaN or infinity in layer {layer.name!r}"
        )
    layer.set_weights([v.numpy().reshape(s) for v, s in zip(variables, shapes, strict=True)])


def plain_name(path: str, name: str = "") -> str:
    """Join the path and name of a nested layer to one valid tf_keras name without slashes."""
    joined = f"{path.rstrip('/')}/{name}".strip("/").replace("/", "__")
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", joined)
    return plain if plain[:1].isalnum() else f"layer{plain}"  # TensorFlow scope rule


@dataclass(frozen=True)
class _Call:
    """One layer call, kept to find the first layer that differs."""

    layer: Any
    arguments: Any  # tf_keras tensors
    outputs: Any


@dataclass
class Builder:
    """One pass over a model and its nested models that builds the tf_keras tensors."""

    quantizable: bool = False
    make: Maker = field(default_factory=Maker)
    carried: list[Carried] = field(default_factory=list)
    products: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    tensors: dict[int, Any] = field(default_factory=dict)  # tf_keras tensors by id
    made: dict[int, tuple[Any, Function, str | None]] = field(default_factory=dict)

    def entry(self, tensor: Any, name: str) -> Any:
        """Add an identity layer after a float tensor if the model is to be quantizable."""
        # quantize_aware rounds at model inputs and before each BatchNormalization. Without an
        # identity there, it would have no layer to wrap.
        if not self.quantizable or not tensor.dtype.is_floating:
            return tensor
        return self.make("Activation", f"{name}{ENTRY}", activation="linear")(tensor)

    def enter(self, visit: Visit) -> Any:
        """Return the tensors that a nested model is called with."""
        inputs, mask = nested_arguments(visit.args, visit.kwargs)
        # Keras would adapt the rank or dtype of these inputs. A flattened model does not.
        if changes_inputs(visit) or mask is not None:
            raise _not_carried(visit.path, visit.layer)
        return inputs

    def visit(self, visit: Visit) -> Any:
        """Call the twin of a layer on tf_keras tensors."""
        layer, path, args, kwargs = visit.layer, visit.path, visit.args, visit.kwargs
        # A layer called twice gets one twin, so its weights stay shared.
        if id(layer) not in self.made:
            self.made[id(layer)] = (layer, *self._twin(layer, path, args, kwargs))
        _, function, product = self.made[id(layer)]
        if product is not None:
            _check_block_call(layer, path, args, kwargs)
            self.products.append(product)
        if isinstance(layer, keras.layers.BatchNormalization):
            args = (self.entry(args[0], plain_name(path, layer.name)), *args[1:])
        outputs = function(*args[:1]) if product is not None else function(*args, **kwargs)
        self.calls.append(_Call(layer, (args, kwargs), outputs))
        return self.keep(outputs)

    def keep(self, tensors: Any) -> Any:
        """Note tensors of tf_keras, to read their values later."""
        self.tensors |= {id(tensor): tensor for tensor in keras.tree.flatten(tensors)}
        return tensors

    def _twin(
        self, layer: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Function, str | None]:
        """Return the function for a layer, and the name of its product layer for a block."""
        name = self.make.free(plain_name(path, layer.name))
        if isinstance(layer, keras.layers.Layer):
            _check_float32(layer, path)
        # SEBlock is not in tf_keras: it becomes several layers, one of which applies the gates.
        if isinstance(layer, SEBlock):
            unfolded = unfold(self.make, layer, name, len(args[0].shape))
            if unfolded is None:
                raise _block_not_carried(path, layer)
            self.carried += unfolded.carried
            return unfolded.function, unfolded.product
        if isinstance(layer, keras.layers.Layer):
            check_hidden(layer)
            made = None if is_graph(layer) else twin(self.make, layer, name)
            self.carried += made.carried if made is not None else ()
            function = None if made is None else made.function
        else:
            function = operation_twin(self.make, layer, args) if not kwargs else None
        if function is None:
            raise _not_carried(path, layer)
        return function, None


def _not_carried(path: str, layer: Any) -> InputError:
    return InputError(
        "The bridge to tf_keras takes built-in layers and arithmetic that tf_keras has, too, "
        "channels last and without masks. "
        f"Received: {path + layer.name!r} ({type(layer).__name__})"
    )


def _block_not_carried(path: str, block: SEBlock) -> InputError:
    said = ", ".join(
        f"{key}={_said(value)}"
        for key, value in (
            ("gate", block.gate),
            ("squeeze", block.squeeze),
            ("activation", block.activation),
            ("data_format", block.data_format),
        )
    )
    return InputError(
        "The bridge to tf_keras takes SE blocks with a named gate, squeeze 'avg', 'max' or "
        "'avg_max' and an activation that tf_keras has, channels last, called without a mask and "
        f"without return_gates. Received: {path + block.name!r} with {said}"
    )


def _said(value: Any) -> str:
    if value is None or isinstance(value, str):
        return repr(value)
    return value.__name__ if inspect.isfunction(value) else type(value).__name__


def _check_block_call(
    block: SEBlock, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    arguments = call_arguments(*args, **kwargs)
    if arguments.get("mask") is not None or arguments.get("return_gates"):
        raise _block_not_carried(path, block)


def _check_float32(layer: Any, path: str) -> None:
    if layer.compute_dtype not in ("float32", None):
        raise InputError(
            "The bridge to tf_keras takes models that compute in float32. "
            f"Received: layer {path + layer.name!r} in {layer.compute_dtype}"
        )


def check_same(model: keras.Model, new_model: Any, builder: Builder) -> None:
    """Raise `InputError` if the converted model computes other outputs than the original."""
    if not agree(model, new_model):
        raise InputError(
            f"The bridge to tf_keras returns models that agree to {MAX_DIFFERENCE:g} of the "
            f"largest output. Received: model {model.name!r}, of which "
            f"{_first_that_differs(new_model, builder)}"
        )


def agree(model: keras.Model, new_model: Any) -> bool:
    """Return whether both models agree to 1e-5 of the largest output on random inputs."""
    x = [_random(t) for t in new_model.inputs]
    own = packed_inputs(model, x)
    theirs = keras.tree.pack_sequence_as(new_model.input, x)
    return not _differ(model(own, training=False), new_model(theirs, training=False))


def _random(tensor: Any) -> np.ndarray:
    """Return random samples for a tf_keras input."""
    rng = np.random.default_rng(0)
    shape = [_UNKNOWN_SIZE if size is None else size for size in tensor.shape[1:]]
    shape = [tensor.shape[0] or _SAMPLES, *shape]
    dtype = tensor.dtype.as_numpy_dtype
    if np.issubdtype(dtype, np.floating):
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2, size=shape).astype(dtype)


def _differ(expected: Any, given: Any) -> bool:
    for a, b in zip(keras.tree.flatten(expected), keras.tree.flatten(given), strict=True):
        own, theirs = keras.ops.convert_to_numpy(a), np.array(b)
        largest = max(np.abs(own).max(initial=0.0), np.finfo("float32").tiny)
        # `not <=` instead of `>`: NaN counts as a difference.
        if not np.abs(own - theirs).max(initial=0.0) <= MAX_DIFFERENCE * largest:
            return True
    return False


def _first_that_differs(new_model: Any, builder: Builder) -> str:
    """Name the first layer that computes something else than its twin."""
    reader = load_tf_keras().Model(new_model.input, list(builder.tensors.values()))
    x = keras.tree.pack_sequence_as(new_model.input, [_random(t) for t in new_model.inputs])
    values = dict(zip(builder.tensors, reader(x, training=False), strict=True))

    def value(part: Any) -> Any:
        return np.array(values[id(part)]) if id(part) in values else part

    # Each layer receives the tensors of tf_keras, so an earlier difference does not add up.
    for call in builder.calls:
        args, kwargs = keras.tree.map_structure(value, call.arguments)
        given = keras.tree.map_structure(value, call.outputs)
        if _differ(call.layer(*args, **kwargs), given):
            return f"{call.layer.name!r} ({type(call.layer).__name__}) is the first that differs"
    return "no layer differs alone"
