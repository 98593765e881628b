"""Conversion of a compressed model back to a Keras 3 model with SE blocks."""

from typing import Any

import keras

from keras_se.compress.quantization import GraphEdit, rebuild
from keras_se.compress.tfmot.bridge.environment import load_tfmot
from keras_se.compress.tfmot.bridge.weights import from_tf_keras
from keras_se.errors import InputError
from keras_se.graph.compressed import CLUSTERED, compression_of
from keras_se.graph.trace import trace
from keras_se.layers import FakeQuantize, QuantizeAwareActivation, QuantizeAwareSEBlock
from keras_se.layers.quantization.fake_quantize import is_quantize_aware
from keras_se.layers.quantization.wrapper import QuantizeAwareWrapper

_QUANTIZE_AWARE = (QuantizeAwareActivation, QuantizeAwareSEBlock, QuantizeAwareWrapper)


def strip(model: Any) -> keras.Model:
    """Converts the result of `quantize_aware`, `prune` or `cluster` to a plain Keras 3 model.

    Args:
        model: The compressed model, trained or not. The function does not change it.

    Returns:
        An uncompiled model with the layers of the original, including its `SEBlock`s, and the
        trained weights. Pruned weights are zero and clustered kernels have few distinct values.
        Quantization ranges are dropped.

    Raises:
        InputError: If `model` is not such a model.

    Example:
        >>> from keras_se import SEBlock
        >>> from keras_se.compress import prune
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2, name="se")])
        >>> [layer.name for layer in strip(prune(model)).layers]
        ['se']
    """
    if isinstance(model, keras.Model) and is_quantize_aware(model):
        return _without_ranges(model)
    compression = compression_of(model)
    if compression is None:
        raise InputError(
            "strip needs a model that quantize_aware, prune or cluster returned. "
            f"Received: {type(model).__name__}"
        )
    # The clustering wrapper trains centroids. Only tfmot can write them into the kernels.
    if compression.technique == CLUSTERED:
        model = load_tfmot().clustering.keras.strip_clustering(model)
    return from_tf_keras(model, compression.model)


def _without_ranges(model: keras.Model) -> keras.Model:
    """Return the plain model of a quantize-aware Keras 3 model, with its weights."""
    graph = trace(model, "strip")
    plain: dict[int, Any] = {}  # by id, common to all graphs so that shared layers stay shared
    edits = []
    for part in graph.family():
        layers = dict(enumerate(call.layer for call in part.calls))
        replacements = {
            n: plain.setdefault(id(layer), layer.plain())
            for n, layer in layers.items()
            if isinstance(layer, _QUANTIZE_AWARE)
        }
        dropped = frozenset(n for n, layer in layers.items() if isinstance(layer, FakeQuantize))
        edits.append(GraphEdit(part, replacements, dropped=dropped))
    return rebuild(graph, edits)
