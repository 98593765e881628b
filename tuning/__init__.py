"""Search over SE blocks with keras-tuner. Needs `keras-se[tuning]`.

Everything is loaded at first use, so that the command line can say something before Keras loads.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuning.choice.rules import Cheapest, StructuralRisk
    from tuning.choice.scores import Decision, ScoreTable
    from tuning.deployed.record import DeployedRecord
    from tuning.hypermodel import SEHyperModel
    from tuning.oracles.main_effects import MainEffects
    from tuning.result import SearchResult
    from tuning.running.budget import Budget
    from tuning.running.stages import NoCandidateError
    from tuning.searching import search
    from tuning.space import SESpace
    from tuning.trials.records import SearchWarning, TrialRecord

_LAZY = {
    "Budget": "tuning.running.budget",
    "Cheapest": "tuning.choice.rules",
    "Decision": "tuning.choice.scores",
    "DeployedRecord": "tuning.deployed.record",
    "MainEffects": "tuning.oracles.main_effects",
    "NoCandidateError": "tuning.running.stages",
    "SEHyperModel": "tuning.hypermodel",
    "SESpace": "tuning.space",
    "ScoreTable": "tuning.choice.scores",
    "SearchResult": "tuning.result",
    "StructuralRisk": "tuning.choice.rules",
    "SearchWarning": "tuning.trials.records",
    "TrialRecord": "tuning.trials.records",
    "search": "tuning.searching",
}

# Packages of the extra that modules import at their top.
_EXTRA = ("cloudpickle", "filelock", "keras_tuner", "loky", "scipy", "tomli_w")

__all__ = [
    "Budget",
    "Cheapest",
    "Decision",
    "DeployedRecord",
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


if not TYPE_CHECKING:  # a type checker would pass any name

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = importlib.import_module(_LAZY[name])
        except ModuleNotFoundError as error:
            from keras_se.errors import import_extra  # late: keras_se loads Keras

            # The only check of this extra: it names what to install.
            if error.name is not None and error.name.split(".")[0] in _EXTRA:
                import_extra(error.name, "tuning")
            raise
        return getattr(module, name)


def __dir__() -> list[str]:
    return [*globals(), *_LAZY]
