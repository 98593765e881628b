"""Quantization-aware training of SE models, with calibrated ranges."""

import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_se.compress.rounding import Rounding
from keras_se.compress.tfmot.quantization import PRESERVED, Preserved, quantize_in_tf_keras
from keras_se.errors import InputError, MissingExtraError, warn
from keras_se.graph.composites import has_own_weights, is_composite, why_closed
from keras_se.graph.compressed import check_plain, is_pruned
from keras_se.graph.fitting import fitted
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.models import check_graph, free_name, sublayers
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Graph
from keras_se.graph.visits import Visit
from keras_se.layers import FakeQuantize
from keras_se.litert.calibration import calibration_samples
from keras_se.litert.convert import ConversionWarning, convert
from keras_se.litert.formats import Options
from keras_se.litert.inputs import batches
from keras_se.surgery.adoption import adopted, proposed

Engine = Literal["keras", "tfmot"]
ENGINES: tuple[Engine, ...] = get_args(Engine)


def quantize_aware(
    model: keras.Model,
    calibration: Any,
    *,
    preserve: Preserved | None = None,
    engine: Engine = "keras",
    input_shape: Sequence[int] | None = None,
) -> Any:
    """Makes a trainable model that computes with the rounding of its int8 file.

    Kernels are rounded per output channel. Activations are rounded where the file stores a tensor:
    after a convolution with its BatchNormalization and ReLU, after each gate, and after the product
    of gates and features. TFLite prescribes the ranges of sigmoid and tanh. All other ranges start
    at the calibration data and follow the training data: they widen at once and narrow by 1 % per
    step.

    A layer or function without an int8 form is computed in float32, in the model as in the file,
    and rounded where it begins and ends. Composite layers become their parts, inline SE becomes
    `SEBlock`s. Augmentation and dropout are idle in the file.

    Args:
        model: A built functional or Sequential Keras 3 model, channels last, with or without SE.
            The function does not change it. Of one that computes in half precision, such as
            `mixed_float16`, the float32 twin is trained.
        calibration: Representative inputs, shape (samples, *input shape), or a list or dictionary
            of them; a hundred samples or more.
        preserve: Which result of earlier compression to keep: the `"sparsity"` of a pruned model,
            whose zeros stay zero, and with `engine="tfmot"` the `"clusters"` of a clustered one, or
            `"both"`.
        engine: `"keras"`: training in Keras without another library, under each of its backends;
            the result saves like any other model. `"tfmot"`: training in tf_keras with TensorFlow
            Model Optimization, of a model that `to_tf_keras` accepts and whose layers all have an
            int8 form.
        input_shape: Shape of one sample, such as `(224, 224, 3)`, needed for a model that leaves
            sizes open, which the result then has. Only for models with one input.

    Returns:
        A `keras.Model` to `compile` and `fit`, or with `engine="tfmot"` a `tf_keras.Model` that
        takes objects of Keras 3 and of tf_keras. `keras_se.to_tflite` converts it to an int8 file
        without calibration, `keras_se.read_gates` returns its rounded gates,
        `keras_se.verify(model, tflite, x, trained=...)` checks the file against both models, and
        `strip` returns a plain Keras 3 model.

    Raises:
        InputError: If the model cannot be rebuilt or TFLite has no operation for a layer, if the
            data do not match the model or leave the bottleneck of a site at zero, or if there is
            nothing to preserve.
        MissingExtraError: If `engine="tfmot"` lacks TensorFlow, tf_keras or
            tensorflow-model-optimization.

    Warns:
        ConversionWarning: For layers that the file computes in float32. Only TensorFlow can tell.
        PrecisionWarning: If the model computes in half precision.

    Source: Jacob et al., arXiv 1712.05877, section 3; Krishnamoorthi, arXiv 1806.08342, section 4;
    TensorFlow Model Optimization, "Quantization aware training".

    Example:
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2, name="se")])
        >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
        >>> [type(layer).__name__ for layer in quantize_aware(model, x).layers]
        ['FakeQuantize', 'QuantizeAwareSEBlock']
    """
    check_plain(model)
    check_graph("quantize_aware", model)
    if engine not in ENGINES:
        raise InputError(f"engine must be one of {list(ENGINES)}. Received: engine={engine!r}")
    if preserve not in (None, *PRESERVED):
        raise InputError(
            f"preserve must be one of {list(PRESERVED)} or None. Received: preserve={preserve!r}"
        )
    model = fitted(model, "quantize_aware", input_shape)
    if engine == "tfmot":
        return quantize_in_tf_keras(model, calibration, preserve)
    if preserve in ("clusters", "both"):
        raise InputError(
            "preserve='clusters' and 'both' need engine='tfmot'. "
            f"Received: preserve={preserve!r}, engine={engine!r}"
        )
    return _quantize_in_keras(model, calibration, preserve == "sparsity")


