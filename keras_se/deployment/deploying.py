"""The file to ship, whose gates survive, and what is left of a file whose gates do not."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_se.deployment.attempt import Attempt
from keras_se.deployment.deployment import Criterion, Deployment, Preference
from keras_se.deployment.interface import ports
from keras_se.deployment.kept_files import KeptFiles
from keras_se.deployment.sources import FileSource, IOTypes, KerasSource, Source
from keras_se.deployment.tries import Made, Tries
from keras_se.display.progress import step, with_progress
from keras_se.errors import InputError
from keras_se.files import write_files
from keras_se.graph.compressed import check_plain
from keras_se.litert.convert import check_outputs
from keras_se.litert.devices.npu import ACCELERATORS, Accelerator
from keras_se.litert.devices.npu import npu as npu_of
from keras_se.litert.formats import FORMATS, FormatName, IOType
from keras_se.litert.graph.flatbuffer import TFLite, TFLiteModel, file_name, read_bytes
from keras_se.litert.graph.sites import file_sites, precision
from keras_se.litert.inputs import Samples
from keras_se.litert.recipe import recipe_path, row_hashes
from keras_se.verification.folding import fold as fold_sites
from keras_se.verification.latency import latencies
from keras_se.verification.outcome import class_labels
from keras_se.verification.reference import Reference
from keras_se.verification.reports.gate_report import GateReport
from keras_se.verification.verdict import check_not_calibrated, held_out_samples, verify
from keras_se.verification.worth import reference_of

_EQUALIZED = "int8, equalized"
_TRAINED = "int8, quantize-aware"
_ANEW = (
    "No part in float mends this file. Make it anew of the float file: `keras_se.deploy("
    "float_tflite, calibration, x, y)`, or `keras-se deploy FLOAT.tflite NEW.tflite --calibration "
    "C.npz --data X.npz`."
)
Parts = Literal["float32", "int16x8"]


@with_progress
def deploy(
    model_or_float_tflite: keras.Model | TFLite,
    calibration: Any,
    x: Any,
    y: Any = None,
    *,
    tolerance: float = 0.01,
    formats: Sequence[FormatName] | None = None,
    prefer: Preference = "size",
    strict: bool = False,
    parts: Parts = "float32",
    npu: Accelerator | None = None,
    train: Callable[[Any], Any] | None = None,
    fold: bool | float = False,
    input_type: IOType | None = None,
    output_type: IOType | None = None,
    input_shape: Sequence[int] | None = None,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Deployment:
    """Finds a small TFLite file whose gates survive and whose accuracy holds.

    Files are tried in turn and judged as `verify` does: int8; int8 after
    `keras_se.compress.equalize`, and after quantize-aware training; int8 with the SE sites in
    float32 whose gates were lost, and then with the tensors at which the codes lose most, as few as
    do; and the other formats.

    Args:
        model_or_float_tflite: A built Keras model, or a float TFLite file of any converter, which
            `litert-quantizer` quantizes.
        calibration: Representative inputs for the ranges, as for `to_tflite`; a hundred or more.
        x: Held-out inputs to judge on, shape (samples, *input shape), at least 32, none of them
            used for training or calibration.
        y: Their labels. With them a file must keep the accuracy of the float network.
        tolerance: By how much accuracy may fall: the 95 % interval of the difference, paired by
            sample, must not reach further. To show 0.01 takes 200 samples or more.
        formats: Which formats to try; by default int8, int16x8, weight_only and float16.
        prefer: `"size"`: take an int8 file that passes as a whole, and try no other format then;
            else the smallest of those that pass; `"latency"`: try all, and take the fastest on this
            machine.
        strict: Whether every site must survive, as for `verify`.
        parts: What computes where the gates of an int8 file are lost: `"float32"`, or `"int16x8"`,
            which an NPU without floats takes, and for which XNNPACK has no kernels.
        npu: An NPU that `keras_se.litert.npu` knows, such as `"ethos-u55-128"`. Then everything is
            tried, and of the files that pass that is taken which leaves the fewest operators to the
            CPU, and of these the one of the fewest cycles. A file that the NPU takes nothing of,
            such as one in float16, does not pass.
        train: A function that compiles and fits the model that it is given. With it, int8 after
            `keras_se.compress.quantize_aware` is tried, too.
        fold: The share of SE's work that `keras_se.fold` may take from a Keras model first, on the
            calibration samples: 0.1 for `True`. Gates are judged against what is left, accuracy
            against the model as it was.
        input_type: Type of the float inputs in the file, as for `to_tflite`; `"float32"` for a file
            that is fed as the float file is. A format that cannot have it is not taken.
        output_type: The same for the outputs.
        input_shape: Shape of one sample, for a model that leaves sizes open.
        path: Where to write the file, its recipe `NAME.recipe.json` beside it; nowhere by default.
            A call that was killed goes on from the files that it made, which lie beside it till
            then; `train` is taken to be the same.
        overwrite: Whether to replace existing files; the old ones are renamed.
        progress: Whether to show on standard error what is being done, if it takes long.

    Returns:
        A `Deployment`: `.passed`, `.tflite`, the table of all that was tried. If nothing passes its
        file is the nearest, and is written nowhere.

    Raises:
        InputError: If an argument is invalid, samples are among those of the calibration, the
            network has no SE site, or no file can be made.
        MissingExtraError: If TensorFlow, LiteRT or its quantizer is not installed.

    Source: the verdict is that of `verify`; equalization: arXiv 1906.04721.

    Example:
        >>> from keras_se import SEBlock
        >>> wide = keras.initializers.RandomNormal(stddev=2.0, seed=0)
        >>> block = SEBlock(2, kernel_initializer=wide)
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), block])
        >>> x = np.random.default_rng(0).normal(size=(164, 8, 8, 4)).astype("float32")
        >>> deploy(model, x[:100], x[100:]).chosen
        'int8'
    """
    _check(tolerance, prefer, path, overwrite)
    if npu is not None and npu not in ACCELERATORS:
        raise InputError(f"npu must be one of {list(ACCELERATORS)}. Received: {npu!r}")
    if parts not in get_args(Parts):
        raise InputError(f"parts must be one of {list(get_args(Parts))}. Received: {parts!r}")
    given, io_types = model_or_float_tflite, _io_types(input_type, output_type)
    reference, samples, labels = _judged_on("deploy", given, x, y, input_shape)
    if calibration is not None:
        rows = row_hashes(reference.samples(calibration, "calibration"))
        check_not_calibrated(samples, set(rows), "in calibration, too")
    network, notes = given, list[str]()
    if fold:
        network, notes = _folded(given, calibration, 0.1 if fold is True else fold, input_shape)
    source = _source(network, calibration, input_shape, io_types)
    wanted = _formats(formats, source)
    original = None
    if network is not given:
        original = _source(given, calibration, input_shape).float32
        reference = reference_of(network, "deploy", input_shape)
    names = _names_by_file(reference, source.float32, samples)
    key = [source.float32, *_bytes(calibration), repr(io_types).encode()]
    kept = KeptFiles(None if path is None else Path(path), key)
    tries = Tries(source.float32, samples, labels, tolerance, strict, kept, original, names)
    tries.notes += notes
    by: Criterion = prefer if npu is None else "npu"
    _try_all(tries, source, wanted, by, train, parts)
    best, report = _measured_best(tries, by, samples, npu), None
    # The verdict on a file, and on a network that was changed, is that of its float file already.
    if best.trained is None and original is None and isinstance(network, keras.Model):
        with step("the verdict"):
            report = verify(
                network,
                best.content,
                samples,
                labels,
                strict=strict,
                recipe=best.recipe or None,
                input_shape=input_shape,
            )
    report = report or best.report
    return _finished(tries, best, report, tolerance, by, path, overwrite, kept)


@with_progress
def repair(
    float_tflite: TFLite,
    int8_tflite: TFLite,
    x: Any,
    y: Any = None,
    *,
    tolerance: float = 0.01,
    strict: bool = False,
    path: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Deployment:
    """Puts float operators into an integer file where its gates were lost, as few as do.

    Args:
        float_tflite: The float file of the network, from any converter.
        int8_tflite: Its integer file; tensors have the same names in both.
        x: Held-out inputs to judge on, as for `deploy`.
        y: Their labels.
        tolerance: As for `deploy`.
        strict: As for `deploy`.
        path: Where to write the file if it passes; nowhere by default.
        overwrite: Whether to replace an existing file; the old one is renamed.
        progress: Whether to show on standard error what is being done, if it takes long.

    Returns:
        A `Deployment`, whose first attempt is the integer file as it is. If nothing passes, its
        notes say how to make the file anew.

    Raises:
        InputError: If the graphs of the files do not correspond, or an argument is invalid.
        MissingExtraError: If LiteRT is not installed.

    Example:
        >>> from keras_se import SEBlock, to_tflite
        >>> wide = keras.initializers.RandomNormal(stddev=2.0, seed=0)
        >>> block = SEBlock(2, kernel_initializer=wide)
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), block])
        >>> x = np.random.default_rng(0).normal(size=(164, 8, 8, 4)).astype("float32")
        >>> integer = to_tflite(model, "int8", x[:100])
        >>> repair(to_tflite(model, "float32"), integer, x[100:]).chosen
        'int8'
    """
    _check(tolerance, "size", path, overwrite)
    _, samples, labels = _judged_on("repair", float_tflite, x, y, None)
    float32, integer = read_bytes(float_tflite), read_bytes(int8_tflite)
    kept = KeptFiles(None, ())
    tries = Tries(float32, samples, labels, tolerance, strict, kept)
    base = tries.add(precision(integer), lambda: (integer, ""))
    if base is not None and not base.attempt.passed:
        tries.mend(base, float32)
    best = _measured_best(tries, "size", samples)
    if not best.attempt.passed:
        tries.notes.append(_ANEW)
    return _finished(tries, best, best.report, tolerance, "size", path, overwrite, kept)


def _check(tolerance: Any, prefer: Any, path: Any, overwrite: bool) -> None:
    is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not is_number or not 0.0 <= tolerance <= 1.0:
        raise InputError(
            f"tolerance must be between 0 and 1, a part of accuracy. Received: {tolerance!r}"
        )
    if prefer not in get_args(Preference):
        raise InputError(
            f"prefer must be one of {list(get_args(Preference))}. Received: {prefer!r}"
        )
    if path is not None:
        check_outputs(path, overwrite)


def _judged_on(
    purpose: str, network: Any, x: Any, y: Any, input_shape: Sequence[int] | None
) -> tuple[Reference, Samples, np.ndarray | None]:
    if isinstance(network, keras.Model):
        check_plain(network, purpose)
    reference = reference_of(network, purpose, input_shape)
    samples = held_out_samples(purpose, reference, x, "x")
    count, shape = len(next(iter(samples.values()))), reference.output_shape
    labels = None if y is None else class_labels(purpose, shape, y, count)
    return reference, samples, labels


def _names_by_file(reference: Reference, float32: bytes, samples: Samples) -> dict[str, str]:
    """Returns the names of the sites of a network by those in its float file, where they differ."""
    file, found = TFLiteModel.of(float32), dict[str, str]()
    with suppress(InputError):  # sites that cannot be told apart keep their names in the file
        found = {at: name for name, at in reference.matched(file, samples).items()}
    others = {site.name for site in file_sites(file)} - set(found)
    return {} if others & set(found.values()) else found


def _io_types(input_type: Any, output_type: Any) -> IOTypes:
    for name, given in (("input_type", input_type), ("output_type", output_type)):
        if given is not None and given not in get_args(IOType):
            raise InputError(
                f"{name} must be one of {list(get_args(IOType))}. Received: {name}={given!r}"
            )
    return input_type, output_type


def _source(
    network: Any,
    calibration: Any,
    input_shape: Sequence[int] | None,
    io_types: IOTypes = (None, None),
) -> Source:
    if isinstance(network, keras.Model):
        return KerasSource(network, calibration, input_shape, io_types)
    return FileSource(network, calibration, io_types)


def _folded(
    model: Any, calibration: Any, share: float, input_shape: Sequence[int] | None
) -> tuple[Any, list[str]]:
    """Returns a model with fewer sites, or itself where none or all would go, and a sentence."""
    if not isinstance(model, keras.Model):
        raise InputError("Only a Keras model can be folded. Received: fold for a TFLite file")
    folding = fold_sites(model, calibration, tolerance=share, input_shape=input_shape)
    if not folding.folded:
        return model, [folding.conclusion]
    if len(folding.folded) == len(folding.sites):
        return model, ["Nothing is folded: all sites would go, and no gate would be left to judge."]
    return folding.model, [folding.conclusion]


def _formats(formats: Any, source: Source) -> Sequence[FormatName]:
    wanted = source.formats if formats is None else formats
    if isinstance(wanted, str) or not wanted or not set(wanted) <= set(FORMATS):
        raise InputError(
            f"formats must be some of {list(FORMATS)}, each by its name. Received: {wanted!r}"
        )
    return tuple(dict.fromkeys(wanted))


def _bytes(calibration: Any) -> Iterator[bytes]:
    for array in keras.tree.flatten(calibration):
        yield np.ascontiguousarray(array).tobytes()


def _try_all(
    tries: Tries,
    source: Source,
    formats: Sequence[FormatName],
    by: Criterion,
    train: Callable[[Any], Any] | None,
    parts: Parts,
) -> None:
    if "int8" in formats:
        _try_integers(tries, source, train, parts)
        # Another may be a little smaller, but none of them computes in 8 bits.
        if by == "size" and any(m.attempt.passed and not m.attempt.changed for m in tries.made):
            return
    for file_format in formats:
        if file_format != "int8":
            tries.add(file_format, partial(source.make, file_format))


def _try_integers(
    tries: Tries, source: Source, train: Callable[[Any], Any] | None, parts: Parts
) -> None:
    of_training = None if train is None else source.trained(train)
    bases = [(tries.add("int8", lambda: source.make("int8")), source)]
    if not _passes(bases):
        other = source.equalized()
        if other is not None:
            bases.append((tries.add(_EQUALIZED, lambda: other.make("int8")), other))
    if of_training is not None and not _passes(bases):
        trained = tries.add(_TRAINED, of_training.int8, trained=of_training.float32)
        if trained is not None and trained.attempt.passed:
            return
    made = [(base, of) for base, of in bases if base is not None]
    if made and not _passes(bases):
        base, of = max(made, key=lambda pair: _nearness(pair[0]))
        tries.mend(base, of.float32, _wider(tries, of) if parts == "int16x8" else None)


def _wider(tries: Tries, source: Source) -> bytes | None:
    """Returns the file in int16x8; `None` if there is none, and floats must do."""
    with tries.noted("int16x8"):
        try:
            return source.make("int16x8")[0]
        except InputError as error:
            tries.refused["int16x8"] = str(error)
            return None


def _passes(bases: Sequence[tuple[Made | None, Source]]) -> bool:
    return any(base is not None and base.attempt.passed for base, _ in bases)


def _nearness(made: Made) -> tuple[Any, ...]:
    """How near a file is to one that passes: by its gates, then by its accuracy."""
    attempt, passed = made.attempt, made.report.passed
    figures = (attempt.work_kept, attempt.difference, attempt.lowest_r2)
    work, difference, r2 = (-np.inf if value is None else value for value in figures)
    accuracy = ("worse", "not shown", "within", "").index(attempt.accuracy_verdict)
    return passed, accuracy, difference if passed else work, r2


def _measured_best(
    tries: Tries, by: Criterion, samples: Samples, accelerator: Accelerator | None = None
) -> Made:
    """Times all files in one run, and returns the one to ship, or the nearest to it."""
    if not tries.made:
        name, why = next(iter(tries.refused.items()))
        raise InputError(
            "Of a network that is to be deployed a file must be possible. "
            f"Received: one of which none is; {name}: {why}"
        )
    with step("latency of each file"):
        found = latencies([made.content for made in tries.made], samples)
    tries.made = [
        replace(made, attempt=replace(_on_npu(made, accelerator), latency=time))
        for made, time in zip(tries.made, found, strict=True)
    ]
    passed = [made for made in tries.made if made.attempt.passed]
    if passed:
        return min(passed, key=_cost(by))
    # What an NPU takes is nearer to it than what it does not.
    return max(tries.made, key=lambda made: (made.attempt.npu is not None, *_nearness(made)))


def _on_npu(made: Made, accelerator: Accelerator | None) -> Attempt:
    """Adds what a file costs on an NPU; one that it takes nothing of does not pass."""
    attempt = made.attempt
    if accelerator is None:
        return attempt
    try:
        return replace(attempt, npu=npu_of(made.content, accelerator).cost)
    except InputError:  # a file without 8-bit codes; the name was checked before
        reason = attempt.reason or f"It does not run on {accelerator}: it has no 8-bit codes."
        return replace(attempt, passed=False, reason=reason)


def _cost(by: Criterion) -> Callable[[Made], Any]:
    def cost(made: Made) -> Any:
        attempt = made.attempt
        size = (attempt.bytes, len(attempt.changed))
        if by == "latency" and attempt.latency is not None:
            return attempt.latency.median
        if by == "npu":
            return (attempt.npu is None, attempt.npu or (0, 0), size)
        return size

    return cost


def _finished(
    tries: Tries,
    best: Made,
    report: GateReport,
    tolerance: float,
    by: Criterion,
    path: str | os.PathLike[str] | None,
    overwrite: bool,
    kept: KeptFiles,
) -> Deployment:
    """Writes the file if it passes, and returns what was found."""
    passed = best.attempt.passed and report.passed
    if passed and path is not None:
        files = {path: best.content}
        if best.recipe:
            files[recipe_path(path)] = best.recipe.encode()
        write_files(files, overwrite)
    kept.remove()
    inputs, outputs = ports(best.content, tries.float32)
    return Deployment(
        passed=passed,
        chosen=best.attempt.name,
        attempts=tuple(made.attempt for made in tries.made),
        refused=dict(tries.refused),
        notes=tuple(dict.fromkeys(tries.notes)),
        report=report,
        tolerance=tolerance,
        prefer=by,
        inputs=inputs,
        outputs=outputs,
        float_bytes=len(tries.float32),
        tflite=best.content,
        recipe=best.recipe,
        file="" if path is None else file_name(path),
    )
