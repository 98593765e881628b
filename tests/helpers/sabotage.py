"""Models that do something wrong on purpose."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import Graph
from keras_se.layers import gates


def hold_gates(model: keras.Model, constants: Mapping[str, Any]) -> keras.Model:
    """A copy whose named SE blocks, which need biases, gate by constants of shape (channels,)."""
    held = Rebuilding(Graph(model)).model()
    for name, values in constants.items():
        block = held.get_layer(name)
        facts, margin = gates.get(block.gate), 1e-6
        # With a zero last kernel the bias alone sets the gate; its inverse is infinite at the ends.
        inside = np.clip(np.asarray(values, "float64"), facts.low + margin, facts.high - margin)
        block.w2.assign(np.zeros(block.w2.shape))
        block.b2.assign(facts.inverse(inside))
    return held
