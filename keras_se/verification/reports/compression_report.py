"""What training with compression made of a network, as data classes and as one table."""

import gzip
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from keras_se.display.shown import Shown
from keras_se.display.table import Column, Table, names
from keras_se.display.text import Command, Part, figure, listed, rendered
from keras_se.graph.compressed import CLUSTERED, PRUNED, QUANTIZED
from keras_se.verification.outcome import Outcome
from keras_se.verification.reports.gate_report import GateReport
from keras_se.verification.reports.text import Place, advice, reasons
from keras_se.verification.rule import MIN_SPREAD_KEPT, NOTHING_TO_SURVIVE

_SHOWN = 0.01  # share of zeros that a network that was not pruned must have to be shown


@dataclass(frozen=True)
class Size:
    """The size of a file, in bytes.

    Attributes:
        plain: As it is.
        zipped: After gzip at level 9.
    """

    plain: int
    zipped: int

    @classmethod
    def of(cls, content: bytes) -> "Size":
        """Measures the content of a file."""
        return cls(len(content), len(gzip.compress(content, 9)))


@dataclass(frozen=True)
class Stage:
    """The network at one stage of compression.

    Attributes:
        outcome: Its outputs, as those of a file, beside the original's, which is the reference.
        keras_size: Size of its `.keras` file without an optimizer; `None` if it is no plain model.
        tflite_size: Size of its TFLite file, which is float32 for the original.
    """

    outcome: Outcome
    keras_size: Size | None = None
    tflite_size: Size | None = None


@dataclass(frozen=True)
class Kernel:
    """The weights of a kernel before and after compression.

    Attributes:
        name: Path of the variable.
        weights: Number of weights.
        zeros_before: Number of zeros in the original.
        zeros: Number of zeros now.
        values_before: Number of different values in the original.
        values: Number of different values now.
    """

    name: str
    weights: int
    zeros_before: int
    zeros: int
    values_before: int
    values: int

    @property
    def shares_values(self) -> bool:
        """Whether each value, other than zero, serves two weights or more on average."""
        others = self.weights - self.zeros
        return others > 0 and 2 * (self.values - (self.zeros > 0)) <= others


@dataclass(frozen=True)
class CompressionReport(Shown):
    """A network before and after compression. `print(report)` shows it as one table.

    Attributes:
        technique: The function that compressed it, such as `"prune"`; `None` for a plain model.
        stages: By name: `"original"`; `"compressed"`, as it computes, which is rounded after
            `quantize_aware`; `"stripped"`, after `quantize_aware` only; and `"file"`.
        kernels: The kernels, in the order of the layers; empty if the layers differ.
        asked: The sparsity or number of clusters that training aimed at; `None` if unknown.
        sites: Number of SE sites of the original.
        gates: The verdict on the gates of the file; `None` if they were not judged, see `notes`.
        file: Name of the file and its format.
        samples: Number of samples.
        held_out: Whether the samples were kept from training.
        notes: What could not be measured, and why.
        next_step: What to call or to run next if it passed; empty if there is nothing.
    """

    technique: str | None
    stages: Mapping[str, Stage]
    kernels: tuple[Kernel, ...]
    asked: float | None
    sites: int
    gates: GateReport | None
    file: str
    samples: int
    held_out: bool
    notes: tuple[str, ...]
    next_step: str

    derived: ClassVar[tuple[str, ...]] = (
        "passed",
        "conclusion",
        "sparsity",
        "spread_kept",
        "lowest_r2",
    )

    @property
    def passed(self) -> bool:
        """Whether no gates were found to be lost or weakened too much."""
        return self.gates is None or self.gates.passed

    @property
    def pruned(self) -> tuple[Kernel, ...]:
        """The kernels with more zeros than before."""
        return tuple(kernel for kernel in self.kernels if kernel.zeros > kernel.zeros_before)

    @property
    def clustered(self) -> tuple[Kernel, ...]:
        """The kernels with few different values, each for several weights."""
        fewer = (kernel for kernel in self.kernels if kernel.values < kernel.values_before)
        # Pruning makes values fewer, too: all zeros are one.
        is_known = self.technique == CLUSTERED
        return tuple(kernel for kernel in fewer if is_known or kernel.shares_values)

    @property
    def sparsity(self) -> float | None:
        """Share of zeros in the pruned kernels, or in all if none was pruned."""
        kernels = self.pruned or self.kernels
        total = sum(kernel.weights for kernel in kernels)
        return sum(kernel.zeros for kernel in kernels) / total if total else None

    @property
    def spread_kept(self) -> tuple[float, float] | None:
        """Lowest and highest spread of the gates of a site, divided by the original's."""
        sites = () if self.gates is None else self.gates.sites.values()
        found = [site.spread_kept for site in sites if site.spread_kept is not None]
        return (min(found), max(found)) if found else None

    @property
    def lowest_r2(self) -> float | None:
        """The lowest R² of a site, of the file against the compressed model."""
        sites = () if self.gates is None else self.gates.sites.values()
        return min((site.r2 for site in sites if site.r2 is not None), default=None)

    def parts(self) -> Iterator[Part]:
        """Yields the conclusion, then the table of the stages and sentences on it."""
        yield from _parts(self, "python")


