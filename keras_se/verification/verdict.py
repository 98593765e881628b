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
from keras_se.data import checked_labels
from keras_se.errors import InputError
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.trace import trace
from keras_se.litert.compressed import origin_of
from keras_se.litert.delegation import delegation
from keras_se.litert.graph.sites import GateNode, TFLite, gate_codes, read_bytes
from keras_se.litert.inputs import InputSpec, input_arrays, input_specs
from keras_se.litert.probing import recorded_gates
from keras_se.litert.recipe import calibration_rows, row_hashes
from keras_se.litert.runtime import file_precision, read_sites, runtime_name
from keras_se.reading import read_gates
from keras_se.sites.gated import GatedSite, gated_sites
from keras_se.sites.reading import model_gates
from keras_se.verification.effect import Effect, measure_effect, takes_labels
from keras_se.verification.matching import assign
from keras_se.verification.report import GateReport, SiteVerdict, Stress, verdict_of
from keras_se.verification.rule import (
    ADAPTIVE_STEPS,
    MIN_R2,
    MIN_SPREAD_KEPT,
    Code,
    Judgement,
    gate_code,
    judge,
    nothing_measured,
    r_squared,
    spread,
    suppressed,
)

MIN_SAMPLES = 32
MIN_STRESSED = 8
_LOST_IN_TRAINING = "adaptivity lost in training"
_NOT_CALIBRATED = "by its recipe the file was not calibrated"
DEAD_BAND = 0.02  # around tau, where a rounding error decides whether a gate is below it
REMEDIES = {
    "trunk": (
        "The layers before it lost them: calibrate on more data in the range of use, equalize the "
        "scales of their channels with keras_se.compress.equalize, or take format='int16x8'."
    ),
    "training": (
        "Training with compression made them steady: equalize the scales of the channels first, "
        "or train longer."
    ),
    "SE": "SE itself lost them: leave the site in float with to_tflite(..., keep_float=[...]).",
}


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
) -> GateReport:
    """Judges the gates of a TFLite file against those of the Keras model that it comes from.

    Args:
        model: The built Keras model, with `SEBlock`s or with SE built from other layers.
        tflite: The bytes or the path of the file, in any format.
        x: Held-out inputs in the float model's units, shape (samples, *input shape), or a list or
            dictionary of them. At least 32 samples, none of them used for training or calibration.
        tau: Gates below it are reported as suppressed. It does not affect the verdict.
        y: Integer labels, shape (samples,). If given, the effect on the model is its accuracy.
        stress: Factors of brightness, or a dictionary of inputs by name, on which the gates are
            judged too.
        reference: After training with compression, the compressed model, stripped or not. Gates are
            judged against it, and `model` is the original: gates must keep half of its spread.
        gates: Gates recorded on a device with the outputs of `keras_se.litert.probe`: an `.npz`
            file or a dictionary. They are judged instead of those of this machine.
        recipe: Recipe of the file, to check that `x` was not used for calibration. By default the
            one beside the file.

    Returns:
        A `GateReport`; `report.passed` is the verdict.

    Raises:
        InputError: If model and file do not belong together, or an argument is invalid.
        MissingExtraError: If TensorFlow or LiteRT is not installed.

    Example:
        >>> from keras_se import SEBlock, to_tflite
        >>> wide = keras.initializers.RandomNormal(stddev=2.0, seed=0)
        >>> block = SEBlock(2, kernel_initializer=wide)
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), block])
        >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
        >>> verify(model, to_tflite(model, "float32"), x).passed
        True
    """
    # A bool is an int in Python.
    if isinstance(tau, bool) or not isinstance(tau, int | float) or not 0.0 <= tau <= 1.0:
        raise InputError(f"tau must be between 0 and 1. Received: tau={tau!r}")
    content = read_bytes(tflite)
    compressed = model if reference is None else reference
    # Sites are found in Keras 3 models; a compressed model may be one of tf_keras.
    judged = strip(compressed) if origin_of(compressed) is not None else compressed
    session = _Session(judged, content, compressed)
    samples = session.samples(x, MIN_SAMPLES)
    labels = None if y is None else checked_labels("verify", "y", y, samples.count)
    # Check all arguments before the file runs, which takes long.
    stressed = session.stressed_samples(samples, stress)
    if labels is not None and not takes_labels(judged, labels):
        raise InputError(
            "y is for models whose first output is one value per class, or one in all. Received: "
            f"labels up to {labels.max()} for an output of shape {tuple(judged.outputs[0].shape)}"
        )
    held_out = _held_out(tflite, content, recipe, samples.arrays)
    if reference is not None and held_out == _NOT_CALIBRATED:
        # No calibration does not mean unseen samples: the compressed model was trained on some.
        held_out = "not checked: a recipe does not know what a model was trained on"
    own = session.own_gates(samples)
    original = None if reference is None else _original_gates(model, session, samples)
    # Matching sites runs a second, float32 file; a few samples are enough to tell them apart.
    few = samples.first(MIN_SAMPLES)
    own_of_few = {name: values[:MIN_SAMPLES] for name, values in own.items()}
    assigned = assign(
        judged,
        [part.site for part in session.parts],
        # The float32 file comes from the stripped model, so take the gates of that model.
        own_of_few if judged is compressed else model_gates(judged, few.x),
        few.x,
        few.arrays,
        content,
    )
    session.nodes = assigned.nodes
    is_here = gates is None
    shipped = session.shipped(samples) if is_here else session.recorded(gates, samples.count)
    verdicts = {
        part.site.name: session.verdict(part, own, shipped, original, tau) for part in session.parts
    }
    where = runtime_name() if is_here else f"gates recorded on a device, {_source(gates)}"
    return GateReport(
        sites=verdicts,
        tau=tau,
        samples=samples.count,
        sha256=hashlib.sha256(content).hexdigest(),
        runtime=where,
        held_out=held_out,
        assignment_error=assigned.error,
        effect=session.effect(samples, own, shipped, labels),
        # A device recorded its gates for `x` only.
        stress=session.stress(stressed) if is_here else {},
    )


