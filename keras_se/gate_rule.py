"""When does a gate survive? The rule, its constants with their derivation, and its measures.

Let f be the float gate, capped at the ceiling of its code in the file, q the shipped gate, and sd
the root mean square over channels of the spread of f over samples.

R² = 1 - Σ(q - f)² / Σ(f - mean of f over samples)², pooled over the channels of a site, is 1 for a
perfect gate and 0 for a gate frozen at its mean: exactly what SE is for. The largest error rejects
sound files, the cosine accepts frozen gates, and the rank correlation over channels hardly falls
when adaptivity is lost: these are reported, and judge nothing.

The *step* is the nominal one of gate and format, never the file's own scale: bad calibration
inflates that, and would excuse itself. Formats without codes for activations have the resolution of
their weights. Every pre-gate value is a code, too: one of 255 over the range of the float pre-gate
values v. Rounding it moves a gate by gate'(v)·range(v) / 255, so that the *level* of a channel is
known to hypot(step, gate'(v)·range(v) / 255), its widened step. (In nominal steps sound files were
up to 3.6 off, and would fail.)

Measured by `benchmarks/gate_rule.py` on 27 small networks (digits and CIFAR-10, three gates, six
formats): of 486 sites in sound files none fails (95 % interval 0 to .008); of 708 adaptive sites
that were sabotaged in nine ways two survive (.0003 to .010), both clipped at a median that was
saturated already. Lowest R² of sound sites: float32 1.0000, float16 .998, dynamic .9994,
weight_only .991, int8 .958, int16x8 .977.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_se.errors import import_extra
from keras_se.layers import gates as gates_module

ADAPTIVE_STEPS = 1.5  # attainable R² is 1 - (ν·step/sd)², ν = .3-.8 measured: .9 needs this much
MIN_R2 = 0.9  # sound int8 files reached .958 and more, half-frozen ones .75 and less
SLOPE_TOLERANCE = 0.1  # a slope of 0.2 in place of 1/6 passes R² and is off by .2
CHANNEL_STEPS = 2.0  # below, one channel's R² is mostly noise
MIN_CHANNEL_R2 = 0.5  # one frozen channel of many leaves the pooled R² at .989-.998
MAX_RMS_STEPS = 1.0  # of gates that do not adapt, in widened steps
MAX_BIAS_STEPS = 2.0  # of any steady channel, in widened steps: sound files stay below 1
MIN_SPREAD_KEPT = 0.5  # of the original's spread, after training with compression
FLOAT32_STEP = 1e-5  # what two float32 runtimes agree to after a trunk of layers
FLOAT16_STEPS = 8  # steps of 11 bits in one of 8

_JUDGED = ("spread", "r2", "slope", "rms_error")
_REPORTED = (
    *("p99_error", "max_error", "cosine", "rank_correlation", "sample_correlation"),
    *("saturated", "clipped"),
)


@dataclass(frozen=True)
class Code:
    """How finely a file can hold the gates of a site.

    Attributes:
        step: Nominal step of the gates.
        ceiling: Largest value that can be held.
        level: By channel, the widened step.
    """

    step: float
    ceiling: float
    level: np.ndarray


def gate_code(gate: str, gates: np.ndarray, precision: str, ceiling: float | None = None) -> Code:
    """The code of a gate in a file.

    Args:
        gate: Name of the gate.
        gates: Float gates, shape (samples, channels).
        precision: The coarsest type of the file's weights and activations: `"float32"`,
            `"float16"` or `"int8"`.
        ceiling: Largest value of the code, where the format pins it.

    Returns:
        The `Code`. A gate without a nominal step has one of 255 over its range.

    Example:
        >>> gate_code("sigmoid", np.array([[0.2], [0.8]]), "int8").step
        0.00390625
    """
    top, channels = math.inf if ceiling is None else ceiling, gates.shape[1]
    if precision == "float32":
        return Code(FLOAT32_STEP, top, np.full(channels, FLOAT32_STEP))
    facts = gates_module.GATES.get(gate)
    if facts is None or facts.step is None:
        step = max(float(np.ptp(np.append(gates, 0.0))) / 255, FLOAT32_STEP)
    else:
        step = facts.step
    rounding = np.zeros(channels) if facts is None else _pre_gate_rounding(facts, gates)
    finer = FLOAT16_STEPS if precision == "float16" else 1
    return Code(step / finer, top, np.hypot(step, rounding) / finer)


def _pre_gate_rounding(facts: gates_module.Gate, gates: np.ndarray) -> np.ndarray:
    """What one of 255 steps over the range of the float pre-gate values is worth, by channel."""
    if facts.inverse is None:
        return np.zeros(gates.shape[1])
    margin = 1e-4
    inside = np.clip(gates.astype("float64"), facts.low + 2 * margin, facts.high - 2 * margin)
    step = np.ptp(np.append(facts.inverse(inside), 0.0)) / 255
    slope = 2 * margin / (facts.inverse(inside + margin) - facts.inverse(inside - margin))
    return step * slope.mean(axis=0)


@dataclass(frozen=True)
class Judgement:
    """What the rule says of the gates of one site.

    Attributes:
        verdict: `"survives"`, `"fails"` or `"not adaptive"`.
        reason: The test that decided, in words.
        figures: What was measured, by name; see `SiteVerdict`.
    """

    verdict: str
    reason: str
    figures: dict[str, Any]


def judge(gates: np.ndarray, shipped: np.ndarray, code: Code) -> Judgement:
    """Judges shipped gates against float gates on the same samples.

    Args:
        gates: Float gates, shape (samples, channels).
        shipped: Gates of the file, the same shape.
        code: How finely the file can hold them.

    Returns:
        A `Judgement`.

    Example:
        >>> f = np.linspace(0.2, 0.8, 40).reshape(40, 1)
        >>> judge(f, f, gate_code("sigmoid", f, "int8")).verdict
        'survives'
        >>> judge(f, np.full_like(f, 0.5), gate_code("sigmoid", f, "int8")).reason
        'R² of 0.000 is below 0.9'
    """
    f, q = np.minimum(gates, code.ceiling).astype("float64"), shipped.astype("float64")
    if not np.isfinite(q).all():
        return Judgement("fails", "shipped gates are NaN or infinite", nothing_measured())
    figures = measures(f, q, code)
    if figures["spread"] < ADAPTIVE_STEPS:
        fault, good = _level_fault(f, q, code), "not adaptive"
    else:
        fault, good = _adaptivity_fault(f, q, code, figures), "survives"
    return Judgement("fails" if fault else good, fault or _GOOD_REASONS[good], figures)


_GOOD_REASONS = {
    "survives": "follows the float gates sample by sample",
    "not adaptive": "the float gates vary less than the format can show; the level is kept",
}


def nothing_measured() -> dict[str, Any]:
    """The figures of a site that cannot be measured.

    Returns:
        By name, `None`.
    """
    return dict.fromkeys(_JUDGED + _REPORTED)


def r_squared(f: np.ndarray, q: np.ndarray) -> float | None:
    """Pooled R² of `q` against `f`, (samples, channels); `None` where `f` does not vary.

    Example:
        >>> r_squared(np.array([[0.0], [1.0]]), np.array([[0.5], [0.5]]))
        0.0
    """
    total = float(((f - f.mean(axis=0)) ** 2).sum())
    return 1.0 - float(((q - f) ** 2).sum()) / total if total > 0 else None


def spread(gates: np.ndarray) -> float:
    """Standard deviation over samples, root mean square over channels, of (samples, channels).

    Example:
        >>> spread(np.array([[0.0, 0.0], [2.0, 0.0]])) ** 2
        0.5000000000000001
    """
    return float(np.sqrt(gates.astype("float64").var(axis=0).mean()))


def measures(f: np.ndarray, q: np.ndarray, code: Code) -> dict[str, Any]:
    """The figures of a site, those that judge and those that are only reported.

    Args:
        f: Capped float gates, shape (samples, channels).
        q: Shipped gates.
        code: How finely the file can hold them.

    Returns:
        By name, as the attributes of `SiteVerdict`; `None` where a figure does not exist.
    """
    centred, error = f - f.mean(axis=0), np.abs(q - f)
    total = float((centred**2).sum())
    low, high = f.min(), f.max()
    return {
        "spread": spread(f) / code.step,
        "r2": r_squared(f, q),
        "slope": float((centred * q).sum()) / total if total > 0 else None,
        "rms_error": float(np.sqrt((error**2).mean())),
        "p99_error": float(np.quantile(error, 0.99)),
        "max_error": float(error.max()),
        "cosine": _cosine(f, q),
        "rank_correlation": _mean_correlation(_rows_ranked(f), _rows_ranked(q)),
        "sample_correlation": _mean_correlation(f.T, q.T),
        "saturated": float((q >= code.ceiling - code.step / 2).mean()),
        "clipped": float(((q > high + 2 * code.step) | (q < low - 2 * code.step)).mean()),
    }


def _cosine(f: np.ndarray, q: np.ndarray) -> float | None:
    norms = float(np.linalg.norm(f) * np.linalg.norm(q))
    return float((f * q).sum()) / norms if norms > 0 else None


def _rows_ranked(x: np.ndarray) -> np.ndarray:
    statistics: Any = import_extra("scipy.stats", "litert")
    ranks: np.ndarray = statistics.rankdata(x, axis=1)
    return ranks


def _mean_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Pearson correlation of rows, the mean over rows that vary in both."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    varies = norms > 0
    return float(((a * b).sum(axis=1)[varies] / norms[varies]).mean()) if varies.any() else None


def _level_fault(f: np.ndarray, q: np.ndarray, code: Code) -> str:
    """What is wrong with the level of gates that do not adapt; empty if nothing is."""
    fault = _dead_fault(f, q, code.step) or _bias_fault(f, q, code, np.arange(f.shape[1]))
    rms = float(np.sqrt((((q - f) / code.level) ** 2).mean()))
    if fault or rms <= MAX_RMS_STEPS:
        return fault
    return f"level: rms error of {rms:.2f} widened steps, above {MAX_RMS_STEPS:g}"


def _adaptivity_fault(f: np.ndarray, q: np.ndarray, code: Code, figures: dict[str, Any]) -> str:
    """Which test adaptive gates fail; empty if none."""
    if figures["r2"] < MIN_R2:
        return f"R² of {figures['r2']:.3f} is below {MIN_R2:g}"
    if abs(figures["slope"] - 1.0) > SLOPE_TOLERANCE:
        return f"slope of {figures['slope']:.3f} is not within 1 ± {SLOPE_TOLERANCE:g}"
    is_wide = f.std(axis=0) >= CHANNEL_STEPS * code.step
    return (
        _channel_fault(f, q, np.flatnonzero(is_wide))
        or _dead_fault(f, q, code.step)
        or _bias_fault(f, q, code, np.flatnonzero(~is_wide))
    )


def _channel_fault(f: np.ndarray, q: np.ndarray, wide: np.ndarray) -> str:
    """The channel, of those that adapt visibly, with too low an R² of its own."""
    if not wide.size:
        return ""
    centred = (f - f.mean(axis=0))[:, wide]
    own = 1.0 - ((q - f)[:, wide] ** 2).sum(axis=0) / (centred**2).sum(axis=0)
    if own.min() >= MIN_CHANNEL_R2:
        return ""
    return f"channel {wide[own.argmin()]}: R² of {own.min():.3f} is below {MIN_CHANNEL_R2:g}"


def _bias_fault(f: np.ndarray, q: np.ndarray, code: Code, steady: np.ndarray) -> str:
    """The channel, of those that hardly adapt, whose level is off."""
    if not steady.size:
        return ""
    bias = np.abs((q - f).mean(axis=0) / code.level)[steady]
    if bias.max() <= MAX_BIAS_STEPS:
        return ""
    channel = steady[bias.argmax()]
    return f"channel {channel}: its level is {bias.max():.1f} widened steps off, above " + (
        f"{MAX_BIAS_STEPS:g}"
    )


def _dead_fault(f: np.ndarray, q: np.ndarray, step: float) -> str:
    """A channel is newly dead if it is always 0 in the file, and not below a step in the model."""
    dead = np.flatnonzero((np.abs(q).max(axis=0) < step / 2) & (np.abs(f).max(axis=0) >= step))
    return f"channel {int(dead[0])} is dead in the file only" if dead.size else ""


def suppressed(gates: np.ndarray, tau: float, band: float = 0.0) -> tuple[int, ...]:
    """The channels whose gate is below `tau` on average over the samples.

    Args:
        gates: Shape (samples, channels).
        tau: The threshold.
        band: Channels within this distance of it are in neither set.

    Returns:
        Their indices.

    Example:
        >>> suppressed(np.array([[0.1, 0.19, 0.9]]), 0.2, 0.05)
        (0,)
    """
    return tuple(int(channel) for channel in np.flatnonzero(gates.mean(axis=0) < tau - band))
