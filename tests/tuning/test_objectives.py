import re

import keras
import keras_tuner
import numpy as np
import pytest

from keras_se.errors import InputError
from tuning.choice.rules import Cheapest, StructuralRisk
from tuning.objectives import get_objective, metric_direction

FORMS = {
    "val_loss": Cheapest(0.002),
    "val_accuracy": Cheapest(0.002, metric="val_accuracy"),
    "score:max": Cheapest(0.002, metric="score", direction="max"),
    "cheapest:0.01": Cheapest(0.01),
    "cheapest:1e-3:val_auc": Cheapest(0.001, metric="val_auc"),
    "cheapest:0.01:score:min": Cheapest(0.01, metric="score", direction="min"),
    "risk:0": StructuralRisk(0.0),
    "risk:1e-6": StructuralRisk(1e-6),
    "risk:0.5:val_head_loss": StructuralRisk(0.5, metric="val_head_loss"),
    "risk:0.5:score:max": StructuralRisk(0.5, metric="score", direction="max"),
}


@pytest.mark.parametrize(("name", "rule"), FORMS.items())
def test_forms_and_the_way_back(name, rule):
    assert get_objective(name) == rule
    assert get_objective(rule) is rule
    assert get_objective(rule.name) == rule
    assert get_objective(rule.name).name == rule.name


def test_names():
    assert Cheapest(0.01).name == "cheapest:0.01:val_loss"
    assert StructuralRisk(1e-6, metric="a", direction="max").name == "risk:1e-06:a:max"


@pytest.mark.parametrize("number", [np.float64(0.5), np.float32(0.5), 1])
def test_numbers_of_other_types(number):
    for rule in (Cheapest(number), StructuralRisk(number)):
        assert get_objective(rule.name) == rule


def test_an_objective_of_keras_tuner():
    rule = get_objective(keras_tuner.Objective("val_dice", "max"))
    assert (rule.metric, metric_direction(rule)) == ("val_dice", "max")
    several = [keras_tuner.Objective("val_loss", "min"), keras_tuner.Objective("J", "min")]
    for wrong in (several, keras_tuner.Oracle(several).objective):
        with pytest.raises(InputError, match="An objective must be a rule of choice"):
            get_objective(wrong)


def test_most_seeds():
    assert get_objective("cheapest:0.01", 5).max_seeds == 5
    assert get_objective("val_loss", 5).max_seeds == 5
    assert get_objective("risk:0.1", 5) == StructuralRisk(0.1)
    assert get_objective(Cheapest(0.01, max_seeds=7), 5).max_seeds == 5
    with pytest.raises(InputError, match="max_seeds"):
        get_objective("cheapest:0.01", 2)


@pytest.mark.parametrize(
    "name",
    [
        "cheapest",
        "risk",
        "cheapest:",
        "cheapest:x",
        "risk:",
        "risk:val_loss",
        "cheapest:0.1:",
        "cheapest:0.1::min",
        "cheapest:0.1:a:up",
        "cheapest:0.1:a:min:b",
        "val_loss:",
        "val_loss:up",
        "val_loss:min:max",
        ":",
        ":max",
        "a:b:c:d",
    ],
)
def test_no_such_name(name):
    message = rf"An objective must be .*, cheapest:TOLERANCE.* of a metric. Received: '{name}'"
    with pytest.raises(InputError, match=message):
        get_objective(name)


@pytest.mark.parametrize("objective", ["", None, 3, ["val_loss"], Cheapest])
def test_no_objective(objective):
    with pytest.raises(InputError, match=r"An objective must be a rule of choice, .* Received: "):
        get_objective(objective)


@pytest.mark.parametrize(
    "name", ["cheapest:nan", "cheapest:0", "cheapest:-1", "risk:-1", "risk:inf"]
)
def test_numbers_that_rules_refuse(name):
    with pytest.raises(InputError, match=r"must be a finite number"):
        get_objective(name)


