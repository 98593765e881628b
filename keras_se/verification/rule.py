"""The rule that decides whether a gate survives conversion, with its constants and measures.

Let f be the float gate, capped at the ceiling of its code in the file, q the shipped gate, and sd
the root mean square over channels of the spread of f over samples.

R² = 1 - Σ(q - f)² / Σ(f - mean of f over samples)², pooled over the channels of a site, is 1 for a
perfect gate and 0 for a gate frozen at its mean, which is what SE is for. The largest error rejects
sound files, the cosine accepts frozen gates, and the rank correlation over channels hardly falls
when gates stop adapting. These figures are only reported.

The *step* is the nominal step of gate and format. The file's own scale would not do: bad
calibration inflates it and so excuses itself. Pre-gate values v are also codes, one of 255 over
their range, so the *level* of a channel is known to hypot(step, gate'(v)·range(v) / 255), the
widened step. (In nominal steps, sound files were up to 3.6 off and would fail.)

Measured by `benchmarks/gate_rule.py` on 27 small networks (digits and CIFAR-10, three gates, six
formats): of 486 sites in sound files none fails (95 % interval 0 to .008); of 708 adaptive sites
sabotaged in nine ways two survive (.0003 to .010), both clipped at a median that was already
saturated. Lowest R² of sound sites: float32 1.0000, float16 .998, dynamic .9994, weight_only .991,
int8 .958, int16x8 .977.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_se.errors import import_extra
from keras_se.layers.gates import GATES, Gate
from keras_se.sites.statistics import spread

ADAPTIVE_STEPS = 1.5  # attainable R² is 1 - (ν·step/sd)², ν = .3-.8 measured: .9 needs this much
MIN_R2 = 0.9  # sound int8 files reached .958 and more, half-frozen ones .75 and less
_SLOPE_TOLERANCE = 0.1  # a hard_sigmoid of slope 0.2 in place of 1/6 passes R², but is off by .2
_CHANNEL_STEPS = 2.0  # with less spread, the R² of one channel is mostly noise
_MIN_CHANNEL_R2 = 0.5  # one frozen channel of many leaves the pooled R² at .989-.998
_MAX_RMS_STEPS = 1.0  # for gates that do not adapt, in widened steps
_MAX_BIAS_STEPS = 2.0  # for steady channels, in widened steps: sound files stay below 1
MIN_SPREAD_KEPT = 0.5  # of the original's spread, after training with compression
FLOAT32_STEP = 1e-5  # two float32 runtimes agree to about this after a trunk of layers
_FLOAT16_STEPS = 8  # float16 has 11 significant bits, 8 steps for each step of 8 bits


@dataclass(frozen=True)
class Resolution:
    """How finely the gates of a site are coded in a file.

    Attributes:
        step: Nominal step of the gates.
        ceiling: Largest representable value.
        level: By channel, the widened step.
    """

    step: float
    ceiling: float
    level: np.ndarray


def resolution_of(
    gate: str, gates: np.ndarray, precision: str, ceiling: float | None = None
) -> Resolution:
    """Returns the resolution of a gate in a file whose coarsest type is `precision`."""
    top, channels = math.inf if ceiling is None else ceiling, gates.shape[1]
    if precision == "float32":
        return Resolution(FLOAT32_STEP, top, np.full(channels, FLOAT32_STEP))
    facts = GATES.get(gate)
    if facts is None or facts.step is None:
        # No format pins the range of this gate; a calibrated range includes 0.
        step = max(float(np.ptp(np.append(gates, 0.0))) / 255, FLOAT32_STEP)
    else:
        step = facts.step
    rounding = np.zeros(channels) if facts is None else _pre_gate_rounding(facts, gates)
    finer = _FLOAT16_STEPS if precision == "float16" else 1
    return Resolution(step / finer, top, np.hypot(step, rounding) / finer)


def _pre_gate_rounding(facts: Gate, gates: np.ndarray) -> np.ndarray:
    """Returns, by channel, the gate error of one of 255 steps of the pre-gate range."""
    if facts.inverse is None:
        return np.zeros(gates.shape[1])
    margin = 1e-4  # the inverse is infinite at the ends of the range
    inside = np.clip(gates.astype("float64"), facts.low + 2 * margin, facts.high - 2 * margin)
    # As everywhere in the file, the range includes 0.
    step = np.ptp(np.append(facts.inverse(inside), 0.0)) / 255
    slope = 2 * margin / (facts.inverse(inside + margin) - facts.inverse(inside - margin))
    return step * slope.mean(axis=0)


@dataclass(frozen=True)
class Judgement:
    """The verdict of the rule on the gates of one site.

    Attributes:
        verdict: `"survives"`, `"fails"` or `"not adaptive"`.
        reason: The deciding test, in words.
        figures: The measures, by name, as in `SiteVerdict`; empty without finite shipped gates.
    """

    verdict: str
    reason: str
    figures: dict[str, Any]


def judge(gates: np.ndarray, shipped: np.ndarray | None, resolution: Resolution) -> Judgement:
    """Judges the shipped gates of a site, if the file has it, against float gates."""
    if shipped is None:
        return Judgement("fails", "the file has no such site", {})
    # Values above the ceiling do not exist in the file, so they are no fault of it.
    f, q = np.minimum(gates, resolution.ceiling).astype("float64"), shipped.astype("float64")
    # The figures would be NaN, which JSON cannot hold.
    if not np.isfinite(q).all():
        return Judgement("fails", "shipped gates are NaN or infinite", {})
    figures = measures(f, q, resolution)
    if figures["spread"] < ADAPTIVE_STEPS:
        fault = _level_fault(f, q, resolution)
        reason = "the float gates vary less than the format can show; the level is kept"
        return Judgement("fails" if fault else "not adaptive", fault or reason, figures)
    fault = _adaptivity_fault(f, q, resolution, figures)
    reason = "follows the float gates sample by sample"
    return Judgement("fails" if fault else "survives", fault or reason, figures)


def r_squared(f: np.ndarray, q: np.ndarray) -> float | None:
    """Returns the pooled R² of `q` against `f`; `None` if `f` does not vary."""
    total = float(((f - f.mean(axis=0)) ** 2).sum())
    return 1.0 - float(((q - f) ** 2).sum()) / total if total > 0 else None


def measures(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> dict[str, Any]:
    """Returns the figures of a site, named as the attributes of `SiteVerdict`."""
    statistics: Any = import_extra("scipy.stats", "litert")
    centred, error = f - f.mean(axis=0), np.abs(q - f)
    total, norms = float((centred**2).sum()), float(np.linalg.norm(f) * np.linalg.norm(q))
    low, high = f.min() - 2 * resolution.step, f.max() + 2 * resolution.step
    return {
        "spread": spread(f) / resolution.step,
        "r2": r_squared(f, q),
        "slope": float((centred * q).sum()) / total if total > 0 else None,
        "rms_error": float(np.sqrt((error**2).mean())),
        "p99_error": float(np.quantile(error, 0.99)),
        "max_error": float(error.max()),
        "cosine": float((f * q).sum()) / norms if norms > 0 else None,
        "rank_correlation": _mean_correlation(
            statistics.rankdata(f, axis=1), statistics.rankdata(q, axis=1)
        ),
        "sample_correlation": _mean_correlation(f.T, q.T),
        "saturated": float((q >= resolution.ceiling - resolution.step / 2).mean()),
        "clipped": float(((q > high) | (q < low)).mean()),
    }


def _mean_correlation(a: np.ndarray, b: np.ndarray) -> float | None:
    """Returns the Pearson correlation of rows, averaged over rows that vary in both."""
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norms = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    varies = norms > 0
    return float(((a * b).sum(axis=1)[varies] / norms[varies]).mean()) if varies.any() else None


def _level_fault(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> str:
    channels = np.arange(f.shape[1])
    fault = _dead_fault(f, q, resolution.step) or _bias_fault(f, q, resolution, channels)
    # R² means nothing for gates that hardly vary, so only their level is tested.
    rms = float(np.sqrt((((q - f) / resolution.level) ** 2).mean()))
    if fault or rms <= _MAX_RMS_STEPS:
        return fault
    return f"level: rms error of {rms:.2f} widened steps, above {_MAX_RMS_STEPS:g}"


def _adaptivity_fault(
    f: np.ndarray, q: np.ndarray, resolution: Resolution, figures: dict[str, Any]
) -> str:
    if figures["r2"] < MIN_R2:
        return f"R² of {figures['r2']:.3f} is below {MIN_R2:g}"
    if abs(figures["slope"] - 1.0) > _SLOPE_TOLERANCE:
        return f"slope of {figures['slope']:.3f} is not within 1 ± {_SLOPE_TOLERANCE:g}"
    # The pooled tests hide single channels: wide ones need an R² of their own, others a level.
    is_wide = f.std(axis=0) >= _CHANNEL_STEPS * resolution.step
    return (
        _channel_fault(f, q, np.flatnonzero(is_wide))
        or _dead_fault(f, q, resolution.step)
        or _bias_fault(f, q, resolution, np.flatnonzero(~is_wide))
    )


def _channel_fault(f: np.ndarray, q: np.ndarray, wide: np.ndarray) -> str:
    if not wide.size:
        return ""
    centred = (f - f.mean(axis=0))[:, wide]
    own = 1.0 - ((q - f)[:, wide] ** 2).sum(axis=0) / (centred**2).sum(axis=0)
    if own.min() >= _MIN_CHANNEL_R2:
        return ""
    return f"channel {wide[own.argmin()]}: R² of {own.min():.3f} is below {_MIN_CHANNEL_R2:g}"


def _bias_fault(f: np.ndarray, q: np.ndarray, resolution: Resolution, steady: np.ndarray) -> str:
    if not steady.size:
        return ""
    bias = np.abs((q - f).mean(axis=0) / resolution.level)[steady]
    if bias.max() <= _MAX_BIAS_STEPS:
        return ""
    off = f"{bias.max():.1f} widened steps, above {_MAX_BIAS_STEPS:g}"
    return f"channel {steady[bias.argmax()]}: its level is off by {off}"


def _dead_fault(f: np.ndarray, q: np.ndarray, step: float) -> str:
    # A gate below one step in the model may round to 0 in a sound file.
    dead = np.flatnonzero((np.abs(q).max(axis=0) < step / 2) & (np.abs(f).max(axis=0) >= step))
    return f"channel {int(dead[0])} is dead in the file only" if dead.size else ""


def suppressed(gates: np.ndarray, tau: float, band: float = 0.0) -> tuple[int, ...]:
    """Returns the channels whose mean gate is more than `band` below `tau`."""
    return tuple(int(channel) for channel in np.flatnonzero(gates.mean(axis=0) < tau - band))
