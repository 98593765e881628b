"""Kills a process with signal 9 at a point of a search, as a crash or the system does."""

import functools
import itertools
import os
import signal
from pathlib import Path

import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner

from keras_se import files
from tuning.folder.begun import Begun
from tuning.trials.best_epoch import BestEpoch

# The file of each write, by its name.
WRITES = {
    "job": "job.toml",
    "fingerprint": "fingerprint.json",
    "weights": "weights/*.weights.h5",
    "record": "records/*.json",
    "result": "result.json",
}
POINTS = (
    *(f"{name}.{when}" for name in WRITES for when in ("before", "between", "after")),
    "curve.after",
    "begun.before",
    "begun.after",
    "trial.opened",
    "trial.measured",
    "trial.ended",
    "oracle.before",
    "oracle.after",
)


def kill_at(fault: str) -> None:
    """Patches the writes so that this process dies at `POINT`, or at `POINT:N` the Nth time."""
    wanted, _, count = fault.partition(":")
    passed = itertools.count(1)

    def reach(name: str) -> None:
        if name == wanted and next(passed) == int(count or 1):
            os.kill(os.getpid(), signal.SIGKILL)

    def patch(owner, function, before=lambda *_: None, after=lambda *_: None):
        original = getattr(owner, function)

        @functools.wraps(original)
        def patched(*arguments, **further):
            before(*arguments)
            returned = original(*arguments, **further)
            after(*arguments)
            return returned

        setattr(owner, function, patched)

    def write(path):
        return next((n for n, pattern in WRITES.items() if Path(path).match(pattern)), "other")

    patch(files, "_temporary", lambda path, *_: reach(f"{write(path)}.before"))
    patch(
        os,
        "replace",
        lambda _, path: reach(f"{write(path)}.between"),
        lambda _, path: reach(f"{write(path)}.after"),
    )
    patch(BestEpoch, "on_epoch_end", after=lambda *_: reach("curve.after"))
    patch(Begun, "begin", lambda *_: reach("begun.before"), lambda *_: reach("begun.after"))
    # keras-tuner's own writes: between the file of a trial and that of the oracle, and after.
    patch(
        keras_tuner.Oracle,
        "save",
        lambda *_: reach("oracle.before"),
        lambda *_: reach("oracle.after"),
    )
    patch(keras_tuner.Oracle, "create_trial", after=lambda *_: reach("trial.opened"))
    patch(keras_tuner.Oracle, "end_trial", lambda *_: reach("trial.measured"))
    # The first time, when the tuner is made, no trial has ended.
    patch(BaseTuner, "save", after=lambda tuner: tuner.oracle.end_order and reach("trial.ended"))
