"""Search over SE blocks with keras-tuner. Needs `keras-se[tuning]`.

Everything is loaded at first use, so that the command line can say something before Keras loads.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.decision import Decision
    from tuning.hypermodel import SEHyperModel
    from tuning.main_effects import MainEffects
    from tuning.records import SearchWarning, TrialRecord
    from tuning.result import SearchResult
    from tuning.rounds import NoCandidateError
    from tuning.scores import ScoreTable
    from tuning.searching import search
    from tuning.select import Cheapest, StructuralRisk
    from tuning.space import SESpace

_LAZY = {
    "Cheapest": "tuning.select",
    "Decision": "tuning.decision",
    "MainEffects": "tuning.main_effects",
    "NoCandidateError": "tuning.rounds",
    "SEHyperModel": "tuning.hypermodel",
    "SESpace": "tuning.space",
    "ScoreTable": "tuning.scores",
    "SearchResult": "tuning.result",
    "StructuralRisk": "tuning.select",
    "SearchWarning": "tuning.records",
    "TrialRecord": "tuning.records",
    "search": "tuning.searching",
}

__all__ = [
    "Cheapest",
    "Decision",
    "MainEffects",
    "NoCandidateError",
    "SEHyperModel",
    "SESpace",
    "ScoreTable",
    "SearchResult",
    "SearchWarning",
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
