"""Measures what training with compression made of a network, on held-out samples."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from keras_se.compress.stripping import strip
from keras_se.display.progress import counted, step, with_progress
from keras_se.errors import InputError, keras_errors
from keras_se.files import model_bytes
from keras_se.graph.compressed import CLUSTERED, PRUNED, QUANTIZED, compression_of, is_compressed
from keras_se.graph.fitting import fitted
from keras_se.graph.inputs import packed_inputs
from keras_se.graph.models import check_weights
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import trace
from keras_se.litert.convert import ConversionWarning, convert
from keras_se.litert.formats import FormatName, Options
from keras_se.litert.graph.flatbuffer import TFLite, read_bytes
from keras_se.litert.graph.sites import precision
from keras_se.litert.inputs import Samples, batches, input_arrays, input_specs, thinned
from keras_se.litert.runtime import Runner
from keras_se.sites.gated import gated_sites
from keras_se.verification.outcome import class_labels, outcome
from keras_se.verification.reports.compression_report import CompressionReport, Kernel, Size, Stage
from keras_se.verification.reports.gate_report import GateReport
from keras_se.verification.verdict import MIN_SAMPLES, verify

_PURPOSE = "compression_report"
_BATCH = 128


@with_progress
def compression_report(
    original: keras.Model,
    compressed: Any,
    x: Any,
    y: Any = None,
    *,
    tflite: TFLite | None = None,
    held_out: bool = True,
    progress: bool = True,
) -> CompressionReport:
    """Compares a network with what training with compression made of it, in one table.

    It shows the accuracy, or the agreement of outputs, each with the 95 % interval of the change;
    the sizes of the files, plain and zipped; the sparsity or the clusters; and whether the gates
    survive in the file, with the spread that they kept.

    Args:
        original: The built Keras model that was compressed. What computes in half precision, such
            as `mixed_float16`, is taken as its float32 twin, from which compression starts as well.
        compressed: What `quantize_aware`, `prune` or `cluster` returned, after training, or the
            plain model that `strip` made of it.
        x: Held-out inputs, shape (samples, *input shape), or a list or dictionary of them. None of
            them may have been used for training or calibration. Gates need 32 samples or more.
        y: Labels: integers of shape (samples,) or (samples, 1), or one-hot. Without them the
            outputs are compared.
        tflite: The bytes or the path of the TFLite file of the compressed model. By default one is
            made: int8 of a quantize-aware model, otherwise float32, which shows by its zipped size
            what zeros and clusters save.
        held_out: Whether `x` was kept from training. If it was not, the report says so, and does
            not judge gates.
        progress: Whether to show on standard error what is being done, if it takes long.

    Returns:
        A `CompressionReport`; `print(report)` shows it.

    Raises:
        InputError: If the two do not belong together, an argument is invalid, or a sample was used
            for the calibration of the file.
        MissingExtraError: If a package is missing that compressed models or files need.

    Warns:
        PrecisionWarning: If the original computes in half precision.

    Example:
        >>> from keras_se.compress import quantize_aware
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> x = np.random.default_rng(0).normal(size=(64, 4)).astype("float32")
        >>> aware = quantize_aware(model, x)
        >>> report = compression_report(model, aware, x[:32], held_out=False)
        >>> list(report.stages)
        ['original', 'compressed', 'stripped', 'file']
    """
    pair = _Pair.of(original, compressed, x)
    count = len(next(iter(pair.samples.values())))
    labels = None
    if y is not None:
        labels = class_labels(_PURPOSE, tuple(pair.original.outputs[0].shape), y, count)
    notes: list[str] = []
    file: TFLite | None = tflite
    if file is None:
        file = _converted(*pair.as_file, notes)
    stages = dict(_stages(pair, file, labels, notes))
    gates = _verdict(pair, file, labels, held_out, notes)
    return CompressionReport(
        technique=pair.technique,
        stages=stages,
        kernels=tuple(_kernels(pair.original, pair.plain)),
        asked=_asked(compressed, pair.technique),
        sites=pair.sites,
        gates=gates,
        file="none" if file is None else _file_name(tflite, file),
        samples=count,
        held_out=held_out,
        notes=tuple(dict.fromkeys(notes)),
        next_step=_next_step(pair, tflite),
    )


@dataclass(frozen=True)
class _Pair:
    """The two networks, and the samples on which they are compared.

    Attributes:
        original: The original in float32, of the size of the samples.
        compressed: The compressed model as it was given, which the gates are read from.
        plain: It as a plain Keras 3 model.
        technique: The function that compressed it; `None` for a plain model.
        samples: The inputs by their names in a file.
        shape: Shape of one sample; `None` if there are several inputs.
    """

    original: keras.Model
    compressed: Any
    plain: keras.Model
    technique: str | None
    samples: Samples
    shape: tuple[int, ...] | None

    @cached_property
    def sites(self) -> int:
        """Number of SE sites of the original."""
        return len(gated_sites(trace(self.original, _PURPOSE)))

    @property
    def is_rounded(self) -> bool:
        """Whether the compressed model computes with the rounding of its int8 file."""
        return self.technique == QUANTIZED

    @property
    def as_file(self) -> tuple[Any, FormatName]:
        """What becomes a file without calibration, and in which format."""
        return (self.compressed, "int8") if self.is_rounded else (self.plain, "float32")

    @classmethod
    def of(cls, original: Any, compressed: Any, x: Any) -> "_Pair":
        """Checks that the two belong together."""
        _check_kinds(original, compressed)
        plain = strip(compressed) if is_compressed(compressed) else compressed
        for model in (original, plain):
            check_weights(_PURPOSE, model)
        samples = input_arrays(input_specs(original, _PURPOSE, any_size=True), x, "x")
        # Files have one size: that of the samples, where the model leaves it open.
        shapes = [array.shape[1:] for array in samples.values()]
        shape = shapes[0] if len(shapes) == 1 else None
        compression = compression_of(compressed)
        technique = QUANTIZED if is_compressed(compressed) else None
        sized = fitted(original, _PURPOSE, shape)
        is_same = compressed is original
        return cls(
            original=sized,
            compressed=compressed,
            plain=sized if is_same else fitted(plain, _PURPOSE, shape),
            technique=technique if compression is None else compression.technique,
            samples=samples,
            shape=shape,
        )


def _check_kinds(original: Any, compressed: Any) -> None:
    if not isinstance(original, keras.Model) or is_compressed(original):
        raise InputError(
            f"{_PURPOSE} needs the plain Keras model that was compressed. "
            f"Received: {type(original).__name__} as original"
        )
    if not isinstance(compressed, keras.Model) and not is_compressed(compressed):
        raise InputError(
            f"{_PURPOSE} needs what quantize_aware, prune or cluster returned, or what strip made "
            f"of it. Received: {type(compressed).__name__} as compressed"
        )


def _stages(
    pair: _Pair, file: TFLite | None, labels: np.ndarray | None, notes: list[str]
) -> Iterator[tuple[str, Stage]]:
    before = _outputs(pair.original, pair.samples)
    float32 = _converted(pair.original, "float32", notes)
    yield (
        "original",
        Stage(
            outcome(before, before, None, labels),
            _keras_size(pair.original, notes),
            None if float32 is None else Size.of(float32),
        ),
    )
    # Pruned models compute with masks, as their stripped ones do; clustered ones with centroids.
    rounded = _outputs(pair.compressed if pair.is_rounded else pair.plain, pair.samples)
    if rounded[0].shape != before[0].shape:
        raise InputError(
            f"{_PURPOSE} needs a compressed model with the outputs of the original. "
            f"Received: outputs of shape {rounded[0].shape} and {before[0].shape}"
        )
    size = _keras_size(pair.plain, notes)
    found = outcome(before, rounded, None, labels)
    yield "compressed", Stage(found, None if pair.is_rounded else size)
    if pair.is_rounded:
        in_float = _outputs(pair.plain, pair.samples)
        yield "stripped", Stage(outcome(before, in_float, None, labels), size)
    if file is not None:
        with step("outputs of the file"):
            outputs = [thinned(values) for values in Runner(file).run(pair.samples)]
        found = outcome(before, outputs, None, labels)
        yield "file", Stage(found, tflite_size=Size.of(read_bytes(file)))


def _outputs(model: Any, samples: Samples) -> list[np.ndarray]:
    """Returns the outputs of a Keras 3 or tf_keras model."""
    rows = []
    total = -(-len(next(iter(samples.values()))) // _BATCH)
    for batch in counted(batches(samples.values(), _BATCH), total, "outputs of the model"):
        found = model(packed_inputs(model, batch), training=False)
        values = keras.tree.flatten(found)
        if isinstance(model, keras.Model):
            values = [keras.ops.convert_to_numpy(value) for value in values]
        rows.append([thinned(np.asarray(value, "float32")) for value in values])
    return [np.concatenate(values) for values in zip(*rows, strict=True)]


def _converted(model: Any, format: FormatName, notes: list[str]) -> bytes | None:
    """Returns the file of a model; a model without one is noted, and is no error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConversionWarning)
        try:
            tflite = convert(model, None, Options(format=format), _PURPOSE).tflite
        except InputError as error:
            notes.append(f"There is no TFLite file to measure. {error}")
            return None
    notes += [str(w.message) for w in caught if issubclass(w.category, ConversionWarning)]
    return tflite


