"""Compression of SE models in training: quantization-aware training, pruning and clustering.

tensorflow-model-optimization supports tf_keras models only and does not know `SEBlock`. These
functions convert a Keras 3 model to tf_keras, compress it there, and copy the trained weights back.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_se.compress.bridge import to_tf_keras
    from keras_se.compress.clustering import cluster
    from keras_se.compress.equalization import equalize
    from keras_se.compress.pruning import prune
    from keras_se.compress.quantization import quantize_aware
    from keras_se.compress.restoring import from_tf_keras
    from keras_se.compress.stripping import strip

_LAZY = {
    "cluster": "keras_se.compress.clustering",
    "equalize": "keras_se.compress.equalization",
    "from_tf_keras": "keras_se.compress.restoring",
    "prune": "keras_se.compress.pruning",
    "quantize_aware": "keras_se.compress.quantization",
    "strip": "keras_se.compress.stripping",
    "to_tf_keras": "keras_se.compress.bridge",
}

__all__ = [
    "cluster",
    "equalize",
    "from_tf_keras",
    "prune",
    "quantize_aware",
    "strip",
    "to_tf_keras",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
