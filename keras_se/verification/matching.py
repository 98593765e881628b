"""Assigns the gates of a TFLite file to the SE sites of the Keras model.

Sites are matched by value with a float32 conversion of the model. Their place in that graph then
leads to the judged file, whose own gates may be wrong.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.compress.keras_engine import strip_natively
from keras_se.errors import InputError
from keras_se.layers.quantization.fake_quantize import is_quantize_aware
from keras_se.litert.convert import to_tflite
from keras_se.litert.graph.sites import GateNode, main_nodes
from keras_se.litert.matching import match_sites
from keras_se.sites.reading import model_gates
from keras_se.sites.site import Site


@dataclass(frozen=True)
class Assignment:
    """The sites of the model and their nodes in the file.

    Attributes:
        nodes: By site name, the node of the judged file; `None` if the file lacks the site.
        error: The largest distance at a site between the model and its float32 conversion.
    """

    nodes: dict[str, GateNode | None]
    error: float


def assign(
    model: keras.Model,
    sites: list[Site],
    gates: Mapping[str, np.ndarray],
    x: Any,
    arrays: Mapping[str, np.ndarray],
    content: bytes,
) -> Assignment:
    """Finds the sites of a model in a TFLite file."""
    # The reference is a float32 file. Stripping keeps the places of the sites, but changes gates.
    if is_quantize_aware(model):
        model = strip_natively(model)
        gates = model_gates(model, x)
    converted = to_tflite(model, "float32")
    matching = match_sites(model, sites, gates, x, arrays, converted)
    places = _places(main_nodes(converted), main_nodes(content))
    nodes = {name: places[position] for name, position in matching.positions.items()}
    return Assignment(nodes, matching.error)


def _places(reference: list[GateNode], judged: list[GateNode]) -> dict[int, GateNode | None]:
    """Maps each node of the conversion to the node at its place in the judged file."""
    if [_figures(n) for n in reference] == [_figures(n) for n in judged]:
        return dict(enumerate(judged))
    wanted, found = [_figures(n) for n in reference], [_figures(n) for n in judged]
    # Without autojunk=False, difflib ignores frequent elements of long sequences.
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    places: dict[int, GateNode | None] = dict.fromkeys(range(len(reference)))
    for start, other, size in matcher.get_matching_blocks():
        places |= {start + k: judged[other + k] for k in range(size)}
    # An alignment is ambiguous if a missing site looks like one that is present.
    absent = {wanted[n] for n, node in places.items() if node is None}
    extra = len(judged) - sum(node is not None for node in places.values())
    if extra or any(wanted[n] in absent for n, node in places.items() if node is not None):
        raise InputError(
            "verify needs a file with the sites of the model. Received: "
            f"{len(reference)} sites in the model, {len(judged)} in the file, not to be told apart"
        )
    return places


def _figures(node: GateNode) -> tuple[int, int]:
    return node.site.channels, node.site.width
