"""Files of the small networks and the verdicts on them, each made once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_se import GateReport, to_tflite, verify


@pytest.fixture(scope="session")
def converted(
    networks: dict[str, keras.Model],
    images: np.ndarray,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str, str], Path]:
    """`converted(gate, format)`: the file of a network, calibrated on `images[100:]`."""
    folder = tmp_path_factory.mktemp("converted")

    @cache
    def file(gate: str, file_format: str) -> Path:
        path: Path = folder / f"{gate}_{file_format}.tflite"
        calibration = None if file_format == "float32" else images[100:]
        to_tflite(networks[gate], file_format, calibration, path=path)
        return path

    return file


@pytest.fixture(scope="session")
def sound(
    networks: dict[str, keras.Model],
    images: np.ndarray,
    converted: Callable[[str, str], Path],
) -> Callable[[str, str], GateReport]:
    """`sound(gate, format)`: the verdict on that file."""

    @cache
    def report(gate: str, file_format: str) -> GateReport:
        return verify(networks[gate], converted(gate, file_format), images[:100])

    return report
