"""The oracles that `search` knows by name."""

from typing import Any, Literal, get_args

import keras_tuner

from keras_se.errors import InputError
from tuning.oracles.bayesian import BayesianOracle
from tuning.oracles.exhaustive import ExhaustiveOracle
from tuning.oracles.hyperband import HyperbandOracle
from tuning.oracles.main_effects import MainEffects
from tuning.oracles.random_search import RandomOracle
from tuning.oracles.stateless import StatelessOracle

OracleName = Literal["exhaustive", "main_effects", "random", "bayesian", "hyperband"]
NAMES: tuple[OracleName, ...] = get_args(OracleName)
# Number of trials, unless `max_trials` is given, of those that would try the whole space.
TRIALS: dict[OracleName, int] = {"random": 20, "bayesian": 20}


def get_oracle(
    oracle: Any, objective: Any, space: Any, epochs: int, max_trials: int | None = None
) -> Any:
    """Returns the oracle of a search, from its name or from the oracle itself."""
    if oracle in NAMES:
        return _named(oracle, objective, space, epochs, max_trials or TRIALS.get(oracle))
    if not isinstance(oracle, keras_tuner.Oracle):
        raise InputError(
            f"oracle must be one of {list(NAMES)} or a keras_tuner.Oracle. "
            f"Received: oracle={oracle!r}"
        )
    # keras-tuner's name for the objective of an oracle that was constructed without one.
    if oracle.objective.name == "default_objective":
        oracle.objective = objective
    elif oracle.objective != objective:
        name, direction = objective.name, objective.direction
        raise InputError(
            f"The objective of an oracle must be that of the search, {name!r}, {direction!r}, or "
            f"left out. Received: {oracle.objective.name!r}, {oracle.objective.direction!r}"
        )
    oracle.update_space(space)
    # By default keras-tuner aborts the search after three failed trials in a row.
    oracle.max_consecutive_failed_trials = None
    oracle.max_trials = _least(oracle.max_trials, max_trials)
    return oracle


def _named(name: OracleName, objective: Any, space: Any, epochs: int, most: int | None) -> Any:
    kinds: dict[OracleName, Any] = {
        "exhaustive": lambda: ExhaustiveOracle(objective, space, most),
        "main_effects": lambda: MainEffects(objective, space),
        "random": lambda: RandomOracle(objective, space),
        "bayesian": lambda: BayesianOracle(objective, space),
        "hyperband": lambda: HyperbandOracle(objective, space, epochs),
    }
    made = kinds[name]()
    made.max_trials = most
    return made


def expected_trials(oracle: Any) -> tuple[int | None, int | None]:
    """Returns how many trials an oracle proposes at most, and how many of them a rule compares."""
    if isinstance(oracle, StatelessOracle):
        return oracle.expected()
    return oracle.max_trials, oracle.max_trials


def _least(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)
