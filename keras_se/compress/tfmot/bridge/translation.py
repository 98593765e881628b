"""Conversion of Keras 3 models to tf_keras, which tensorflow-model-optimization requires."""

import inspect
import math
import re
from typing import Any

import keras
import numpy as np

from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.factory import Function, LayerFactory, LayerWeights
from keras_se.compress.tfmot.bridge.layers import convert_layer
from keras_se.compress.tfmot.bridge.operations import convert_operation
from keras_se.compress.tfmot.bridge.se_block import convert_block
from keras_se.errors import InputError
from keras_se.graph.composites import is_composite, why_closed
from keras_se.graph.compressed import check_plain
from keras_se.graph.fitting import fitted
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.models import free_name, is_graph
from keras_se.graph.trace import trace
from keras_se.graph.visits import Visit, changes_inputs, handed, nested_arguments, walk
from keras_se.layers import SEBlock
from keras_se.sites.gated import call_arguments

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
        model: A built functional or Sequential model, channels last. The function does not change
            it. Of one that computes in half precision the float32 twin is converted.

    Returns:
        An uncompiled functional `tf_keras.Model` with the same weights.

    Raises:
        InputError: If tf_keras has no counterpart for a layer, an operation, a gate or a squeeze,
            or if the two models differ by more than 1e-5 of the largest output.
        MissingExtraError: If TensorFlow or tf_keras is not installed.

    Warns:
        PrecisionWarning: If the model computes in half precision.

    Source: model-optimization issues 1119 and 1270.

    Example:
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2, name="se")])
        >>> [layer.name for layer in to_tf_keras(model).layers if "Conv2D" in str(type(layer))]
        ['se_reduce', 'se_expand']
    """
    return translate(fitted(model, "to_tf_keras")).model


def translate(model: keras.Model, quantizable: bool = False) -> "Translation":
    """Convert a model and compare the outputs; `quantizable` adds identity layers."""
    translation = Translation(model, quantizable)
    translation.check()
    return translation


class Translation:
    """A Keras 3 model, converted to tf_keras call by call.

    Attributes:
        model: The tf_keras model.
        weights: The layers that hold weights; a shared layer is listed once.
    """

    def __init__(self, model: keras.Model, quantizable: bool = False) -> None:
        check_plain(model)
        self.weights: list[LayerWeights] = []
        self._original = model
        self._quantizable = quantizable
        self._new_layer = LayerFactory()
        # By id of a layer, the layer, whose reference keeps the id valid, and what it becomes.
        self._functions: dict[int, tuple[Any, Function]] = {}
        self._calls: list[tuple[Visit, Any]] = []  # with the outputs
        self.model = self._converted()

    def _converted(self) -> Any:
        graph = trace(self._original, "to_tf_keras")
        tf_keras = load_tf_keras()
        inputs = keras.tree.map_structure(
            lambda t: tf_keras.Input(
                t.shape[1:], batch_size=t.shape[0], dtype=t.dtype, name=plain_name(t.name)
            ),
            graph.inputs,
        )
        entries = keras.tree.map_structure(lambda t: self._entry(t, plain_name(t.name)), inputs)
        outputs = walk(
            graph,
            entries,
            self._visit,
            stand_in=lambda layer: layer,
            enter=_nested_inputs,
            opens=lambda visit: why_closed(visit.recorded) is None,
        )
        new_model = tf_keras.Model(inputs, outputs, name=plain_name(self._original.name))
        for weights in self.weights:
            _set_weights(new_model.get_layer(weights.layer), weights.variables)
        return new_model

    def _entry(self, tensor: Any, name: str) -> Any:
        """Add an identity layer after a float tensor if the model is to be quantizable."""
        # quantize_aware rounds at model inputs and before each BatchNormalization. Without an
        # identity there, it would have no layer to wrap.
        if not self._quantizable or not tensor.dtype.is_floating:
            return tensor
        return self._new_layer("Activation", f"{name}{ENTRY}", activation="linear")(tensor)

    def _visit(self, visit: Visit) -> Any:
        """Call what a layer becomes on tf_keras tensors."""
        layer, args, kwargs = visit.layer, visit.args, visit.kwargs
        # A layer called twice is converted once, so its weights stay shared.
        if id(layer) not in self._functions:
            self._functions[id(layer)] = (layer, self._convert(visit))
        _, function = self._functions[id(layer)]
        if isinstance(layer, SEBlock):
            arguments = call_arguments(layer, visit)
            if arguments.get("mask") is not None or arguments.get("return_gates"):
                raise _unsupported_block(visit)
            args, kwargs = args[:1], {}
        elif isinstance(layer, keras.layers.BatchNormalization):
            args = (self._entry(args[0], plain_name(visit.path, layer.name)), *args[1:])
        outputs = function(*args, **kwargs)
        self._calls.append((visit, outputs))
        return outputs

    def _convert(self, visit: Visit) -> Function:
        layer, args = visit.layer, visit.args
        name = free_name(plain_name(visit.path, visit.name), self._new_layer.names)
        if not isinstance(layer, keras.layers.Layer):
            new_layer = self._new_layer
            function = None if visit.kwargs else convert_operation(new_layer, layer, args, name)
            if function is None:
                raise _unsupported(visit)
            return function
        # SEBlock is not in tf_keras: it becomes several layers, one of which applies the gates.
        if isinstance(layer, SEBlock):
            converted = convert_block(self._new_layer, layer, name, len(args[0].shape))
            if converted is None:
                raise _unsupported_block(visit)
        else:
            converted = None if is_graph(layer) else convert_layer(self._new_layer, layer, name)
            if converted is None:
                raise _unsupported(visit)
        self.weights += converted.weights
        return converted.function

    def check(self) -> None:
        """Raise `InputError` if the tf_keras model computes other outputs than the original."""
        if not agree(self._original, self.model):
            raise InputError(
                f"to_tf_keras must agree with the model to {MAX_DIFFERENCE:g} of the largest "
                f"output. Received: model {self._original.name!r}, where {self._first_difference()}"
            )

    def _first_difference(self) -> str:
        """Name the first layer that computes something else than what it became."""
        parts = keras.tree.flatten([(v.args, v.kwargs, outputs) for v, outputs in self._calls])
        tensors = {id(p): p for p in parts if isinstance(p, type(self.model.inputs[0]))}
        reader = load_tf_keras().Model(self.model.input, list(tensors.values()))
        x = keras.tree.pack_sequence_as(self.model.input, _random_inputs(self.model))
        values = dict(zip(tensors, reader(x, training=False), strict=True))

        def value(part: Any) -> Any:
            return np.array(values[id(part)]) if id(part) in values else part

        # Each layer receives the tensors of tf_keras, so an earlier difference does not add up.
        for visit, outputs in self._calls:
            layer = visit.layer
            args, kwargs = keras.tree.map_structure(value, (visit.args, visit.kwargs))
            if _differ(layer(*args, **kwargs), keras.tree.map_structure(value, outputs)):
                return f"{layer.name!r} ({type(layer).__name__}) is the first layer that differs"
        return "no layer differs alone"


def _nested_inputs(visit: Visit) -> Any:
    """Return the tensors that a nested model is called with."""
    # Keras would adapt the rank or dtype of these inputs. A flattened model does not.
    if not is_composite(visit.layer):
        mask = nested_arguments(visit.args, visit.kwargs)["mask"]
        if changes_inputs(visit) or mask is not None:
            raise _unsupported(visit)
    return handed(visit)


def _set_weights(layer: Any, variables: tuple[Any, ...]) -> None:
    # Compare sizes, not shapes: a matrix of an SEBlock becomes a 1×1 convolution kernel.
    shapes = [tuple(w.shape) for w in layer.weights]
    if [math.prod(s) for s in shapes] != [math.prod(v.shape) for v in variables]:
        raise InputError(
            "to_tf_keras supports layers that hold the same weights in tf_keras. "
            f"Received: layer {layer.name!r} with {len(variables)} weights, in tf_keras {shapes}"
        )
    # NaN never equals NaN, so the check would report a wrong conversion instead.
    if not all(np.isfinite(v.numpy()).all() for v in variables):
        raise InputError(
            f"to_tf_keras needs finite weights. Received: NaN or infinity in layer {layer.name!r}"
        )
    layer.set_weights([v.numpy().reshape(s) for v, s in zip(variables, shapes, strict=True)])


def plain_name(path: str, name: str = "") -> str:
    """Join the path and name of a nested layer to one valid tf_keras name without slashes."""
    joined = f"{path.rstrip('/')}/{name}".strip("/").replace("/", "__")
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", joined)
    return plain if plain[:1].isalnum() else f"layer{plain}"  # TensorFlow scope rule


def _unsupported(visit: Visit) -> InputError:
    return InputError(
        "to_tf_keras supports built-in layers and arithmetic that tf_keras has, channels last and "
        "without masks. "
        f"Received: {visit.path + visit.name!r} ({type(visit.layer).__name__})"
    )


def _unsupported_block(visit: Visit) -> InputError:
    settings = []
    for key in ("gate", "squeeze", "activation", "data_format"):
        value = getattr(visit.layer, key)
        kind = value.__name__ if inspect.isfunction(value) else type(value).__name__
        is_plain = value is None or isinstance(value, str)
        settings.append(f"{key}={value!r}" if is_plain else f"{key}={kind}")
    return InputError(
        "to_tf_keras supports SE blocks with a named gate, squeeze 'avg', 'max' or 'avg_max' and "
        "an activation that tf_keras has, channels last, called without a mask and without "
        f"return_gates. Received: {visit.path + visit.layer.name!r} with {', '.join(settings)}"
    )


def agree(model: keras.Model, new_model: Any) -> bool:
    """Return whether both models agree to 1e-5 of the largest output on random inputs."""
    x = _random_inputs(new_model)
    expected = model(packed_inputs(model, x), training=False)
    given = new_model(keras.tree.pack_sequence_as(new_model.input, x), training=False)
    return not _differ(expected, given)


def _random_inputs(tf_keras_model: Any) -> list[np.ndarray]:
    arrays = []
    for tensor in tf_keras_model.inputs:
        rng = np.random.default_rng(0)
        shape = [_UNKNOWN_SIZE if size is None else size for size in tensor.shape[1:]]
        shape = [tensor.shape[0] or _SAMPLES, *shape]
        is_float = tensor.dtype.is_floating
        values = rng.normal(size=shape) if is_float else rng.integers(0, 2, size=shape)
        arrays.append(values.astype(tensor.dtype.as_numpy_dtype))
    return arrays


def _differ(expected: Any, given: Any) -> bool:
    for a, b in zip(keras.tree.flatten(expected), keras.tree.flatten(given), strict=True):
        own, new = keras.ops.convert_to_numpy(a), np.array(b)
        largest = max(np.abs(own).max(initial=0.0), np.finfo("float32").tiny)
        # `not <=` instead of `>`: NaN counts as a difference.
        if not np.abs(own - new).max(initial=0.0) <= MAX_DIFFERENCE * largest:
            return True
    return False
