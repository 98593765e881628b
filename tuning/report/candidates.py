"""What the records of a search say of each candidate."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tuning.choice.scores import as_loss

if TYPE_CHECKING:
    from tuning.result import SearchResult
    from tuning.trials.records import TrialRecord


@dataclass(frozen=True)
class Candidate:
    """A candidate and its records on the seeds that are compared.

    Attributes:
        label: Its readable name.
        records: Its records, without those of fresh seeds, which only confirm.
        upper: Upper bound on its loss against the best of the others; `None` without a decision.
    """

    label: str
    records: "tuple[TrialRecord, ...]"
    upper: float | None = None

    @property
    def scores(self) -> list[float]:
        """The scores of the trials that completed."""
        return [record.score for record in self.records if record.score is not None]

    @property
    def mean(self) -> float:
        """The mean score; NaN if no trial completed."""
        return math.fsum(self.scores) / len(self.scores) if self.scores else math.nan

    @property
    def deviation(self) -> float | None:
        """Standard deviation over seeds; `None` for fewer than two."""
        count, mean = len(self.scores), self.mean
        if count < 2:
            return None
        return math.sqrt(math.fsum((score - mean) ** 2 for score in self.scores) / (count - 1))

    @property
    def parameters(self) -> int:
        """Number of parameters; 0 if no model was built."""
        return max((record.parameters for record in self.records), default=0)

    @property
    def flops(self) -> int | None:
        """Floating-point operations for one sample; `None` if they are not known."""
        return next((record.flops for record in self.records if record.flops is not None), None)

    @property
    def complexity(self) -> float:
        """ΣC²/r over its SE blocks."""
        return max((record.complexity for record in self.records), default=0.0)

    @property
    def seconds(self) -> float:
        """Wall time of all its trials."""
        return math.fsum(record.seconds for record in self.records)


def candidates(result: "SearchResult") -> list[Candidate]:
    """Returns the candidates of a search, in the order of their first record."""
    standings = () if result.decision is None else result.decision.standings
    upper = {standing.name: standing.upper for standing in standings}
    grouped: dict[str, list[TrialRecord]] = {}
    for record in result.records:
        if not record.is_fresh:
            grouped.setdefault(record.label, []).append(record)
    return [Candidate(label, tuple(own), upper.get(label)) for label, own in grouped.items()]


def pareto_front(
    found: Sequence[Candidate], direction: str, costs: Sequence[str] = ("parameters", "flops")
) -> list[Candidate]:
    """Returns the candidates that no other beats in both mean score and costs, with rising costs.

    A cost that is not known of all of them does not count.
    """
    finished = [each for each in found if each.scores]
    known = [cost for cost in costs if all(getattr(each, cost) is not None for each in finished)]
    points = [
        (as_loss(each.mean, direction), *(getattr(each, cost) for cost in known))
        for each in finished
    ]
    return [finished[number] for number in front(points)]


def front(points: Sequence[tuple[float, ...]]) -> list[int]:
    """Returns the numbers of the points that no other is below, sorted by all but their first.

    Of equal ones it has the first.
    """
    order = sorted(range(len(points)), key=lambda n: (*points[n][1:], points[n][0]))
    kept: list[int] = []
    for number in order:
        # What comes later in this order is below none of those before, unless it is equal.
        if not any(_is_below(points[other], points[number]) for other in kept):
            kept.append(number)
    return kept


def _is_below(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def levels(found: Iterable[Candidate]) -> "dict[str, dict[object, list[float]]]":
    """Returns the scores by hyperparameter and value, of those with scores of several values."""
    scores: dict[str, dict[object, list[float]]] = {}
    for each in found:
        for record in each.records:
            for name, value in record.values.items():
                if record.score is not None and not name.startswith("tuner/"):  # Hyperband's own
                    scores.setdefault(name, {}).setdefault(value, []).append(record.score)
    return {name: by_value for name, by_value in scores.items() if len(by_value) > 1}
