"""Selection rules: what the scores of K candidates on n seeds show, and what they do not.

A score is candidate + seed + noise. All candidates of a seed share its initial weights and data
order, so the rules compare them within seeds. The remaining noise is pooled over all candidates,
with (K-1)(n-1) degrees of freedom. c* is the candidate with the best mean, d_c the mean paired
difference from it, SE = σ·√(2/n), and q the one-sided 95 % quantile of Dunnett and Hsu: with that
probability the loss of c is at most d_c + q·SE for all candidates at once, although the same scores
selected c*.

"Not significantly worse" selects no candidate: enough noise makes it true of any. `Cheapest`
requires a loss that is *shown* to be small: with the same means and noise, fewer seeds never lead
to a cheaper candidate. Nothing here loads Keras.

`Cheapest` keeps the noise estimate of the first seeds, and counts added seeds as a second look. In
the worst case, where all cheaper candidates lose just above δ, it selects one of them as shown in
5 % of simulated searches on fixed seeds, and with added ones in at most 6 %: two candidates on
three first seeds. Of accuracies on 20, 100 or 1,000 samples it is at most 5.6 %; without the step
of their grid it was up to 90 %, since equal scores on three seeds are no equal means. (`python
benchmarks/searches/choice_rule.py --searches 2000`, and `--samples N`; standard error .5 %.)
The rules assume equal noise: if the cheapest candidate is three times as noisy as the others, the
share is up to 9 % on fixed seeds and 14 % with added ones (`--unequal`).

A choice that is *not* shown has no such guarantee: if the noise is far above δ and `max_seeds` is
reached, c* is often not the best candidate. The decision then says "not resolved".
"""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from tuning.choice.comparison import LEVEL, Comparison, compare_with_best
from tuning.choice.errors import input_error
from tuning.choice.outliers import far_off
from tuning.choice.scores import (
    MIN_SEEDS,
    Decision,
    Direction,
    ScoreTable,
    Standing,
    as_loss,
)

# Share of the tolerance that the margin should reach. A margin as wide as the tolerance could only
# show a candidate that is equal to c*.
_AIM = 0.5


@dataclass(frozen=True)
class StructuralRisk:
    """Selects the lowest J = L_val + λ·ΣC²/r and lists the candidates that are tied with it.

    For a metric that is maximized, L_val is the metric with its sign changed.

    Attributes:
        weight: λ, at least 0: how much of the metric one unit of ΣC²/r (two weights) is worth.
        metric: Name of the log that is L_val.
        direction: `"min"` or `"max"`; `None` if Keras knows the direction of the metric.

    Raises:
        InputError: If the weight is negative or not finite.

    Source: Vapnik, "The Nature of Statistical Learning Theory", chapter 4, for J; Hsu, Annals of
    Statistics 12 (1984), for the tied set.

    Example:
        >>> table = ScoreTable(("r=2", "r=4"), [[0.30, 0.40, 0.20], [0.31, 0.42, 0.21]],
        ...                    parameters=(300, 200), complexity=(128.0, 64.0))
        >>> StructuralRisk(0.001).choose(table).chosen
        'r=4'
        >>> StructuralRisk(0.0).choose(table).chosen
        'r=2'
    """

    weight: float
    metric: str = field(default="val_loss", kw_only=True)
    direction: Direction | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise input_error(
                "The weight of StructuralRisk must be a finite number of at least 0. "
                f"Received: weight={self.weight!r}"
            )

    def choose(self, table: ScoreTable) -> Decision:
        """Selects the candidate with the lowest mean J.

        Args:
            table: Scores and costs of the candidates.

        Returns:
            A `Decision`, `resolved` if no other candidate is tied. It never asks for more seeds.

        Raises:
            InputError: If no candidate has a finite score on every seed.
        """
        risks = table.losses + self.weight * np.array(table.complexity)[:, None]
        rows, first = _comparable(table, risks)
        found = compare_with_best(risks[rows], np.array(table.parameters)[rows], first)
        best = table.names[rows[found.best]]
        ties = tuple(name for name in _names(table, rows, found.tied) if name != best)
        sentence = f"{best} has the lowest J = L + {self.weight:g}·ΣC²/r of {_count(found, table)}"
        if ties:
            sentence += f"; {_listed(ties)} cannot be told from it"
        resolved = not ties and found.noise != 0  # without any noise the scores tell nothing
        return _decision(table, rows, found, found.best, resolved, sentence + ".")

    @property
    def name(self) -> str:
        """The rule as `search` takes it by name, such as `"risk:1e-06:val_loss"`."""
        return _name("risk", self.weight, self)

    def objective(self, direction: Direction) -> tuple[str, Direction]:
        """Returns the name and the direction of the value that decides: J is a loss."""
        return "J", "min"

    def value(self, score: float, complexity: float, direction: Direction) -> float:
        """Returns J from a score and its ΣC²/r."""
        return round(as_loss(score, direction) + self.weight * complexity, 12)


