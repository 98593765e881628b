"""Stages of a search: all candidates, further seeds for some, and the winner on fresh seeds."""

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_se.errors import InputError, warn
from tuning.choice.ratio_fit import RatioFit, fit_ratio
from tuning.choice.rules import Rule
from tuning.choice.scores import MIN_SEEDS, Decision, ScoreTable, as_loss
from tuning.deployed.choice import choose_by_file
from tuning.deployed.record import DeployedRecord
from tuning.folder.search_folder import SearchFolder
from tuning.hypermodel import SEHyperModel
from tuning.oracles.main_effects import MainEffects
from tuning.report.candidates import Candidate, pareto_front
from tuning.result import Confirmation, SearchResult
from tuning.running.file_judge import FileJudge
from tuning.running.runners import Runner, execute
from tuning.running.settings import SearchSettings
from tuning.running.tuner import SearchTuner
from tuning.trials.combination import Combination
from tuning.trials.job import Job
from tuning.trials.perform import Run
from tuning.trials.records import FINAL, FRESH, SearchWarning, TrialRecord


class NoCandidateError(InputError):
    """Raised when no candidate of a search finishes."""


class Stages:
    """Runs one search, stage by stage. Trials with a record do not run again."""

    def __init__(
        self,
        job: Job,
        settings: SearchSettings,
        rule: Rule,
        folder: SearchFolder,
        tuner: SearchTuner,
        runner: Runner,
        on_record: Sequence[Callable[[TrialRecord], Any]] = (),
        say: Callable[[str], Any] = lambda doing: None,
    ) -> None:
        self._job, self._settings, self._rule = job, settings, rule
        self._folder, self._tuner, self._runner = folder, tuner, runner
        self._records, self._on_record, self._say = folder.records, on_record, say
        self._has_finalists = isinstance(tuner.oracle, MainEffects)
        self.seeds = settings.seeds
        self.candidates: list[Combination] = []

    def result(self) -> SearchResult:
        """Runs all stages and returns the result of the search."""
        self.explore()
        chosen, decision, sentence = self.decide()
        chosen, deployed, remark = self.judge_files(chosen, decision)
        confirmation, job = self.confirm(chosen), self._job
        hypermodel = job.hypermodel if isinstance(job.hypermodel, SEHyperModel) else None
        # Records of other candidates, such as the short runs of Hyperband, come last.
        order = {candidate.id: number for number, candidate in enumerate(self.candidates)}
        records = sorted(
            self._records, key=lambda r: (order.get(r.candidate, len(order)), r.label, r.seed)
        )
        return SearchResult(
            objective=self._rule.name,
            metric=job.metric,
            direction=job.direction,
            epochs=job.epochs,
            seeds=self._settings.seeds,
            chosen=chosen.label,
            values=chosen.values,
            plan=hypermodel and hypermodel.plan(chosen.hyperparameters),
            placement=hypermodel and hypermodel.placement(chosen.hyperparameters),
            decision=decision,
            sentence=f"{sentence} {remark}".rstrip(),
            confirmation=confirmation,
            ratio_fit=self.ratio_fit(chosen),
            records=tuple(records),
            deployed=deployed,
            job=job,
            folder=self._folder.path,
        )

    def explore(self) -> None:
        """Trains every candidate that the oracle proposes from the first seeds."""
        self._tuner.search(self._runner, self.seeds, self._done)
        self.candidates = self._tuner.candidates()
        if self._has_finalists:
            self._check_finished()
            self.candidates = list(map(self._tuner.candidate, self._tuner.oracle.finalists()))
            # The best of many noisy scores is too good, so the finalists get new seeds.
            self.seeds = tuple(range(FINAL, FINAL + max(MIN_SEEDS, len(self.seeds))))
            self._train(self.candidates, self.seeds)
        self._check_finished()

    def decide(self) -> tuple[Combination, Decision | None, str]:
        """Applies the rule, and trains the further seeds that it asks for, until it is done."""
        self._chosen_on = self.seeds
        if len(self.seeds) < MIN_SEEDS:
            return self._screen()
        seeds = list(self.seeds)
        while (decision := self._rule.choose(self._table(seeds))).further:
            members = [c for c in self.candidates if c.label in decision.further]
            following = max(seeds) + 1
            added = range(following, following + decision.seeds_wanted - len(seeds))
            seeds += added
            self._train(members, added)
            # `MainEffects` predicts from the first seeds; new scores would change its plan.
            if not self._has_finalists:
                for candidate in members:
                    self._tuner.update_score(candidate, seeds)
        self._chosen_on = tuple(seeds)
        chosen = next(c for c in self.candidates if c.label == decision.chosen)
        return chosen, decision, decision.sentence

    def judge_files(
        self, chosen: Combination, decision: Decision | None
    ) -> tuple[Combination, tuple[DeployedRecord, ...], str]:
        """Judges files of the choice, of what is tied with the best and of the Pareto front.

        Returns the choice that they lead to, their records, and a sentence with the reason.
        """
        if self._settings.deployed is None:
            return chosen, (), ""
        tied = () if decision is None else decision.tied
        finished = {c.label: c for c in self.candidates if self._finished(c)}
        front = [c.label for c in pareto_front(self._compared(finished), self._job.direction)]
        labels = dict.fromkeys([chosen.label, *tied, *front])
        # One seed for all: on a shared seed files are compared without the noise between seeds.
        seed, records = self.seeds[0], {}
        with FileJudge(self._job, self._settings, self._folder, self._runner) as judge:
            for number, label in enumerate(labels, start=1):
                self._say(f"file {number} of {len(labels)}: {label}")
                records[label] = judge.record(finished[label], seed)
        self._say("")
        label, sentence = choose_by_file(
            records,
            {name: self._sizes(finished[name], self.seeds)[0] for name in labels},
            tied,
            self._job.metric,
            self._job.direction,
        )
        return finished[label], tuple(records.values()), sentence

    def _compared(self, finished: Mapping[str, Combination]) -> list[Candidate]:
        records = self._records
        return [
            Candidate(label, tuple(r for s in self.seeds if (r := records.get(each.id, s))))
            for label, each in finished.items()
        ]

    def confirm(self, chosen: Combination) -> Confirmation | None:
        """Trains the winner from fresh seeds and evaluates it on the test data."""
        seeds = range(FRESH, FRESH + self._settings.fresh_seeds)
        self._train([chosen], seeds, tested=True)
        records = [r for seed in seeds if (r := self._records.get(chosen.id, seed)) and r.completed]
        if not records:
            return None
        scores = [float(record.score or 0.0) for record in records]
        # A record of an older job may lack metrics; a mean needs them from all records.
        names = set.intersection(*(set(record.test) for record in self._tested(records)))
        return Confirmation(
            seeds=tuple(record.seed for record in records),
            mean=float(np.mean(scores)),
            deviation=float(np.std(scores, ddof=1)) if len(scores) > 1 else None,
            chosen_mean=self._mean(chosen, self._scored(chosen)),
            test={n: float(np.mean([r.test[n] for r in records])) for n in sorted(names)},
        )

    def _scored(self, chosen: Combination) -> list[int]:
        """Returns the seeds of the choice with a score: one by its file may lack further ones."""
        return [seed for seed in self._chosen_on if math.isfinite(self._score(chosen, seed))]

    def _tested(self, records: list[TrialRecord]) -> list[TrialRecord]:
        """Returns the records, without test metrics if those may come from other data."""
        has_test = self._job.data.parts["test"] is not None or any(r.test for r in records)
        old = any(record.fingerprint != self._folder.fingerprint for record in records)
        if not (has_test and old):
            return records
        warn(
            "Test metrics need records of the winner that were trained with these test data. "
            "Received: records from before a change of the job was accepted; there are no test "
            f"metrics until you remove the winner's records of seeds from {FRESH} on",
            SearchWarning,
        )
        return [dataclasses.replace(record, test={}) for record in records]

    def ratio_fit(self, chosen: Combination) -> RatioFit | None:
        """Fits the optimal ratio to the candidates that differ from the winner in it alone."""
        others = _without_ratio(chosen)
        family = [
            c
            for c in self.candidates
            if "se_ratio" in c.values and _without_ratio(c) == others and self._finished(c)
        ]
        # r* needs λ, the price of complexity.
        if not self._rule.weight or len(family) < 2 or len(self.seeds) < 2:
            return None
        scores = np.array([[self._score(c, seed) for seed in self.seeds] for c in family])
        ratios = [float(candidate.values["se_ratio"]) for candidate in family]
        # Complexity is ΣC²/r, so its product with r is S = ΣC².
        squares = self._sizes(family[0], self.seeds)[1] * ratios[0]
        return fit_ratio(ratios, as_loss(scores, self._job.direction), squares, self._rule.weight)

    def _screen(self) -> tuple[Combination, None, str]:
        chosen = min(filter(self._finished, self.candidates), key=self._mean_objective)
        count = len(self.seeds)
        best = "score on 1 seed" if count == 1 else f"mean on {count} seeds"
        sentence = (
            f"{chosen.label} has the best {best}, a screening, which may be chance: it takes "
            f"{MIN_SEEDS} or more to tell candidates apart."
        )
        return chosen, None, sentence

    def _mean_objective(self, candidate: Combination) -> tuple[float, int]:
        parameters, complexity = self._sizes(candidate, self.seeds)
        direction = self._job.direction
        value = self._rule.value(self._mean(candidate, self.seeds), complexity, direction)
        return as_loss(value, self._rule.objective(direction)[1]), parameters

    def _table(self, seeds: Sequence[int]) -> ScoreTable:
        sizes = [self._sizes(candidate, seeds) for candidate in self.candidates]
        return ScoreTable(
            names=[candidate.label for candidate in self.candidates],
            scores=[[self._score(c, seed) for seed in seeds] for c in self.candidates],
            parameters=[parameters for parameters, _ in sizes],
            complexity=[complexity for _, complexity in sizes],
            direction=self._job.direction,
            first_seeds=len(self.seeds),
        )

    def _sizes(self, candidate: Combination, seeds: Sequence[int]) -> tuple[int, float]:
        # A trial that failed before its model was built counts no parameters.
        for seed in seeds:
            if (record := self._records.get(candidate.id, seed)) and record.parameters:
                return record.parameters, record.complexity
        return 0, 0.0

    def _score(self, candidate: Combination, seed: int) -> float:
        """Returns the score; NaN if the candidate was not trained, infinity if it failed."""
        record = self._records.get(candidate.id, seed)
        if record is None:
            return math.nan
        return math.inf if record.score is None else record.score

    def _mean(self, candidate: Combination, seeds: Sequence[int]) -> float:
        return float(np.mean([self._score(candidate, seed) for seed in seeds]))

    def _finished(self, candidate: Combination) -> bool:
        return all(math.isfinite(self._score(candidate, seed)) for seed in self.seeds)

    def _check_finished(self) -> None:
        if any(map(self._finished, self.candidates)):
            return
        found = [self._records.get(c.id, seed) for c in self.candidates for seed in self.seeds]
        causes = [record.cause for record in found if record is not None and record.cause]
        raise NoCandidateError(
            "At least one candidate of a search must finish on every seed. Received: "
            f"{len(causes)} failures, the first: {causes[0] if causes else 'none was tried'}. "
            "Their records stay: remove the cause, then search with overwrite or a new directory"
        )

    def _train(
        self, candidates: Sequence[Combination], seeds: Sequence[int], tested: bool = False
    ) -> None:
        runs = deque(
            Run(candidate, seed, tested)
            for seed in seeds
            for candidate in candidates
            if self._records.get(candidate.id, seed) is None
        )
        execute(self._runner, lambda: runs.popleft() if runs else None, self._done)

    def _done(self, record: TrialRecord) -> None:
        for call in self._on_record:
            call(record)


def _without_ratio(candidate: Combination) -> dict[str, Any]:
    return {name: value for name, value in candidate.values.items() if name != "se_ratio"}
