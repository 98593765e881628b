import json

import numpy as np

from keras_se.cli.samples import some


def test_some_samples_are_of_all_classes():
    """The arrays of users may lie in classes, of which the first samples are one."""
    x, y = np.arange(1000.0)[:, None], np.repeat(np.arange(10), 100)
    inputs, labels = some(({"a": x, "b": 2 * x}, y), 25)
    assert np.bincount(labels).tolist() == [3, 2] * 5
    np.testing.assert_array_equal(inputs["b"], 2 * inputs["a"])
    np.testing.assert_array_equal(labels, y[inputs["a"].astype(int)[:, 0]])
    assert some(y, 1000) is y


def test_export_calibrates_on_some_samples(keras_se_command, images, tmp_path):
    many = np.concatenate([images[100:] * scale for scale in (0.9, 1.0, 1.1)])
    np.savez(tmp_path / "many.npz", x_train=many)
    words = ("export", "se.keras", tmp_path / "m.tflite", "--calibration", tmp_path / "many.npz")
    assert keras_se_command(*words) == 0
    recipe = json.loads((tmp_path / "m.recipe.json").read_text())
    assert recipe["calibration"]["samples"] == 500
