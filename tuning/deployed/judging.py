"""One candidate as a file: made, run, timed and judged. Its record holds the result or why not."""

import hashlib
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from keras_se.errors import (
    InputError,
    MissingExtraError,
    PrecisionWarning,
    SiteWarning,
    reason,
)
from keras_se.litert.convert import ConversionWarning, to_tflite
from keras_se.litert.formats import FormatName
from keras_se.litert.inputs import input_arrays, input_specs
from keras_se.litert.runtime import runtime_name
from keras_se.reading import find_sites
from keras_se.verification.latency import latency
from keras_se.verification.rule import NOTHING_TO_SURVIVE
from keras_se.verification.verdict import verify
from tuning.data.batches import open_shape
from tuning.deployed.metric import compare
from tuning.deployed.record import DeployedRecord
from tuning.deployed.samples import FileSamples, file_samples
from tuning.seeding import trial_seed
from tuning.trials.combination import Combination
from tuning.trials.disk import is_full_disk
from tuning.trials.job import Job
from tuning.trials.records import run_key
from tuning.trials.trained import trained_model
from tuning.trials.training import cause_of, weights_path


@dataclass(frozen=True)
class Judgement:
    """The judging of a file as a call that can travel, to a process in which nothing else runs.

    Attributes:
        candidate: The candidate.
        seed: Seed of the training that the weights are of.
        file_format: Format of the file.
        weights: The weights, as an `.weights.h5` file.
        fingerprint: Hash of the job, for the record.
    """

    candidate: Combination
    seed: int
    file_format: FormatName
    weights: bytes = field(repr=False)
    fingerprint: str = ""

    def perform(self, job: Job, scratch: Path | None = None) -> DeployedRecord:
        """Judges the file, of a job that `with_samples` returned."""
        samples = file_samples(job, self.seed, self.file_format)
        with tempfile.TemporaryDirectory(dir=scratch) as name:
            kept = weights_path(Path(name), run_key(self.candidate.id, self.seed))
            kept.parent.mkdir()
            kept.write_bytes(self.weights)
            return judge(
                job,
                self.candidate,
                self.seed,
                self.file_format,
                samples,
                Path(name),
                self.fingerprint,
            )

    def failed(self, why: str) -> DeployedRecord:
        """Returns the record of a file that was not judged."""
        return DeployedRecord(
            candidate=self.candidate.id,
            label=self.candidate.label,
            seed=self.seed,
            format=self.file_format,
            reason=why,
            fingerprint=self.fingerprint,
        )


def judge(
    job: Job,
    candidate: Combination,
    seed: int,
    file_format: FormatName,
    samples: FileSamples,
    folder: Path,
    fingerprint: str = "",
) -> DeployedRecord:
    """Judges the file of a candidate with the weights of a seed; its record is not written yet."""
    started = time.monotonic()
    found: dict[str, Any] = {}
    try:
        with _quiet():
            model = trained_model(job, candidate, seed, folder)
            with trial_seed(seed):
                _judge(model, file_format, samples, job.metric, found)
    except MissingExtraError:
        raise
    except (Exception, SystemExit) as error:
        if is_full_disk(error):
            raise
        # What cannot be converted is out, and ends no search; the user's code runs here, too.
        found["reason"] = reason(error) if isinstance(error, InputError) else cause_of(error)
    return DeployedRecord(
        candidate=candidate.id,
        label=candidate.label,
        seed=seed,
        format=file_format,
        passed=not found["reason"],
        runtime=runtime_name(),
        seconds=round(time.monotonic() - started, 3),
        fingerprint=fingerprint,
        **found,
    )


def _judge(
    model: keras.Model,
    file_format: FormatName,
    samples: FileSamples,
    metric: str,
    found: dict[str, Any],
) -> None:
    shape = open_shape(model, samples.held_out)
    # Training samples have the range that the model was trained on. If statistics of its
    # BatchNormalization lag behind after few epochs, the metric tells what that does.
    tflite = to_tflite(
        model, file_format, samples.calibration, input_shape=shape, check_range=False
    )
    found.update(bytes=len(tflite), sha256=hashlib.sha256(tflite).hexdigest())
    compared = compare(model, tflite, samples.validation, metric)
    found.update(
        metric=compared.file,
        reference=compared.reference,
        error=compared.outcome.error,
        samples=len(keras.tree.flatten(samples.validation[0])[0]),
    )
    inputs = input_arrays(input_specs(model, "deployed", any_size=True), samples.held_out, "x")
    took = latency(tflite, inputs)
    found.update(latency=took.median, latency_low=took.low, latency_high=took.high)
    found.update(_verdict(model, tflite, samples.held_out, shape))
    # Gates that survive, or none to judge, may be in a file that computes something else.
    if not found["reason"] and compared.outcome.is_worse:
        found["reason"] = f"the outputs are off by {compared.outcome.error:.0%} of their spread"


def _verdict(model: keras.Model, tflite: bytes, x: Any, shape: Any) -> dict[str, Any]:
    if not find_sites(model):
        return {"verdict": NOTHING_TO_SURVIVE, "reason": ""}
    report = verify(model, tflite, x, input_shape=shape)
    is_out = not report.passed and report.verdict != NOTHING_TO_SURVIVE
    why = report.conclusion.removeprefix("Do not ship: ").removesuffix(".") if is_out else ""
    return {"verdict": report.verdict, "reason": why, "work_kept": report.work_kept}


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides what is said again for each candidate, and what the verdict measures."""
    with warnings.catch_warnings():
        for category in (ConversionWarning, PrecisionWarning, SiteWarning):
            warnings.simplefilter("ignore", category)
        yield
