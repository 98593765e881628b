"""Which gate of a TFLite file belongs to which SE site of the Keras model.

Sites are matched by value with a float32 conversion of the model, and carried from there to the
judged file by their place in the graph.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.compress.native import strip_natively
from keras_se.errors import InputError
from keras_se.layers.fake_quantize import is_quantize_aware
from keras_se.litert.convert import to_tflite
from keras_se.litert.graph import GateNode, main_nodes
from keras_se.litert.matching import match_sites
from keras_se.sites import Site, model_gates


@dataclass(frozen=True)
class Assignment:
    """Sites of the model, and where they are in the file.

    Attributes:
        nodes: By site name, the node of the judged file; `None` where it has no such site.
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
    """Finds the sites of a model in a file.

    Args:
        model: The Keras model.
        sites: Its sites.
        gates: Their gates on the samples.
        x: The samples, as the model takes them.
        arrays: The same by the names of the file's inputs.
        content: The bytes of the file.

    Returns:
        The `Assignment`.

    Raises:
        InputError: If a site cannot be told from another, or is not found in the conversion.
    """
    if is_quantize_aware(model):  # in float its sites have the same places
        model = strip_natively(model)
        gates = model_gates(model, x)
    converted = to_tflite(model, "float32")
    matching = match_sites(model, sites, gates, x, arrays, converted)
    places = _places(main_nodes(converted), main_nodes(content))
    nodes = {name: places[position] for name, position in matching.positions.items()}
    return Assignment(nodes, matching.error)


def _places(reference: list[GateNode], judged: list[GateNode]) -> dict[int, GateNode | None]:
    """For each node of the conversion, the one at its place in the judged file.

    Where sites are missing, the others are aligned by their channels and widths, if that can be
    done in one way only.
    """
    if [_figures(n) for n in reference] == [_figures(n) for n in judged]:
        return dict(enumerate(judged))
    wanted, found = [_figures(n) for n in reference], [_figures(n) for n in judged]
    matcher = difflib.SequenceMatcher(None, wanted, found, autojunk=False)
    places: dict[int, GateNode | None] = dict.fromkeys(range(len(reference)))
    for start, other, size in matcher.get_matching_blocks():
        places |= {start + k: judged[other + k] for k in range(size)}
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
