"""What a selection rule takes and gives: scores and a decision. Plain numbers, no models."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from tuning.choice.errors import input_error

Direction = Literal["min", "max"]
_Score = TypeVar("_Score", float, np.ndarray)

MIN_SEEDS = 3  # with fewer seeds, a search only screens candidates and does not compare them


def as_loss(score: _Score, direction: str) -> _Score:
    """Returns a score as a loss, of which low is good."""
    return -score if direction == "max" else score


@dataclass(frozen=True)
class ScoreTable:
    """Scores of K candidates on n seeds, with the cost of each candidate.

    A rule compares scores within a seed, so all candidates must share what the seed determines:
    the initial weights and the order of the data.

    Attributes:
        names: Distinct names of the candidates, in the order of the space.
        scores: K rows of n scores, n at least 3. Column j holds seed j for every candidate.
            Infinity: the candidate failed on that seed. NaN: it failed or was not trained on it.
        parameters: Exact parameter count of each candidate's model, which is its cost.
        complexity: ΣC²/r over the SE blocks of each candidate, half their weights; 0 without SE.
        direction: `"min"` or `"max"`: whether low or high scores are better.
        first_seeds: Number of leading columns that every candidate was trained on; a rule asked
            for the others, for some candidates only. `None` means all columns.

    Raises:
        InputError: If a length, a name, a cost or another value is invalid.

    Example:
        >>> table = ScoreTable(("r=2", "r=4"), [[0.3, 0.4, 0.2], [0.5, float("nan"), 0.4]],
        ...                    (300, 200), (128.0, 64.0))
        >>> table.seeds, table.complete
        (3, (0,))
    """

    names: Sequence[str]
    scores: Sequence[Sequence[float]]
    parameters: Sequence[int]
    complexity: Sequence[float]
    direction: Direction = "min"
    first_seeds: int | None = None

    def __post_init__(self) -> None:
        names = self.names
        # A string is a sequence of distinct characters, too.
        if isinstance(names, str) or not len(names) or len(set(names)) != len(names):
            raise input_error(
                "names must be a sequence of different names, at least one. "
                f"Received: names={names!r}"
            )
        rows = tuple(tuple(float(score) for score in row) for row in self.scores)
        lengths = {len(row) for row in rows}
        if len(rows) != len(names) or len(lengths) > 1 or min(lengths) < MIN_SEEDS:
            raise input_error(
                "scores must hold one row for each candidate, of one length of at least "
                f"{MIN_SEEDS} seeds. Received: {len(names)} names and rows of lengths "
                f"{[len(row) for row in rows]}"
            )
        for name in ("parameters", "complexity"):
            costs = getattr(self, name)
            finite = all(math.isfinite(cost) and cost >= 0 for cost in costs)
            if len(costs) != len(rows) or not finite:
                raise input_error(
                    f"{name} must hold one finite number of at least 0 for each candidate. "
                    f"Received: {len(rows)} candidates and {name}={costs!r}"
                )
            # The class is frozen; tuples keep later changes of the caller's lists out of it.
            object.__setattr__(self, name, tuple(costs))
        if self.direction not in ("min", "max"):
            raise input_error(
                f"direction must be 'min' or 'max'. Received: direction={self.direction!r}"
            )
        first = len(rows[0]) if self.first_seeds is None else self.first_seeds
        if not MIN_SEEDS <= first <= len(rows[0]):
            raise input_error(
                f"first_seeds must be from {MIN_SEEDS} to the number of seeds, {len(rows[0])}. "
                f"Received: first_seeds={self.first_seeds!r}"
            )
        object.__setattr__(self, "first_seeds", first)
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "scores", rows)

    @property
    def seeds(self) -> int:
        """Number of seeds, n."""
        return len(self.scores[0])

    @property
    def complete(self) -> tuple[int, ...]:
        """Indices of the candidates that have a finite score on every seed."""
        return tuple(np.flatnonzero(np.isfinite(self.losses).all(axis=1)).tolist())

    @property
    def ruled_out(self) -> tuple[str, ...]:
        """Names of the candidates without further seeds: finite first, NaN on a later seed."""
        first, rest = self.losses[:, : self.first_seeds], self.losses[:, self.first_seeds :]
        # NaN alone means "not trained" here: a trial that failed on a later seed is infinite.
        waived = np.isfinite(first).all(axis=1) & np.isnan(rest).any(axis=1)
        waived &= ~np.isinf(rest).any(axis=1)
        return tuple(name for name, is_waived in zip(self.names, waived, strict=True) if is_waived)

    @property
    def losses(self) -> np.ndarray:
        """Scores as losses, where lower is better: shape (K, n)."""
        return as_loss(np.array(self.scores), self.direction)


@dataclass(frozen=True)
class Standing:
    """One candidate compared with the best one.

    Attributes:
        name: Name of the candidate.
        parameters: Parameter count of its model.
        complexity: ΣC²/r over its SE blocks.
        mean: Mean score over the seeds, in units of the metric.
        objective: Mean of the value that the rule compares, lower is better: J or a loss.
        difference: d_c, mean paired difference of the objective to the best, at least 0.
        upper: Upper bound on the loss against the best of the other candidates. All these bounds
            hold at once with 95 % probability.
    """

    name: str
    parameters: int
    complexity: float
    mean: float
    objective: float
    difference: float
    upper: float


@dataclass(frozen=True)
class Decision:
    """A choice among candidates, and its statistics.

    Attributes:
        chosen: Name of the candidate that the rule chooses: the best so far if `further` has any.
        best: Name of c*, the candidate with the best mean.
        resolved: Whether the seeds suffice for the rule's criterion.
        tied: Names of c* and of all candidates that do not differ significantly from it, in the
            order of the space. They include the truly best candidate with 95 % probability.
        undecided: Only for `Cheapest`: names of the candidates that cost less than the chosen one
            and whose loss is not shown to be below or above the tolerance.
        further: Names of the candidates that need more seeds; empty if none do.
        seeds: n, the number of seeds of this decision.
        seeds_wanted: Number of seeds, earlier ones included, that each candidate in `further` needs
            before the rule is applied again; `seeds` if `further` is empty.
        dropped: Names of the candidates without a finite score on every seed, or with a run that
            lies far off all others, as after it diverged to a large, yet finite loss.
        noise: σ, standard deviation of the residuals; `None` if only one candidate finished.
        degrees: Degrees of freedom of σ, (K-1)(n-1) for the first seeds.
        margin: q·σ·√(2/n), the smallest difference that is significant.
        standings: The complete candidates, in the order of the space.
        sentence: The decision in words.
        constant: Names of compared candidates with one score on all seeds: they may not learn.
    """

    chosen: str
    best: str
    resolved: bool
    tied: tuple[str, ...]
    undecided: tuple[str, ...]
    further: tuple[str, ...]
    seeds: int
    seeds_wanted: int
    dropped: tuple[str, ...]
    noise: float | None
    degrees: int
    margin: float
    standings: tuple[Standing, ...]
    sentence: str
    constant: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the decision as plain values that can be written as JSON."""
        return dataclasses.asdict(self)
