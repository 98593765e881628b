"""What the folder of a search shows before the search has finished."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from keras_se.errors import InputError
from keras_se.untrusted import read_toml
from tuning.choice.rules import Rule
from tuning.choice.scores import MIN_SEEDS, Decision, ScoreTable, as_loss
from tuning.deployed.record import DeployedRecord
from tuning.objectives import get_objective, metric_direction
from tuning.trials.job import MAX_JOB
from tuning.trials.records import Record, TrialRecord, read_record

UNFINISHED = "The search has not finished."  # how the sentence of its result begins
_Kept = TypeVar("_Kept", bound=Record)


def so_far(folder: Path) -> dict[str, Any]:
    """Returns the fields of the result of a search that has not finished."""
    job = _job(folder / "job.toml")
    rule = get_objective(job["objective"])
    records, direction = _records(folder / "records", TrialRecord), metric_direction(rule)
    if not any(record.completed for record in records):
        raise InputError(
            "A report needs a search with a completed trial. "
            f"Received: {folder}, with {len(records)} records"
        )
    decision = _decision(rule, records, job["seeds"], direction)
    best = min(
        (record for record in records if record.completed),
        key=lambda record: (_objective(rule, record, direction), record.parameters),
    )
    label = best.label if decision is None else decision.chosen
    sentence = (
        f"{label} has the best score of a single training, which may be chance: it takes "
        f"{MIN_SEEDS} seeds or more to tell candidates apart."
    )
    if decision is not None:
        sentence = f"So far: {decision.sentence}"
    return {
        "objective": rule.name,
        "metric": rule.metric,
        "direction": direction,
        "epochs": job["epochs"],
        "seeds": tuple(job["seeds"]),
        "records": tuple(records),
        "chosen": label,
        "values": next(record.values for record in records if record.label == label),
        "plan": None,
        "placement": None,
        "decision": decision,
        "sentence": f"{UNFINISHED} {sentence}",
        "deployed": tuple(
            record
            for record in _records(folder / "deployed", DeployedRecord)
            if record.format == job.get("deployed")
        ),
    }


def _objective(rule: Rule, record: TrialRecord, direction: Any) -> float:
    """Returns what a finished search orders single trainings by, as a loss."""
    value = rule.value(float(record.score or 0.0), record.complexity, direction)
    return as_loss(value, rule.objective(direction)[1])


def _job(path: Path) -> dict[str, Any]:
    try:
        job = read_toml(path, MAX_JOB)
        objective, epochs, seeds = job["objective"], job["epochs"], job["seeds"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            "A report needs the folder of a search, with its job.toml. "
            f"Received: {str(path.parent)!r}: {type(error).__name__}: {error}"
        ) from error
    valid = isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds)
    if not valid or not isinstance(objective, str) or not isinstance(epochs, int):
        raise InputError(
            "The job.toml of a search must hold its objective, epochs and a list of seeds. "
            f"Received: {path}, in which they are something else"
        )
    return job


def _records(folder: Path, kind: type[_Kept]) -> list[_Kept]:
    """Returns the whole records; the search itself sets damaged ones aside."""
    records = []
    for path in sorted(folder.glob("*.json")):
        try:
            records.append(read_record(path, kind))
        except (OSError, ValueError):
            continue
    return records


def _decision(
    rule: Rule, records: Sequence[TrialRecord], seeds: Sequence[int], direction: Any
) -> Decision | None:
    """Applies the rule to the candidates that have finished on the first seeds, if any have."""
    found: dict[str, dict[int, TrialRecord]] = {}
    for record in records:
        found.setdefault(record.label, {})[record.seed] = record
    ready = {label: own for label, own in found.items() if set(seeds) <= set(own)}
    scores = [
        [math.inf if own[seed].score is None else float(own[seed].score or 0.0) for seed in seeds]
        for own in ready.values()
    ]
    if len(seeds) < MIN_SEEDS or not any(all(map(math.isfinite, row)) for row in scores):
        return None
    first = [own[seeds[0]] for own in ready.values()]
    return rule.choose(
        ScoreTable(
            names=tuple(ready),
            scores=scores,
            parameters=[record.parameters for record in first],
            complexity=[record.complexity for record in first],
            direction=direction,
        )
    )
