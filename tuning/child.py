"""What runs in the process of one trial."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuning.candidate import Candidate
from tuning.job import Job
from tuning.records import write_record
from tuning.trial import run_trial


def run(payload: Mapping[str, Any]) -> None:
    """Runs a trial and writes its record.

    Args:
        payload: `job`, `candidate`, `seed`, `folder`, `fingerprint`, `tested` and `modules`, in
            plain values.
    """
    for module in payload["modules"]:
        importlib.import_module(module)
    folder = Path(payload["folder"])
    record = run_trial(
        Job.from_names(payload["job"]),
        Candidate(**payload["candidate"]),
        payload["seed"],
        folder,
        fingerprint=payload["fingerprint"],
        tested=payload["tested"],
    )
    write_record(folder / "records", record)
