"""TFLite files: made from Keras models, their gates found and read. Needs `keras-se[litert]`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_se.litert.probing import probe

_LAZY = {"probe": "keras_se.litert.probing"}

__all__ = ["probe"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
