"""Conversion of Keras 3 models to tf_keras, which tensorflow-model-optimization requires."""

import inspect
import math
import re
from typing import Any

import keras
import numpy as np

from keras_se.compress.tfmot.bridge.agreement import Checked, agree, first_difference
from keras_se.compress.tfmot.bridge.calls import convert_call, is_opened, open_function
from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.factory import (
    Converted,
    Function,
    LayerFactory,
    LayerWeights,
    NoCounterpartError,
)
from keras_se.compress.tfmot.bridge.se_block import convert_block
from keras_se.errors import InputError
from keras_se.graph.composites import is_composite
from keras_se.graph.compressed import check_plain
from keras_se.graph.fitting import fitted
from keras_se.graph.models import free_name
from keras_se.graph.trace import trace
from keras_se.graph.visits import Visit, changes_inputs, handed, nested_arguments, walk
from keras_se.layers import SEBlock
from keras_se.sites.gated import call_arguments

ENTRY = "_entry"  # suffix of the names of identity layers


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
            or if a layer, or the model, computes something else than what it becomes, by more than
            the rounding of float32 explains. The message names the first layer that differs.
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
        self._new_layer = LayerFactory(open_function)
        # By id of a layer, the layer, whose reference keeps the id valid, and what it becomes.
        self._functions: dict[int, tuple[Any, Function]] = {}
        self._calls: list[Checked] = []
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
        self._entries = entries
        outputs = walk(
            graph,
            entries,
            self._visit,
            stand_in=lambda layer: layer,
            enter=_nested_inputs,
            opens=is_opened,
        )
        self._check_weights()
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
        if isinstance(layer, SEBlock):
            arguments = call_arguments(layer, visit)
            if arguments.get("mask") is not None or arguments.get("return_gates"):
                raise _unsupported_block(visit)
        try:
            # A layer called twice is converted once, so its weights stay shared.
            if id(layer) not in self._functions:
                self._functions[id(layer)] = (layer, self._convert(visit))
            _, function = self._functions[id(layer)]
            if isinstance(layer, keras.layers.BatchNormalization):
                args = (self._entry(args[0], plain_name(visit.path, layer.name)), *args[1:])
            outputs = function(*args, **kwargs)
        except NoCounterpartError as reason:
            raise _unsupported(visit, str(reason)) from None
        self._calls.append((visit, function, outputs))
        return outputs

    def _convert(self, visit: Visit) -> Function:
        name = free_name(plain_name(visit.path, visit.name), self._new_layer.names)
        if isinstance(visit.layer, SEBlock):
            converted = self._convert_block(visit, name)
        else:
            converted = convert_call(self._new_layer, visit, name)
        self.weights += converted.weights
        return converted.function

    def _convert_block(self, visit: Visit, name: str) -> Converted:
        # SEBlock is not in tf_keras: it becomes several layers, one of which applies the gates.
        rank = len(visit.args[0].shape)
        converted = convert_block(self._new_layer, visit.layer, name, rank)
        if converted is None:
            raise _unsupported_block(visit)
        function = converted.function
        return Converted(lambda features, *_, **__: function(features), converted.weights)

    def _check_weights(self) -> None:
        """Raise `InputError` for a weight that no layer of the new model trains."""
        held = {id(variable) for weights in self.weights for variable in weights.variables}
        for variable in self._original.trainable_variables:
            if id(variable) not in held:
                raise InputError(
                    "to_tf_keras supports weights that a layer of tf_keras trains. "
                    f"Received: {variable.path!r}, with which a layer computes in another way"
                )

    def check(self) -> None:
        """Raise `InputError` if the tf_keras model computes other outputs than the original."""
        found = first_difference(self._calls, self._entries, self.model)
        if found is None and not agree(self._original, self.model):
            found = "no layer differs alone"
        if found is not None:
            raise InputError(
                "to_tf_keras must compute what the model does, to the rounding of float32. "
                f"Received: model {self._original.name!r}, where {found}"
            )


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


def _unsupported(visit: Visit, reason: str = "") -> InputError:
    return InputError(
        "to_tf_keras supports built-in layers and arithmetic that tf_keras has, channels last and "
        "without masks. "
        f"Received: {visit.path + visit.name!r} ({type(visit.layer).__name__})"
        f"{reason and ', '}{reason}"
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
