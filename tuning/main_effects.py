"""An oracle for spaces too large to exhaust: one factor at a time around a base plan."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from keras_se.errors import InputError, import_extra
from tuning.combinations import check_space, listed_values

keras_tuner: Any = import_extra("keras_tuner", "tuning")

_PLAIN = ("se_placement", "none")
_SETTINGS = ("ratio", "gate", "squeeze")


class MainEffects(keras_tuner.Oracle):
    """Varies one hyperparameter at a time around a base plan.

    Tried are the base plan; each other value of each hyperparameter, the others as in the base; the
    uniform plans, in which all sites or stages have one other ratio, gate or squeeze; and at last
    the predicted plan, which has the best value of each hyperparameter. That takes
    1 + Σ(values - 1) trials, and few more, instead of the product. `finalists` are the plans that a
    search then compares on fresh seeds: the predicted one was never measured as a whole, and the
    best of many noisy values is too good.

    Args:
        objective: A `keras_tuner.Objective`.
        hyperparameters: The space.
        base: Values of the base plan by name; by default the middle ratio, and the first of all
            others.

    Raises:
        InputError: If `base` names what the space does not have, or is the network without SE; or
            as `check_space`.

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
            max_consecutive_failed_trials=None,
            seed=1,
        )
        self._scratch = hyperparameters.copy()  # a copy for each plan would take seconds a trial
        middle = {name: _middle(name, values) for name, values in self._choices.items()}
        self.base = self._plan({**middle, **(base or {})})

    def plans(self) -> list[dict[str, Any]]:
        """The plans that are tried before anything is predicted, the base first."""
        plans: list[dict[str, Any]] = []
        for changes in ({}, *self._singles(), *self._uniform()):
            plan = self._plan({**self.base, **changes})
            if plan not in plans:
                plans.append(plan)
        return plans

    def finalists(self) -> list[dict[str, Any]]:
        """The predicted plan, the best uniform one, and the network without SE if it is possible.

        To be called when all plans were tried.
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
        """The next plan; the predicted one when all others have ended.

        Args:
            trial_id: Of the trial to be.

        Returns:
            A dictionary with `status` and `values`.
        """
        tried = [trial.hyperparameters.values for trial in self.trials.values()]
        untried = [plan for plan in self.plans() if plan not in tried]
        if not untried and not self.ongoing_trials and self._predicted() not in tried:
            untried = [self._predicted()]
        if untried:
            return {"status": "RUNNING", "values": untried[0]}
        return {"status": "IDLE" if self.ongoing_trials else "STOPPED", "values": None}

    def _predicted(self) -> dict[str, Any]:
        """The best value of each hyperparameter, measured with the others as in the base."""
        changes = {}
        for name, value in self.base.items():
            levels = [value, *self._others(name)]
            plans = [(level, self._plan({**self.base, name: level})) for level in levels]
            losses = [(self._loss(p), level) for level, p in plans if not _is_plain(p)]
            known = [(loss, level) for loss, level in losses if loss is not None]
            if known:
                changes[name] = min(known, key=lambda pair: pair[0])[1]
        return self._plan({**self.base, **changes})

    def _singles(self) -> Iterator[dict[str, Any]]:
        return ({name: other} for name in self.base for other in self._others(name))

    def _uniform(self) -> Iterator[dict[str, Any]]:
        """One other value of ratio, gate or squeeze in all scopes that have it."""
        kinds: dict[str, list[str]] = {}
        for name in self.base:
            kind = name.rpartition("_")[-1]
            kinds.setdefault(kind if kind in _SETTINGS else name, []).append(name)
        for names in kinds.values():
            for value in self._choices[names[0]]:
                yield dict.fromkeys(names, value)

    def _others(self, name: str) -> list[Any]:
        return [value for value in self._choices[name] if value != self.base[name]]

    def _plan(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """The active hyperparameters, with the values wanted where they may have them."""
        scratch = self._scratch
        scratch.values = {}
        for parameter in scratch.space:
            name = parameter.name
            if scratch.is_active(parameter):
                may = wanted.get(name) in self._choices[name]
                scratch.values[name] = wanted[name] if may else parameter.default
        return dict(scratch.values)

    def _loss(self, plan: Mapping[str, Any]) -> float | None:
        """The score of a plan as a loss; `None` where it was not tried, or failed."""
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
