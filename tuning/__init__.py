"""Search over SE blocks with keras-tuner. Needs `keras-se[tuning]`.

Everything is loaded at first use, so that the command line can say something before Keras loads.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.hypermodel import SEHyperModel
    from tuning.result import SearchResult, TrialRecord
    from tuning.searching import search
    from tuning.space import SESpace

_LAZY = {
    "SEHyperModel": "tuning.hypermodel",
    "SESpace": "tuning.space",
    "SearchResult": "tuning.result",
    "TrialRecord": "tuning.result",
    "search": "tuning.searching",
}

__all__ = ["SEHyperModel", "SESpace", "SearchResult", "TrialRecord", "search"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
