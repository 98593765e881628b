"""How often `tuning.Cheapest` is right where the truth is known, and what its errors cost.

Scores are simulated: a true loss for each candidate, noise shared by the candidates of a seed, and
noise of each run. Candidates are trained on the first seeds, then on those that the rule asks for.
Losses and σ are in units of the tolerance δ. With --samples N the scores are instead accuracies
around .9 on N samples, δ is .002, and a share ρ of the samples is as hard for all candidates of a
seed: with ρ = 1 few samples tell candidates apart.

Printed for each case, in parts of 1 unless said:

- right: the cheapest candidate that truly loses at most δ was taken;
- shown wrong: a candidate was taken as shown that truly loses more than δ;
- resolved: the rule did not have to fall back on the best mean;
- regret: mean true loss of the choice, in δ; cost: its mean rank in cost, 1 the cheapest;
- runs: trainings per search;
- naive: how often "the cheapest that is not significantly worse", on the first seeds, takes a
  candidate that truly loses more than δ.

With --unequal the cheapest candidate is three times as noisy as the others, which the rule takes to
be alike. With --anew the noise is estimated from all seeds at every answer, which the rule avoids.
With --diverged one run in twenty ends with a huge, yet finite loss. The last line printed is the
worst case.
"""

import argparse

import numpy as np
from rich.console import Console
from rich.table import Table

from tuning.choice.comparison import compare_with_best
from tuning.choice.rules import Cheapest
from tuning.choice.scores import Decision, ScoreTable

EDGE = 1.0001
DELTA = 0.002  # of accuracy
SEEDS = ((3, 3), (3, 10), (3, 30), (10, 10), (30, 30))  # first, most
TRUTHS = {
    **{f"{n} candidates, cheaper ones just above δ": [0.0] + [EDGE] * (n - 1) for n in (2, 6, 15)},
    "flat, then steep": [0.0, 0.02, 0.05, 0.1, 2.0, 4.0],
}


def simulated(
    losses: np.ndarray, level: float, size: int, rng: np.random.Generator, how: argparse.Namespace
) -> np.ndarray:
    """Losses of candidates on seeds, in δ; `level` is σ, or ρ with `--samples`."""
    if how.samples:
        draws = rng.uniform(size=(len(losses), size, how.samples))
        shared = rng.uniform(size=draws.shape[1:]) < level
        draws = np.where(shared, draws[:1], draws)
        right = draws < 0.9 - DELTA * losses[:, None, None]
        return -right.mean(axis=-1) / DELTA
    noise = level * rng.normal(size=(len(losses), size))
    noise[-1] *= 3 if how.unequal else 1
    scores = losses[:, None] + rng.normal(size=size) + noise
    far = rng.uniform(size=scores.shape) < (0.05 if how.diverged else 0)
    return np.where(far, 10 ** rng.uniform(2, 12, size=scores.shape), scores)


def search(
    rule: Cheapest,
    losses: np.ndarray,
    level: float,
    first: int,
    rng: np.random.Generator,
    how: argparse.Namespace,
) -> tuple[Decision, int, np.ndarray]:
    """One simulated search: its decision, its number of runs, and the scores of the first seeds."""
    scores = simulated(losses, level, max(first, rule.max_seeds), rng, how)
    names, known = [str(i) for i in range(len(losses))], np.full(scores.shape, np.nan)
    costs = range(len(losses), 0, -1)
    members, seeds = list(range(len(losses))), first
    known[:, :first] = scores[:, :first]
    while True:
        table = ScoreTable(
            names, known[:, :seeds].tolist(), costs, costs, first_seeds=None if how.anew else first
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
    parser.add_argument("--diverged", action="store_true")
    parser.add_argument("--samples", type=int, default=0)
    arguments = parser.parse_args()
    table = Table(
        "truth",
        "ρ" if arguments.samples else "σ",
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
    worst = 0.0
    for name, truth in TRUTHS.items():
        losses = np.array(truth)
        right = int(np.flatnonzero(losses <= 1).max())
        for level in (1.0, 0.9, 0.5) if arguments.samples else (0.25, 0.5, 1.0, 2.0):
            for first, most in SEEDS:
                rng = np.random.default_rng(0)
                rule = Cheapest(1.0, max_seeds=most)
                runs = [
                    search(rule, losses, level, first, rng, arguments)
                    for _ in range(arguments.searches)
                ]
                chosen = np.array([int(decision.chosen) for decision, _, _ in runs])
                # Of those that were compared: a run that has diverged sets its candidate aside.
                names = set(map(str, range(len(losses))))
                kept = [sorted(map(int, names - set(d.dropped))) for d, _, _ in runs]
                best = np.array([losses[rows].min() for rows in kept]) * arguments.diverged
                resolved = np.array([decision.resolved for decision, _, _ in runs])
                figures = (
                    np.mean(chosen == right),
                    np.mean((losses[chosen] - best > 1) & resolved),
                    resolved.mean(),
                    losses[chosen].mean(),
                    np.mean(len(losses) - chosen),
                    np.mean([count for _, count, _ in runs]),
                    np.mean([losses[naive(scores)] > 1 for _, _, scores in runs]),
                )
                worst = max(worst, float(figures[1]))
                row = (f"{level:g}", str(first), str(most), *(f"{f:.3f}" for f in figures))
                table.add_row(name, *row)
    Console(width=150).print(table, f"shown wrong in the worst case: {worst:.3f}")


if __name__ == "__main__":
    main()
