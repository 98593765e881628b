"""The file to ship and all that was tried for it, as a data class and as a table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from keras_se.deployment.attempt import Attempt
from keras_se.deployment.interface import Port, interface
from keras_se.display.page import Paged
from keras_se.display.table import Column, Table, names
from keras_se.display.text import Part, figure, listed
from keras_se.verification.latency import Latency
from keras_se.verification.reports.gate_report import GateReport
from keras_se.verification.reports.page import verdict_page
from keras_se.verification.reports.text import interval_text

Preference = Literal["size", "latency"]
Criterion = Preference | Literal["npu"]
_RULES: dict[Criterion, str] = {
    "size": "An int8 file that passes as a whole is taken; else the smallest of those that pass.",
    "latency": "Of the files that pass the fastest is taken.",
    "npu": "Of the files that pass the cheapest on the NPU is taken.",
}


@dataclass(frozen=True)
class Deployment(Paged):
    """The file to ship, or the nearest to it. `print(deployment)` shows all that was tried.

    Attributes:
        passed: Whether the gates of the file survive and its accuracy is within the tolerance.
        chosen: Name of the attempt that it is.
        attempts: All that was tried, in order.
        refused: By name, why a file could not be made.
        notes: What was warned of while files were made.
        report: The verdict on the file, against the network that was given.
        tolerance: By how much accuracy may fall.
        prefer: What the choice is by, among those that pass.
        inputs: The types of the inputs of the file, and of those of the float file, by name.
        outputs: The same of the outputs.
        float_bytes: Size of the float file.
        tflite: The bytes of the file.
        recipe: Its recipe, as JSON text; empty if it has none.
        file: Name of the file that it was to be written to, if any.
    """

    derived: ClassVar[tuple[str, ...]] = ("conclusion", "interface")

    passed: bool
    chosen: str
    attempts: tuple[Attempt, ...]
    refused: Mapping[str, str]
    notes: tuple[str, ...]
    report: GateReport
    tolerance: float
    prefer: Criterion
    inputs: Mapping[str, Port]
    outputs: Mapping[str, Port]
    float_bytes: int
    tflite: bytes = field(repr=False, compare=False)
    recipe: str = field(repr=False, compare=False)
    file: str = field(default="", compare=False)

    @property
    def attempt(self) -> Attempt:
        """The attempt that is the file."""
        return next(attempt for attempt in self.attempts if attempt.name == self.chosen)

    @property
    def conclusion(self) -> str:
        """What comes first: ship this file and why, or none and what the nearest lacks."""
        attempt = self.attempt
        size = f"{attempt.bytes:,} bytes"
        if not self.passed:
            count = len(self.attempts)
            tried = "the one file" if count == 1 else f"none of {count} files"
            lacks = attempt.reason or self.report.conclusion
            return (
                f"Do not ship: {tried} {'does not pass' if count == 1 else 'passes'}. The nearest "
                f"is {attempt.name} ({size}). {lacks}"
            )
        first = self.attempts[0]
        saved = "" if first.passed or first is attempt else f" {first.name} alone: {first.reason}"
        reason = f"{attempt.verdict}{_accuracy(attempt)}.{saved}{self._larger}"
        return f"Ship {attempt.name} ({size}): {reason}"

    @property
    def _larger(self) -> str:
        """A sentence on a file that is larger than the float one; empty for others."""
        if self.attempt.bytes <= self.float_bytes:
            return ""
        tried = {attempt.name for attempt in self.attempts} | set(self.refused)
        passing = [a.name for a in self.attempts if a.passed and a.bytes < self.float_bytes]
        untried = [name for name in ("float16", "weight_only") if name not in tried]
        advice = "For size alone ship that one."
        if untried:
            advice = f"For size alone let deploy try {listed(untried)}, or ship that one."
        if passing:
            advice = f"Smaller, and passing, is {listed(passing)}."
        return f" It is larger than the float file ({self.float_bytes:,} bytes). {advice}"

    @property
    def interface(self) -> str:
        """One sentence on inputs and outputs; empty if their types are the float file's."""
        return interface(self.inputs, self.outputs)

    def parts(self) -> Iterator[Part]:
        """Yields the conclusion, the table of what was tried, and notes on it."""
        yield self.conclusion
        if self.interface:
            yield self.interface
        yield _table(self)
        yield from _notes(self)

    def page(self) -> str:
        """Returns the verdict on the file as one page of HTML, that needs no network."""
        told = [self.conclusion, *([self.interface] if self.interface else []), *_notes(self)]
        file = self.file and (self.file if self.passed else f"{self.file}, not written")
        return verdict_page(self.report, file, _table(self), told)


def _accuracy(attempt: Attempt) -> str:
    if attempt.accuracy is None:
        return ""
    if attempt.interval is None or attempt.difference is None:
        return f", and {attempt.accuracy:.1%} of the samples get the class of the reference"
    before = attempt.accuracy - attempt.difference
    change = interval_text(attempt.interval)
    return f", accuracy {attempt.accuracy:.4f} after {before:.4f} (95 % of the change {change})"


def _table(deployment: Deployment) -> Table:
    attempts = deployment.attempts
    latencies = [attempt.latency for attempt in attempts]
    return Table(
        "files that were tried",
        (
            names("tried", [attempt.name for attempt in attempts]),
            Column("bytes", [f"{attempt.bytes:,}" for attempt in attempts]),
            Column("ms", ["-" if found is None else _in_words(found) for found in latencies]),
            Column("accuracy", [figure(a.accuracy, ".4f") for a in attempts], "acc."),
            Column("W", [figure(attempt.work_kept, ".3f") for attempt in attempts]),
            Column("lowest R²", [figure(a.lowest_r2, ".2f") for a in attempts], "R²"),
            Column("outside of the delegate", [str(a.undelegated) for a in attempts], "off"),
            *_on_npu(attempts),
            Column("passes", [_mark(a, a.name == deployment.chosen) for a in attempts]),
        ),
    )


def _on_npu(attempts: Sequence[Attempt]) -> list[Column]:
    found = [attempt.npu for attempt in attempts]
    if not any(found):
        return []
    cells = ["-" if cost is None else f"{cost[1]:,} + {cost[0]}" for cost in found]
    return [Column("NPU cycles + operators on the CPU", cells, "NPU")]


def _in_words(latency: Latency) -> str:
    spread = (latency.high - latency.low) / 2.0 / latency.median
    return f"{latency.median:.3g} ±{spread:.0%}"


def _mark(attempt: Attempt, is_chosen: bool) -> str:
    if attempt.passed:
        return "taken" if is_chosen else "yes"
    return "nearest" if is_chosen else "no"


def _notes(deployment: Deployment) -> Iterator[str]:
    yield (
        "W: share of SE's work that is kept. R²: the lowest of a site. off: operators outside of "
        "the CPU delegate. ms: median of one inference, ± half of the range between quartiles."
    )
    if any(attempt.npu for attempt in deployment.attempts):
        yield "NPU: cycles as its compiler estimates them + operators that stay on the CPU."
    for why in dict.fromkeys(deployment.refused.values()):
        found = [name for name, other in deployment.refused.items() if other == why]
        yield f"{listed(found)} could not be made: {why}"
    yield from deployment.notes
    changed = deployment.attempt.changed
    if changed:
        yield f"With more than 8 bits: {listed(changed)}."
    labels = deployment.attempt.accuracy_verdict
    if labels:
        yield f"Accuracy may fall by at most {deployment.tolerance:g}."
    yield _RULES[deployment.prefer]
    yield f"On {deployment.report.samples:,} samples; {deployment.report.runtime}."