def _conclusion(report: CompressionReport) -> str:
    last = [*report.stages.values()][-1]
    if report.gates is not None and report.gates.verdict == NOTHING_TO_SURVIVE:
        verdict = "Nothing to survive"
    elif not report.passed:
        verdict = "Do not ship"
    elif not report.held_out:
        verdict = "Not judged, for want of held-out samples"
    elif last.outcome.is_worse:
        verdict = "Worse than the original"
    elif report.sites and report.gates is None:
        verdict = "Gates not judged"
    else:
        verdict = "Ship"
    parts = [_gates_in_words(report), _accuracy_in_words(last.outcome), _size_in_words(report)]
    return f"{verdict}: {'; '.join(part for part in parts if part)}."


def _gates_in_words(report: CompressionReport) -> str:
    if report.gates is None:
        return ""
    if report.gates.verdict == NOTHING_TO_SURVIVE:
        return "no gate varies here"
    failed = [site.name for site in report.gates.sites.values() if site.failed]
    words = report.gates.verdict + (f" at {listed(failed)}" if failed and not report.passed else "")
    kept = report.spread_kept
    if kept is not None and kept[0] < MIN_SPREAD_KEPT:
        words += f", of whose spread as little as {kept[0]:.0%} is left"
    return words


def _accuracy_in_words(outcome: Outcome) -> str:
    if outcome.metric == "accuracy":
        change = f"{figure(outcome.file, '.4f')} after {figure(outcome.reference, '.4f')}"
        return f"accuracy {change} (95 % of the change {_interval(outcome)})"
    if outcome.metric == "agreement" and outcome.file is not None:
        return f"{outcome.file:.1%} of the samples get the class of the original"
    return "" if outcome.error is None else f"outputs off by {outcome.error:.1%} of their spread"


def _size_in_words(report: CompressionReport) -> str:
    file = report.stages.get("file")
    before = report.stages["original"].tflite_size
    if file is None or file.tflite_size is None or before is None:
        return ""
    return f"{_kb(file.tflite_size.zipped)} kB zipped after {_kb(before.zipped)}"


def _kb(size: int) -> str:
    return f"{size / 1000:,.1f}"


def described(report: CompressionReport, place: Place) -> str:
    """Returns the report as text of at most 80 columns; only a command may be longer."""
    return rendered(_parts(report, place))


def _parts(report: CompressionReport, place: Place) -> Iterator[Part]:
    yield _conclusion(report)
    yield _table(report)
    yield from _legend(report)
    yield from _failures(report, place)
    yield from report.notes
    if report.passed and report.next_step:
        yield Command(f"Next: {report.next_step}")


def _failures(report: CompressionReport, place: Place) -> Iterator[str]:
    """Yields why gates failed, and what to do."""
    if report.gates is None:
        return
    yield from reasons(report.gates)
    yield from advice(report.gates, place)
    others = {PRUNED: "prune to a lower sparsity", CLUSTERED: "take more clusters"}
    other = others.get(report.technique or "")
    if other is not None and not report.passed:
        trunk = "scope='trunk'" if place == "python" else "--scope trunk"
        yield f"Or leave SE as it is, with {trunk}, or {other}."


def _table(report: CompressionReport) -> Table:
    titles = {"compressed": "rounded", "stripped": "in float"}
    is_quantized = report.technique == QUANTIZED
    rows = [(label, cells) for label, cells in _rows(report) if any(cells.values())]
    stages = [
        Column(
            titles.get(name, name) if is_quantized else name,
            [cells.get(name, "") for _, cells in rows],
        )
        for name in report.stages
    ]
    return Table("Stages", (names("", [label for label, _ in rows]), *stages))


