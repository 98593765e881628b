"""A trial as a function: a job and a run go in, what is worth keeping comes out."""

import json
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tuning.trials import training
from tuning.trials.combination import Combination
from tuning.trials.job import Job
from tuning.trials.records import FAILED, TrialRecord, run_key


@dataclass(frozen=True)
class Run:
    """One training of a candidate from one seed.

    Attributes:
        candidate: The candidate to train.
        seed: The seed to train from.
        tested: Whether to evaluate it on the test data.
        fingerprint: Hash of the job, for the record.
        timeout: Seconds after which the trial fails.
        weights: Whether its weights may be kept.
    """

    candidate: Combination
    seed: int
    tested: bool = False
    fingerprint: str = ""
    timeout: float | None = None
    weights: bool = True

    @property
    def key(self) -> str:
        """Base name of the files of the run."""
        return run_key(self.candidate.id, self.seed)

    def perform(self, job: Job, scratch: Path | None = None) -> "Outcome":
        """Runs the trial, on any machine."""
        return perform(job, self, scratch)

    def failed(self, cause: str) -> TrialRecord:
        """Returns a failed record, for a run that returned none itself."""
        return TrialRecord(
            candidate=self.candidate.id,
            label=self.candidate.label,
            values=dict(self.candidate.values),
            seed=self.seed,
            status=FAILED,
            cause=cause,
            fingerprint=self.fingerprint,
        )


@dataclass(frozen=True)
class Outcome:
    """What a trial gives back.

    Attributes:
        record: Its result, or why it failed.
        curve: The metrics of each epoch, a JSON line each.
        weights: The weights of its best epoch as an `.weights.h5` file; `None` if it failed.
    """

    record: TrialRecord
    curve: bytes = b""
    weights: bytes | None = None


@dataclass(frozen=True)
class Epochs:
    """How far a running trial is.

    Attributes:
        done: Number of epochs that it has done; `None` if this machine does not see it.
        score: Score of the last of them; `None` without, or if it was not finite.
    """

    done: int | None = None
    score: float | None = None


def epochs_of(scratches: Iterable[Path], key: str) -> Epochs:
    """Looks how far a run is that `perform` has begun with one of some `scratch` folders."""
    with suppress(OSError, ValueError):  # it may end just now
        for scratch in scratches:
            for curve in scratch.glob(f"*/curves/{key}.jsonl"):
                # Without what follows the last line end: it is just being written.
                *lines, _ = curve.read_bytes().split(b"\n")
                return Epochs(len(lines), json.loads(lines[-1])["score"] if lines else None)
    return Epochs(0)


def perform(job: Job, run: Run, scratch: Path | None = None) -> Outcome:
    """Runs a trial, on any machine. It writes only into a temporary folder, in `scratch`."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        for part in ("curves", "weights"):
            (folder / part).mkdir()
        record = training.run_trial(
            job,
            run.candidate,
            run.seed,
            folder,
            fingerprint=run.fingerprint,
            tested=run.tested,
            seconds=run.timeout,
        )
        curve = folder / "curves" / f"{run.key}.jsonl"
        weights = training.weights_path(folder, run.key)
        return Outcome(
            record,
            curve.read_bytes() if curve.exists() else b"",
            weights.read_bytes() if run.weights and weights.exists() else None,
        )
