"""Squeeze-and-Excitation for Keras.

The layers are imported eagerly, so that `.keras` files which hold them load without custom objects.
Everything else is loaded at first use: `import keras_se` costs what `import keras` costs.
"""

import importlib
from typing import TYPE_CHECKING, Any

from keras_se.layers import GraphSEBlock, SEBlock

if TYPE_CHECKING:
    from keras_se import compress, theory
    from keras_se.adoption import adopt
    from keras_se.costs import CostReport, cost
    from keras_se.gate_report import GateReport
    from keras_se.litert.convert import to_tflite
    from keras_se.placements import Candidate, candidates
    from keras_se.reading import find_sites, read_gates
    from keras_se.sites import Site
    from keras_se.surgery import insert, remove
    from keras_se.verification import verify

__version__ = "0.1.0"

_LAZY = {
    "CostReport": "keras_se.costs",
    "Candidate": "keras_se.placements",
    "GateReport": "keras_se.gate_report",
    "Site": "keras_se.sites",
    "adopt": "keras_se.adoption",
    "candidates": "keras_se.placements",
    "compress": "keras_se.compress",
    "cost": "keras_se.costs",
    "find_sites": "keras_se.reading",
    "insert": "keras_se.surgery",
    "read_gates": "keras_se.reading",
    "remove": "keras_se.surgery",
    "theory": "keras_se.theory",
    "to_tflite": "keras_se.litert.convert",
    "verify": "keras_se.verification",
}

__all__ = [
    "Candidate",
    "CostReport",
    "GateReport",
    "GraphSEBlock",
    "SEBlock",
    "Site",
    "adopt",
    "candidates",
    "compress",
    "cost",
    "find_sites",
    "insert",
    "read_gates",
    "remove",
    "theory",
    "to_tflite",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(_LAZY[name])
    return module if _LAZY[name] == f"{__name__}.{name}" else getattr(module, name)


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
