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

Measured by `benchmarks/gate_rule.py` on small networks (digits and CIFAR-10, three gates, six
formats): of 288 sites in sound files none is lost or weakened (95 % interval 0 to .013); of 402
adaptive sites sabotaged in ten ways three survive (.002 to .022), all clipped at a median that was
already saturated. Lowest R² of sound sites: float32 and dynamic 1.000, float16 .997, weight_only
.995, int8 .949, int16x8 .988. Networks that are not small: docs/verify.md.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_se.errors import import_extra
from keras_se.layers.gates import GATES, Gate
from keras_se.sites.statistics import spread

SURVIVE, KEPT = "the gates survive", "SE's work is kept"
WEAKENED, LOST = "gates are weakened", "gates are lost"
IN_PART, NOTHING_TO_SURVIVE = "judged in part", "nothing to survive"

MIN_WORK = 0.9  # of what SE does for the outputs
ADAPTIVE_STEPS = 1.5  # attainable R² is 1 - (ν·step/sd)², ν = .3-.8 measured: .9 needs this much
MIN_R2 = 0.9  # sound int8 files reached .958 and more, half-frozen ones .75 and less
_LOST_R2 = 0.6  # with less a site is lost, from there on only weakened
_LOST_SLOPE = 0.3
_SLOPE_TOLERANCE = 0.1  # a hard_sigmoid of slope 0.2 in place of 1/6 passes R², but is off by .2
CHANNEL_STEPS = 2.0  # with less spread, the R² of one channel is mostly noise
MIN_CHANNEL_R2 = 0.5  # one frozen channel of many leaves the pooled R² at .989-.998
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
class Fault:
    """The test that gates failed.

    Attributes:
        test: Key in `_TESTS`; empty for what is no test, such as gates that are not finite.
        channel: The channel that failed it; `None` for a test of the whole site.
        sentence: The test in words.
        is_lost: Whether the gates are lost, and not only weakened.
    """

    test: str
    channel: int | None
    sentence: str
    is_lost: bool = False


@dataclass(frozen=True)
class Judgement:
    """The verdict of the rule on the gates of one site.

    Attributes:
        verdict: `"survives"`, `"weakened"`, `"lost"` or `"not adaptive"`.
        reason: The deciding test, in words.
        figures: The measures, by name, as in `SiteVerdict`; empty without finite shipped gates.
        fault: The test that failed, or `None`.
    """

    verdict: str
    reason: str
    figures: dict[str, Any]
    fault: Fault | None = None


def judge(gates: np.ndarray, shipped: np.ndarray | None, resolution: Resolution) -> Judgement:
    """Judges the shipped gates of a site, if the file has it, against float gates."""
    if shipped is None:
        return _failed(Fault("", None, "the file has no such site", is_lost=True), {})
    f, q = _doubles(gates, shipped, resolution)
    # The figures would be NaN, which JSON cannot hold.
    if not np.isfinite(q).all():
        return _failed(Fault("", None, "shipped gates are NaN or infinite", is_lost=True), {})
    figures = measures(f, q, resolution)
    is_adaptive = figures["spread"] >= ADAPTIVE_STEPS
    # R² means nothing for gates that hardly vary, so only their level is tested.
    tests = _ADAPTIVITY if is_adaptive else _LEVEL
    fault = _first_fault(f, q, resolution, tests, figures)
    if fault is not None:
        return _failed(fault, figures)
    if is_adaptive:
        return Judgement("survives", "follows the reference's gates sample by sample", figures)
    reason = "the reference's gates vary less than the format can show; the level is kept"
    return Judgement("not adaptive", reason, figures)


def verdict_of(
    grades: Iterable[str], work_kept: float | None, strict: bool, is_whole: bool = True
) -> str:
    """Returns the verdict on a file, given those on its sites and the work that is kept."""
    found = set(grades)
    if "lost" in found:
        return LOST
    if not is_whole:
        return IN_PART
    # Sites that do not adapt prove nothing.
    if not found & {"survives", "weakened"}:
        return NOTHING_TO_SURVIVE
    if work_kept is not None and work_kept < MIN_WORK:
        return LOST
    if "weakened" not in found:
        return SURVIVE
    return WEAKENED if strict or work_kept is None else KEPT