HIGH = [
    "accuracy",
    "acc",
    "val_accuracy",
    "val_auc",
    "val_precision",
    "val_recall",
    "val_sparse_categorical_accuracy",
    "val_top_k_categorical_accuracy",
    "val_f1_score",
    "val_fbeta_score",
    "val_r2_score",
    "val_cosine_similarity",
    "val_mean_io_u",
    "val_binary_io_u",
    "val_pearson_correlation",
    "val_precision_at_recall",
    "val_head_accuracy",
    "val_left_head_f1_score",
    "val_weighted_accuracy",
]
LOW = [
    "loss",
    "val_loss",
    "val_mse",
    "val_mae",
    "val_mean_absolute_error",
    "val_head_loss",
    "val_ce",
    "val_crossentropy",
    "val_huber",
    "val_false_positives",
    "val_kl_divergence",
    "val_root_mean_squared_error",
    "val_left_head_mae",
]


@pytest.mark.parametrize(
    ("metric", "direction"), [(m, "max") for m in HIGH] + [(m, "min") for m in LOW]
)
def test_directions_that_are_known(metric, direction):
    assert metric_direction(Cheapest(0.1, metric=metric)) == direction
    assert metric_direction(StructuralRisk(0.1, metric=metric)) == direction


@pytest.mark.parametrize("direction", ["min", "max"])
@pytest.mark.parametrize("metric", ["val_accuracy", "val_loss", "score"])
def test_a_direction_that_is_given_holds(metric, direction):
    assert metric_direction(Cheapest(0.1, metric=metric, direction=direction)) == direction


@pytest.mark.parametrize(
    "metric",
    [
        "score",
        "val_score",
        "val_f1",
        "val_recall_1",
        "val_dice",
        "val_mean",
        "val_head_sum",
        "val_get",
        "val_metric",
        "val_",
        "_",
    ],
)
def test_directions_that_nobody_knows(metric):
    message = rf"does not know the direction of this metric: .* Received: metric='{metric}'"
    with pytest.raises(InputError, match=message):
        metric_direction(Cheapest(0.1, metric=metric))


def perfect(metric):
    """Whether a metric is higher for predictions that are right than for others."""
    right = np.eye(2, dtype="float32")[[0, 0, 1, 1]]
    values = []
    for y in (right, right[::-1] * 0.6 + 0.2):
        metric.reset_state()
        metric.update_state(right, y)
        values.append(float(np.mean(metric.result())))
    return values[0] > values[1]


@pytest.mark.parametrize(
    "name",
    [
        "BinaryAccuracy",
        "CategoricalAccuracy",
        "F1Score",
        "FBetaScore",
        "R2Score",
        "AUC",
        "CosineSimilarity",
        "PearsonCorrelation",
        "ConcordanceCorrelation",
        "Precision",
        "MeanSquaredError",
        "KLDivergence",
        "Poisson",
        "CategoricalHinge",
    ],
)
def test_directions_are_those_of_the_metrics(name):
    metric = getattr(keras.metrics, name)()
    name = re.sub(r"_\d+$", "", metric.name)  # the number of those that a process has made
    direction = metric_direction(Cheapest(0.1, metric=f"val_{name}"))
    assert direction == ("max" if perfect(metric) else "min")


def test_values_of_rules():
    assert Cheapest(0.1).value(0.9, 20.0, "max") == 0.9
    assert Cheapest(0.1).value(0.9, 20.0, "min") == 0.9
    assert StructuralRisk(0.01).value(0.5, 20.0, "min") == 0.7
    assert StructuralRisk(0.01).value(0.5, 20.0, "max") == -0.3
    assert StructuralRisk(0.0).value(0.5, 20.0, "min") == 0.5
    assert Cheapest(0.1).objective("max") == ("val_loss", "max")
    assert StructuralRisk(0.1).objective("max") == ("J", "min")
