"""Verdicts on the SE sites of a TFLite file: do its gates still adapt to the input?

The gates that the file computes on held-out samples are compared with those of a reference in
float, by the rule in `keras_se.verification.rule`, and what is left of SE's work for the outputs is
measured as in `keras_se.verification.work`. Every site of the file must have been judged.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_se.display.progress import step, with_progress
from keras_se.errors import InputError
from keras_se.litert.clipping import ClippedInput, clipped_inputs
from keras_se.litert.devices.delegation import SiteDelegation, delegation
from keras_se.litert.devices.recording import read_recording
from keras_se.litert.gates import GateReader
from keras_se.litert.graph.flatbuffer import TFLite, TFLiteModel, file_name
from keras_se.litert.graph.sites import gate_codes, gate_nodes, precision
from keras_se.litert.inputs import Samples
from keras_se.litert.recipe import calibration_rows, used_rows
from keras_se.litert.runtime import runtime_name
from keras_se.sites.site import PREFIXES
from keras_se.sites.statistics import spread
from keras_se.verification.outcome import class_labels, outcome
from keras_se.verification.reference import Gates, Reference
from keras_se.verification.reports.gate_report import GateReport, SiteVerdict, Stress
from keras_se.verification.rule import (
    ADAPTIVE_STEPS,
    MIN_SPREAD_KEPT,
    Judgement,
    Resolution,
    fails_likewise,
    judge,
    r_squared,
    resolution_of,
    suppressed,
    verdict_of,
)
from keras_se.verification.work import Work, work_kept
from keras_se.verification.worth import reference_of

MIN_SAMPLES = 32
_DEAD_BAND = 0.02  # around tau, where a rounding error decides whether a gate is below it
_PLOTTED = 400  # gates of a site
_LOST_IN_TRAINING = "adaptivity lost in training"


@with_progress
def verify(
    reference: keras.Model | TFLite,
    tflite: TFLite,
    x: Any,
    y: Any = None,
    *,
    strict: bool = False,
    tau: float = 0.2,
    stress: Mapping[str, Any] | None = None,
    trained: Any = None,
    gates: Any = None,
    recipe: Any = None,
    input_shape: Sequence[int] | None = None,
    progress: bool = True,
) -> GateReport:
    """Judges the gates of a TFLite file against those of the network that it comes from, in float.

    Args:
        reference: The built Keras model, with `SEBlock`s or with SE built from other layers (of one
            that computes in half precision, such as `mixed_float16`, the float32 twin), or a float
            TFLite file of it from any converter, as bytes or a path.
        tflite: The bytes or the path of the file, in any format.
        x: Held-out inputs in the float network's units, shape (samples, *input shape), or a list or
            dictionary of them. At least 32 samples, none of them used for training or calibration.
        y: Labels: integers of shape (samples,) or (samples, 1), or one-hot. With them the accuracy
            of reference and file is compared, without them their outputs.
        strict: Whether every site must survive. By default sites may be weakened as long as 90 % of
            what SE does for the outputs is kept.
        tau: Gates below it are reported as suppressed. It does not affect the verdict.
        stress: Other inputs, by a name for each, on which the gates are judged too. They do not
            affect the verdict.
        trained: After training with compression, the compressed model, stripped or not. Gates are
            judged against it, and `reference` is the original: gates must keep half of its spread.
        gates: What `keras_se.litert.probe` computed on a device, as `keras-se record` wrote it: an
            `.npz` file or a dictionary. Its gates are judged instead of those of this machine, and
            its outputs, where they are recorded.
        recipe: Recipe of the file, to check that `x` was not used for calibration. By default the
            one in the file or beside it.
        input_shape: Shape of one sample, such as `(224, 224, 3)`, needed for a model that leaves
            sizes open. Only for models with one input.
        progress: Whether to show on standard error what is being done, if it takes long.

    Returns:
        A `GateReport`; `report.passed` is the verdict, `print(report)` the whole.

    Raises:
        InputError: If reference and file do not belong together, or an argument is invalid.
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
    file = TFLiteModel.of(tflite)
    own = reference_of(reference if trained is None else trained, "verify", input_shape)
    # Check all arguments before the file runs, which takes long.
    samples = held_out_samples("verify", own, x, "x")
    labels = None if y is None else class_labels("verify", own.output_shape, y, _count(samples))
    if stress is not None and gates is not None:
        raise InputError(
            "Recorded gates are of the samples in x: judge stress without them. "
            "Received: gates and stress"
        )
    stressed = _stressed(own, stress)
    held_out = _held_out(tflite, recipe, samples, was_trained=trained is not None)
    judge_file = _FileJudge(file, own, samples)
    original: Gates = {}
    if trained is not None:
        original = _original_gates(reference_of(reference, "verify", input_shape), own, samples)
    found = judge_file.judged(samples, gates)
    constant = None if found.work is None else found.work.constant[0]
    return GateReport(
        reference=own.name,
        sites=judge_file.verdicts(found, samples, original, tau),
        unjudged=judge_file.unjudged,
        work_kept=None if found.work is None else found.work.kept,
        outcome=outcome(found.outputs, found.file_outputs, constant, labels),
        constant_error=None if found.work is None else found.work.constant_error,
        strict=bool(strict),  # NumPy's would not become JSON
        tau=tau,
        samples=_count(samples),
        sha256=hashlib.sha256(file.content).hexdigest(),
        runtime=found.runtime,
        held_out=held_out,
        clipped=judge_file.clipped(samples),
        stress=_stress(judge_file, stressed, strict),
        pairs=_pairs(found),
        file=file_name(tflite),
    )