@dataclass(frozen=True)
class Cheapest:
    """Selects the candidate with the fewest parameters that is shown to lose less than a tolerance.

    Shown means d_c + q·SE <= δ. While the noise is too large to show this for any candidate, the
    rule asks for further seeds, up to `max_seeds`. After that it selects c*, "not resolved". Among
    candidates with equally many parameters, it selects the first in the order of the space.

    Further seeds go to the candidates that may be the best (the tied set) and to cheaper ones whose
    loss may still be within the tolerance. They are as many as reduce the margin to half the
    tolerance, which shows any candidate that loses less than the other half.

    Attributes:
        tolerance: δ, above 0, in the metric's own units, for example 0.002 of accuracy.
        max_seeds: Maximum number of seeds per candidate, at least 3.
        metric: Name of the log to which the tolerance applies.
        direction: `"min"` or `"max"`; `None` if Keras knows the direction of the metric.

    Raises:
        InputError: If an argument is invalid.

    Source: Hsu, Annals of Statistics 12 (1984), upper bounds of the loss against the best.

    Example:
        >>> table = ScoreTable(
        ...     ("r=2", "r=4", "r=8"),
        ...     [[0.910, 0.930, 0.900], [0.909, 0.931, 0.899], [0.880, 0.900, 0.869]],
        ...     parameters=(300, 200, 150), complexity=(128.0, 64.0, 32.0), direction="max")
        >>> print(Cheapest(0.01).choose(table).sentence)
        r=4 is the cheapest of 3 candidates on 3 seeds that is shown to lose less than 0.01:
        at most 0.002 against the best (95 %).
        >>> decision = Cheapest(0.001).choose(table)
        >>> decision.resolved, decision.further, decision.seeds_wanted
        (False, ('r=2', 'r=4'), 10)
    """

    weight: ClassVar[float] = 0.0  # complexity has no price
    tolerance: float
    max_seeds: int = field(default=10, kw_only=True)
    metric: str = field(default="val_loss", kw_only=True)
    direction: Direction | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.tolerance) and self.tolerance > 0):
            raise input_error(
                "The tolerance of Cheapest must be a finite number above 0, in the units of the "
                f"metric. Received: tolerance={self.tolerance!r}"
            )
        if self.max_seeds < MIN_SEEDS:
            raise input_error(
                f"max_seeds must be at least {MIN_SEEDS}, which it takes to tell candidates apart; "
                "a screening has fewer seeds, and no max_seeds. "
                f"Received: max_seeds={self.max_seeds!r}"
            )

    def choose(self, table: ScoreTable) -> Decision:
        """Selects the cheapest candidate that the scores show to be good enough.

        Args:
            table: Scores and costs of the candidates. Further seeds add columns, with NaN for the
                candidates that are ruled out; `first_seeds` is the original number of columns.

        Returns:
            A `Decision`. Train the candidates in `further` on more seeds and call `choose` again.

        Raises:
            InputError: If no candidate has a finite score on every seed.
        """
        rows, first = _comparable(table, table.losses, self.tolerance)
        costs = np.array(table.parameters)[rows]
        found = compare_with_best(table.losses[rows], costs, first)
        if found.noise == 0:
            return self._all_alike(table, rows, found)
        allowed = self.tolerance + found.rounding
        # `differences - margin` is the smallest loss that the scores still allow.
        cheaper = (found.differences - found.margin <= allowed) & (costs < costs[found.best])
        shown = np.flatnonzero(found.upper <= allowed)
        if not len(shown):
            return self._unresolved(table, rows, found, cheaper)
        chosen = int(shown[np.argmin(costs[shown])])
        # c* can be shown by its own lead while the margin is still too wide to judge a cheaper one.
        if chosen == found.best and found.margin > allowed and cheaper.any():
            return self._unresolved(table, rows, found, cheaper)
        sentence = (
            f"{table.names[rows[chosen]]} is the cheapest of {_count(found, table)} that is "
            f"shown to lose less than {self.tolerance:g}: at most {found.upper[chosen]:.3g} "
            f"against the best ({100 * LEVEL:.0f} %)."
        )
        undecided = _names(table, rows, cheaper & (costs < costs[chosen]))
        if undecided:
            sentence += f" Cheaper, and neither shown to nor not: {_listed(undecided)}."
        return _decision(table, rows, found, chosen, True, sentence, undecided)

    @property
    def name(self) -> str:
        """The rule as `search` takes it by name, such as `"cheapest:0.002:val_loss"`."""
        return _name("cheapest", self.tolerance, self)

    def objective(self, direction: Direction) -> tuple[str, Direction]:
        """Returns the name and the direction of the value that decides: the metric itself."""
        return self.metric, direction

    def value(self, score: float, complexity: float, direction: Direction) -> float:
        """Returns the score: only parameters count as cost."""
        return score

    def _all_alike(self, table: ScoreTable, rows: list[int], found: Comparison) -> Decision:
        # Further seeds would most likely say the same.
        sentence = (
            f"Not resolved by {_count(found, table)}: {self.metric} is the same in every run and "
            f"tells nothing; {table.names[rows[found.best]]}, the cheapest, is taken."
        )
        return _decision(table, rows, found, found.best, False, sentence)

    def _unresolved(
        self, table: ScoreTable, rows: list[int], found: Comparison, cheaper: np.ndarray
    ) -> Decision:
        # The margin is proportional to 1 / sqrt(seeds).
        needed = math.ceil(table.seeds * (found.again / self.tolerance) ** 2)
        aim = math.ceil(table.seeds * (found.again / (_AIM * self.tolerance)) ** 2)
        wanted = min(aim, self.max_seeds)
        best = table.names[rows[found.best]]
        sentence = (
            f"Not resolved by {_count(found, table)}: differences up to {found.margin:.3g} "
            f"may be noise, the tolerance is {self.tolerance:g}; "
        )
        undecided = _names(table, rows, cheaper)
        if wanted <= table.seeds:
            sentence += f"{best}, of the best mean, is taken. About {needed} seeds would be needed."
            return _decision(table, rows, found, found.best, False, sentence, undecided)
        further = _names(table, rows, found.tied | cheaper)
        sentence += (
            f"{best} is the best so far. Each of {_listed(further)} should have {wanted} seeds "
            f"in all; about {needed} are needed before anything can be shown."
        )
        decision = _decision(table, rows, found, found.best, False, sentence, undecided)
        return dataclasses.replace(decision, further=further, seeds_wanted=wanted)


