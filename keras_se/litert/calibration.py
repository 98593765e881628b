"""Checks of calibration data against the model, before a conversion.

Data of the wrong range gives all activations the wrong scale. The statistics of BatchNormalization
show the range of the training data.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_se.display.progress import counted
from keras_se.errors import InputError
from keras_se.graph.inputs import fresh_inputs
from keras_se.graph.trace import Graph
from keras_se.graph.visits import Visit, holds, replaying, walk
from keras_se.layers import SEBlock
from keras_se.litert.graph.dead import check_bottlenecks
from keras_se.litert.inputs import batches, input_arrays, input_specs
from keras_se.sites.finding import InlineSE
from keras_se.sites.gated import GatedSite, gated_sites, given_mask

_MIN_SAMPLES = 100
# The median ratio is near 1 on sound data, and between .01 and .18 on data ten times too dark.
_MIN_RATIO, _MAX_RATIO = 1 / 3, 3.0
_FLOAT16_MAX = 65504.0
_SQUEEZES = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)


@dataclass(frozen=True)
class Observations:
    """Statistics of a model on samples.

    Attributes:
        variance_ratios: For each channel of each trained BatchNormalization, the variance over the
            samples divided by the moving variance; empty without such layers.
        bottlenecks: For each SE site by name, the largest magnitude in its bottleneck.
        sums: For each SE site with a block and each pooling layer, by name with the path, the
            largest Σ|x| over the map of a sample and channel.
        finite: Whether all outputs of the model are finite.
    """

    variance_ratios: np.ndarray
    bottlenecks: dict[str, float]
    sums: dict[str, float]
    finite: bool

    @property
    def variance_ratio(self) -> float | None:
        """The median of `variance_ratios`, or `None` without any."""
        return float(np.median(self.variance_ratios)) if self.variance_ratios.size else None


def observe(model: keras.Model, samples: list[np.ndarray]) -> Observations:
    """Runs a built functional or Sequential model once over samples, without changing it."""
    graph = Graph(model)
    observer = _Observer(gated_sites(graph))
    inputs = fresh_inputs(model)
    outputs = keras.tree.flatten(walk(graph, inputs, observer.visit, opens=observer.opens))
    finite = observer.add(outputs, _all_finite)
    reader = keras.Model(keras.tree.flatten(inputs), observer.outputs)
    reader.compile(run_eagerly=True)  # tracing does not pay for one pass
    few = counted(batches(samples), -(-len(samples[0]) // 32), "check of the calibration")
    with replaying():
        read = [reader.predict_on_batch(batch) for batch in few]
    values = {key: np.concatenate([batch[key] for batch in read]) for key in observer.outputs}
    ratios = [_ratios(values[key], layer) for key, layer in observer.normalizations.items()]
    return Observations(
        np.concatenate([np.zeros(0), *ratios]),
        {name: float(values[key].max()) for name, key in observer.bottlenecks.items()},
        {name: float(values[key].max()) for name, key in observer.sums.items()},
        bool(values[finite].all()),
    )


def _ratios(moments: np.ndarray, layer: Any) -> np.ndarray:
    """Returns the variance over samples and positions by the moving variance, per channel."""
    means, variances = np.moveaxis(moments.astype("float64"), 1, 0)
    # The law of total variance: within the samples plus between them.
    variance = variances.mean(axis=0) + means.var(axis=0)
    return variance / np.maximum(layer.moving_variance.numpy().astype("float64"), 1e-12)


class _Observer:
    """Replays a model and its nested models, and adds outputs to observe."""

    def __init__(self, sites: list[GatedSite]) -> None:
        self._blocks = {part.place: part.site.name for part in sites}
        inline = [(p.site, p.source) for p in sites if isinstance(p.source, InlineSE)]
        # By the place of the matrix that reads a bottleneck.
        self._second = {
            source.matrices[-1].place: site.name
            for site, source in inline
            if site.form == "two_matrices"
        }
        self.opens = holds([*self._second, *self._blocks])
        self.outputs: dict[str, Any] = {}
        self.normalizations: dict[str, Any] = {}  # the layers, by key of the output
        self.bottlenecks: dict[str, str] = {}  # keys of the outputs, by name
        self.sums: dict[str, str] = {}

    def visit(self, visit: Visit) -> Any:
        layer, args = visit.layer, visit.args
        if isinstance(layer, keras.layers.BatchNormalization) and _is_trained(layer):
            self.normalizations[self.add(args[0], _moments(layer.axis))] = layer
        elif isinstance(layer, SEBlock):
            name = self._blocks[visit.place]
            # A mask that the model gives by hand is not that of the feature map.
            self.bottlenecks[name] = self.add(args[0], _bottleneck(layer), given_mask(visit))
            # A maximum sums nothing up, so it cannot overflow.
            if layer.squeeze != "max":
                self.sums[name] = self.add(args[0], _sums(layer.data_format))
        elif isinstance(layer, _SQUEEZES):
            name = f"{visit.path}{layer.name}"
            self.sums[name] = self.add(args[0], _sums(layer.data_format))
        if visit.place in self._second:
            self.bottlenecks[self._second[visit.place]] = self.add(args[0], _largest)
        return visit.outputs()

    def add(self, tensors: Any, function: Callable[..., Any], mask: Any = None) -> str:
        key = f"output_{len(self.outputs)}"
        layer = keras.layers.Lambda(function, name=key)
        # Without this Keras warns that the layer drops the mask.
        layer.supports_masking = True
        self.outputs[key] = layer(tensors, mask=mask)
        return key


def _is_trained(layer: Any) -> bool:
    # The initial statistics, 0 and 1, say nothing about the data.
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    return bool((mean != 0).any() or (variance != 1).any())


def _all_finite(outputs: Any) -> Any:
    # One flag per sample: `predict_on_batch` gives rows that are concatenated later.
    finite = [
        ops.all(ops.isfinite(ops.reshape(x, (ops.shape(x)[0], -1))), axis=1)
        for x in keras.tree.flatten(outputs)
    ]
    return ops.all(ops.stack(finite, axis=-1), axis=-1)


def _largest(x: Any, mask: Any = None) -> Any:
    return ops.max(ops.abs(ops.reshape(x, (ops.shape(x)[0], -1))), axis=1)


def _moments(axis: Any) -> Callable[..., Any]:
    def moments(x: Any, mask: Any = None) -> Any:
        x = ops.moveaxis(x, axis if isinstance(axis, int) else axis[0], -1)
        x = ops.reshape(x, (ops.shape(x)[0], -1, x.shape[-1]))
        return ops.stack([ops.mean(x, axis=1), ops.var(x, axis=1)], axis=1)

    return moments


def _bottleneck(block: SEBlock) -> Callable[..., Any]:
    return lambda x, mask=None: _largest(block.bottleneck(block.squeezed(x, mask)))


def _sums(data_format: str) -> Callable[..., Any]:
    def sums(x: Any, mask: Any = None) -> Any:
        rank = len(x.shape)
        spatial = range(1, rank - 1) if data_format == "channels_last" else range(2, rank)
        return ops.max(ops.sum(ops.abs(ops.cast(x, "float32")), axis=tuple(spatial)), axis=-1)

    return sums


def check_activations(observed: Observations) -> None:
    """Raises `InputError` if an output is not finite, or the bottleneck of a site always zero."""
    if not observed.finite:
        raise InputError(
            "Calibration data must give finite outputs. Received: an output of NaN or infinity"
        )
    # The converter gives such a tensor a scale so small that the file does not load.
    check_bottlenecks([n for n, largest in observed.bottlenecks.items() if largest == 0.0])


def check_range(observed: Observations) -> None:
    """Raises `InputError` if the data has another range than the training data."""
    ratio = observed.variance_ratio
    if ratio is not None and not _MIN_RATIO <= ratio <= _MAX_RATIO:
        raise InputError(
            "Calibration data must have the range of the training data: before BatchNormalization, "
            "the variance divided by the moving variance must be 1/3 to 3, median over channels; "
            f"check_range=False skips this check. Received: a median ratio of {ratio:.3g}"
        )


def calibration_warnings(observed: Observations, samples: int, is_integer: bool) -> Iterator[str]:
    """Yields warnings about data that is not refused."""
    if is_integer and samples < _MIN_SAMPLES:
        yield (
            f"Calibration should use at least {_MIN_SAMPLES} samples: other data exceed the ranges "
            f"of fewer. Received: {samples}"
        )
    large = {name: f"{value:.3g}" for name, value in observed.sums.items() if value > _FLOAT16_MAX}
    if large and not is_integer:
        yield (
            f"A sum over a feature map exceeds the largest float16, {_FLOAT16_MAX:.0f}: a GPU that "
            f"computes in float16 may give NaN. Received: sums of {large}"
        )


def calibration_samples(model: keras.Model, calibration: Any) -> dict[str, np.ndarray]:
    """Returns calibration arrays by input name; raises `InputError` if they are unusable."""
    if calibration is None:
        raise InputError(
            "quantize_aware needs calibration data: representative inputs, as for to_tflite. "
            "Received: calibration=None"
        )
    specs = input_specs(model, "quantize_aware")
    samples = input_arrays(specs, calibration, "calibration")
    # Check before any model is built. Infinite outputs or a dead bottleneck give no valid range.
    check_activations(observe(model, list(samples.values())))
    return samples