def _keras_size(model: keras.Model, notes: list[str]) -> Size | None:
    """Returns the size of a model without its optimizer, which makes it up to three times as large.

    A model that cannot be saved is noted, and is no error.
    """
    try:
        uncompiled = Rebuilding(trace(model, _PURPOSE)).model()
        with keras_errors("A .keras file needs a model that Keras can save", model.name):
            return Size.of(model_bytes(uncompiled))
    except InputError as error:
        notes.append(str(error))
        return None


def _kernels(original: keras.Model, plain: keras.Model) -> Iterator[Kernel]:
    """Yields the kernels of both models; none if their layers differ, as adopted ones do."""
    pairs = list(zip(_matrices(original), _matrices(plain), strict=False))
    alike = len(_matrices(original)) == len(_matrices(plain))
    if not alike or any(before.shape != after.shape for before, after in pairs):
        return
    for before, after in pairs:
        old, new = (keras.ops.convert_to_numpy(variable) for variable in (before, after))
        yield Kernel(
            name=after.path,
            weights=int(new.size),
            zeros_before=int((old == 0).sum()),
            zeros=int((new == 0).sum()),
            values_before=int(np.unique(old).size),
            values=int(np.unique(new).size),
        )


def _matrices(model: keras.Model) -> Sequence[Any]:
    # Biases and the vectors of normalizations are not compressed, and frozen kernels neither.
    return [variable for variable in model.trainable_variables if len(variable.shape) > 1]


