"""Rules of choice by name, and the directions of their metrics."""

import dataclasses
from typing import Any

import keras_tuner
from keras_tuner.engine import metrics_tracking

from keras_se.errors import InputError
from tuning.choice.rules import Cheapest, Rule, StructuralRisk
from tuning.choice.scores import Direction

TOLERANCE = 0.002
# keras-tuner infers "min" for these, as for all metrics that it does not know.
_HIGH = {
    "f1_score",
    "fbeta_score",
    "f_beta_score",
    "r2_score",
    "cosine_similarity",
    "pearson_correlation",
    "concordance_correlation",
    "io_u",
    "binary_io_u",
    "mean_io_u",
    "one_hot_io_u",
    "one_hot_mean_io_u",
    "precision_at_recall",
    "recall_at_precision",
    "sensitivity_at_specificity",
    "specificity_at_sensitivity",
}
# Names in `keras.metrics` and `keras.losses` that tell no direction, though keras-tuner infers one:
# the Dice loss is low, but what people log as `dice` is the coefficient, which is high.
_UNKNOWN = (
    "mean",
    "sum",
    "metric",
    "mean_metric_wrapper",
    "get",
    "serialize",
    "deserialize",
    "dice",
)
_RULES: dict[str, Any] = {"cheapest": Cheapest, "risk": StructuralRisk}


def get_objective(objective: Any, max_seeds: int | None = None) -> Rule:
    """Returns a rule of choice, from the rule itself, its name or keras-tuner's objective."""
    if isinstance(objective, Cheapest) and max_seeds is not None:
        return dataclasses.replace(objective, max_seeds=max_seeds)
    if isinstance(objective, Rule):
        return objective
    if isinstance(objective, keras_tuner.Objective) and objective.name != "multi_objective":
        objective = f"{objective.name}:{objective.direction}"
    expected = (
        "An objective must be a rule of choice, cheapest:TOLERANCE[:METRIC[:min|max]], "
        f"risk:WEIGHT[:METRIC[:min|max]], or the name of a metric. Received: {objective!r}"
    )
    if not isinstance(objective, str) or not objective:
        raise InputError(expected)
    kind, *rest = objective.split(":")
    if kind not in _RULES:
        # Not a rule, so the text is the name of a metric.
        kind, rest = "cheapest", [str(TOLERANCE), kind, *rest]
    further: dict[str, Any] = dict(zip(("metric", "direction"), rest[1:], strict=False))
    if kind == "cheapest" and max_seeds is not None:
        further["max_seeds"] = max_seeds
    try:
        number = float(rest[0])
    except (IndexError, ValueError) as error:
        raise InputError(expected) from error
    if len(rest) > 3 or "" in rest or further.get("direction") not in (None, "min", "max"):
        raise InputError(expected)
    return _RULES[kind](number, **further)


def metric_direction(rule: Rule) -> Direction:
    """Returns `"min"` or `"max"`, from the rule or from what Keras knows of its metric."""
    words = rule.metric.removeprefix("val_").split("_")
    # With several outputs Keras puts the name of the output before that of the metric.
    names = ["_".join(words[n:]) for n in range(len(words))]
    direction = rule.direction or next((d for d in map(_known_direction, names) if d), None)
    if direction is None:
        raise InputError(
            "Keras does not know the direction of this metric: give direction='min' or 'max', or "
            f"add it to the name, as in NAME:max. Received: metric={rule.metric!r}"
        )
    return direction


def _known_direction(name: str) -> Direction | None:
    # `None` if keras-tuner would only guess.
    if name in _HIGH:
        return "max"
    if name in _UNKNOWN:
        return None
    direction: Direction | None = metrics_tracking.infer_metric_direction(name)
    return direction
