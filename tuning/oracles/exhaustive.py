"""Oracle that tries a whole space."""

import itertools
from collections.abc import Iterator
from typing import Any

from keras_se.errors import InputError
from tuning.oracles.grid import check_space, combinations
from tuning.oracles.stateless import StatelessOracle, plain

LIMIT = 200


class ExhaustiveOracle(StatelessOracle):
    """Tries all combinations of a space once, conditional ones included."""

    def __init__(self, objective: Any, hyperparameters: Any, max_trials: int | None = None) -> None:
        # Stops at the first one too many: a space may have billions.
        if max_trials is None and any(
            itertools.islice(combinations(hyperparameters), LIMIT, LIMIT + 1)
        ):
            raise InputError(
                f"An exhaustive search takes up to {LIMIT} combinations: give fewer choices, "
                "max_trials, or another oracle, such as 'main_effects' or 'random'. "
                f"Received: a space with more than {LIMIT}"
            )
        check_space(hyperparameters)
        super().__init__(objective, hyperparameters)
        self.max_trials = max_trials

    def next_values(self, tried: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns the first combination that no trial has yet."""
        known = set(map(plain, tried))
        return next((values for values in self.all_values() if plain(values) not in known), None)

    def all_values(self) -> Iterator[dict[str, Any]]:
        """Returns every combination, up to `max_trials`, in the order of the space."""
        # Not the space of `__init__`: trials may have added hyperparameters.
        return itertools.islice(combinations(self.get_space()), self.max_trials)
