"""Oracle for spaces too large to exhaust: it varies one hyperparameter at a time."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from keras_se.errors import InputError
from tuning.choice.scores import as_loss
from tuning.oracles.grid import check_space, listed_values
from tuning.oracles.stateless import StatelessOracle
from tuning.space import is_baseline


class MainEffects(StatelessOracle):
    """Varies one hyperparameter at a time around a base plan.

    The oracle tries the base plan, each other value of each hyperparameter with the others as in
    the base, and the uniform plans, in which all sites or stages share another ratio, gate or
    squeeze. Last comes the predicted plan, which combines the best value of each hyperparameter.
    This takes 1 + Σ(values - 1) trials and a few more, instead of the product.

    A search then compares the `finalists` on fresh seeds, because the prediction combines values
    that were measured one at a time, and the best of many noisy scores is too good.

    Args:
        objective: A `keras_tuner.Objective`.
        hyperparameters: The space.
        base: Values of the base plan by name. By default the middle ratio, and the first value of
            every other hyperparameter.

    Raises:
        InputError: If `base` has a name or value that the space does not have, or selects the
            network without SE, or if a hyperparameter has no list of values or is declared twice.

    Example:
        >>> import keras_tuner
        >>> hp = keras_tuner.HyperParameters()
        >>> for stage in ("stage_1_ratio", "stage_2_ratio"):
        ...     _ = hp.Choice(stage, [2, 4, 8])
        >>> oracle = MainEffects(keras_tuner.Objective("val_loss", "min"), hp)
        >>> [tuple(plan.values()) for plan in oracle.plans()]
        [(4, 4), (2, 4), (8, 4), (4, 2), (4, 8), (2, 2), (8, 8)]
    """

    def __init__(
        self, objective: Any, hyperparameters: Any, base: Mapping[str, Any] | None = None
    ) -> None:
        check_space(hyperparameters)
        self._choices = {p.name: list(listed_values(p)) for p in hyperparameters.space}
        for name, value in (base or {}).items():
            if value not in self._choices.get(name, ()) or is_baseline({name: value}):
                raise InputError(
                    f"base must hold values of the space, {self._choices}, of a network with SE. "
                    f"Received: {name}={value!r}"
                )
        super().__init__(objective, hyperparameters)
        # One copy for all plans: a copy for each would take seconds per trial.
        self._scratch = hyperparameters.copy()
        middle = {
            name: values[len(values) // 2 if name.endswith("ratio") else 0]
            for name, values in self._choices.items()
        }
        self.base = self._plan({**middle, **(base or {})})

    def plans(self) -> list[dict[str, Any]]:
        """Returns the plans to try before the predicted one, the base first."""
        singles = ({name: other} for name in self.base for other in self._others(name))
        plans = [self._plan({**self.base, **c}) for c in ({}, *singles, *self._uniform())]
        # Inactive hyperparameters drop out, so different changes can give the same plan.
        return [plan for i, plan in enumerate(plans) if plan not in plans[:i]]

    def finalists(self) -> list[dict[str, Any]]:
        """Returns the predicted, the best uniform and the plain plan, after all were tried."""
        uniform = [self._plan({**self.base, **changes}) for changes in ({}, *self._uniform())]
        scored = [
            (s, p) for p in uniform if not is_baseline(p) and (s := self._loss(p)) is not None
        ]
        best = [min(scored, key=lambda pair: pair[0])[1]] if scored else []
        plain = [plan for plan in self.plans() if is_baseline(plan)]
        finalists = [self._predicted(), *best, *plain]
        return [plan for i, plan in enumerate(finalists) if plan not in finalists[:i]]

    def expected(self) -> tuple[int, int]:
        """Returns how many trials there will be, and the largest number of finalists."""
        plans = self.plans()
        number = len(plans) + 1  # the predicted plan
        return min(number, self.max_trials or number), 2 + any(map(is_baseline, plans))

    def next_values(self, tried: list[dict[str, Any]]) -> dict[str, Any] | None:
        """Returns the next plan, or the predicted plan once all others have ended."""
        plans = [plan for plan in self.plans() if plan not in tried]
        # The prediction needs the scores of the trials that still run.
        if not plans and not self.ongoing_trials and (last := self._predicted()) not in tried:
            return last
        return plans[0] if plans else None

    def _predicted(self) -> dict[str, Any]:
        changes = {}
        for name, value in self.base.items():
            levels = [value, *self._others(name)]
            plans = [(level, self._plan({**self.base, name: level})) for level in levels]
            # The network without SE is a finalist of its own and is never predicted.
            losses = [(self._loss(p), level) for level, p in plans if not is_baseline(p)]
            known = [(loss, level) for loss, level in losses if loss is not None]
            if known:
                changes[name] = min(known, key=lambda pair: pair[0])[1]
        return self._plan({**self.base, **changes})

    def _uniform(self) -> Iterator[dict[str, Any]]:
        kinds: dict[str, list[str]] = {}
        for name in self.base:
            # Names end in the setting, as in stage_1_ratio; others are a kind of their own.
            kind = name.rpartition("_")[-1]
            kinds.setdefault(kind if kind in ("ratio", "gate", "squeeze") else name, []).append(
                name
            )
        for names in kinds.values():
            for value in self._choices[names[0]]:
                yield dict.fromkeys(names, value)

    def _others(self, name: str) -> list[Any]:
        return [value for value in self._choices[name] if value != self.base[name]]

    def _plan(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the active hyperparameters, with the wanted values where they are valid."""
        values = self._scratch.values = {}
        # Conditions look at earlier values, so the order of declaration matters.
        for parameter in self._scratch.space:
            name = parameter.name
            if self._scratch.is_active(parameter):
                may = wanted.get(name) in self._choices[name]
                values[name] = wanted[name] if may else parameter.default
        return values

    def _loss(self, plan: Mapping[str, Any]) -> float | None:
        """Returns the score of a plan as a loss; `None` if it was not tried or failed."""
        for trial in self.trials.values():
            score = trial.score
            if trial.hyperparameters.values == plan and score is not None and math.isfinite(score):
                return as_loss(float(score), self.objective.direction)
        return None