def _quantize_in_keras(model: keras.Model, calibration: Any, preserves: bool) -> keras.Model:
    graph = _opened(model)
    if preserves and not any(map(is_pruned, sublayers(model))):
        raise InputError(
            "preserve='sparsity' needs a pruned model: train with prune, and strip. "
            f"Received: model {model.name!r}, no kernel of which has zeros"
        )
    shared: dict[int, Any] = {}  # by id: a layer with weights has one replacement in all graphs
    roundings = [(part, Rounding(part, part is graph, preserves)) for part in graph.family()]
    edits = [_rounded(part, rounding, part is graph, shared) for part, rounding in roundings]
    samples = calibration_samples(model, calibration)
    new_model = rebuild(graph, edits)
    # Losses in a dictionary are assigned by these names.
    if not isinstance(model, keras.Sequential):
        new_model.output_names = list(model.output_names)
    _observe(new_model, samples)
    _check_float(roundings, new_model)
    return new_model


def _opened(model: keras.Model) -> Graph:
    """Return the graph of a model whose composite layers and inline SE are opened."""
    graph = Graph(model)
    # Only SEBlock has a quantize-aware layer, so inline SE becomes SEBlocks first.
    taken, _ = proposed(graph)
    if taken:
        graph = Graph(adopted(graph, taken))
    if any(is_composite(call.layer) for part in graph.family() for call in part.calls):
        graph = Graph(Rebuilding(graph, opens=_is_open).model())
    return graph


def _is_open(visit: Visit) -> bool:
    """Return whether the parts of a composite layer compute and hold all that it does."""
    call = visit.recorded
    if why_closed(call) is not None:
        return False
    looked = visit.graph.look_into(visit.index)
    return isinstance(looked, Graph) and not has_own_weights(call.layer, looked.calls)


def _check_float(roundings: list[tuple[Graph, Rounding]], model: keras.Model) -> None:
    """Warn of layers that the file computes in float32; raise `InputError` if it cannot."""
    names = {
        f"{graph.path}{call.layer.name}"
        for graph, rounding in roundings
        for n, call in enumerate(graph.calls)
        if not rounding.is_integer(n)
    }
    # Only a conversion shows it, and after the training it is too late.
    if not names or keras.backend.backend() != "tensorflow":
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        with suppress(MissingExtraError):
            convert(model, None, Options(), "quantize_aware")
    if any(issubclass(warning.category, ConversionWarning) for warning in caught):
        warn(
            "quantize_aware rounds the inputs and outputs of layers without an int8 form, which a "
            f"file computes in float32. Received: {sorted(names)}",
            ConversionWarning,
        )


def _rounded(
    graph: Graph, rounding: Rounding, is_outermost: bool, shared: dict[int, Any]
) -> "GraphEdit":
    """Return the edit that makes one graph round as its int8 file does."""
    calls = range(len(graph.calls))
    replacements = {n: rounding.replacement(n, shared) for n in calls}
    return GraphEdit(
        graph,
        {n: layer for n, layer in replacements.items() if layer is not None},
        rounded=frozenset(filter(rounding.is_rounded, calls)),
        rounds_inputs=is_outermost,
    )


