"""How often `tuning.Cheapest` is right where the truth is known, and what its errors cost.

Scores are simulated: a true loss for each candidate, noise shared by the candidates of a seed, and
noise of each run. Candidates are trained on the first seeds, then on those that the rule asks for.
Losses and σ are in units of the tolerance δ. Printed for each case, in parts of 1 unless said:

- right: the cheapest candidate that truly loses at most δ was taken;
- shown wrong: a candidate was taken as shown that truly loses more than δ;
- resolved: the rule did not have to fall back on the best mean;
- regret: mean true loss of the choice, in δ; cost: its mean rank in cost, 1 the cheapest;
- runs: trainings per search;
- naive: how often "the cheapest that is not significantly worse", on the first seeds, takes a
  candidate that truly loses more than δ.

With --unequal the cheapest candidate is three times as noisy as the others, which the rule takes to
be alike. With --anew the noise is estimated from all seeds at every answer, which the rule avoids.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from tuning.choice.comparison import compare_with_best
from tuning.choice.rules import Cheapest
from tuning.choice.scores import Decision, ScoreTable

EDGE = 1.0001
SEEDS = ((3, 3), (3, 10), (3, 30), (10, 10), (30, 30))  # first, most
TRUTHS = {
    **{f"{n} candidates, cheaper ones just above δ": [0.0] + [EDGE] * (n - 1) for n in (2, 6, 15)},
    "flat, then steep": [0.0, 0.02, 0.05, 0.1, 2.0, 4.0],
}


def search(
    rule: Cheapest,
    losses: np.ndarray,
    sigma: float,
    first: int,
    rng: np.random.Generator,
    anew: bool,
    unequal: bool,
) -> tuple[Decision, int, np.ndarray]:
    """One simulated search: its decision, its number of runs, and the scores of the first seeds."""
    size = max(first, rule.max_seeds)
    scores = losses[:, None] + rng.normal(size=size)
    noise = sigma * rng.normal(size=(len(losses), size))
    noise[-1] *= 3 if unequal else 1
    scores = scores + noise
    names, known = [str(i) for i in range(len(losses))], np.full(scores.shape, np.nan)
    costs = range(len(losses), 0, -1)
    members, seeds = list(range(len(losses))), first
    known[:, :first] = scores[:, :first]
    while True:
        table = ScoreTable(
            names, known[:, :seeds].tolist(), costs, costs, first_seeds=None if anew else first
        )
        decision = rule.choose(table)
        if not decision.further:
            return decision, int(np.isfinite(known).sum()), scores[:, :first]
        members, seeds = [int(name) for name in decision.further], decision.seeds_wanted
        known[members, :seeds] = scores[members, :seeds]


def naive(scores: np.ndarray) -> int:
    """The cheapest candidate that is not significantly worse than the best."""
    found = compare_with_best(scores, np.arange(len(scores), 0, -1), scores)
    return int(np.flatnonzero(found.tied).max())


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=1000)
    parser.add_argument("--anew", action="store_true")
    parser.add_argument("--unequal", action="store_true")
    arguments = parser.parse_args()
    table = Table(
        "truth",
        "σ",
        "first",
        "most",
        "right",
        "shown wrong",
        "resolved",
        "regret",
        "cost",
        "runs",
        "naive",
    )
    for name, truth in TRUTHS.items():
        losses = np.array(truth)
        right = int(np.flatnonzero(losses <= 1).max())
        for sigma in (0.25, 0.5, 1.0, 2.0):
            for first, most in SEEDS:
                rng = np.random.default_rng(0)
                rule = Cheapest(1.0, max_seeds=most)
                runs = [
                    search(rule, losses, sigma, first, rng, arguments.anew, arguments.unequal)
                    for _ in range(arguments.searches)
                ]
                chosen = np.array([int(decision.chosen) for decision, _, _ in runs])
                resolved = np.array([decision.resolved for decision, _, _ in runs])
                figures = (
                    np.mean(chosen == right),
                    np.mean((losses[chosen] > 1) & resolved),
                    resolved.mean(),
                    losses[chosen].mean(),
                    np.mean(len(losses) - chosen),
                    np.mean([count for _, count, _ in runs]),
                    np.mean([losses[naive(scores)] > 1 for _, _, scores in runs]),
                )
                row = (f"{sigma:g}", str(first), str(most), *(f"{f:.3f}" for f in figures))
                table.add_row(name, *row)
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
