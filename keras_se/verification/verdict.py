"""Verdicts on the SE sites of a TFLite file: do its gates still adapt to the input?

The gates that the file computes on held-out samples are compared with those of the Keras model, by
the rule in `keras_se.verification.rule`. A site whose gates spread less than 1.5 steps of the
file's format is *not adaptive*, and only its level is judged. The file passes if no site fails and
at least one is adaptive.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.compress.stripping import strip
from keras_se.data import checked_labels, fits
from keras_se.errors import InputError
from keras_se.graph.compressed import compression_of
from keras_se.graph.fitting import fitted
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.trace import trace
from keras_se.layers.quantization.fake_quantize import is_quantize_aware
from keras_se.litert.convert import convert
from keras_se.litert.delegation import delegation
from keras_se.litert.formats import Options
from keras_se.litert.gates import GateReader
from keras_se.litert.graph.flatbuffer import TFLite, TFLiteModel
from keras_se.litert.graph.sites import gate_codes, precision
from keras_se.litert.inputs import Samples, input_arrays, input_specs
from keras_se.litert.matching import match_sites
from keras_se.litert.probing import recorded_gates
from keras_se.litert.recipe import calibration_rows, row_hashes
from keras_se.litert.runtime import runtime_name
from keras_se.reading import read_gates
from keras_se.sites.gated import GatedSite, gated_sites
from keras_se.sites.site import PREFIXES
from keras_se.sites.statistics import spread
from keras_se.verification.effect import measure_effect, takes_labels
from keras_se.verification.report import GateReport, SiteVerdict, Stress, verdict_of
from keras_se.verification.rule import (
    ADAPTIVE_STEPS,
    MIN_R2,
    MIN_SPREAD_KEPT,
    Judgement,
    Resolution,
    judge,
    r_squared,
    resolution_of,
    suppressed,
)

MIN_SAMPLES = 32
_MIN_STRESSED = 8
_DEAD_BAND = 0.02  # around tau, where a rounding error decides whether a gate is below it
REMEDIES = {
    "trunk": (
        "The layers before the site lost them: calibrate on more data in the range of use, "
        "equalize the channels with keras_se.compress.equalize, or use format='int16x8'."
    ),
    "training": (
        "Training with compression made them steady: equalize the channels first, or train longer."
    ),
    "SE": "The site itself lost them: keep it in float with to_tflite(..., keep_float=[...]).",
}
_LOST_IN_TRAINING = "adaptivity lost in training"

_Gates = Mapping[str, np.ndarray]  # by the site names of the Keras model
_Run = tuple[str, _Gates, _Gates]


def verify(
    model: keras.Model,
    tflite: TFLite,
    x: Any,
    tau: float = 0.2,
    *,
    y: Any = None,
    stress: Sequence[float] | Mapping[str, Any] = (0.5, 1.5),
    reference: Any = None,
    gates: Any = None,
    recipe: Any = None,
    input_shape: Sequence[int] | None = None,
) -> GateReport:
    """Judges the gates of a TFLite file against those of the Keras model that it comes from.

    Args:
        model: The built Keras model, with `SEBlock`s or with SE built from other layers. Of one
            that computes in half precision, such as `mixed_float16`, the float32 twin is compared.
        tflite: The bytes or the path of the file, in any format.
        x: Held-out inputs in the float model's units, shape (samples, *input shape), or a list or
            dictionary of them. At least 32 samples, none of them used for training or calibration.
        tau: Gates below it are reported as suppressed. It does not affect the verdict.
        y: Integer labels, shape (samples,). If given, the effect on the model is its accuracy.
        stress: Factors of brightness, or inputs by name, on which the gates are judged too.
        reference: After training with compression, the compressed model, stripped or not. Gates are
            judged against it, and `model` is the original: gates must keep half of its spread.
        gates: Gates recorded on a device with the outputs of `keras_se.litert.probe`: an `.npz`
            file or a dictionary. They are judged instead of those of this machine.
        recipe: Recipe of the file, to check that `x` was not used for calibration. By default the
            one beside the file.
        input_shape: Shape of one sample, such as `(224, 224, 3)`, needed for a model that leaves
            sizes open. Only for models with one input.

    Returns:
        A `GateReport`; `report.passed` is the verdict.

    Raises:
        InputError: If model and file do not belong together, or an argument is invalid.
        MissingExtraError: If TensorFlow or LiteRT is not installed.

    Warns:
        PrecisionWarning: If the model computes in half precision.

    Example:
        >>> from keras_se import SEBlock, to_tflite
        >>> wide = keras.initializers.RandomNormal(stddev=2.0, seed=0)
        >>> block = SEBlock(2, kernel_initializer=wide)
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), block])
        >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
        >>> verify(model, to_tflite(model, "float32"), x).passed
        True
    """
    _check_tau(tau)
    content = TFLiteModel.of(tflite).content
    compressed, judged = _fitted(model if reference is None else reference, input_shape)
    sites = _sites(judged)
    # Check all arguments before the file runs, which takes long.
    samples = _samples(judged, x, "x", MIN_SAMPLES)
    labels = None if y is None else _labels(judged, y, _count(samples))
    stressed = _stressed_samples(judged, samples, stress)
    held_out = _held_out(tflite, content, recipe, samples, was_trained=reference is not None)
    # A stripped model has lost the ranges of quantization, so take the gates of the compressed one.
    own = _model_gates(compressed, judged, samples, "the Keras model's")
    original: _Gates = {}
    if reference is not None:
        original = _original_gates(fitted(model, "verify", input_shape), judged, sites, samples)
    file = _File(content, judged, sites, samples)
    runtime, shipped, replayed = file.read(samples, gates)
    return GateReport(
        sites=file.verdicts(own, shipped, replayed, original, tau),
        tau=tau,
        samples=_count(samples),
        sha256=hashlib.sha256(content).hexdigest(),
        runtime=runtime,
        held_out=held_out,
        assignment_error=file.assignment_error,
        effect=measure_effect(judged, list(samples.values()), own, shipped, labels),
        # A device recorded its gates for `x` only.
        stress={} if gates is not None else _stress(file, compressed, judged, stressed),
    )


def _check_tau(tau: Any) -> None:
    # A bool is an int in Python.
    if isinstance(tau, bool) or not isinstance(tau, int | float) or not 0.0 <= tau <= 1.0:
        raise InputError(f"tau must be between 0 and 1. Received: tau={tau!r}")


def _fitted(compressed: Any, input_shape: Sequence[int] | None) -> tuple[Any, keras.Model]:
    """The model whose gates are read, and the one in which the sites are found."""
    if compression_of(compressed) is None:
        judged = fitted(compressed, "verify", input_shape, stacklevel=4)
        return judged, judged
    # Sites are found in Keras 3 models, and this is one of tf_keras.
    return compressed, fitted(strip(compressed), "verify", input_shape, stacklevel=4)


def _sites(model: keras.Model) -> dict[str, GatedSite]:
    found = gated_sites(trace(model, "verify"))
    sites = {part.site.name: part for part in found if part.site.kind == "self"}
    if not sites:
        raise InputError(
            "verify needs a model with SE sites; add them with insert. "
            f"Received: model {model.name!r} with none"
        )
    return sites


def _count(samples: Samples) -> int:
    return len(next(iter(samples.values())))


def _samples(model: keras.Model, x: Any, what: str, least: int) -> Samples:
    samples = input_arrays(input_specs(model, "verify"), x, what)
    if _count(samples) < least:
        raise InputError(
            f"verify needs at least {least} held-out samples in {what}. Received: {_count(samples)}"
        )
    return samples


def _stressed_samples(model: keras.Model, samples: Samples, stress: Any) -> dict[str, Samples]:
    if isinstance(stress, Mapping):
        return {
            str(name): _samples(model, x, f"stress[{name!r}]", _MIN_STRESSED)
            for name, x in stress.items()
        }
    are_factors = isinstance(stress, list | tuple) and all(
        isinstance(factor, int | float) and np.isfinite(factor) for factor in stress
    )
    if not are_factors:
        raise InputError(
            "stress must be a list of brightness factors, or a dictionary of inputs by name. "
            f"Received: {stress if np.ndim(stress) == 0 else type(stress).__name__!r}"
        )
    return {
        f"times {factor:g}": {
            # Integer inputs may be indices, which have no brightness.
            name: array * np.float32(factor) if array.dtype.kind == "f" else array
            for name, array in samples.items()
        }
        for factor in stress
    }


def _labels(model: keras.Model, y: Any, samples: int) -> np.ndarray:
    labels = checked_labels("verify", "y", y, samples)
    if not takes_labels(model, labels):
        raise InputError(
            "y needs a model whose first output has one value per class, or one in all. Received: "
            f"labels up to {labels.max()} for an output of shape {tuple(model.outputs[0].shape)}"
        )
    return labels


def _held_out(
    tflite: TFLite, content: bytes, recipe: Any, samples: Samples, was_trained: bool
) -> str:
    """Refuses calibration samples, and says what the samples were compared with."""
    rows = calibration_rows(tflite, content, recipe)
    if rows is None:
        return "not checked: no recipe of this file"
    if not rows and was_trained:
        return "not checked: a recipe does not list the samples that a model was trained on"
    if not rows:
        return "by its recipe the file was not calibrated"
    used = sum(row in rows for row in row_hashes(samples))
    if used:
        raise InputError(
            "verify needs samples that the file was not calibrated on. "
            f"Received: {used} of {_count(samples)} samples that are in its recipe"
        )
    return f"compared with the {len(rows)} calibration samples of the recipe"


def _model_gates(model: Any, judged: keras.Model, samples: Samples, whose: str) -> _Gates:
    read = read_gates(model, packed_inputs(judged, samples.values()))
    gates = {name: values for name, values in read.items() if not _is_cross(name)}
    for name, values in gates.items():
        if not np.isfinite(values).all():
            raise InputError(
                f"verify needs finite gates. Received: NaN or infinity in {whose} gates at {name}"
            )
    return gates


def _is_cross(name: str) -> bool:
    return name.rpartition("/")[2].startswith(PREFIXES["cross"])


def _original_gates(
    model: keras.Model, judged: keras.Model, sites: Mapping[str, GatedSite], samples: Samples
) -> _Gates:
    wanted = [(name, part.site.channels) for name, part in sites.items()]
    found = [(name, part.site.channels) for name, part in _sites(model).items()]
    # Compression may have opened a layer around a site, which changes its name.
    if [channels for _, channels in wanted] != [channels for _, channels in found]:
        raise InputError(
            "reference must have the sites of the original model. "
            f"Received: {found} in the model, {wanted} in the reference"
        )
    gates = _model_gates(model, judged, samples, "the original model's")
    return {name: gates[own] for (name, _), (own, _) in zip(wanted, found, strict=True)}


@dataclass(frozen=True)
class _SiteGates:
    own: np.ndarray
    shipped: np.ndarray | None  # `None` if the file lacks the site
    replayed: np.ndarray | None  # float gates for the feature maps of the file, where known
    original: np.ndarray | None  # `None` without a reference


class _File:
    """The judged file; its sites have the names of the Keras model."""

    def __init__(
        self, content: bytes, model: keras.Model, sites: Mapping[str, GatedSite], samples: Samples
    ) -> None:
        # The float32 conversion is of a stripped model, whose sites are at the same places.
        plain = strip(model) if is_quantize_aware(model) else model
        float32 = convert(plain, None, Options(format="float32"), "verify").tflite
        self._names, self.assignment_error = match_sites(plain, samples, float32, content)
        file = TFLiteModel(content)
        self._content, self._sites = content, sites
        self._precision = precision(file)
        self._codes = gate_codes(file)
        self._reader = GateReader(file, ("self",), maps=True)
        self._delegation = delegation(file, self._reader.plain.interpreter).sites

    def read(self, samples: Samples, recorded: Any = None) -> _Run:
        """Returns the runtime, the gates of the file, and the replayed gates where known."""
        if recorded is not None:
            return self._recorded(recorded, _count(samples))
        shipped: dict[str, list[np.ndarray]] = {name: [] for name in self._names}
        replayed: dict[str, list[Any]] = {name: [] for name in self._names}
        for reading in self._reader.read(samples):
            for name, name_in_file in self._names.items():
                shipped[name].append(reading.gates[name_in_file])
                replayed[name].append(_replayed(self._sites[name], reading.maps[name_in_file]))
        known = {name: rows for name, rows in replayed.items() if all(r is not None for r in rows)}
        return runtime_name(), _joined(shipped), _joined(known)

    def _recorded(self, source: Any, count: int) -> _Run:
        recorded = recorded_gates(self._content, source)
        lengths = {name: len(values) for name, values in recorded.items()}
        if set(lengths.values()) != {count}:
            raise InputError(
                f"Recorded gates must be of the {count} samples in x. Received: {lengths}"
            )
        origin = "given as arrays" if isinstance(source, Mapping) else f"from {source}"
        gates = {name: recorded[name_in_file] for name, name_in_file in self._names.items()}
        return f"gates recorded on a device, {origin}", gates, {}

    def resolution(self, name: str, own: np.ndarray) -> Resolution:
        code = self._codes[self._names[name]] if name in self._names else None
        # A gate above the ceiling of its code is clipped in any sound file: judge it as such.
        ceiling = None if code is None else code[1]
        return resolution_of(self._sites[name].site.gate, own, self._precision, ceiling)

    def verdicts(
        self, own: _Gates, shipped: _Gates, replayed: _Gates, original: _Gates, tau: float
    ) -> dict[str, SiteVerdict]:
        found = {}
        for name in self._sites:
            gates = _SiteGates(own[name], shipped.get(name), replayed.get(name), original.get(name))
            found[name] = self._verdict(name, gates, tau)
        return found

    def _verdict(self, name: str, gates: _SiteGates, tau: float) -> SiteVerdict:
        site, resolution = self._sites[name].site, self.resolution(name, gates.own)
        judgement = judge(gates.own, gates.shipped, resolution)
        judgement, kept = _adaptivity_kept(judgement, gates, resolution)
        delegated = self._delegation[self._names[name]] if name in self._names else None
        return SiteVerdict(
            name=name,
            gate=site.gate,
            channels=site.channels,
            verdict=judgement.verdict,
            reason=judgement.reason,
            blame=_blame(judgement, gates, resolution),
            step=resolution.step,
            trunk_r2=_trunk_r2(gates),
            suppressed=suppressed(gates.own, tau),
            suppressed_shipped=(
                () if gates.shipped is None else suppressed(gates.shipped, tau, _DEAD_BAND)
            ),
            spread_kept=kept,
            undelegated=() if delegated is None else delegated.undelegated,
            partitions=None if delegated is None else delegated.partitions,
            **judgement.figures,
        )


def _stress(
    file: _File, compressed: Any, judged: keras.Model, stressed: Mapping[str, Samples]
) -> dict[str, Stress]:
    found = {}
    for name, samples in stressed.items():
        own = _model_gates(compressed, judged, samples, "the Keras model's")
        _, shipped, _ = file.read(samples)
        sites = {}
        for site, gates in own.items():
            judgement = judge(gates, shipped.get(site), file.resolution(site, gates))
            sites[site] = (judgement.verdict, judgement.figures.get("r2"))
        found[name] = Stress(verdict_of([verdict for verdict, _ in sites.values()]), sites)
    return found


def _joined(batches: Mapping[str, list[np.ndarray]]) -> _Gates:
    return {name: np.concatenate(rows) for name, rows in batches.items()}


def _replayed(part: GatedSite, features: np.ndarray | None) -> np.ndarray | None:
    # A converter may reshape or transpose a map.
    if features is None or not fits(features.shape[1:], tuple(part.features.shape[1:])):
        return None
    return part.replay(features)


def _trunk_r2(gates: _SiteGates) -> float | None:
    if gates.replayed is None or not np.isfinite(gates.replayed).all():
        return None
    return r_squared(gates.own, gates.replayed)


def _blame(judgement: Judgement, gates: _SiteGates, resolution: Resolution) -> str:
    if judgement.verdict != "fails":
        return ""
    if judgement.reason.startswith(_LOST_IN_TRAINING):
        return "training"
    if gates.shipped is None:
        return "SE"
    if gates.replayed is None:
        return "unknown"
    if not np.isfinite(gates.replayed).all():
        return "trunk"
    # If even the float excitation fails on the file's maps, the trunk or its calibration is at
    # fault. The R² of gates that hardly vary is noise: compare the level of the replay instead.
    if spread(gates.own) < ADAPTIVE_STEPS * resolution.step:
        is_lost = judge(gates.own, gates.replayed, resolution).verdict == "fails"
    else:
        r2 = _trunk_r2(gates)
        is_lost = r2 is not None and r2 < MIN_R2
    return "trunk" if is_lost else "SE"


def _adaptivity_kept(
    judgement: Judgement, gates: _SiteGates, resolution: Resolution
) -> tuple[Judgement, float | None]:
    """Fails a site that was adaptive before training with compression and is not any more."""
    if gates.original is None or gates.shipped is None or not np.isfinite(gates.shipped).all():
        return judgement, None
    before = spread(gates.original)
    if before < ADAPTIVE_STEPS * resolution.step:
        return judgement, None
    kept = spread(gates.shipped) / before
    # A site that already fails keeps its first reason.
    if kept >= MIN_SPREAD_KEPT or judgement.verdict == "fails":
        return judgement, kept
    left = f"{kept:.2f} of the original's spread is left, below {MIN_SPREAD_KEPT:g}"
    return Judgement("fails", f"{_LOST_IN_TRAINING}: {left}", judgement.figures), kept