def _check_tau(tau: Any) -> None:
    # A bool is an int in Python.
    if isinstance(tau, bool) or not isinstance(tau, int | float) or not 0.0 <= tau <= 1.0:
        raise InputError(f"tau must be between 0 and 1. Received: tau={tau!r}")


def _count(samples: Samples) -> int:
    return len(next(iter(samples.values())))


def held_out_samples(purpose: str, reference: Reference, x: Any, what: str) -> Samples:
    """Returns inputs as arrays, by their names; raises if they are too few to judge on."""
    samples = reference.samples(x, what)
    if _count(samples) < MIN_SAMPLES:
        raise InputError(
            f"{purpose} needs at least {MIN_SAMPLES} held-out samples in {what}. "
            f"Received: {_count(samples)}"
        )
    return samples


def _stressed(reference: Reference, stress: Any) -> dict[str, Samples]:
    if stress is None:
        return {}
    if not isinstance(stress, Mapping):
        raise InputError(
            "stress must be a dictionary of inputs by name, such as "
            f"{{'dark': 0.5 * x}}. Received: {type(stress).__name__}"
        )
    return {
        str(name): held_out_samples("verify", reference, x, f"stress[{name!r}]")
        for name, x in stress.items()
    }


def _held_out(tflite: TFLite, recipe: Any, samples: Samples, was_trained: bool) -> str:
    """Refuses calibration samples, and says what the samples were compared with."""
    rows = calibration_rows(tflite, recipe)
    if rows is None:
        return "not checked against calibration data: the file has no recipe"
    if not rows and was_trained:
        return "not checked: a recipe does not list the samples that a model was trained on"
    if not rows:
        return "by its recipe the file was not calibrated"
    check_not_calibrated(samples, rows, "in its recipe")
    return f"none of the {len(rows)} calibration samples of the recipe among them"


def check_not_calibrated(samples: Samples, rows: set[str], where: str) -> None:
    """Raises `InputError` if samples are among the hashed ones of a calibration."""
    if used := int(used_rows(samples, rows).sum()):
        raise InputError(
            "Held-out samples must be ones that the file was not calibrated on. "
            f"Received: {used} of {_count(samples)} samples that are {where}. Split them: "
            "x_train and x_test in one .npz file, or two files"
        )


def _check_gates(gates: Gates, whose: str) -> None:
    for name, values in gates.items():
        if not np.isfinite(values).all():
            raise InputError(
                f"verify needs finite gates. Received: NaN or infinity in {whose} gates at {name}"
            )


def _original_gates(original: Reference, own: Reference, samples: Samples) -> Gates:
    wanted = [(name, site.channels) for name, site in own.sites.items()]
    found = [(name, site.channels) for name, site in original.sites.items()]
    # Compression may have opened a layer around a site, which changes its name.
    if [channels for _, channels in wanted] != [channels for _, channels in found]:
        raise InputError(
            "trained must have the sites of the reference, the original model. "
            f"Received: {wanted} in the trained model, {found} in the reference"
        )
    gates, _ = original.read(samples)
    _check_gates(gates, "the original model's")
    return {name: gates[at] for (name, _), (at, _) in zip(wanted, found, strict=True)}


