"""What a search will cost, said before it trains."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from keras_se.display.pace import clock
from tuning.choice.rules import Rule
from tuning.choice.scores import MIN_SEEDS
from tuning.folder.search_folder import SearchFolder
from tuning.oracles.exhaustive import ExhaustiveOracle
from tuning.oracles.table import expected_trials
from tuning.running.settings import SearchSettings
from tuning.running.tuner import SearchTuner
from tuning.trials.records import FINAL, FRESH, TrialRecord


@dataclass(frozen=True)
class Budget:
    """The trainings that a search has before it.

    Attributes:
        planned: Trainings to come, the finalists' and the winner's included; `None` if the oracle
            does not tell how many trials it has.
        at_most: Trainings to come if the rule asks for all further seeds that it may ask for.
        records: The records that are there already and are not made again.
        workers: Number of trainings at a time.
        files: Files to judge, at most; `None` if the oracle does not tell. `at_most` has a training
            for each of them, whose weights may not have been kept.

    Example:
        >>> print(Budget(planned=14, at_most=38))
        14 trainings to come, at most 38.
        >>> print(Budget(planned=14, at_most=38, workers=2).pace(3.0))
        At 3 s a training, 2 at a time, about 0:21, at most 0:57.
    """

    planned: int | None
    at_most: int | None
    records: tuple[TrialRecord, ...] = ()
    workers: int = 1
    files: int | None = 0

    @property
    def seconds(self) -> float | None:
        """Mean wall time of a training on record; `None` if none has completed."""
        known = [record.seconds for record in self.records if record.completed]
        return sum(known) / len(known) if known else None

    def pace(self, seconds: float, done: int = 0) -> str:
        """Returns how long the trainings take that are to come after `done` of these."""
        at_a_time = f", {self.workers} at a time" if self.workers > 1 else ""
        text = f"At {seconds:.2g} s a training{at_a_time}"
        if self.planned is None or self.at_most is None:
            return f"{text}, for an unknown number of trainings."
        text += f", about {clock((self.planned - done) * seconds / self.workers)}"
        if self.at_most > self.planned:
            text += f", at most {clock((self.at_most - done) * seconds / self.workers)}"
        return f"{text}."

    def __str__(self) -> str:
        sentence = "As many trainings to come as the oracle proposes"
        if self.planned is not None and self.at_most is not None:
            sentence = f"{self.planned} training{'s' * (self.planned != 1)} to come"
            sentence += f", at most {self.at_most}" * (self.at_most > self.planned)
        if self.files != 0:
            number = "" if self.files is None else f"at most {self.files} "
            sentence += f", {number}file{'s' * (self.files != 1)} to judge"
        if self.records:
            sentence += f"; {len(self.records)} on record already, which are not run again"
        # Without records the first trial shows the pace.
        pace = "" if self.seconds is None or not self.planned else f" {self.pace(self.seconds)}"
        return f"{sentence}.{pace}"


def plan_budget(
    oracle: Any,
    settings: SearchSettings,
    max_seeds: int,
    records: Sequence[TrialRecord],
    workers: int = 1,
    judged: int = 0,
) -> Budget:
    """Returns the budget of a search whose rule takes up to `max_seeds` seeds.

    `judged`: number of files that have a record.
    """
    trials, compared = expected_trials(oracle)
    if trials is None or compared is None:
        unknown = 0 if settings.deployed is None else None
        return Budget(None, None, tuple(records), workers, unknown)
    files = 0 if settings.deployed is None else max(0, compared - judged)
    first = len(settings.seeds)
    has_finalists = hasattr(oracle, "finalists")
    finals = max(MIN_SEEDS, first) if has_finalists else 0
    seeds = [record.seed for record in records]
    known = sum(seed in settings.seeds for seed in seeds)
    known_finals = sum(FINAL <= seed < FINAL + finals for seed in seeds)
    known_fresh = sum(FRESH <= seed < FRESH + settings.fresh_seeds for seed in seeds)
    planned = max(0, trials * first - known)
    planned += max(0, compared * finals - known_finals)
    planned += max(0, settings.fresh_seeds - known_fresh)
    compares = finals or first
    # Fewer seeds are a screening, without a rule that asks for more.
    further = compared * max(0, max_seeds - compares) if compares >= MIN_SEEDS else 0
    known_further = len(seeds) - known - known_finals - known_fresh
    at_most = planned + max(0, further - known_further) + files
    return Budget(planned, at_most, tuple(records), workers, files)


def budget_of(
    tuner: SearchTuner, settings: SearchSettings, rule: Rule, folder: SearchFolder, workers: int
) -> Budget:
    """Returns the budget of a search in its folder."""
    records = list(folder.records)
    if isinstance(tuner.oracle, ExhaustiveOracle):
        # A folder may hold records of candidates that are beyond the space now.
        known = {candidate.id for candidate in tuner.candidates()}
        records = [record for record in records if record.candidate in known]
    judged = 0
    if settings.deployed is not None:
        judged = sum(record.format == settings.deployed for record in folder.deployed)
    max_seeds = getattr(rule, "max_seeds", 0)
    return plan_budget(tuner.oracle, settings, max_seeds, records, workers, judged)
