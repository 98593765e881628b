"""The samples of a search that files are calibrated and judged with."""

import dataclasses
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.errors import InputError, import_extra
from keras_se.litert.convert import check_backend
from keras_se.litert.formats import FORMATS
from keras_se.litert.recipe import row_hashes, used_rows
from keras_se.verification.verdict import MIN_SAMPLES
from tuning.data.batches import first_samples
from tuning.data.trial_data import TrialData
from tuning.seeding import trial_seed
from tuning.trials.job import Job
from tuning.trials.training import cause_of

_CALIBRATION = 300
_SCORED = 2000  # for the metric as a file
_VERIFIED = 256  # for the verdict on the gates


@dataclass(frozen=True)
class FileSamples:
    """Samples of a search, as arrays.

    Attributes:
        calibration: Inputs of training samples; `None` if the format takes none.
        validation: Inputs, targets and weights of validation samples, as far as there are any.
        held_out: Inputs of validation samples that are not among those of the calibration.
    """

    calibration: Any
    validation: tuple[Any, ...]
    held_out: Any


def file_samples(job: Job, seed: int, file_format: str) -> FileSamples:
    """Returns the samples for the files of a search.

    Raises:
        InputError: If there are too few validation samples, or Keras does not run on TensorFlow.
        MissingExtraError: If LiteRT is not installed.
    """
    check_backend("deployed")
    import_extra("ai_edge_litert.interpreter", "litert")
    with trial_seed(seed), _readable():
        train, validation, _ = job.data.load(seed)
        scored = first_samples(validation, _SCORED)
        used = None
        if FORMATS[file_format].needs_calibration:
            used = first_samples(train, _CALIBRATION)[0]
    rows = _held_out(scored[0], used) if scored else np.zeros(0, int)
    if len(rows) < MIN_SAMPLES:
        raise InputError(
            f"deployed needs at least {MIN_SAMPLES} validation samples that are not among the "
            f"training samples of the calibration. Received: {len(rows)}"
        )
    chosen = rows[np.linspace(0, len(rows) - 1, min(_VERIFIED, len(rows))).astype(int)]
    return FileSamples(used, scored, keras.tree.map_structure(lambda a: a[chosen], scored[0]))


def with_samples(job: Job, seed: int, file_format: str) -> Job:
    """Returns the job with the samples for its files as its data, and nothing to train with.

    Live datasets travel to no other process, these samples do; `file_samples` gives them again.
    """
    samples = file_samples(job, seed, file_format)
    train = samples.validation if samples.calibration is None else (samples.calibration,)
    # As functions, which may give inputs without targets.
    given, checked = (functools.partial(_given, part) for part in (train, samples.validation))
    data = TrialData(given, checked)
    return dataclasses.replace(job, data=data, fit={})


def _given(part: tuple[Any, ...]) -> tuple[Any, ...]:
    return part


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the user's own code, or tensors that are no arrays
        raise InputError(
            "deployed needs data that can be loaded, as arrays in batches of one structure. "
            f"Received: data that give {cause_of(error)}"
        ) from error


def _held_out(x: Any, calibration: Any) -> np.ndarray:
    """Returns the rows of inputs that are no calibration samples."""
    wanted, others = _numbered(x), _numbered(calibration)
    if not others or not wanted:
        return np.arange(len(keras.tree.flatten(x)[0]))
    return np.flatnonzero(~used_rows(wanted, set(row_hashes(others))))


def _numbered(x: Any) -> dict[str, np.ndarray]:
    """Returns arrays of numbers under names of one order; empty if there are others."""
    arrays = [] if x is None else keras.tree.flatten(x)
    is_plain = all(array.dtype.kind in "fiub" for array in arrays)
    return {f"{n:04}": array for n, array in enumerate(arrays)} if is_plain else {}
