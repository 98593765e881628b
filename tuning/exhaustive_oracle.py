"""An oracle that tries every combination once, whatever happened before."""

from collections.abc import Iterator
from typing import Any

from keras_se.errors import InputError, import_extra
from tuning.combinations import combinations, count_combinations

keras_tuner: Any = import_extra("keras_tuner", "tuning")

LIMIT = 200


class ExhaustiveOracle(keras_tuner.Oracle):
    """Goes through all combinations of a space, conditional ones included.

    It keeps nothing but the trials themselves, so that it goes on from any state of them: several
    may run at a time, and a search that was killed goes on where it was. keras-tuner's own grid
    search does neither.

    Args:
        objective: A `keras_tuner.Objective`.
        hyperparameters: The space.

    Raises:
        InputError: If the space has more than 200 combinations, or no finite number.

    Example:
        >>> hp = keras_tuner.HyperParameters()
        >>> _ = hp.Choice("ratio", [2, 4])
        >>> oracle = ExhaustiveOracle(keras_tuner.Objective("val_loss", "min"), hp)
        >>> oracle.populate_space("0")["values"]
        {'ratio': 2}
    """

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
            max_consecutive_failed_trials=None,
            seed=1,
        )

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The first combination that no trial has.

        Args:
            trial_id: Of the trial to be.

        Returns:
            A dictionary with `status` and `values`.
        """
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        untried = (values for values in self.all_values() if values not in tried)
        values = next(untried, None)
        if values is not None:
            return {"status": "RUNNING", "values": values}
        waits = bool(self.ongoing_trials)  # a trial may declare new hyperparameters
        return {"status": "IDLE" if waits else "STOPPED", "values": None}

    def all_values(self) -> Iterator[dict[str, Any]]:
        """The values of every combination, in the order of the space."""
        return combinations(self.get_space())
