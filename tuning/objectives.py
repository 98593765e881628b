"""Rules of choice by name, as the command line and files hold them, and their metrics."""

from typing import Any

from keras_se.errors import InputError, import_extra
from tuning.select import Cheapest, StructuralRisk

Rule = Cheapest | StructuralRisk

TOLERANCE = 0.002
_HIGH = (
    *("f1_score", "fbeta_score", "f_beta_score", "r2_score", "cosine_similarity"),
    *("pearson_correlation", "concordance_correlation"),
    *("io_u", "binary_io_u", "mean_io_u", "one_hot_io_u", "one_hot_mean_io_u"),
    *("precision_at_recall", "recall_at_precision"),
    *("sensitivity_at_specificity", "specificity_at_sensitivity"),
)
_UNKNOWN = ("mean", "sum", "metric", "mean_metric_wrapper", "get", "serialize", "deserialize")
_RULES: dict[str, Any] = {"cheapest": Cheapest, "risk": StructuralRisk}
_FORM = (
    "cheapest:TOLERANCE[:METRIC[:min|max]], risk:WEIGHT[:METRIC[:min|max]], or the name of a metric"
)


def get_objective(objective: Any, max_seeds: int | None = None) -> Rule:
    """A rule of choice, from itself or from its name.

    Args:
        objective: A `Cheapest` or `StructuralRisk`, or `"cheapest:0.002:val_accuracy"`,
            `"risk:1e-6"`, with `:min` or `:max` behind the metric where Keras does not know its
            direction; or the name of a metric, of which `Cheapest` then tolerates 0.002.
        max_seeds: Most seeds of a `Cheapest` that is given by name.

    Returns:
        The rule.

    Raises:
        InputError: If there is no such rule.

    Example:
        >>> get_objective("cheapest:0.01:val_accuracy")
        Cheapest(tolerance=0.01, max_seeds=10, metric='val_accuracy', direction=None)
    """
    if isinstance(objective, Rule):
        return objective
    if not isinstance(objective, str) or not objective:
        raise InputError(f"An objective is a rule of choice or {_FORM}. Received: {objective!r}")
    kind, *rest = objective.split(":")
    if kind not in _RULES:
        kind, rest = "cheapest", [str(TOLERANCE), kind, *rest]
    further: dict[str, Any] = dict(zip(("metric", "direction"), rest[1:], strict=False))
    if kind == "cheapest" and max_seeds is not None:
        further["max_seeds"] = max_seeds
    try:
        number = float(rest[0])
    except (IndexError, ValueError) as error:
        raise InputError(f"An objective is {_FORM}. Received: {objective!r}") from error
    if len(rest) > 3 or "" in rest or further.get("direction") not in (None, "min", "max"):
        raise InputError(f"An objective is {_FORM}. Received: {objective!r}")
    return _RULES[kind](number, **further)


def objective_name(rule: Rule) -> str:
    """The name of a rule, which `get_objective` takes.

    Args:
        rule: The rule.

    Returns:
        The name.

    Example:
        >>> objective_name(StructuralRisk(1e-6))
        'risk:1e-06:val_loss'
    """
    if isinstance(rule, Cheapest):
        kind, number = "cheapest", rule.tolerance
    else:
        kind, number = "risk", rule.weight
    direction = [rule.direction] if rule.direction else []
    return ":".join([kind, f"{float(number)!r}", rule.metric, *direction])


def metric_direction(rule: Rule) -> str:
    """Whether low or high values of the metric of a rule are good.

    Args:
        rule: The rule.

    Returns:
        `"min"` or `"max"`: what the rule says, else what Keras knows of the metric; of a model with
        several outputs a metric has the name of its output before its own.

    Raises:
        InputError: If Keras does not know the metric.

    Example:
        >>> metric_direction(Cheapest(0.01, metric="val_head_accuracy"))
        'max'
    """
    words = rule.metric.removeprefix("val_").split("_")
    names = ["_".join(words[n:]) for n in range(len(words))]
    direction = rule.direction or next((d for d in map(_known_direction, names) if d), None)
    if direction is None:
        raise InputError(
            "The direction of a metric that Keras does not know must be given, as direction='min' "
            f"or 'max', or behind its name in an objective. Received: metric={rule.metric!r}"
        )
    return direction


def _known_direction(name: str) -> str | None:
    """What keras-tuner infers, where that is right: it takes all that it does not know for low."""
    if name in _HIGH:
        return "max"
    if name in _UNKNOWN:
        return None
    tracking = import_extra("keras_tuner.engine.metrics_tracking", "tuning")
    direction: str | None = tracking.infer_metric_direction(name)
    return direction


def objective_value(rule: Rule, direction: str, score: float, complexity: float) -> float:
    """What a rule makes low or high of one trial: J of `StructuralRisk`, else the score itself.

    Args:
        rule: The rule.
        direction: That of the metric.
        score: Of the trial.
        complexity: ΣC²/r of its model.

    Returns:
        J, low is good, or the score.

    Example:
        >>> objective_value(StructuralRisk(0.01), "max", 0.9, 20.0)
        -0.7
    """
    if isinstance(rule, Cheapest):
        return score
    loss = -score if direction == "max" else score
    return round(loss + rule.weight * complexity, 12)
