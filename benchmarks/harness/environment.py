"""Where a benchmark ran."""

import datetime
import importlib.metadata
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass

from keras_se.litert.recorder import processor

_PACKAGES = (
    *("keras", "tensorflow", "ai-edge-litert", "litert-quantizer", "keras-tuner", "loky"),
    *("distributed", "numpy", "keras-cv", "kimm"),
)


@dataclass(frozen=True)
class Environment:
    """The machine and what is installed on it.

    Attributes:
        processor: Name of the processor.
        cores: Number of cores that the run may use.
        system: Name of the system.
        python: Version of Python.
        packages: Versions by name; empty where a package is not installed.
        load: Processes that ran before the run began, by the mean of a minute: 0 on a machine that
            does nothing else.
        date: The day.
    """

    processor: str
    cores: int
    system: str
    python: str
    packages: Mapping[str, str]
    load: float
    date: str

    @classmethod
    def here(cls) -> "Environment":
        """Describes this machine."""
        return cls(
            processor=processor(),
            cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
            system=platform.platform(terse=True),
            python=platform.python_version(),
            packages={name: _version(name) for name in _PACKAGES},
            load=round(os.getloadavg()[0], 2),
            date=datetime.date.today().isoformat(),
        )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""
