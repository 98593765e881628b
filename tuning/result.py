"""What a search leaves: its trials, and the settings of the best one."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TrialRecord:
    """One candidate, trained and measured.

    Attributes:
        settings: The arguments of `SEBlock` that were tried.
        status: `"completed"` or `"failed"`.
        metrics: By name, the value after the last epoch; empty if the trial failed.
        parameters: Number of parameters of the model, 0 if it could not be built.
        cause: Last line of the error, empty if there was none.
    """

    settings: Mapping[str, Any]
    status: str
    metrics: Mapping[str, float]
    parameters: int
    cause: str = ""


@dataclass(frozen=True)
class SearchResult:
    """The outcome of `tuning.search`.

    Attributes:
        objective: Name of the metric that was minimized or maximized.
        seed: The seed that every candidate was trained with. One seed is a screening: it does not
            tell close candidates apart.
        epochs: Epochs per candidate.
        trials: Every candidate, in the order of the grid.
        settings: Settings of the best candidate.
        plan: The same per site, as `keras_se.insert` takes it.
    """

    objective: str
    seed: int
    epochs: int
    trials: tuple[TrialRecord, ...]
    settings: Mapping[str, Any]
    plan: Mapping[str, Mapping[str, Any]]

    def to_json(self) -> str:
        """The result as JSON text; metrics that are NaN or infinite become null."""
        content = dataclasses.asdict(self)
        for trial in content["trials"]:
            metrics = trial["metrics"].items()
            trial["metrics"] = {k: v if math.isfinite(v) else None for k, v in metrics}
        return json.dumps(content, indent=2, allow_nan=False)
