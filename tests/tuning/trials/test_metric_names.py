import keras
import pytest

from tuning.trials.metric_names import plain_names


@pytest.mark.parametrize(
    ("logged", "metric", "plain"),
    [
        (["loss", "auc_1", "val_auc_1"], "val_auc", ["loss", "auc", "val_auc"]),
        (["auc_4", "auc_3", "val_auc_3"], "val_loss", ["auc_1", "auc", "val_auc"]),
        (["auc_10", "auc_9"], "val_loss", ["auc_1", "auc"]),
        (["auc", "auc_1"], "val_auc_1", ["auc", "auc_1"]),
        (["val_auc_7"], "val_auc_7", ["val_auc_7"]),  # a name that the user has given
        (["val_binary_io_u_2"], "val_loss", ["val_binary_io_u"]),
        (["val_head_precision_2"], "val_loss", ["val_head_precision"]),
        (["dice_1", "val_dice_1"], "val_dice", ["dice", "val_dice"]),
        (["dice_1", "top_5", "layer_2_loss"], "val_loss", ["dice_1", "top_5", "layer_2_loss"]),
    ],
)
def test_numbers_of_keras_go_and_others_stay(logged, metric, plain):
    assert list(plain_names(logged, metric).values()) == plain


@pytest.mark.parametrize("name", ["AUC", "BinaryIoU", "Recall", "Precision", "MeanIoU"])
def test_they_are_named_as_keras_names_them(name):
    arguments = {"num_classes": 2} if name == "MeanIoU" else {}
    if name == "BinaryIoU":
        arguments = {"target_class_ids": [0]}
    first, second = (getattr(keras.metrics, name)(**arguments).name for _ in range(2))
    assert first != second
    assert plain_names([first], "loss")[first] == plain_names([second], "loss")[second]
