"""A file that was tried, with what was measured of it."""

from dataclasses import dataclass
from typing import Literal

from keras_se.verification.latency import Latency
from keras_se.verification.outcome import Interval, fewest_samples
from keras_se.verification.reports.gate_report import GateReport

Accuracy = Literal["within", "worse", "not shown", ""]


@dataclass(frozen=True)
class Attempt:
    """A file that was tried, and its verdict.

    Attributes:
        name: What it is, such as `"int8"` or `"int8, 2 sites in float"`.
        bytes: Size of the file.
        passed: Whether its gates survive and its accuracy is within the tolerance.
        verdict: The verdict on its gates, as in `GateReport`.
        reason: Why it did not pass; empty if it did.
        work_kept: As in `GateReport`.
        lowest_r2: The lowest R² of a site that adapts; `None` if there is none.
        accuracy: Accuracy on the samples, or without labels the share that gets the class of the
            reference; `None` for outputs that are no classes.
        difference: Accuracy minus that of the reference; `None` without labels.
        interval: The 95 % interval of the difference, paired by sample.
        accuracy_verdict: `"within"` the tolerance, by the interval; `"worse"`: outside of it;
            `"not shown"`: the interval reaches further; empty without labels.
        undelegated: Number of operators that the CPU delegate does not take.
        changed: What was changed in the file after its conversion: names of sites and tensors that
            are in float32.
        sha256: Digest of the file.
        latency: Time of one inference, measured beside the others; `None` if it was not.
        npu: On an NPU, the number of operators that stay on the CPU, and the cycles of the rest as
            its compiler estimates them; `None` if no NPU was named, or if it takes nothing.
    """

    name: str
    bytes: int
    passed: bool
    verdict: str
    reason: str
    work_kept: float | None
    lowest_r2: float | None
    accuracy: float | None
    difference: float | None
    interval: Interval | None
    accuracy_verdict: Accuracy
    undelegated: int
    changed: tuple[str, ...]
    sha256: str
    latency: Latency | None = None
    npu: tuple[int, int] | None = None


def attempt_of(
    name: str,
    content: bytes,
    report: GateReport,
    tolerance: float,
    undelegated: int,
    changed: tuple[str, ...] = (),
) -> Attempt:
    """Returns the attempt of a file by the report on it."""
    outcome = report.outcome
    accuracy = _accuracy(outcome.difference, outcome.interval, tolerance)
    gates = report.passed and not outcome.is_worse
    return Attempt(
        name=name,
        bytes=len(content),
        passed=gates and accuracy in ("within", ""),
        verdict=report.verdict,
        reason=_reason(report, accuracy, tolerance),
        work_kept=report.work_kept,
        lowest_r2=_lowest_r2(report),
        accuracy=outcome.file,
        difference=outcome.difference,
        interval=outcome.interval,
        accuracy_verdict=accuracy,
        undelegated=undelegated,
        changed=changed,
        sha256=report.sha256,
    )


def _lowest_r2(report: GateReport) -> float | None:
    adaptive = [site for site in report.sites.values() if site.verdict != "not adaptive"]
    return min((site.r2 for site in adaptive if site.r2 is not None), default=None)


def _accuracy(difference: float | None, interval: Interval | None, tolerance: float) -> Accuracy:
    if difference is None or interval is None:
        return ""
    if interval[0] >= -tolerance:
        return "within"
    return "worse" if difference < -tolerance else "not shown"


def _reason(report: GateReport, accuracy: Accuracy, tolerance: float) -> str:
    if not report.passed:
        sentence = report.conclusion.removeprefix("Do not ship: ")
        return sentence[:1].upper() + sentence[1:]
    interval = report.outcome.interval
    if interval is None or accuracy in ("within", ""):
        is_worse = report.outcome.is_worse
        return "Its outputs are off by more than their spread." if is_worse else ""
    reach = f"the 95 % interval reaches {interval[0]:+.4f}, and {-tolerance:+.4f} is allowed"
    if accuracy == "worse":
        return f"It is less accurate by {-(report.outcome.difference or 0.0):.4f}: {reach}."
    needed = fewest_samples(tolerance)
    even = f" Of a file that changes nothing it takes {needed:,} samples." if needed else ""
    more = even if needed > report.samples else ""
    return f"That it is accurate enough is not shown by so few samples: {reach}.{more}"
