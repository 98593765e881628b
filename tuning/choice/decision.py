"""The answer of a selection rule."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Standing:
    """One candidate compared with the best one.

    Attributes:
        name: Name of the candidate.
        parameters: Parameter count of its model.
        complexity: ΣC²/r over its SE blocks.
        mean: Mean score over the seeds, in units of the metric.
        objective: Mean of the value that the rule compares, lower is better: J for
            `StructuralRisk`, otherwise the score (with its sign changed if it is maximized).
        difference: d_c, mean paired difference of the objective to that of the best candidate, at
            least 0.
        upper: Upper bound on the loss against the best of the other candidates. The bounds of all
            candidates hold simultaneously with 95 % probability.
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
        chosen: Name of the candidate that the rule chooses. While `further` is not empty, it is
            only the best so far.
        best: Name of c*, the candidate with the best mean.
        resolved: Whether the seeds suffice for the rule's criterion.
        tied: Names of c* and of all candidates that do not differ significantly from it, in the
            order of the space. They include the truly best candidate with 95 % probability.
        undecided: Only for `Cheapest`: names of the candidates that cost less than the chosen one,
            and whose loss is not shown to be below or above the tolerance. More seeds than the
            rule asks for could decide.
        further: Names of the candidates that need more seeds; empty if none do.
        seeds: n, the number of seeds of this decision.
        seeds_wanted: Total number of seeds that each candidate in `further` needs before the rule
            is applied again, including earlier ones; `seeds` if `further` is empty.
        dropped: Names of the candidates without a finite score on every seed.
        noise: σ, standard deviation of the residuals of candidate and seed; `None` if only one
            candidate finished.
        degrees: Degrees of freedom of σ, (K-1)(n-1) for the first seeds.
        margin: q·σ·√(2/n), the smallest difference that is significant.
        standings: The complete candidates, in the order of the space.
        sentence: The decision in words.
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

    def to_dict(self) -> dict[str, Any]:
        """Returns the decision as plain values that can be written as JSON."""
        return dataclasses.asdict(self)
