"""The verdict on the gates of a TFLite file, as data classes."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from keras_se.verification.effect import Effect

NOTHING_TO_SURVIVE = "nothing to survive"
_SURVIVE, _LOST = "the gates survive", "gates are lost"


@dataclass(frozen=True, kw_only=True)
class SiteVerdict:
    """The measures and the verdict for one site.

    The figures up to `rms_error` decide, the others are only reported. A figure is `None` without
    variation, or if shipped gates are not finite.

    Attributes:
        name: Name of the site in the Keras model.
        gate: Name of the gate.
        channels: Number of channels.
        verdict: `"survives"`, `"fails"` or `"not adaptive"`.
        reason: The deciding test, in words.
        blame: What lost the gates of a site that fails: `"trunk"` (layers before, or calibration),
            `"SE"`, `"training"` (with a reference), or `"unknown"` without the feature maps.
        step: Nominal step of the gate in the file's format.
        spread: Standard deviation of the float gates over samples, rms over channels, in steps.
        r2: Pooled R² of shipped against float gates.
        slope: Pooled within-channel regression slope.
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
        spread_kept: With a reference, the spread of the shipped gates divided by the original's.
        undelegated: Operations of the site that the CPU delegate does not support.
        partitions: Number of delegated partitions of the site.
    """

    name: str
    gate: str
    channels: int
    verdict: str
    reason: str
    blame: str
    step: float
    spread: float | None = None
    r2: float | None = None
    slope: float | None = None
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


@dataclass(frozen=True)
class Stress:
    """The gates on samples that differ from the others.

    Attributes:
        verdict: As in `GateReport`; it does not decide the report.
        sites: By name, the verdict on the site and its R².
    """

    verdict: str
    sites: Mapping[str, tuple[str, float | None]]


@dataclass(frozen=True)
class GateReport:
    """The verdict on a file, with the evidence for it.

    Attributes:
        sites: One `SiteVerdict` per SE site, by name.
        tau: Gates below it count as suppressed.
        samples: Number of samples for which the gates were read.
        sha256: Digest of the judged bytes.
        runtime: Runtime, delegate and machine that ran the file, or the origin of recorded gates.
        held_out: Whether the samples were compared with those of the calibration.
        assignment_error: Largest distance at a site between the model and its float32 conversion.
        effect: Effect of the shipped gates on the outputs of the model, beside two controls.
        stress: By name, the gates on stressed samples.
    """

    sites: Mapping[str, SiteVerdict]
    tau: float
    samples: int
    sha256: str
    runtime: str
    held_out: str
    assignment_error: float
    effect: Effect | None
    stress: Mapping[str, Stress]

    @property
    def passed(self) -> bool:
        """Whether no site fails and at least one adaptive site survives."""
        return self.verdict == _SURVIVE

    @property
    def verdict(self) -> str:
        """`"the gates survive"`, `"gates are lost"` or `"nothing to survive"`."""
        return verdict_of([site.verdict for site in self.sites.values()])

    def to_json(self) -> str:
        """Returns the report as JSON text."""
        # `asdict` leaves out properties; NaN is not JSON, so missing figures are `None`.
        content = {"passed": self.passed, "verdict": self.verdict, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2, allow_nan=False) + "\n"


def verdict_of(verdicts: Sequence[str]) -> str:
    """Returns the verdict on a file, given those on its sites."""
    # One lost site loses the file. Sites that do not adapt prove nothing.
    if "fails" in verdicts:
        return _LOST
    return _SURVIVE if "survives" in verdicts else NOTHING_TO_SURVIVE