@dataclass(frozen=True)
class _Samples:
    """Inputs by the names of the signature, and in the structure of the Keras model."""

    model: keras.Model
    arrays: dict[str, np.ndarray]

    @property
    def x(self) -> Any:
        return packed_inputs(self.model, self.arrays.values())

    @property
    def count(self) -> int:
        return len(next(iter(self.arrays.values())))

    def first(self, count: int) -> "_Samples":
        return _Samples(self.model, {k: v[:count] for k, v in self.arrays.items()})

    def times(self, factor: float) -> "_Samples":
        """Scale float inputs, to make them brighter or darker."""
        arrays = {
            # Integer inputs may be indices, which have no brightness.
            name: array * np.float32(factor) if array.dtype.kind == "f" else array
            for name, array in self.arrays.items()
        }
        return _Samples(self.model, arrays)


@dataclass(frozen=True)
class _Shipped:
    """The gates of a site in the file, and the float gates for the file's own feature maps."""

    gates: np.ndarray | None
    replayed: np.ndarray | None


class _Session:
    """The model and the file under comparison."""

    def __init__(self, model: keras.Model, content: bytes, compressed: Any) -> None:
        self.model = model
        # Read the gates here: a stripped model has lost the ranges of quantization.
        self.compressed = compressed
        self.parts = gated_sites(trace(model, purpose="verify"))
        if not self.parts:
            raise InputError(
                "verify needs a model with SE sites; insert puts them in. "
                f"Received: model {model.name!r} with none"
            )
        self.nodes: dict[str, GateNode | None] = {}
        self._content = content
        self._specs: list[InputSpec] = input_specs(model)
        self._precision = file_precision(content)
        self._codes = gate_codes(content)
        self._delegation = delegation(content).sites

    def samples(self, x: Any, least: int, stress: Any = None) -> _Samples:
        what = "x" if stress is None else f"stress[{stress!r}]"
        samples = _Samples(self.model, input_arrays(self._specs, x, what))
        if samples.count < least:
            raise InputError(
                f"verify needs at least {least} held-out samples in {what}. "
                f"Received: {samples.count}"
            )
        return samples

    def own_gates(self, samples: _Samples) -> dict[str, np.ndarray]:
        gates = read_gates(self.compressed, samples.x)
        _check_finite("the Keras model's", gates)
        return gates

    def shipped(self, samples: _Samples) -> dict[str, _Shipped]:
        """Run the file and return its gates by site name of the model."""
        rows: dict[str, list[Any]] = {part.site.name: [] for part in self.parts}
        for readings in read_sites(self._content, samples.arrays, features=True):
            for part in self.parts:
                node = self.nodes[part.site.name]
                if node is not None:
                    reading = readings[node.site.name]
                    rows[part.site.name].append((reading.gates, _replayed(part, reading.features)))
        return {name: _joined(values) for name, values in rows.items()}

    def recorded(self, source: Any, count: int) -> dict[str, _Shipped]:
        """Return gates recorded on a device in the form of `shipped`."""
        recorded = recorded_gates(self._content, source)
        lengths = {name: len(values) for name, values in recorded.items()}
        if set(lengths.values()) != {count}:
            raise InputError(
                f"Recorded gates must be of the {count} samples in x. Received: {lengths}"
            )
        return {
            name: _Shipped(None if node is None else recorded[node.site.name], None)
            for name, node in self.nodes.items()
        }

    def code(self, part: GatedSite, gates: np.ndarray) -> Code:
        node = self.nodes[part.site.name]
        pinned = None if node is None else self._codes[node.site.name]
        # A gate above the ceiling of its code is clipped in any sound file: judge it as such.
        ceiling = None if pinned is None else pinned[1]
        return gate_code(part.site.gate, gates, self._precision, ceiling)

    def verdict(
        self,
        part: GatedSite,
        own: Mapping[str, np.ndarray],
        shipped: Mapping[str, _Shipped],
        original: Mapping[str, np.ndarray] | None,
        tau: float,
    ) -> SiteVerdict:
        site, gates, found = part.site, own[part.site.name], shipped[part.site.name]
        code = self.code(part, gates)
        judgement, kept = _judged(gates, found.gates, code), None
        own_tau = () if found.gates is None else suppressed(found.gates, tau, DEAD_BAND)
        if original is not None and found.gates is not None:
            judgement, kept = _adaptivity_kept(judgement, original[site.name], found.gates, code)
        trunk = _trunk_r2(gates, found.replayed)
        node = self.nodes[site.name]
        delegated = None if node is None else self._delegation[node.site.name]
        return SiteVerdict(
            name=site.name,
            gate=site.gate,
            channels=site.channels,
            verdict=judgement.verdict,
            reason=judgement.reason,
            blame=_blame(judgement, gates, found, code),
            step=code.step,
            trunk_r2=trunk,
            suppressed=suppressed(gates, tau),
            suppressed_shipped=own_tau,
            spread_kept=kept,
            undelegated=() if delegated is None else delegated.undelegated,
            partitions=None if delegated is None else delegated.partitions,
            **judgement.figures,
        )

    def effect(
        self,
        samples: _Samples,
        own: Mapping[str, np.ndarray],
        shipped: Mapping[str, _Shipped],
        labels: np.ndarray | None,
    ) -> Effect | None:
        """Measure what the shipped gates do to the outputs, if all of them are known and finite."""
        # Gates put into the model must cover all sites, or the effect mixes two models.
        values = {name: found.gates for name, found in shipped.items() if found.gates is not None}
        if len(values) < len(shipped) or not all(np.isfinite(g).all() for g in values.values()):
            return None
        return measure_effect(self.model, list(samples.arrays.values()), own, values, labels)

    def stressed_samples(self, samples: _Samples, given: Any) -> dict[str, _Samples]:
        """Return the stress samples by name."""
        if isinstance(given, Mapping):
            return {str(name): self.samples(x, MIN_STRESSED, name) for name, x in given.items()}
        are_factors = isinstance(given, list | tuple) and all(
            isinstance(factor, int | float) and np.isfinite(factor) for factor in given
        )
        if not are_factors:
            raise InputError(
                "stress is a list of factors of brightness, or a dictionary of inputs by name. "
                f"Received: {given if np.ndim(given) == 0 else type(given).__name__!r}"
            )
        return {f"times {factor:g}": samples.times(factor) for factor in given}

    def stress(self, named: Mapping[str, _Samples]) -> dict[str, Stress]:
        """Return the verdicts on the stress samples."""
        return {name: self._stressed(stressed) for name, stressed in named.items()}

    def _stressed(self, samples: _Samples) -> Stress:
        own, shipped = self.own_gates(samples), self.shipped(samples)
        sites = {}
        for part in self.parts:
            name = part.site.name
            judgement = _judged(own[name], shipped[name].gates, self.code(part, own[name]))
            sites[name] = (judgement.verdict, judgement.figures.get("r2"))
        return Stress(verdict_of([verdict for verdict, _ in sites.values()]), sites)


