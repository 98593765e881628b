"""An oracle that tries every combination once."""

from collections.abc import Iterator
from typing import Any

from keras_se.errors import InputError, import_extra
from tuning.running.combinations import combinations, count_combinations

keras_tuner: Any = import_extra("keras_tuner", "tuning")

LIMIT = 200


class ExhaustiveOracle(keras_tuner.Oracle):
    """Tries all combinations of a space, conditional ones included."""

    def __init__(self, objective: Any, hyperparameters: Any) -> None:
        if count_combinations(hyperparameters, LIMIT) > LIMIT:
            raise InputError(
                f"An exhaustive search takes up to {LIMIT} combinations: give fewer choices, "
                "oracle='main_effects', or one of keras_tuner.oracles. "
                f"Received: a space with more than {LIMIT}"
            )
        super().__init__(
            objective=objective,
            hyperparameters=hyperparameters,
            # By default keras-tuner aborts the search after three failed trials in a row.
            max_consecutive_failed_trials=None,
            seed=1,
        )

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the first combination that no trial has yet."""
        # The trials are the only state. So several can run at a time, and a killed search goes on
        # where it was; `keras_tuner.GridSearch` supports neither.
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        untried = (values for values in self.all_values() if values not in tried)
        values = next(untried, None)
        if values is not None:
            return {"status": "RUNNING", "values": values}
        # A running trial may still declare new hyperparameters.
        waits = bool(self.ongoing_trials)
        return {"status": "IDLE" if waits else "STOPPED", "values": None}

    def all_values(self) -> Iterator[dict[str, Any]]:
        """Returns the values of every combination, in the order of the space."""
        # Not the space of `__init__`: trials may have added hyperparameters.
        return combinations(self.get_space())
