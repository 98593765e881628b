"""The verdict on the gates of a TFLite file, as data classes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from keras_se.display.page import Paged
from keras_se.display.text import Part
from keras_se.litert.clipping import ClippedInput
from keras_se.verification.outcome import Outcome
from keras_se.verification.reports.page import verdict_page
from keras_se.verification.reports.text import verdict_parts
from keras_se.verification.rule import KEPT, SURVIVE, verdict_of


@dataclass(frozen=True, kw_only=True)
class SiteVerdict:
    """The measures and the verdict for one site.

    The figures up to `rms_error` decide, the others are only reported. A figure is `None` without
    variation, or if shipped gates are not finite.

    Attributes:
        name: Name of the site in the reference.
        file_name: Its name in the file; `None` if the file lacks it.
        gate: Name of the gate.
        channels: Number of channels.
        verdict: `"survives"`, `"weakened"`, `"lost"` or `"not adaptive"`.
        reason: The deciding test, in words.
        blame: Of a site that is weakened or lost, what did it: `"trunk"` (layers before, or
            calibration), `"SE"`, `"training"` (with `trained`), or `"unknown"` without the maps.
        in_float: The verdict on the float excitation behind the layers of the file: what keeping
            the site in float would give. Only of a site that is weakened or lost, where known.
        quantized: Whether the gates are integer codes in the file; `None` if it lacks the site.
        worth: Share of what SE does for the outputs that is lost if this site alone is constant.
        step: Nominal step of the gate in the file's format.
        spread: Standard deviation of the float gates over samples, rms over channels, in steps.
        r2: Pooled R² of shipped against float gates.
        slope: Pooled within-channel regression slope.
        worst_channel: The channel of the lowest R² among those that vary, and that R².
        channel_spread: Standard deviation of the float gates by channel, in steps.
        channel_r2: R² by channel; `None` for one that does not vary.
        rms_error: Root mean square difference, in gate units.
        p99_error: The 99th percentile of the differences.
        max_error: The largest difference.
        cosine: Cosine of all gates as one vector.
        rank_correlation: Spearman's correlation over channels, mean over samples.
        sample_correlation: Pearson's correlation over samples, mean over channels.
        saturated: Share of shipped gates at their ceiling.
        clipped: Share of shipped gates more than 2 steps outside the range of the float gates.
        trunk_r2: R² of the float excitation on the shipped feature maps.
        suppressed: Indices of the channels whose mean float gate is below `tau`.
        suppressed_shipped: The same for the shipped gates, with a dead band of .02 around `tau`.
        spread_kept: With `trained`, the spread of the shipped gates divided by the original's.
        undelegated: Operations of the site that the CPU delegate does not support.
        partitions: Number of delegated partitions of the site.
    """

    name: str
    file_name: str | None
    gate: str
    channels: int
    verdict: str
    reason: str
    blame: str
    in_float: str | None
    quantized: bool | None
    worth: float | None
    step: float
    spread: float | None = None
    r2: float | None = None
    slope: float | None = None
    worst_channel: tuple[int, float] | None = None
    channel_spread: tuple[float, ...] = ()
    channel_r2: tuple[float | None, ...] = ()
    rms_error: float | None = None
    p99_error: float | None = None
    max_error: float | None = None
    cosine: float | None = None
    rank_correlation: float | None = None
    sample_correlation: float | None = None
    saturated: float | None = None
    clipped: float | None = None
    trunk_r2: float | None
    suppressed: tuple[int, ...]
    suppressed_shipped: tuple[int, ...]
    spread_kept: float | None
    undelegated: tuple[str, ...]
    partitions: int | None

    @property
    def failed(self) -> bool:
        """Whether the site is weakened or lost."""
        return self.verdict in ("weakened", "lost")


@dataclass(frozen=True)
class Stress:
    """The gates on inputs that the caller named.

    Attributes:
        verdict: As in `GateReport`; it does not decide the report.
        work_kept: As in `GateReport`.
        sites: By name, the verdict on the site and its R².
    """

    verdict: str
    work_kept: float | None
    sites: Mapping[str, tuple[str, float | None]]


@dataclass(frozen=True)
class GateReport(Paged):
    """The verdict on a file, with the evidence for it. `print(report)` shows it.

    Attributes:
        reference: What the file was compared with: a model or a float file.
        sites: One `SiteVerdict` per SE site, by name.
        unjudged: Sites of the file that no site of the reference answers for, with their tensors.
        work_kept: How much of what SE does for the outputs is left, at most 1; `None` if SE does
            nothing that could be lost, or if gates are missing or not finite.
        outcome: Accuracy of reference and file, or the agreement of their outputs.
        constant_error: The change of the outputs by constant gates, over their spread.
        strict: Whether every site must survive for a pass.
        tau: Gates below it count as suppressed.
        samples: Number of samples for which the gates were read.
        sha256: Digest of the judged bytes.
        runtime: Runtime, delegate and machine that ran the file, or the origin of recorded gates.
        held_out: Whether the samples were compared with those of the calibration.
        clipped: By name, the inputs of the file whose codes clip more than a hundredth of the
            values of the samples.
        stress: By name, the gates on the inputs that were given for it.
        pairs: For the page, some of the float and shipped gates by site, shape (values, 2); of all
            samples and channels, at random.
        file: Name of the file, if it was given by its path.
    """

    reference: str
    sites: Mapping[str, SiteVerdict]
    unjudged: tuple[str, ...]
    work_kept: float | None
    outcome: Outcome
    constant_error: float | None
    strict: bool
    tau: float
    samples: int
    sha256: str
    runtime: str
    held_out: str
    clipped: Mapping[str, ClippedInput]
    stress: Mapping[str, Stress]
    pairs: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False, compare=False)
    file: str = field(default="", compare=False)

    derived: ClassVar[tuple[str, ...]] = ("passed", "verdict", "conclusion")

    @property
    def passed(self) -> bool:
        """Whether the file can ship as far as its gates go."""
        return self.verdict in (SURVIVE, KEPT)

    @property
    def verdict(self) -> str:
        """`"the gates survive"` or `"SE's work is kept"`, which pass, or why not.

        `"gates are lost"`, `"gates are weakened"` (if `strict`, or if no work can be measured),
        `"judged in part"` or `"nothing to survive"`.
        """
        verdicts = [site.verdict for site in self.sites.values()]
        return verdict_of(verdicts, self.work_kept, self.strict, is_whole=not self.unjudged)

    def parts(self) -> Iterator[Part]:
        """Yields the conclusion, then sentences and the table of the sites."""
        yield from verdict_parts(self, "python")

    def page(self) -> str:
        """Returns the report as one page of HTML, with plots, that needs no network."""
        return verdict_page(self, self.file)