def _replayed(part: GatedSite, features: np.ndarray | None) -> np.ndarray | None:
    """Compute the float gates for the feature maps of the file, if the layouts agree."""
    if features is None:
        return None
    shape = tuple(part.features.shape[1:])
    # A converter may reshape or transpose a map.
    if len(shape) != features.ndim - 1 or any(
        size not in (None, own) for size, own in zip(shape, features.shape[1:], strict=True)
    ):
        return None
    return part.replay(features)


def _joined(values: list[Any]) -> _Shipped:
    if not values:
        return _Shipped(None, None)
    gates, replayed = zip(*values, strict=True)
    known = all(part is not None for part in replayed)
    return _Shipped(np.concatenate(gates), np.concatenate(replayed) if known else None)


def _judged(gates: np.ndarray, shipped: np.ndarray | None, code: Code) -> Judgement:
    if shipped is None:
        return Judgement("fails", "the file has no such site", nothing_measured())
    return judge(gates, shipped, code)


def _trunk_r2(gates: np.ndarray, replayed: np.ndarray | None) -> float | None:
    if replayed is None or not np.isfinite(replayed).all():
        return None
    return r_squared(gates, replayed)


def _blame(judgement: Judgement, gates: np.ndarray, found: _Shipped, code: Code) -> str:
    """Say whether SE, the trunk before it or the training lost the gates of a failed site."""
    if judgement.verdict != "fails":
        return ""
    if judgement.reason.startswith(_LOST_IN_TRAINING):
        return "training"
    if found.gates is None:
        return "SE"
    if found.replayed is None:
        return "unknown"
    if not np.isfinite(found.replayed).all():
        return "trunk"
    # The R² of gates that hardly vary is noise: compare the level of the replay instead.
    if spread(gates) < ADAPTIVE_STEPS * code.step:
        return "trunk" if judge(gates, found.replayed, code).verdict == "fails" else "SE"
    # If even the float excitation fails on the file's maps, the trunk or its calibration is at
    # fault, else SE.
    r2 = r_squared(gates, found.replayed)
    return "trunk" if r2 is not None and r2 < MIN_R2 else "SE"