def _failed(fault: Fault, figures: dict[str, Any]) -> Judgement:
    return Judgement("lost" if fault.is_lost else "weakened", fault.sentence, figures, fault)


def _doubles(
    gates: np.ndarray, shipped: np.ndarray, resolution: Resolution
) -> tuple[np.ndarray, np.ndarray]:
    # Values above the ceiling do not exist in the file, so they are no fault of it.
    return np.minimum(gates, resolution.ceiling).astype("float64"), shipped.astype("float64")


def fails_likewise(
    fault: Fault, gates: np.ndarray, others: np.ndarray, resolution: Resolution
) -> bool:
    """Returns whether other gates fail the test that shipped gates failed, at its channel."""
    if not np.isfinite(others).all():
        return True
    test = _TESTS[fault.test]
    f, q = _doubles(gates, others, resolution)
    values = test.measure(f, q, resolution)
    return bool(values[0 if fault.channel is None else fault.channel] > test.limit)


@dataclass(frozen=True)
class _Test:
    """A measure that must not be above a limit, of a site or of each channel.

    A measure is NaN where the test says nothing; a site has a measure of length one.
    """

    measure: Callable[[np.ndarray, np.ndarray, Resolution], np.ndarray]
    limit: float
    sentence: Callable[[float, Mapping[str, Any]], str]
    of_channels: bool = False
    lost_above: float = math.inf


def _first_fault(
    f: np.ndarray,
    q: np.ndarray,
    resolution: Resolution,
    tests: tuple[str, ...],
    figures: Mapping[str, Any],
) -> Fault | None:
    for name in tests:
        test = _TESTS[name]
        values = test.measure(f, q, resolution)
        worst = int(np.nanargmax(np.append(values, -math.inf)))
        if worst < len(values) and values[worst] > test.limit:
            said = test.sentence(float(values[worst]), figures)
            channel = worst if test.of_channels else None
            sentence = said if channel is None else f"channel {channel}{said}"
            return Fault(name, channel, sentence, bool(values[worst] > test.lost_above))
    return None