@dataclass(frozen=True)
class _Judged:
    """What was measured on some samples, by the names of the reference."""

    runtime: str
    own: Gates
    shipped: Gates
    outputs: Sequence[np.ndarray]  # of the reference
    file_outputs: Sequence[np.ndarray]
    work: Work | None
    judgements: Mapping[str, Judgement]
    resolutions: Mapping[str, Resolution]
    has_maps: bool


class _FileJudge:
    """Compares a file with its reference; its sites have the names of the reference.

    Attributes:
        unjudged: The sites of the file that the reference does not have.
    """

    def __init__(self, file: TFLiteModel, reference: Reference, samples: Samples) -> None:
        self._file, self._reference = file, reference
        with step("the sites of reference and file"):
            self._names = reference.matched(file, samples)
        self._reader = GateReader(file, maps=reference.map_name)
        self._precision, self._codes = precision(file), gate_codes(file)
        self._delegation = delegation(file, self._reader.plain.interpreter).sites
        self._quantized = {node.site.name: node.quantized for node in self._reader.nodes}
        judged = set(self._names.values())
        self.unjudged = tuple(
            f"{node.site.name} (tensor {node.site.after!r})"
            for node in gate_nodes(file, tuple(PREFIXES))
            if node.site.name not in judged
        )

    def judged(self, samples: Samples, recorded: Any = None) -> _Judged:
        """Judges each site on some samples, and measures the work that is kept."""
        with step("gates of the reference"):
            own, outputs = self._reference.read(samples)
        _check_gates(own, "the reference's")
        if recorded is None:
            runtime, (shipped, file_outputs) = runtime_name(), self._read(samples)
        else:
            runtime, shipped, file_outputs = self._recorded(recorded, samples)
        resolutions = {name: self._resolution(name, gates) for name, gates in own.items()}
        judgements = {
            name: judge(gates, shipped.get(name), resolutions[name]) for name, gates in own.items()
        }
        return _Judged(
            runtime=runtime,
            own=own,
            shipped=shipped,
            outputs=outputs,
            file_outputs=file_outputs,
            work=work_kept(self._reference, samples, own, outputs, shipped),
            judgements=judgements,
            resolutions=resolutions,
            has_maps=recorded is None,
        )

    def clipped(self, samples: Samples) -> dict[str, ClippedInput]:
        """Returns the inputs of the file whose codes do not hold the samples."""
        plain = self._reader.plain
        inputs = {name: int(details["index"]) for name, details in plain.inputs.items()}
        return clipped_inputs(self._file, inputs, plain.arranged(samples))

    def _read(self, samples: Samples) -> tuple[Gates, list[np.ndarray]]:
        gates, outputs = self._reader.gates_and_outputs(samples)
        return {name: gates[at] for name, at in self._names.items()}, outputs

    def _recorded(self, source: Any, samples: Samples) -> tuple[str, Gates, list[np.ndarray]]:
        plain = self._reader.plain
        found = read_recording(self._file, source, plain.arranged(samples), plain.outputs)
        gates = {name: found.gates[at] for name, at in self._names.items() if at in found.gates}
        return found.origin, gates, found.outputs

    def _resolution(self, name: str, own: np.ndarray) -> Resolution:
        code = self._codes.get(self._names.get(name, ""))
        # A gate above the ceiling of its code is clipped in any sound file: judge it as such.
        ceiling = None if code is None else code[1]
        return resolution_of(self._reference.sites[name].gate, own, self._precision, ceiling)

    def verdicts(
        self, found: _Judged, samples: Samples, original: Gates, tau: float
    ) -> dict[str, SiteVerdict]:
        """Returns the verdicts on the sites, with what did it where one failed."""
        failed = [name for name, judgement in found.judgements.items() if judgement.fault]
        replayed = self._replayed(samples, failed) if found.has_maps else {}
        return {
            name: self._verdict(name, found, original.get(name), replayed.get(name), tau)
            for name in self._reference.sites
        }

    def _replayed(self, samples: Samples, names: Sequence[str]) -> Gates:
        """The float gates of sites for the maps of the file, where they are known."""
        wanted = {name: self._names[name] for name in names if name in self._names}
        rows: dict[str, list[np.ndarray]] = {}
        if wanted:
            with step("where the gates were lost"):
                for reading in self._reader.read(samples, maps=[*wanted.values()]):
                    for name, at in wanted.items():
                        maps = reading.maps.get(at)
                        gates = None if maps is None else self._reference.replay(name, maps)
                        if gates is not None:
                            rows.setdefault(name, []).append(gates)
        return {name: np.concatenate(values) for name, values in rows.items()}

    def _verdict(
        self,
        name: str,
        found: _Judged,
        original: np.ndarray | None,
        replayed: np.ndarray | None,
        tau: float,
    ) -> SiteVerdict:
        site, own, shipped = self._reference.sites[name], found.own[name], found.shipped.get(name)
        judgement, resolution = found.judgements[name], found.resolutions[name]
        blame = _blame(judgement, own, shipped, replayed, resolution)
        judgement, kept = _adaptivity_kept(judgement, original, shipped, resolution)
        in_float = None if replayed is None else judge(own, replayed, resolution).verdict
        at = self._names.get(name)
        delegated = self._delegation.get(at or "", SiteDelegation(name, (), ()))
        return SiteVerdict(
            name=name,
            file_name=at,
            gate=site.gate,
            channels=site.channels,
            verdict=judgement.verdict,
            reason=judgement.reason,
            blame="training" if judgement.reason.startswith(_LOST_IN_TRAINING) else blame,
            in_float=in_float,
            quantized=self._quantized.get(at or ""),
            worth=None if found.work is None else found.work.worth.get(name),
            step=resolution.step,
            trunk_r2=_trunk_r2(own, replayed),
            suppressed=suppressed(own, tau),
            suppressed_shipped=() if shipped is None else suppressed(shipped, tau, _DEAD_BAND),
            spread_kept=kept,
            undelegated=delegated.undelegated,
            partitions=None if at is None else delegated.partitions,
            **judgement.figures,
        )


