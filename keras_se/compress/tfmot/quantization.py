"""Quantization-aware training with tensorflow-model-optimization (tfmot) in tf_keras."""

from typing import Any, Literal, get_args

import keras
import numpy as np

from keras_se.compress.tfmot.bridge.environment import load_tf_keras
from keras_se.compress.tfmot.bridge.translation import translate
from keras_se.compress.tfmot.rounding import Range, RoundingPlan, kind_of, outputs_of
from keras_se.compress.tfmot.scopes import copied, rebuilt
from keras_se.errors import InputError
from keras_se.graph.compressed import FEW_ZEROS, QUANTIZED
from keras_se.layers.quantization.activation import decollapse_bias
from keras_se.litert.calibration import calibration_samples
from keras_se.litert.convert import check_backend
from keras_se.litert.inputs import batches

Preserved = Literal["sparsity", "clusters", "both"]
PRESERVED: tuple[Preserved, ...] = get_args(Preserved)


def quantize_in_tf_keras(model: keras.Model, calibration: Any, preserve: str | None) -> Any:
    """Make a quantize-aware tf_keras model; see `quantize_aware`."""
    from keras_se.compress.tfmot.compressed_model import trainable_model  # loads tf_keras
    from keras_se.compress.tfmot.quantizers import wrapped  # loads tfmot

    check_backend("quantize_aware")
    translation = translate(model, quantizable=True)
    samples = calibration_samples(model, calibration)
    plan = RoundingPlan(translation.model)
    _check_preserved(model, preserve)
    ranges = _ranges(translation.model, plan.measured, list(samples.values()))

    def wrap(layer: Any) -> Any:
        # TFLite folds the BatchNormalization after this entry into a kernel: nothing to round.
        if layer.name in plan.folded:
            return copied(layer)
        output = plan.output(layer, ranges)
        # TFLite folds BatchNormalization into a kernel only, so this one gets a kernel of ones.
        if layer.name in plan.standalone:
            return wrapped(_identity_convolution(layer), None, output)
        return wrapped(_with_distinct_offsets(layer), preserve, output)

    new_model = rebuilt(translation.model, wrap)
    return trainable_model(new_model, QUANTIZED, model, translation.weights)


def _with_distinct_offsets(layer: Any) -> Any:
    """Copy a layer, with distinct values for the offsets of its channels."""
    is_shift = kind_of(layer) == "Rescaling" and np.ndim(layer.offset) == 0 and layer.offset != 0
    if not is_shift:
        return copied(layer)
    # The converter applies the scale of the first channel to a bias of equal values.
    offsets = keras.ops.convert_to_numpy(
        decollapse_bias(layer.offset, layer.get_output_shape_at(0)[-1])
    ).tolist()
    return type(layer)(layer.scale, offsets, name=layer.name)


def _identity_convolution(entry: Any) -> Any:
    """Build a depthwise convolution with a kernel of ones, which stay, to replace an entry."""
    ones = load_tf_keras().layers.DepthwiseConv2D(
        1, depthwise_initializer="ones", use_bias=False, trainable=False, name=entry.name
    )
    ones.build(entry.input_shape)
    return ones


def _check_preserved(model: keras.Model, preserve: str | None) -> None:
    if preserve is None:
        return
    kernels = [w.numpy() for w in model.trainable_weights if len(w.shape) > 1]
    is_sparse = any((kernel == 0).mean() > FEW_ZEROS for kernel in kernels)
    is_clustered = any(np.unique(kernel).size < kernel.size / 2 for kernel in kernels)
    missing = [
        what
        for what, other, is_there in (
            ("pruned", "clusters", is_sparse),
            ("clustered", "sparsity", is_clustered),
        )
        if preserve != other and not is_there
    ]
    if missing:
        raise InputError(
            "preserve needs a pruned or clustered model: train with prune or cluster, and strip. "
            f"Received: preserve={preserve!r} for model {model.name!r}, "
            f"which is not {' and not '.join(missing)}"
        )


def _ranges(model: Any, names: set[str], samples: list[np.ndarray]) -> dict[str, Range]:
    """Measure the smallest and largest output of each named layer, including zero."""
    outputs = {layer.name: outputs_of(layer) for layer in model.layers if layer.name in names}
    reader = load_tf_keras().Model(model.input, outputs)
    # int8 represents zero exactly, so every range includes it.
    ranges = dict.fromkeys(outputs, (0.0, 0.0))
    for batch in batches(samples):
        values = reader(keras.tree.pack_sequence_as(model.input, batch), training=False)
        for name, (low, high) in ranges.items():
            arrays = [v.numpy() for v in keras.tree.flatten(values[name])]
            ranges[name] = (
                min(low, *(float(a.min()) for a in arrays)),
                max(high, *(float(a.max()) for a in arrays)),
            )
    return ranges
