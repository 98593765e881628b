"""Base of the oracles here: their trials are their only state."""

import contextlib
import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import keras_tuner

from keras_se.errors import InputError
from tuning.oracles.grid import check_space, combinations

_REPEATS = 20  # draws beyond two for each trial, after which the space is taken in its order


class StatelessOracle(keras_tuner.Oracle):
    """Proposes the values that `next_values` names, from the trials so far and a fixed seed."""

    # So several trials can run at a time, and a search goes on, also from a damaged folder, where
    # it was. `keras_tuner.GridSearch` supports neither.

    def __init__(self, objective: Any, hyperparameters: Any) -> None:
        super().__init__(
            objective=objective,
            max_trials=None,  # keras-tuner's own defaults differ
            hyperparameters=hyperparameters,
            # By default keras-tuner aborts the search after three failed trials in a row.
            max_consecutive_failed_trials=None,
            seed=1,  # without one, and for 0, keras-tuner draws it from Python's `random`
        )
        self._draws = 0

    def next_values(self, tried: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns the values to try next, or `None` if there are none for now."""
        raise NotImplementedError

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the status and the values of a new trial, as keras-tuner asks for them."""
        values = self.next_values([t.hyperparameters.values for t in self.trials.values()])
        if values is not None:
            return {"status": "RUNNING", "values": values}
        # A running trial may still declare hyperparameters, or have a score to predict from.
        return {"status": "IDLE" if self.ongoing_trials else "STOPPED", "values": None}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes over the state of a file, as keras-tuner does, but for the seed."""
        super().set_state({**state, "seed": self.seed})

    def expected(self) -> tuple[int, int]:
        """Returns how many trials there will be, and how many the rule compares."""
        number = self.space_size(self.max_trials)
        return number, number

    def space_size(self, most: int | None) -> int:
        """Number of combinations of the space, counted up to `most`."""
        try:
            check_space(self.hyperparameters)
        except InputError:  # a continuous hyperparameter
            return most or 0
        return sum(1 for _ in itertools.islice(combinations(self.hyperparameters), most))

    def untried(self, tried: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Draws values that are not in `tried`; `None` once the whole space is."""
        known, scratch = set(map(plain, tried)), self.get_space()
        # The first draws are those of the trials. keras-tuner stops after 20 repeats in a row, with
        # parts of a small space untried; here the rest of the space follows, in its order.
        while self._draws < 2 * len(known) + _REPEATS:
            self._draws += 1
            if plain(values := self._drawn(scratch)) not in known:
                return values
        return next((v for v in _listed(self.get_space()) if plain(v) not in known), None)

    def _drawn(self, scratch: Any) -> dict[str, Any]:
        """Returns the values of the current draw, which are the same in every process."""
        rng = random.Random(f"{self.seed} {self._draws}")  # noqa: S311, nothing secret
        values: dict[str, Any] = {}
        scratch.values = values
        for parameter in scratch.space:
            # Conditions look at earlier values, so the order of declaration matters.
            if scratch.is_active(parameter):
                values[parameter.name] = parameter.prob_to_value(rng.random())
        return values


def plain(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """Returns values to compare: rounded, and without what an oracle notes beside them."""
    return tuple(
        (name, f"{value:.12g}" if isinstance(value, int | float) else value)
        for name, value in sorted(values.items())
        if not name.startswith("tuner/")
    )


def _listed(space: Any) -> Iterator[dict[str, Any]]:
    # A space with a continuous hyperparameter has no list, and no end.
    with contextlib.suppress(InputError):
        yield from combinations(space)
