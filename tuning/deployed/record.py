"""What became of a candidate as a file: one record for each seed and format, written once."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuning.trials.records import run_key, whole


@dataclass(frozen=True, kw_only=True)
class DeployedRecord:
    """The file of a candidate, with the weights of one seed, and the verdict on it.

    Attributes:
        candidate: ID of the candidate.
        label: Readable name of the candidate.
        seed: Seed of the training whose weights the file has.
        format: Format of the file, as for `keras_se.to_tflite`.
        passed: Whether the gates survive, or there is nothing to survive.
        reason: Why it did not pass; empty if it did.
        verdict: As `GateReport.verdict`; empty if the file could not be judged.
        work_kept: As `GateReport.work_kept`.
        metric: The metric of the search, of the outputs of the file on validation samples; `None`
            if the compiled model does not tell.
        reference: The same of the outputs of the model, on the same samples.
        error: Root mean square difference of both outputs over the spread of the model's.
        latency: Median wall time of one inference with one thread, in milliseconds.
        latency_low: Its lower quartile.
        latency_high: Its upper quartile.
        bytes: Size of the file.
        sha256: Digest of the file; empty if there is none.
        samples: Number of validation samples that `metric` is of.
        runtime: Runtime, delegate and machine that ran the file.
        seconds: Wall time, training included where the weights were not kept.
        fingerprint: Hash of the job.
    """

    candidate: str
    label: str
    seed: int
    format: str
    passed: bool = False
    reason: str = ""
    verdict: str = ""
    work_kept: float | None = None
    metric: float | None = None
    reference: float | None = None
    error: float | None = None
    latency: float | None = None
    latency_low: float | None = None
    latency_high: float | None = None
    bytes: int = 0
    sha256: str = ""
    samples: int = 0
    runtime: str = ""
    seconds: float = 0.0
    fingerprint: str = ""

    @property
    def key(self) -> str:
        """Base name of its file."""
        return run_key(self.candidate, self.seed, self.format)

    @property
    def completed(self) -> bool:
        """Whether the file was judged."""
        return bool(self.verdict)

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "DeployedRecord":
        """Returns the record that `to_dict` described.

        Raises:
            ValueError: If the content is not that of a record.
        """
        record: DeployedRecord = whole(cls, content)
        # A damaged file can be valid JSON with fields that contradict each other.
        if record.passed == bool(record.reason) or record.passed > record.completed:
            raise ValueError("a file that was judged and has no reason against it passes, no other")
        return record