def _adaptivity_kept(
    judgement: Judgement, original: np.ndarray, shipped: np.ndarray, code: Code
) -> tuple[Judgement, float | None]:
    """Fail a site that was adaptive before training with compression and is not any more."""
    before = spread(original)
    if before < ADAPTIVE_STEPS * code.step or not np.isfinite(shipped).all():
        return judgement, None
    kept = spread(shipped) / before
    # A site that already fails keeps its first reason.
    if kept >= MIN_SPREAD_KEPT or judgement.verdict == "fails":
        return judgement, kept
    reason = (
        f"{_LOST_IN_TRAINING}: {kept:.2f} of the original's spread is left, "
        f"below {MIN_SPREAD_KEPT:g}"
    )
    return Judgement("fails", reason, judgement.figures), kept


def _original_gates(
    model: keras.Model, session: _Session, samples: _Samples
) -> dict[str, np.ndarray]:
    """Return the gates of the original, whose sites must equal those of the compressed model."""
    wanted = [(part.site.name, part.site.channels) for part in session.parts]
    found = [
        (part.site.name, part.site.channels) for part in gated_sites(trace(model, purpose="verify"))
    ]
    if wanted != found:
        raise InputError(
            "A reference has the sites of the original model. "
            f"Received: {found} in the model, {wanted} in the reference"
        )
    gates = model_gates(model, samples.x)
    _check_finite("the original model's", gates)
    return gates


def _source(gates: Any) -> str:
    return "given as arrays" if isinstance(gates, Mapping) else f"from {gates}"


def _check_finite(whose: str, gates: Mapping[str, np.ndarray]) -> None:
    for name, values in gates.items():
        if not np.isfinite(values).all():
            raise InputError(
                f"verify needs finite gates. Received: NaN or infinity in {whose} gates at {name}"
            )


def _held_out(tflite: TFLite, content: bytes, recipe: Any, arrays: Mapping[str, np.ndarray]) -> str:
    """Refuse calibration samples, and say what the samples were compared with."""
    rows = calibration_rows(tflite, content, recipe)
    if rows is None:
        return "not checked: no recipe of this file"
    if not rows:
        return _NOT_CALIBRATED
    used = sum(row in rows for row in row_hashes(arrays))
    if used:
        raise InputError(
            "verify needs samples that the file was not calibrated on. "
            f"Received: {used} of {len(next(iter(arrays.values())))} that are in its recipe"
        )
    return f"compared with the {len(rows)} calibration samples of the recipe"
