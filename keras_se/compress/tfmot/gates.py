"""Reads the gates of a quantize-aware tf_keras model."""

import math
from typing import Any

import keras
import numpy as np

from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.translation import plain_name
from keras_se.compress.tfmot.bridge.weights import inner_layer
from keras_se.display.progress import counted
from keras_se.errors import InputError
from keras_se.graph.compressed import keras_model
from keras_se.graph.models import check_weights
from keras_se.litert.inputs import batches, input_arrays, input_specs
from keras_se.sites.reading import model_sites
from keras_se.sites.site import Site


def quantized_gates(model: Any, x: Any, batch_size: int = 32) -> dict[str, np.ndarray]:
    """Return the rounded gates of each SE site as an array (samples, channels) by site name."""
    like = keras_model(model)
    sites = model_sites(like)
    if not sites:
        return {}
    check_weights("read_gates", model)
    samples = list(input_arrays(input_specs(like, "read_gates"), x, "x").values())
    reader = load_tf_keras().Model(model.input, _gate_tensors(model, sites))
    rows: dict[str, list[np.ndarray]] = {site.name: [] for site in sites}
    total = -(-len(samples[0]) // batch_size)
    for batch in counted(batches(samples, batch_size), total, "gates of the model"):
        gates = reader(keras.tree.pack_sequence_as(model.input, batch), training=False)
        for site in sites:
            rows[site.name].append(gates[site.name].numpy().reshape(-1, site.channels))
    return {name: np.concatenate(values) for name, values in rows.items()}


def _gate_tensors(model: Any, sites: list[Site]) -> dict[str, Any]:
    layers = {inner_layer(layer).name: layer for layer in model.layers}
    calls: dict[str, int] = {}
    tensors = {}
    for site in sites:
        name = plain_name(site.name.rpartition("/")[0], site.layer)
        name = f"{name}_product" if site.source == "SEBlock" else name
        # A shared block has one product layer with one node per call, in the order of the sites.
        call = calls.get(name, 0)
        calls[name] = call + 1
        if name not in layers:
            raise InputError(
                "read_gates needs a quantize-aware model with the layers of its SE sites. "
                f"Received: model {model.name!r} without a layer {name!r}"
            )
        operands = layers[name].get_input_at(call)
        is_block = site.source == "SEBlock"
        # convert_block puts the gates second. In inline SE they may come first or second.
        tensors[site.name] = operands[1] if is_block else _gates_of(name, operands)
    return tensors


def _gates_of(name: str, operands: list[Any]) -> Any:
    """Return the operand with fewer positions, which holds the gates of an inline site."""
    gates, features = sorted(operands, key=_positions)
    if _positions(gates) == _positions(features):
        raise InputError(
            "read_gates needs inline SE whose features have several positions; adopt the model "
            f"before quantize_aware. Received: {name!r}, whose features have one"
        )
    return gates


def _positions(tensor: Any) -> int:
    # An unknown size counts as more than one position.
    return math.prod(size or 2 for size in tensor.shape[1:-1])