def _rows(report: CompressionReport) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the rows, each with its cells by stage; some of them may be empty throughout."""
    stages = report.stages
    changed = {name: stage.outcome for name, stage in stages.items() if name != "original"}
    metric = stages["original"].outcome.metric
    yield (
        metric if report.held_out else f"train {metric}",
        {name: _or_blank(stage.outcome.file, ".4f") for name, stage in stages.items()},
    )
    yield "change", {name: _or_blank(each.difference, "+.4f") for name, each in changed.items()}
    yield "95 % interval", {name: _interval(each) for name, each in changed.items()}
    yield "outputs off by", {name: _or_blank(each.error, ".1%") for name, each in changed.items()}
    yield from _size_rows(".keras, kB", {name: s.keras_size for name, s in stages.items()})
    yield from _size_rows(".tflite, kB", {name: s.tflite_size for name, s in stages.items()})
    yield from _kernel_rows(report)
    if report.gates is not None:
        kept = report.spread_kept
        yield "gates", {"file": report.gates.verdict}
        yield "lowest R²", {"file": _or_blank(report.lowest_r2, ".3f")}
        yield "spread kept", {"file": "" if kept is None else f"{kept[0]:.2f} to {kept[1]:.2f}"}


def _or_blank(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _interval(outcome: Outcome) -> str:
    interval = outcome.interval
    return "" if interval is None else f"{interval[0]:+.3f} to {interval[1]:+.3f}"


def _size_rows(
    label: str, sizes: Mapping[str, Size | None]
) -> Iterator[tuple[str, dict[str, str]]]:
    known = {name: size for name, size in sizes.items() if size is not None}
    yield label, {name: _kb(size.plain) for name, size in known.items()}
    yield "  gzip kB", {name: _kb(size.zipped) for name, size in known.items()}


def _kernel_rows(report: CompressionReport) -> Iterator[tuple[str, dict[str, str]]]:
    now = "stripped" if "stripped" in report.stages else "compressed"
    if _has_zeros(report):
        kernels = report.pruned or report.kernels
        total = sum(kernel.weights for kernel in kernels)
        before = sum(kernel.zeros_before for kernel in kernels) / total
        yield "zeros", {"original": f"{before:.1%}", now: f"{report.sparsity:.1%}"}
    if report.clustered:
        before = max(kernel.values_before for kernel in report.clustered)
        most = max(kernel.values for kernel in report.clustered)
        yield "values", {"original": f"{before:,}", now: f"{most:,}"}


def _has_zeros(report: CompressionReport) -> bool:
    sparsity = report.sparsity
    return sparsity is not None and (report.technique == PRUNED or sparsity > _SHOWN)


def _legend(report: CompressionReport) -> Iterator[str]:
    if "file" in report.stages:
        yield f"file: {report.file}."
    if _has_zeros(report):
        kernels = report.pruned or report.kernels
        shares = [kernel.zeros / kernel.weights for kernel in kernels]
        what = "kernels with more zeros than before" if report.pruned else "kernels"
        weights = sum(kernel.weights for kernel in kernels)
        yield (
            f"zeros: of {weights:,} weights in the {len(kernels)} {what}, "
            f"{min(shares):.1%} to {max(shares):.1%} in each{_asked(report, PRUNED)}."
        )
    if report.clustered:
        count = f"{len(report.clustered)} of {len(report.kernels)} kernels have fewer than before"
        yield f"values: the most different ones in a kernel; {count}{_asked(report, CLUSTERED)}."
    yield "outputs off by: from the original's, root mean square, over their spread."
    if report.spread_kept is not None:
        yield "spread kept: of the gates over samples, against the original's, by site."
    what = "held-out samples" if report.held_out else "training samples"
    runtime = "" if report.gates is None else f"; {report.gates.held_out}; {report.gates.runtime}"
    yield f"On {report.samples:,} {what}{runtime}."


def _asked(report: CompressionReport, technique: str) -> str:
    if report.asked is None or report.technique != technique:
        return ""
    if technique == PRUNED:
        return f"; asked for {report.asked:.1%}"
    within = sum(kernel.values <= report.asked for kernel in report.clustered)
    return f", {within} of them at most the {report.asked:.0f} asked for"
