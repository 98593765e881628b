"""Oracle for spaces too large to exhaust: it varies one hyperparameter at a time."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from keras_se.errors import InputError, import_extra
from tuning.running.combinations import check_space, listed_values

keras_tuner: Any = import_extra("keras_tuner", "tuning")

_PLAIN = ("se_placement", "none")
_SETTINGS = ("ratio", "gate", "squeeze")


class MainEffects(keras_tuner.Oracle):
    """Varies one hyperparameter at a time around a base plan.

    The oracle first tries the base plan. It then tries each other value of each hyperparameter,
    with the others as in the base, and the uniform plans, in which all sites or stages share
    another ratio, gate or squeeze. Last comes the predicted plan, which combines the best value of
    each hyperparameter. This takes 1 + Σ(values - 1) trials and a few more, instead of the product.

    A search then compares the `finalists` on fresh seeds, because the prediction combines values
    that were measured one at a time, and the best of many noisy scores is too good.

    Args:
        objective: A `keras_tuner.Objective`.
        hyperparameters: The space.
        base: Values of the base plan by name. By default the middle ratio, and the first value of
            every other hyperparameter.

    Raises:
        InputError: If `base` has a name or value that the space does not have, or selects the
            network without SE, or if a hyperparameter has no list of values or is
            declared twice.

    Example:
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
            if value not in self._choices.get(name, ()) or (name, value) == _PLAIN:
                raise InputError(
                    f"base holds values of the space, {self._choices}, of a network with SE. "
                    f"Received: {name}={value!r}"
                )
        super().__init__(
            objective=objective,
            hyperparameters=hyperparameters,
            max_consecutive_failed_trials=None,  # by default three failures end the search
            seed=1,  # without one keras-tuner draws it from Python's `random`
        )
        # One copy for all plans: a copy for each would take seconds per trial.
        self._scratch = hyperparameters.copy()
        middle = {name: _middle(name, values) for name, values in self._choices.items()}
        self.base = self._plan({**middle, **(base or {})})

    def plans(self) -> list[dict[str, Any]]:
        """Returns the plans to try before the predicted one, the base first."""
        plans: list[dict[str, Any]] = []
        for changes in ({}, *self._singles(), *self._uniform()):
            plan = self._plan({**self.base, **changes})
            # Inactive hyperparameters drop out, so different changes can give the same plan.
            if plan not in plans:
                plans.append(plan)
        return plans

    def finalists(self) -> list[dict[str, Any]]:
        """Returns the predicted plan, the best uniform plan and, if possible, the plan without SE.

        Call it after all plans were tried.
        """
        uniform = [self._plan({**self.base, **changes}) for changes in ({}, *self._uniform())]
        scored = [(s, p) for p in uniform if not _is_plain(p) and (s := self._loss(p)) is not None]
        best = [min(scored, key=lambda pair: pair[0])[1]] if scored else []
        plain = [plan for plan in self.plans() if _is_plain(plan)]
        finalists: list[dict[str, Any]] = []
        for plan in (self._predicted(), *best, *plain):
            if plan not in finalists:
                finalists.append(plan)
        return finalists

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns the next plan, or the predicted plan once all others have ended.

        Args:
            trial_id: ID of the new trial.

        Returns:
            A dictionary with `status` and `values`.
        """
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        untried = [plan for plan in self.plans() if plan not in tried]
        # The prediction needs the scores of the trials that still run.
        if not untried and not self.ongoing_trials and self._predicted() not in tried:
            untried = [self._predicted()]
        if untried:
            return {"status": "RUNNING", "values": untried[0]}
        return {"status": "IDLE" if self.ongoing_trials else "STOPPED", "values": None}

    def _predicted(self) -> dict[str, Any]:
        """Returns the plan with the best value of each hyperparameter."""
        changes = {}
        for name, value in self.base.items():
            levels = [value, *self._others(name)]
            plans = [(level, self._plan({**self.base, name: level})) for level in levels]
            # The network without SE is a finalist of its own and is never predicted.
            losses = [(self._loss(p), level) for level, p in plans if not _is_plain(p)]
            known = [(loss, level) for loss, level in losses if loss is not None]
            if known:
                changes[name] = min(known, key=lambda pair: pair[0])[1]
        return self._plan({**self.base, **changes})

    def _singles(self) -> Iterator[dict[str, Any]]:
        return ({name: other} for name in self.base for other in self._others(name))

    def _uniform(self) -> Iterator[dict[str, Any]]:
        """Yields changes that set one ratio, gate or squeeze in all scopes that have it."""
        kinds: dict[str, list[str]] = {}
        for name in self.base:
            # Names end in the setting, as in stage_1_ratio; others are a kind of their own.
            kind = name.rpartition("_")[-1]
            kinds.setdefault(kind if kind in _SETTINGS else name, []).append(name)
        for names in kinds.values():
            for value in self._choices[names[0]]:
                yield dict.fromkeys(names, value)

    def _others(self, name: str) -> list[Any]:
        return [value for value in self._choices[name] if value != self.base[name]]

    def _plan(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the active hyperparameters, with the wanted values where they are valid."""
        scratch = self._scratch
        scratch.values = {}
        # Conditions look at earlier values, so the order of declaration matters.
        for parameter in scratch.space:
            name = parameter.name
            if scratch.is_active(parameter):
                may = wanted.get(name) in self._choices[name]
                scratch.values[name] = wanted[name] if may else parameter.default
        return dict(scratch.values)

    def _loss(self, plan: Mapping[str, Any]) -> float | None:
        """Returns the score of a plan as a loss; `None` if it was not tried or failed."""
        sign = -1.0 if self.objective.direction == "max" else 1.0
        for trial in self.trials.values():
            score = trial.score
            if trial.hyperparameters.values == plan and score is not None and math.isfinite(score):
                return sign * score
        return None


def _is_plain(plan: Mapping[str, Any]) -> bool:
    name, value = _PLAIN
    return plan.get(name) == value


def _middle(name: str, values: list[Any]) -> Any:
    return values[len(values) // 2] if name.endswith("ratio") else values[0]