def _asked(compressed: Any, technique: str | None) -> float | None:
    """Returns the sparsity or the clusters that the wrappers of tfmot aim at."""
    if technique not in (PRUNED, CLUSTERED):
        return None
    for layer in compressed.layers:
        config = layer.get_config()
        if technique == CLUSTERED and "number_of_clusters" in config:
            return float(config["number_of_clusters"])
        schedule = config.get("pruning_schedule", {}).get("config", {})
        for name in ("final_sparsity", "target_sparsity"):
            if name in schedule:
                return float(schedule[name])
    return None


def _verdict(
    pair: _Pair, file: TFLite | None, labels: np.ndarray | None, held_out: bool, notes: list[str]
) -> GateReport | None:
    needed = None
    if not pair.sites:
        notes.append("The model has no SE sites, and no gates to judge.")
        return None
    if not held_out:
        needed = "held-out samples"
    elif len(next(iter(pair.samples.values()))) < MIN_SAMPLES:
        needed = f"{MIN_SAMPLES} samples or more"
    if needed is not None or file is None:
        notes.append(f"Gates were not judged: that needs {needed or 'a TFLite file'}.")
        return None
    # A plain model may need its twin; a compressed one, whose gates are rounded, has none.
    trained = pair.plain if pair.technique is None else pair.compressed
    return verify(
        pair.original,
        file,
        pair.samples,
        labels,
        trained=None if trained is pair.original else trained,
        input_shape=pair.shape,
    )


def _file_name(given: TFLite | None, file: TFLite) -> str:
    kind = precision(file)
    if given is None:
        return f"{kind}, made for this table and not written"
    return f"{os.fspath(given) if isinstance(given, str | os.PathLike) else 'given'}, {kind}"


def _next_step(pair: _Pair, tflite: TFLite | None) -> str:
    if tflite is not None:
        return ""
    if pair.is_rounded:
        return "keras_se.to_tflite(compressed, path='model.tflite')"
    plain = "keras_se.compress.strip(compressed)" if pair.technique else "compressed"
    return f"keras_se.to_tflite({plain}, 'int8', calibration, path='model.tflite')"
