"""Oracle that models the scores by a Gaussian process."""

import warnings
from typing import Any

from keras_tuner.oracles import BayesianOptimizationOracle

from keras_se.errors import import_extra
from tuning.oracles.stateless import StatelessOracle, plain


class BayesianOracle(StatelessOracle, BayesianOptimizationOracle):
    """keras-tuner's Bayesian optimization, which tries no values twice.

    Where keras-tuner proposes values that a trial has already (in a space of choices most of the
    time: 12 different ones in 40 trials), untried ones are drawn, until the whole space was tried.
    """

    def __init__(self, objective: Any, hyperparameters: Any) -> None:
        import_extra("sklearn", "tuning")
        super().__init__(objective, hyperparameters)

    def next_values(self, tried: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns the values that the model expects most of, or untried ones."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of a kernel at the edge of its range
            proposed = BayesianOptimizationOracle.populate_space(self, "")["values"]
        known = set(map(plain, tried))
        return self.untried(tried) if proposed is None or plain(proposed) in known else proposed