def _stress(file: _FileJudge, stressed: Mapping[str, Samples], strict: bool) -> dict[str, Stress]:
    found = {}
    for name, samples in stressed.items():
        judged = file.judged(samples)
        kept = None if judged.work is None else judged.work.kept
        sites = {n: (j.verdict, j.figures.get("r2")) for n, j in judged.judgements.items()}
        verdict = verdict_of([v for v, _ in sites.values()], kept, strict, not file.unjudged)
        found[name] = Stress(verdict, kept, sites)
    return found


def _pairs(found: _Judged) -> dict[str, np.ndarray]:
    """Returns some float and shipped gates of each site, for plots."""
    generator = np.random.default_rng(0)
    pairs = {}
    for name, own in found.own.items():
        shipped = found.shipped.get(name)
        if shipped is not None:
            both = np.stack([own.ravel(), shipped.ravel()], axis=1)
            pairs[name] = both[generator.permutation(len(both))[:_PLOTTED]]
    return pairs


def _trunk_r2(own: np.ndarray, replayed: np.ndarray | None) -> float | None:
    if replayed is None or not np.isfinite(replayed).all():
        return None
    return r_squared(own, replayed)


def _blame(
    judgement: Judgement,
    own: np.ndarray,
    shipped: np.ndarray | None,
    replayed: np.ndarray | None,
    resolution: Resolution,
) -> str:
    """Says whether the layers before a site lost its gates, by the test that they failed."""
    fault = judgement.fault
    if fault is None:
        return ""
    if shipped is None:
        return "SE"
    if replayed is None:
        return "unknown"
    # Gates that are not finite fail no test; their maps tell whose they are.
    if not np.isfinite(replayed).all():
        return "trunk"
    if not fault.test:
        return "SE"
    return "trunk" if fails_likewise(fault, own, replayed, resolution) else "SE"


def _adaptivity_kept(
    judgement: Judgement,
    original: np.ndarray | None,
    shipped: np.ndarray | None,
    resolution: Resolution,
) -> tuple[Judgement, float | None]:
    """Fails a site that was adaptive before training with compression and is not any more."""
    if original is None or shipped is None or not np.isfinite(shipped).all():
        return judgement, None
    before = spread(original)
    if before < ADAPTIVE_STEPS * resolution.step:
        return judgement, None
    kept = spread(shipped) / before
    # A site that already fails keeps its first reason.
    if kept >= MIN_SPREAD_KEPT or judgement.fault is not None:
        return judgement, kept
    left = f"{kept:.2f} of the original's spread is left, below {MIN_SPREAD_KEPT:g}"
    return Judgement("lost", f"{_LOST_IN_TRAINING}: {left}", judgement.figures), kept