@dataclass
class GraphEdit:
    """Calls the layers of one graph again, some replaced, rounded or dropped.

    Attributes:
        graph: The graph.
        replacements: Replacement layers by index of the call.
        rounded: Indices of the calls whose output is rounded.
        rounds_inputs: Whether the inputs of the graph are rounded.
        dropped: Indices of the calls to remove; their input replaces their output.
        inputs: The rounded inputs so far, by id of the input.
        names: The names of the ranges so far.
    """

    graph: Graph
    replacements: dict[int, Any]
    rounded: frozenset[int] = frozenset()
    rounds_inputs: bool = False
    dropped: frozenset[int] = frozenset()
    inputs: dict[int, Any] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def __call__(self, visit: Visit) -> Any:
        """Return the outputs of a call in the new graph."""
        if visit.index in self.dropped:
            return visit.args[0]
        flat = [
            self._input(visit, own, value)
            for own, value in zip(visit.recorded.inputs, visit.arguments, strict=True)
        ]
        args, kwargs = keras.tree.pack_sequence_as((visit.args, visit.kwargs), flat)
        # Not all replacements take a mask, and `mask=None` is part of the traced call.
        given = {name: value for name, value in kwargs.items() if value is not None}
        outputs = self.replacements.get(visit.index, visit.stand_in)(*args, **given)
        if visit.index not in self.rounded:
            return outputs
        return keras.tree.map_structure(lambda o: self._ranged(visit.layer.name, o), outputs)

    def _input(self, visit: Visit, own: int, value: Any) -> Any:
        """Round an input of the model. All its uses share one range."""
        inputs = keras.tree.flatten(visit.graph.inputs)
        if not self.rounds_inputs or all(own != id(tensor) for tensor in inputs):
            return value
        if own not in self.inputs:
            name = "input" if len(inputs) == 1 else value.name
            self.inputs[own] = self._ranged(name, value)
        return self.inputs[own]

    def _ranged(self, name: str, value: Any) -> Any:
        if not keras.backend.is_float_dtype(value.dtype):
            return value
        # A model needs unique layer names, but a shared layer can have several ranges.
        self.names.append(free_name(f"{name}_range", self.names, first=2))
        return FakeQuantize(name=self.names[-1], dtype="float32")(value)


def rebuild(graph: Graph, edits: list[GraphEdit]) -> keras.Model:
    """Rebuild a model with edits and copy the state of replaced layers."""
    new_model = Rebuilding(graph, {id(edit.graph.model): edit for edit in edits}).model()
    for edit in edits:
        for n, replacement in edit.replacements.items():
            _copy_state(edit.graph.calls[n].layer, replacement)
    return new_model


def _copy_state(old: Any, new: Any) -> None:
    """Copy the weights and flags of a layer."""
    # A quantize-aware layer holds the weights of the plain one first and its ranges after them, so
    # zip stops at the right place in both directions.
    if not isinstance(old, keras.layers.Layer):
        return  # a raw operation
    for variable, value in zip(new.weights, old.weights, strict=False):
        variable.assign(np.array(value.numpy()))  # JAX: without a copy, buffers are shared
    for part in (new, *sublayers(new)):
        # Normalization derives its mean and variance from the assigned weights only here.
        if hasattr(part, "finalize_state"):
            part.finalize_state()
    new.trainable = old.trainable


def _observe(model: keras.Model, samples: dict[str, np.ndarray]) -> None:
    """Set the ranges of a model from its activations on samples."""
    ranges = [layer for layer in sublayers(model) if isinstance(layer, FakeQuantize)]
    for layer in ranges:
        layer.observe()
    for batch in batches(samples.values()):
        model(packed_inputs(model, batch), training=False)
    for layer in ranges:
        layer.observing = False
    # A range of zero width would have a scale of zero.
    empty = [r for r in ranges if r.fixed is None and float(r.high) <= float(r.low)]
    for layer in empty:
        layer.restart()
    # A shift is zero where its training begins, and a block without a mask has no use for the range
    # of masked sums.
    dead = [layer.path for layer in empty if layer.name not in ("shift", "masked")]
    if dead:
        raise InputError(
            "Calibration data must make every activation nonzero somewhere. "
            f"Received: data that leave these ranges empty: {dead}"
        )
