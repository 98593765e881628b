"""The scores that a selection rule works on: plain numbers, no models."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tuning.choice.refusals import input_error

MIN_SEEDS = 3  # with fewer seeds, a search only screens candidates and does not compare them


@dataclass(frozen=True)
class ScoreTable:
    """Scores of K candidates on n seeds, with the cost of each candidate.

    A rule compares scores within a seed. All candidates must therefore share what the seed
    determines: the initial weights and the order of the data.

    Attributes:
        names: Distinct names of the candidates, in the order of the space.
        scores: K rows of n scores, n at least 3. Column j holds seed j for every candidate.
            Infinity: the candidate failed on that seed. NaN: it failed or was not trained on it.
        parameters: Exact parameter count of each candidate's model, which is its cost.
        complexity: ΣC²/r over the SE blocks of each candidate, half the number of their weights.
            0 without SE.
        direction: `"min"` or `"max"`: whether low or high scores are better.
        first_seeds: Number of leading columns that every candidate was trained on. A rule asked
            for the other columns, for some candidates only. `None` means all columns.

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
    direction: str = "min"
    first_seeds: int | None = None

    def __post_init__(self) -> None:
        _check_names(self.names)
        rows = tuple(tuple(float(score) for score in row) for row in self.scores)
        lengths = {len(row) for row in rows}
        if len(rows) != len(self.names) or len(lengths) > 1 or min(lengths) < MIN_SEEDS:
            raise input_error(
                "scores must hold one row for each candidate, of one length of at least "
                f"{MIN_SEEDS} seeds. Received: {len(self.names)} names and rows of lengths "
                f"{[len(row) for row in rows]}"
            )
        for name in ("parameters", "complexity"):
            _check_costs(name, getattr(self, name), len(rows))
            # The class is frozen; tuples keep later changes of the caller's lists out of it.
            object.__setattr__(self, name, tuple(getattr(self, name)))
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
        object.__setattr__(self, "names", tuple(self.names))
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
        """Names of the candidates with finite scores on the first seeds and NaN on a later one.

        The rule did not ask for further seeds of these candidates.
        """
        first, rest = self.losses[:, : self.first_seeds], self.losses[:, self.first_seeds :]
        # NaN alone means "not trained" here: a trial that failed on a later seed is infinite.
        waived = np.isfinite(first).all(axis=1) & np.isnan(rest).any(axis=1)
        return tuple(
            n
            for n, out in zip(self.names, waived & ~np.isinf(rest).any(axis=1), strict=True)
            if out
        )

    @property
    def losses(self) -> np.ndarray:
        """Scores as losses, where lower is better: shape (K, n)."""
        scores = np.array(self.scores)
        return -scores if self.direction == "max" else scores

    @property
    def first_losses(self) -> np.ndarray:
        """Losses on the first seeds, of the candidates that are finite on all of them."""
        # Includes candidates that were ruled out later: they still help to estimate the noise.
        first = self.losses[:, : self.first_seeds]
        return first[np.isfinite(first).all(axis=1)]


def _check_names(names: Sequence[str]) -> None:
    # A string is a sequence of distinct characters, too.
    if isinstance(names, str) or not len(names) or len(set(names)) != len(names):
        raise input_error(
            f"names must be a sequence of different names, at least one. Received: names={names!r}"
        )


def _check_costs(name: str, costs: Sequence[float], candidates: int) -> None:
    finite = all(math.isfinite(cost) and cost >= 0 for cost in costs)
    if len(costs) != candidates or not finite:
        raise input_error(
            f"{name} must hold one finite number of at least 0 for each candidate. "
            f"Received: {candidates} candidates and {name}={costs!r}"
        )
