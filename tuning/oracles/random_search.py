"""Oracle that draws at random."""

from typing import Any

from tuning.oracles.stateless import StatelessOracle


class RandomOracle(StatelessOracle):
    """Draws values that no trial has yet, until the whole space was tried.

    Each choice is drawn with equal probability, the values of a condition only where it holds.
    """

    def next_values(self, tried: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns values that no trial has."""
        return self.untried(tried)