Rule = Cheapest | StructuralRisk


def _name(kind: str, number: float, rule: Rule) -> str:
    direction = [rule.direction] if rule.direction else []
    # `repr` keeps all digits, so that the name gives the same rule again.
    return ":".join([kind, f"{float(number)!r}", rule.metric, *direction])


def _comparable(
    table: ScoreTable, losses: np.ndarray, tolerance: float = 0.0
) -> tuple[list[int], np.ndarray]:
    """Returns the rows to compare, and the losses on the first seeds that tell the noise."""
    # Paired differences need every seed, so candidates with a missing score are dropped first.
    if not table.complete:
        raise input_error(
            "At least one candidate must have a finite score on every seed. "
            f"Received: {len(table.names)} candidates on {table.seeds} seeds, none complete"
        )
    # The noise is that of the scores, to which J adds a constant per candidate. Candidates that
    # were ruled out later still help to estimate it.
    first = table.losses[:, : table.first_seeds]
    finite = np.isfinite(first).all(axis=1)
    off = far_off(np.where(finite[:, None], losses, np.nan), tolerance)
    rows = [row for row in table.complete if not off[row].any()]
    told = finite & ~off[:, : table.first_seeds].any(axis=1)
    return rows or list(table.complete), first[told]


def _names(table: ScoreTable, rows: list[int], members: np.ndarray) -> tuple[str, ...]:
    return tuple(table.names[row] for row, member in zip(rows, members, strict=True) if member)


def _listed(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more


def _count(found: Comparison, table: ScoreTable) -> str:
    return f"{len(found.means)} candidate{'s' * (len(found.means) > 1)} on {table.seeds} seeds"


def _remarks(table: ScoreTable, dropped: tuple[str, ...], constant: tuple[str, ...]) -> str:
    complete = [table.names[row] for row in table.complete]
    remarks = {
        "Dropped, without a score on every seed": [
            name for name in dropped if name not in (*complete, *table.ruled_out)
        ],
        "Dropped, since a run lies far off the others": [n for n in dropped if n in complete],
        "Ruled out by the first seeds": table.ruled_out,
        "The same score on every seed, perhaps without learning": constant,
    }
    return "".join(f" {what}: {_listed(tuple(names))}." for what, names in remarks.items() if names)


def _decision(
    table: ScoreTable,
    rows: list[int],
    found: Comparison,
    chosen: int,
    resolved: bool,
    sentence: str,
    undecided: tuple[str, ...] = (),
) -> Decision:
    names = [table.names[row] for row in rows]
    dropped = tuple(name for name in table.names if name not in names)
    alike = np.ptp(table.losses[rows], axis=1) <= found.rounding
    constant = _names(table, rows, alike) if found.noise != 0 else ()
    standings = tuple(
        Standing(
            name=table.names[row],
            parameters=table.parameters[row],
            complexity=table.complexity[row],
            mean=float(np.mean(table.scores[row])),
            # A loss (or J), while `mean` is in the metric's own units and direction.
            objective=float(found.means[i]),
            difference=float(found.differences[i]),
            upper=float(found.upper[i]),
        )
        for i, row in enumerate(rows)
    )
    return Decision(
        chosen=names[chosen],
        best=names[found.best],
        resolved=resolved,
        tied=_names(table, rows, found.tied),
        undecided=undecided,
        further=(),
        seeds=table.seeds,
        seeds_wanted=table.seeds,
        dropped=dropped,
        noise=found.noise,
        degrees=found.degrees,
        margin=found.margin,
        standings=standings,
        constant=constant,
        sentence=sentence + _remarks(table, dropped, constant),
    )
