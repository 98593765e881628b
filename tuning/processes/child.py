"""The entry point of the process of one trial."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.trials.combination import Combination
from tuning.trials.job import Job
from tuning.trials.records import write_record
from tuning.trials.training import run_trial


def run(payload: Mapping[str, Any]) -> None:
    """Runs the trial that the payload describes, and writes its record."""
    # Modules may register the user's Keras classes, which loading the model needs.
    for module in payload["modules"]:
        importlib.import_module(module)
    folder = Path(payload["folder"])
    record = run_trial(
        Job.from_names(payload["job"]),
        Combination(**payload["candidate"]),
        payload["seed"],
        folder,
        fingerprint=payload["fingerprint"],
        tested=payload["tested"],
    )
    write_record(folder / "records", record)
