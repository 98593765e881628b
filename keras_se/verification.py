"""Did the gates survive? A verdict per SE site, from the bytes of a TFLite file.

The gates that the file computes on held-out samples are compared with those of the Keras model,
site by site. Let f be the float gate, capped at the ceiling of its code in the file, q the shipped
gate, and sd the root mean square over channels of the spread of f over samples.

- A site whose sd is below 1.5 steps of the file's format is *not adaptive*: nothing to survive.
  Only its level is checked.
- Any other site *survives* when R² >= 0.9, the regression slope of q on f is 1 ± 0.1, every channel
  with a spread of at least 2 steps has R² >= 0.5 of its own, every steadier channel keeps its level
  to 2 steps (each widened by the rounding of the pre-gate values in the file), and no channel is
  newly dead.
- The file passes when no site fails and at least one is adaptive. With none adaptive the answer is
  "nothing to survive", which is not a pass.

R² is 1 - Σ(q - f)² / Σ(f - mean of f over samples)², pooled over the channels of a site: 1 for a
perfect gate, 0 for a gate frozen at its mean. The step is the nominal one of gate and format, never
the file's own scale: bad calibration inflates that, and would excuse itself. A gate whose range has
no bound has no nominal step: there it is 1/255 of the range of the float gates on the samples.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.data import finite_float32
from keras_se.errors import InputError
from keras_se.layers import gates as gates_module
from keras_se.litert.convert import to_tflite
from keras_se.litert.graph import GateNode, TFLite, gate_nodes, read_bytes
from keras_se.litert.runtime import file_gates
from keras_se.sites import Site, model_gates, model_sites

MIN_SAMPLES = 32
ADAPTIVE_STEPS = 1.5  # an 8-bit code carries R² >= 0.9 of a gate whose spread is at least this
MIN_R2 = 0.9
SLOPE_TOLERANCE = 0.1
CHANNEL_STEPS = 2.0
MIN_CHANNEL_R2 = 0.5
MAX_RMS_STEPS = 1.0
MAX_BIAS_STEPS = 2.0
FLOAT_STEP = 1e-5  # what two float32 runtimes agree to after a trunk of layers
NOTHING_TO_SURVIVE = "nothing to survive"
ASSIGN_TOLERANCE = 0.01  # rms; the nearest is taken, so that it only tells a stranger


@dataclass(frozen=True)
class SiteVerdict:
    """What was measured at one site, and what follows.

    Attributes:
        name: Name of the site in the Keras model.
        gate: Name of the gate.
        channels: Number of channels.
        verdict: `"survives"`, `"fails"` or `"not adaptive"`.
        reason: The test that decided, in words.
        step: Nominal step of the gate in the file's format.
        spread: sd of the float gates over samples, rms over channels, in steps.
        r2: Pooled R² of shipped against float gates; `None` where the float gates do not vary.
        slope: Pooled within-channel regression slope; `None` where the float gates do not vary.
        rms_error: Root mean square difference, in gate units.
        max_error: Largest difference, in gate units. All five are `None` where the shipped gates
            are not finite.
        suppressed: Indices of the channels whose mean float gate is below `tau`.
        suppressed_shipped: The same for the shipped gates.
    """

    name: str
    gate: str
    channels: int
    verdict: str
    reason: str
    step: float
    spread: float | None
    r2: float | None
    slope: float | None
    rms_error: float | None
    max_error: float | None
    suppressed: tuple[int, ...]
    suppressed_shipped: tuple[int, ...]


@dataclass(frozen=True)
class GateReport:
    """The verdict on a file, with everything that it rests on.

    Attributes:
        sites: One `SiteVerdict` per SE site, by name.
        tau: Gates below it count as suppressed.
        samples: Number of samples that the gates were read on.
        sha256: Digest of the judged bytes.
        runtime: What ran the file.
    """

    sites: Mapping[str, SiteVerdict]
    tau: float
    samples: int
    sha256: str
    runtime: str

    @property
    def passed(self) -> bool:
        """Whether no site fails and at least one adaptive site survives."""
        verdicts = [site.verdict for site in self.sites.values()]
        return "fails" not in verdicts and "survives" in verdicts

    @property
    def verdict(self) -> str:
        """`"the gates survive"`, `"gates are lost"` or `"nothing to survive"`."""
        if any(site.verdict == "fails" for site in self.sites.values()):
            return "gates are lost"
        return "the gates survive" if self.passed else NOTHING_TO_SURVIVE

    def to_json(self) -> str:
        """The report as JSON text."""
        content = {"passed": self.passed, "verdict": self.verdict, **dataclasses.asdict(self)}
        return json.dumps(content, indent=2) + "\n"


def verify(model: keras.Model, tflite: TFLite, x: Any, tau: float = 0.2) -> GateReport:
    """Judges the gates of a TFLite file against those of the Keras model that it was made from.

    Args:
        model: The Keras model, built, with `SEBlock`s.
        tflite: The bytes of the file, or its path; float32 or full-integer int8.
        x: Held-out inputs in the float model's units, shape (samples, *input shape), 32 samples or
            more, none of which was used for training or calibration.
        tau: Gates below it are reported as suppressed; no verdict rests on it.

    Returns:
        A `GateReport`; `report.passed` is the verdict.

    Raises:
        InputError: If the two do not belong together, or `x` breaks its rule.
        MissingExtraError: If TensorFlow or LiteRT is not installed.

    Example:
        >>> from keras_se import SEBlock
        >>> wide = keras.initializers.RandomNormal(stddev=2.0, seed=0)
        >>> block = SEBlock(2, kernel_initializer=wide)
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), block])
        >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
        >>> verify(model, to_tflite(model, "float32"), x).passed
        True
    """
    samples = _checked_samples(x)
    if not 0.0 <= tau <= 1.0:
        raise InputError(f"tau must be between 0 and 1. Received: tau={tau!r}")
    content = read_bytes(tflite)
    sites = model_sites(model)
    if not sites:
        raise InputError(
            "verify needs a model with SE sites; insert puts them in. "
            f"Received: model {model.name!r} with none"
        )
    float_gates = model_gates(model, samples)
    _check_finite("the Keras model's", float_gates)
    shipped = file_gates(content, samples)
    order = _assignment(model, sites, float_gates, samples)
    nodes = gate_nodes(content)
    if len(nodes) != len(sites):
        raise InputError(
            "verify needs a file with the sites of the model. "
            f"Received: {len(sites)} sites in the model, {len(nodes)} in the file"
        )
    verdicts = {}
    for site, position in zip(sites, order, strict=True):
        node = nodes[position]
        code = _code(site, node, float_gates[site.name])
        verdicts[site.name] = _judge(
            site, float_gates[site.name], shipped[node.site.name], code, tau
        )
    digest = hashlib.sha256(content).hexdigest()
    return GateReport(verdicts, tau, len(samples), digest, _runtime())


def _checked_samples(x: Any) -> np.ndarray:
    samples = finite_float32("x", x)
    if samples.ndim < 2:
        raise InputError(
            f"x must have the shape (samples, *input shape). Received: shape {samples.shape}"
        )
    if len(samples) < MIN_SAMPLES:
        raise InputError(
            f"verify needs at least {MIN_SAMPLES} held-out samples. Received: {len(samples)}"
        )
    return samples


def _check_finite(whose: str, gates: Mapping[str, np.ndarray]) -> None:
    for name, values in gates.items():
        if not np.isfinite(values).all():
            raise InputError(
                f"verify needs finite gates. Received: NaN or infinity in {whose} gates at {name}"
            )


def _assignment(
    model: keras.Model,
    sites: list[Site],
    float_gates: Mapping[str, np.ndarray],
    samples: np.ndarray,
) -> list[int]:
    """For each site of the model, the position of its gate in a converted graph.

    Keras and the converter may order parallel branches differently, so sites are matched by value
    on a float32 conversion; a conversion to another format keeps the order of the operators.
    """
    reference = list(file_gates(to_tflite(model, "float32"), samples[:MIN_SAMPLES]).values())
    expected = [float_gates[site.name][:MIN_SAMPLES] for site in sites]
    distances = {
        (i, j): float(np.sqrt(((e - values) ** 2).mean()))
        for i, e in enumerate(expected)
        for j, values in enumerate(reference)
        if e.shape == values.shape and np.isfinite(values).all()
    }
    order: dict[int, int] = {}
    for (i, j), distance in sorted(distances.items(), key=lambda item: item[1]):
        if i not in order and j not in order.values() and distance <= ASSIGN_TOLERANCE:
            order[i] = j
    missing = [site.name for i, site in enumerate(sites) if i not in order]
    if missing:
        raise InputError(
            "verify finds each site of the model in its float32 conversion, by its gate values. "
            f"Received: no such gates for {missing}, {len(reference)} sites in the conversion"
        )
    return [order[i] for i in range(len(sites))]


@dataclass(frozen=True)
class _Code:
    """How finely a file can hold the gates of a site.

    Attributes:
        step: Nominal step of the gates.
        ceiling: Largest value that can be held.
        level: By channel, the step widened by the rounding of the pre-gate values.
    """

    step: float
    ceiling: float
    level: np.ndarray


def _code(site: Site, node: GateNode, gates: np.ndarray) -> _Code:
    channels = gates.shape[1]
    if not node.quantized:
        return _Code(FLOAT_STEP, math.inf, np.full(channels, FLOAT_STEP))
    facts = gates_module.GATES.get(site.gate)
    if facts is None or facts.step is None:
        # No nominal step: the one that 8 bits would have over the range of the float gates.
        step, ceiling = max(float(np.ptp(np.append(gates, 0.0))) / 255, FLOAT_STEP), math.inf
    else:
        step, ceiling = facts.step, facts.ceiling
    rounding = np.zeros(channels) if facts is None else _pre_gate_rounding(facts, gates)
    return _Code(step, ceiling, np.hypot(step, rounding))


def _pre_gate_rounding(facts: gates_module.Gate, gates: np.ndarray) -> np.ndarray:
    """What one of 255 steps over the range of the float pre-gate values is worth, by channel."""
    if facts.inverse is None:
        return np.zeros(gates.shape[1])
    margin = 1e-4
    inside = np.clip(gates.astype("float64"), facts.low + 2 * margin, facts.high - 2 * margin)
    step = np.ptp(np.append(facts.inverse(inside), 0.0)) / 255
    slope = 2 * margin / (facts.inverse(inside + margin) - facts.inverse(inside - margin))
    return step * slope.mean(axis=0)


def _judge(
    site: Site, gate: np.ndarray, shipped: np.ndarray, code: _Code, tau: float
) -> SiteVerdict:
    step = code.step
    f, q = np.minimum(gate, code.ceiling).astype("float64"), shipped.astype("float64")
    finite = bool(np.isfinite(q).all())
    figures = _figures(f, q, step) if finite else _NO_FIGURES
    if not finite:
        reason, verdict = "shipped gates are NaN or infinite", "fails"
    elif figures["spread"] < ADAPTIVE_STEPS:
        reason = _level_fault(f, q, step)
        verdict = "fails" if reason else "not adaptive"
    else:
        reason = _adaptivity_fault(f, q, code, figures)
        verdict = "fails" if reason else "survives"
    return SiteVerdict(
        name=site.name,
        gate=site.gate,
        channels=site.channels,
        verdict=verdict,
        reason=reason or _GOOD_REASONS[verdict],
        step=step,
        suppressed=_suppressed(gate, tau),
        suppressed_shipped=_suppressed(shipped, tau),
        **figures,
    )


_GOOD_REASONS = {
    "survives": "follows the float gates sample by sample",
    "not adaptive": "the float gates vary less than the format can show; the level is kept",
}
_NO_FIGURES: dict[str, Any] = dict.fromkeys(("spread", "r2", "slope", "rms_error", "max_error"))


def _figures(f: np.ndarray, q: np.ndarray, step: float) -> dict[str, Any]:
    """The measures of a site; `f` and `q` are (samples, channels)."""
    centred, error = f - f.mean(axis=0), q - f
    total = float((centred**2).sum())
    return {
        "spread": float(np.sqrt(f.var(axis=0).mean()) / step),
        "r2": 1.0 - float((error**2).sum()) / total if total > 0 else None,
        "slope": float((centred * q).sum()) / total if total > 0 else None,
        "rms_error": float(np.sqrt((error**2).mean())),
        "max_error": float(np.abs(error).max()),
    }


def _level_fault(f: np.ndarray, q: np.ndarray, step: float) -> str:
    """What is wrong with the level of gates that do not adapt; empty if nothing is."""
    rms = float(np.sqrt(((q - f) ** 2).mean())) / step
    if rms > MAX_RMS_STEPS:
        return f"level: rms error of {rms * step:.4f}, {rms:.2f} steps, above {MAX_RMS_STEPS:g}"
    bias = float(np.abs((q - f).mean(axis=0)).max()) / step
    if bias > MAX_BIAS_STEPS:
        return f"level: a channel is {bias:.2f} steps off on average, above {MAX_BIAS_STEPS:g}"
    return _dead_fault(f, q, step)


def _adaptivity_fault(f: np.ndarray, q: np.ndarray, code: _Code, figures: dict[str, Any]) -> str:
    """Which test adaptive gates fail; empty if none."""
    r2, slope = figures["r2"], figures["slope"]
    if r2 < MIN_R2:
        return f"R² of {r2:.3f} is below {MIN_R2:g}"
    if abs(slope - 1.0) > SLOPE_TOLERANCE:
        return f"slope of {slope:.3f} is not within 1 ± {SLOPE_TOLERANCE:g}"
    is_wide = f.std(axis=0) >= CHANNEL_STEPS * code.step
    wide, steady = np.flatnonzero(is_wide), np.flatnonzero(~is_wide)
    centred = (f - f.mean(axis=0))[:, wide]
    own = 1.0 - ((q - f)[:, wide] ** 2).sum(axis=0) / (centred**2).sum(axis=0)
    if wide.size and own.min() < MIN_CHANNEL_R2:
        channel = int(wide[own.argmin()])
        return f"channel {channel}: R² of {own.min():.3f} is below {MIN_CHANNEL_R2:g}"
    dead = _dead_fault(f, q, code.step)
    bias = np.abs((q - f).mean(axis=0) / code.level)[steady]
    if not dead and steady.size and bias.max() > MAX_BIAS_STEPS:
        channel = int(steady[bias.argmax()])
        return (
            f"channel {channel}: its level is {bias.max():.1f} steps off, above {MAX_BIAS_STEPS:g}"
        )
    return dead


def _dead_fault(f: np.ndarray, q: np.ndarray, step: float) -> str:
    """A channel is newly dead if it is always 0 in the file, and not below a step in the model."""
    dead = np.flatnonzero((np.abs(q).max(axis=0) < step / 2) & (np.abs(f).max(axis=0) >= step))
    return f"channel {int(dead[0])} is dead in the file only" if dead.size else ""


def _suppressed(gates: np.ndarray, tau: float) -> tuple[int, ...]:
    """The channels whose gate is below `tau` on average over the samples."""
    return tuple(int(channel) for channel in np.flatnonzero(gates.mean(axis=0) < tau))


def _runtime() -> str:
    version = importlib.metadata.version("ai-edge-litert")
    return f"LiteRT {version}, default CPU delegate (XNNPACK), {platform.machine()}"
