from pathlib import Path

import keras
import pytest

from tuning.trials.callback_files import move_files


class Own(keras.callbacks.Callback):
    def __init__(self, path):
        super().__init__()
        self.path = path


@pytest.mark.parametrize(
    ("callback", "attribute", "expected"),
    [
        (lambda f: keras.callbacks.TensorBoard(f / "logs"), "log_dir", "logs/t-s0"),
        (lambda f: keras.callbacks.TensorBoard(f"{f}/{{trial}}/a"), "log_dir", "t-s0/a"),
        (lambda f: keras.callbacks.CSVLogger(f"{f}/log.csv"), "filename", "t-s0/log.csv"),
        (lambda f: keras.callbacks.CSVLogger(f"{f}/{{trial}}.csv"), "filename", "t-s0.csv"),
        (
            lambda f: keras.callbacks.ModelCheckpoint(f"{f}/{{epoch:02d}}.keras"),
            "filepath",
            "t-s0/{epoch:02d}.keras",
        ),
        (
            lambda f: keras.callbacks.BackupAndRestore(f"{f}/backup"),
            "_weights_path",
            "backup/t-s0/latest.weights.h5",
        ),
        (lambda f: Own(f / "{trial}" / "a"), "path", "t-s0/a"),
        (lambda f: Own(f / "a"), "path", "a"),
    ],
)
def test_each_trial_has_paths_of_its_own(tmp_path, callback, attribute, expected):
    moved = callback(tmp_path)
    move_files(moved, "t-s0")
    assert Path(getattr(moved, attribute)) == tmp_path / expected


def test_what_has_no_path_stays():
    stopping = keras.callbacks.EarlyStopping("val_loss")
    before = dict(vars(stopping))
    move_files(stopping, "t-s0")
    assert vars(stopping) == before
