"""Rounds of a search: all candidates, further seeds for some, and the winner on fresh seeds."""

import dataclasses
import math
import warnings
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_se.errors import InputError
from tuning.choice.decision import Decision
from tuning.choice.ratio_fit import RatioFit, fit_ratio
from tuning.choice.rules import StructuralRisk
from tuning.choice.scores import MIN_SEEDS, ScoreTable
from tuning.objectives import Rule, objective_value
from tuning.result import Confirmation
from tuning.running.exhaustive import ExhaustiveOracle
from tuning.running.main_effects import MainEffects
from tuning.running.runners import Runner, Task
from tuning.running.tuner import SearchTuner, drive
from tuning.trials.candidate import Candidate
from tuning.trials.job import Job
from tuning.trials.records import Records, SearchWarning, TrialRecord, run_key
from tuning.trials.training import weights_path

# First seeds of the finalists and of the confirmation; `search` takes only seeds below them.
FINAL, FRESH = 1_000_000, 2_000_000


class NoCandidateError(InputError):
    """Raised when no candidate of a search finishes."""


class Rounds:
    """Runs one search, round by round. Trials with a record do not run again."""

    def __init__(
        self,
        job: Job,
        rule: Rule,
        seeds: Sequence[int],
        tuner: SearchTuner,
        runner: Runner,
        records: Records,
        folder: Path,
        *,
        keep_weights: int,
        fingerprint: str,
        on_record: Callable[[TrialRecord], Any] | None = None,
    ) -> None:
        self._job, self._rule, self._tuner, self._runner = job, rule, tuner, runner
        self._records, self._folder, self._keep = records, folder, keep_weights
        self._fingerprint, self._on_record = fingerprint, on_record
        self._sign = -1.0 if job.direction == "max" else 1.0  # of a score as a loss
        self.seeds = tuple(seeds)
        self.candidates: list[Candidate] = []
        self._chosen_on = self.seeds

    def explore(self) -> None:
        """Trains every candidate that the oracle proposes from the first seeds."""
        self._tuner.search(self._runner, self.seeds, self._done)
        oracle = self._tuner.oracle
        self.candidates = self._tuner.candidates()
        if isinstance(oracle, ExhaustiveOracle):
            # The order of the space, without trials that a kept folder holds beyond it.
            self.candidates = list(map(self._tuner.candidate, oracle.all_values()))
        if isinstance(oracle, MainEffects):
            self._check_finished(self.seeds)
            self.candidates = list(map(self._tuner.candidate, oracle.finalists()))
            # The best of many noisy scores is too good, so the finalists get new seeds.
            self.seeds = tuple(range(FINAL, FINAL + max(MIN_SEEDS, len(self.seeds))))
            self._run(self.candidates, self.seeds)
        self._check_finished(self.seeds)

    def decide(self) -> tuple[Candidate, Decision | None, str]:
        """Applies the rule, and trains the further seeds that it asks for, until it is done."""
        self._chosen_on = self.seeds
        if len(self.seeds) < MIN_SEEDS:
            return self._screened()
        first, seeds, members = len(self.seeds), list(self.seeds), self.candidates
        while True:
            decision = self._rule.choose(self._table(seeds, first))
            if not decision.further:
                break
            members = [c for c in self.candidates if c.label in decision.further]
            added = self._further(seeds, decision.seeds_wanted)
            seeds += added
            self._run(members, added)
            # `MainEffects` predicts from the first seeds; new scores would change its plan.
            if not isinstance(self._tuner.oracle, MainEffects):
                for candidate in members:
                    self._tuner.resettle(candidate, seeds)
        self._chosen_on = tuple(seeds)
        chosen = next(c for c in self.candidates if c.label == decision.chosen)
        return chosen, decision, decision.sentence

    def confirm(self, chosen: Candidate, fresh: int) -> Confirmation | None:
        """Trains the winner from fresh seeds and evaluates it on the test data."""
        seeds = range(FRESH, FRESH + fresh)
        self._run([chosen], seeds, tested=True)
        found = [self._records.get(chosen.id, seed) for seed in seeds]
        records = [record for record in found if record is not None and record.completed]
        if not records:
            return None
        scores = [float(record.score or 0.0) for record in records]
        # A record of an older job may lack metrics; a mean needs them from all records.
        names = set.intersection(*(set(record.test) for record in self._tested(records)))
        before = [self._loss(chosen, seed) for seed in self._chosen_on]
        return Confirmation(
            seeds=tuple(record.seed for record in records),
            mean=float(np.mean(scores)),
            deviation=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
            chosen_mean=float(np.mean(before)),
            test={n: float(np.mean([r.test[n] for r in records])) for n in sorted(names)},
        )

    def _tested(self, records: list[TrialRecord]) -> list[TrialRecord]:
        """Returns the records, without test metrics if those may come from other data."""
        has_test = self._job.data.parts["test"] is not None or any(r.test for r in records)
        if has_test and any(record.fingerprint != self._fingerprint for record in records):
            warnings.warn(
                "The winner is measured on test data when it is trained from its fresh seeds. "
                "Received: records of the job as it was before a change was accepted, so that no "
                f"test metrics are given; remove its records of seeds from {FRESH} on to have them",
                SearchWarning,
                stacklevel=2,
            )
            return [dataclasses.replace(record, test={}) for record in records]
        return records

    def ratio_fit(self, chosen: Candidate) -> RatioFit | None:
        """Fits the optimal ratio to the candidates that differ from the winner in it alone."""
        # r* needs λ, the price of complexity.
        if not isinstance(self._rule, StructuralRisk) or self._rule.weight == 0.0:
            return None
        family = [c for c in self.candidates if _but_ratio(c) == _but_ratio(chosen)]
        family = [c for c in family if "se_ratio" in c.values and self._finished(c, self.seeds)]
        if len(family) < 2 or len(self.seeds) < 2:
            return None
        losses = np.array([[self._sign * self._loss(c, s) for s in self.seeds] for c in family])
        ratios = [float(candidate.values["se_ratio"]) for candidate in family]
        complexity = self._record(family[0], self.seeds[0]).complexity
        # Complexity is ΣC²/r, so its product with r is S = ΣC².
        return fit_ratio(ratios, losses, complexity * ratios[0], self._rule.weight)

    def _screened(self) -> tuple[Candidate, None, str]:
        """Chooses the best mean if there are too few seeds to compare candidates."""
        finished = [c for c in self.candidates if self._finished(c, self.seeds)]
        chosen = min(finished, key=self._mean_objective)
        number = f"{len(self.seeds)} seed{'s' * (len(self.seeds) > 1)}"
        return (
            chosen,
            None,
            (
                f"{chosen.label} has the best mean on {number}, a screening: it takes "
                f"{MIN_SEEDS} or more to tell candidates apart."
            ),
        )

    def _mean_objective(self, candidate: Candidate) -> tuple[float, int]:
        """Returns a sort key: low is good, and fewer parameters break a tie."""
        mean = float(np.mean([self._loss(candidate, seed) for seed in self.seeds]))
        record = self._record(candidate, self.seeds[0])
        value = objective_value(self._rule, self._job.direction, mean, record.complexity)
        is_risk = isinstance(self._rule, StructuralRisk)  # J is a loss already
        return value if is_risk else self._sign * value, record.parameters

    def _table(self, seeds: Sequence[int], first: int) -> ScoreTable:
        sizes = [self._sizes(candidate, seeds) for candidate in self.candidates]
        return ScoreTable(
            names=[candidate.label for candidate in self.candidates],
            scores=[[self._loss(c, seed) for seed in seeds] for c in self.candidates],
            parameters=[size[0] for size in sizes],
            complexity=[size[1] for size in sizes],
            direction=self._job.direction,
            first_seeds=first,
        )

    def _sizes(self, candidate: Candidate, seeds: Sequence[int]) -> tuple[int, float]:
        found = [self._records.get(candidate.id, seed) for seed in seeds]
        # A trial that failed before its model was built counts no parameters.
        known = [(r.parameters, r.complexity) for r in found if r is not None and r.parameters]
        return known[0] if known else (0, 0.0)

    def _loss(self, candidate: Candidate, seed: int) -> float:
        """Returns the score; NaN if the candidate was not trained, infinity if it failed."""
        record = self._records.get(candidate.id, seed)
        if record is None:
            return math.nan
        return math.inf if record.score is None else record.score

    def _record(self, candidate: Candidate, seed: int) -> TrialRecord:
        record = self._records.get(candidate.id, seed)
        if record is None:
            raise KeyError(run_key(candidate.id, seed))
        return record

    def _finished(self, candidate: Candidate, seeds: Sequence[int]) -> bool:
        return all(math.isfinite(self._loss(candidate, seed)) for seed in seeds)

    def _check_finished(self, seeds: Sequence[int]) -> None:
        if any(self._finished(candidate, seeds) for candidate in self.candidates):
            return
        found = [self._records.get(c.id, seed) for c in self.candidates for seed in seeds]
        causes = [record.cause for record in found if record is not None and record.cause]
        raise NoCandidateError(
            "At least one candidate of a search must finish on every seed. Received: "
            f"{len(causes)} failures, the first: {causes[0] if causes else 'none was tried'}; "
            "their records stay: once the cause is gone, search with overwrite or a new directory"
        )

    def _further(self, seeds: Sequence[int], wanted: int) -> list[int]:
        following = max(seeds) + 1
        return list(range(following, following + wanted - len(seeds)))

    def _run(
        self, candidates: Sequence[Candidate], seeds: Sequence[int], tested: bool = False
    ) -> None:
        tasks = deque(
            Task(candidate, seed, tested)
            for seed in seeds
            for candidate in candidates
            if self._records.get(candidate.id, seed) is None
        )
        drive(self._runner, lambda: tasks.popleft() if tasks else None, self._done)

    def _done(self, record: TrialRecord) -> None:
        self._drop_weights()
        if self._on_record is not None:
            self._on_record(record)

    def _drop_weights(self) -> None:
        """Keeps the weights of the best trials and of the winner's fresh seeds."""
        # `SearchResult.model` returns the model of a fresh seed.
        scored = [r for r in self._records if r.score is not None and r.seed < FRESH]
        for record in sorted(scored, key=lambda r: self._sign * (r.score or 0.0))[self._keep :]:
            key = run_key(record.candidate, record.seed)
            weights_path(self._folder, key).unlink(missing_ok=True)


def _but_ratio(candidate: Candidate) -> dict[str, Any]:
    return {name: value for name, value in candidate.values.items() if name != "se_ratio"}