def _missing_r2(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> np.ndarray:
    r2 = r_squared(f, q)
    return np.array([math.nan if r2 is None else 1.0 - r2])


def _slope_error(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> np.ndarray:
    slope = _slope(f, q)
    return np.array([math.nan if slope is None else abs(slope - 1.0)])


def _is_wide(f: np.ndarray, resolution: Resolution) -> np.ndarray:
    # Wide channels need an R² of their own, others a level.
    return f.std(axis=0) >= CHANNEL_STEPS * resolution.step


def _missing_channel_r2(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> np.ndarray:
    return np.where(_is_wide(f, resolution), _missing_of_each(f, q), math.nan)


def _missing_of_each(f: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Returns what each channel lacks to an R² of 1; NaN without variation."""
    total = ((f - f.mean(axis=0)) ** 2).sum(axis=0)
    missing: np.ndarray = ((q - f) ** 2).sum(axis=0) / np.where(total > 0, total, math.nan)
    return missing


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _dead(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> np.ndarray:
    # A gate below one step in the reference may round to 0 in a sound file.
    step = resolution.step
    return ((np.abs(q).max(axis=0) < step / 2) & (np.abs(f).max(axis=0) >= step)).astype(float)


def _bias(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> np.ndarray:
    return np.asarray(np.abs((q - f).mean(axis=0) / resolution.level))


def _bias_of_steady(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> np.ndarray:
    return np.where(_is_wide(f, resolution), math.nan, _bias(f, q, resolution))


def _rms(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> np.ndarray:
    return np.array([np.sqrt((((q - f) / resolution.level) ** 2).mean())])


def _said_bias(value: float, of: Mapping[str, Any]) -> str:
    return f": its level is off by {value:.1f} widened steps, above {_MAX_BIAS_STEPS:g}"


_TESTS = {
    "r2": _Test(
        _missing_r2,
        1.0 - MIN_R2,
        lambda value, of: f"R² of {1.0 - value:.3f} is below {MIN_R2:g}",
        lost_above=1.0 - _LOST_R2,
    ),
    "slope": _Test(
        _slope_error,
        _SLOPE_TOLERANCE,
        lambda value, of: f"slope of {of['slope']:.3f} is not within 1 ± {_SLOPE_TOLERANCE:g}",
        lost_above=_LOST_SLOPE,
    ),
    "channel": _Test(
        _missing_channel_r2,
        1.0 - MIN_CHANNEL_R2,
        lambda value, of: f": R² of {1.0 - value:.3f} is below {MIN_CHANNEL_R2:g}",
        of_channels=True,
    ),
    "dead": _Test(_dead, 0.5, lambda value, of: " is dead in the file only", of_channels=True),
    "steady": _Test(_bias_of_steady, _MAX_BIAS_STEPS, _said_bias, of_channels=True),
    # Of a site that does not adapt the level is all there is.
    "dead level": _Test(
        _dead, 0.5, lambda value, of: " is dead in the file only", of_channels=True, lost_above=0.5
    ),
    "level": _Test(
        _bias, _MAX_BIAS_STEPS, _said_bias, of_channels=True, lost_above=_MAX_BIAS_STEPS
    ),
    "rms": _Test(
        _rms,
        _MAX_RMS_STEPS,
        lambda value, of: (
            f"level: rms error of {value:.2f} widened steps, above {_MAX_RMS_STEPS:g}"
        ),
        lost_above=_MAX_RMS_STEPS,
    ),
}
# The pooled tests hide single channels, so these follow.
_ADAPTIVITY = ("r2", "slope", "channel", "dead", "steady")
_LEVEL = ("dead level", "level", "rms")


def r_squared(f: np.ndarray, q: np.ndarray) -> float | None:
    """Returns the pooled R² of `q` against `f`; `None` if `f` does not vary."""
    total = float(((f - f.mean(axis=0)) ** 2).sum())
    return 1.0 - float(((q - f) ** 2).sum()) / total if total > 0 else None


def _slope(f: np.ndarray, q: np.ndarray) -> float | None:
    centred = f - f.mean(axis=0)
    total = float((centred**2).sum())
    return float((centred * q).sum()) / total if total > 0 else None


def _worst_channel(
    f: np.ndarray, q: np.ndarray, resolution: Resolution
) -> tuple[int, float] | None:
    """Returns the channel with the lowest R² of those that vary, and that R²."""
    missing = _missing_channel_r2(f, q, resolution)
    if np.isnan(missing).all():
        return None
    channel = int(np.nanargmax(missing))
    return channel, float(1.0 - missing[channel])


def measures(f: np.ndarray, q: np.ndarray, resolution: Resolution) -> dict[str, Any]:
    """Returns the figures of a site, named as the attributes of `SiteVerdict`."""
    statistics: Any = import_extra("scipy.stats", "litert")
    error, norms = np.abs(q - f), float(np.linalg.norm(f) * np.linalg.norm(q))
    low, high = f.min() - 2 * resolution.step, f.max() + 2 * resolution.step
    return {
        "spread": spread(f) / resolution.step,
        "r2": r_squared(f, q),
        "slope": _slope(f, q),
        "worst_channel": _worst_channel(f, q, resolution),
        "channel_spread": tuple((f.std(axis=0) / resolution.step).tolist()),
        "channel_r2": tuple(_or_none(1.0 - missing) for missing in _missing_of_each(f, q)),
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


def suppressed(gates: np.ndarray, tau: float, band: float = 0.0) -> tuple[int, ...]:
    """Returns the channels whose mean gate is more than `band` below `tau`."""
    return tuple(int(channel) for channel in np.flatnonzero(gates.mean(axis=0) < tau - band))
