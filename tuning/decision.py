"""What a rule of choice answers."""

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Standing:
    """Where one candidate stands against the best one.

    Attributes:
        name: Of the candidate.
        parameters: Exact parameter count of its model.
        complexity: ΣC²/r over its SE blocks.
        mean: Mean score over the seeds, in the metric's own units.
        objective: Mean of what the rule compares, low is good: J for `StructuralRisk`, otherwise
            the score as a loss (a score that is maximized has its sign changed).
        difference: d_c, mean paired difference of that to the best candidate's, at least 0.
        upper: How much the candidate loses at most, against the truly best of the others: the upper
            ends are all right at once with 95 % probability.
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
    """A choice among candidates, and what it rests on.

    Attributes:
        chosen: Name of the candidate that the rule takes; while `further` is not empty it is only
            the best so far.
        best: Name of c*, the candidate of the best mean.
        resolved: Whether the seeds sufficed for what the rule sets out to show.
        tied: Names of c* and of all that cannot be told from it, in the order of the space. With
            95 % probability the truly best candidate is among them.
        undecided: Names of the candidates that cost less than the chosen one and are neither shown
            to lose less than the tolerance nor told to lose more; of `Cheapest` only. More seeds
            than the rule asks for could show one of them.
        further: Names of the candidates that need more seeds; empty if no more are asked for.
        seeds: n, the seeds that this decision rests on.
        seeds_wanted: Seeds that each of `further` should have in all before the rule is asked
            again, the earlier ones included; `seeds` if no more are asked for.
        dropped: Names of the candidates without a finite score on every seed.
        noise: σ, standard deviation of what candidate and seed do not explain; `None` where
            a single candidate finished.
        degrees: Degrees of freedom of σ, (K-1)(n-1) of the first seeds.
        margin: q·σ·√(2/n), what an observed difference must exceed to be told from 0.
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
        """The decision as plain values that JSON can hold."""
        return dataclasses.asdict(self)
