import json

import numpy as np


def test_export_calibrates_on_some_samples(keras_se_command, images, tmp_path):
    many = np.concatenate([images[100:] * scale for scale in (0.9, 1.0, 1.1)])
    np.savez(tmp_path / "many.npz", x_train=many)
    words = ("export", "se.keras", tmp_path / "m.tflite", "--calibration", tmp_path / "many.npz")
    assert keras_se_command(*words) == 0
    recipe = json.loads((tmp_path / "m.recipe.json").read_text())
    assert recipe["calibration"]["samples"] == 500
