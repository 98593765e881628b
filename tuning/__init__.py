"""Search over SE blocks with keras-tuner. Needs `keras-se[tuning]`.

Everything is loaded at first use, so that the command line can say something before Keras loads.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.decision import Decision
    from tuning.hypermodel import SEHyperModel
    from tuning.result import SearchResult, TrialRecord
    from tuning.scores import ScoreTable
    from tuning.searching import search
    from tuning.select import Cheapest, StructuralRisk
    from tuning.space import SESpace

_LAZY = {
    "Cheapest": "tuning.select",
    "Decision": "tuning.decision",
    "SEHyperModel": "tuning.hypermodel",
    "SESpace": "tuning.space",
    "ScoreTable": "tuning.scores",
    "SearchResult": "tuning.result",
    "StructuralRisk": "tuning.select",
    "TrialRecord": "tuning.result",
    "search": "tuning.searching",
}

__all__ = [
    "Cheapest",
    "Decision",
    "SEHyperModel",
    "SESpace",
    "ScoreTable",
    "SearchResult",
    "StructuralRisk",
    "TrialRecord",
    "search",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
