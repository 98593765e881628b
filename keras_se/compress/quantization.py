"""Quantization-aware training of SE models with calibrated ranges."""

from typing import Any

import keras

from keras_se.compress.keras_engine import quantize_natively
from keras_se.compress.tfmot.quantization import SCHEMES, quantize_bridged
from keras_se.errors import InputError
from keras_se.graph.models import check_graph
from keras_se.litert.compressed import check_plain

ENGINES = ("tfmot", "keras")


def quantize_aware(
    model: keras.Model, calibration: Any, *, preserve: str | None = None, engine: str = "tfmot"
) -> Any:
    """Makes a trainable model that computes with the rounding of its int8 file.

    Kernels are rounded per output channel. Activations are rounded where the file stores a tensor:
    after a convolution with its BatchNormalization and ReLU, after each gate, and after the product
    of gates and features. TFLite prescribes the ranges of sigmoid and tanh. All other ranges start
    at the calibration data and follow the training data: with tfmot they widen at once and narrow
    by 1 % per step, in Keras they move by 1 % per step in both directions.

    Args:
        model: A built functional or Sequential Keras 3 model, with or without SE, that
            `to_tf_keras` accepts, with inputs of known size. The function does not change it.
        calibration: Representative inputs, shape (samples, *input shape), or a list or dictionary
            of them; a hundred samples or more.
        preserve: Which result of earlier compression to keep: the `"sparsity"` of a pruned model,
            the `"clusters"` of a clustered one, or `"both"`. Depthwise kernels have neither.
        engine: `"tfmot"`: training in tf_keras, with all features above. `"keras"`: training in
            Keras without another library. The result is a Keras 3 model with quantize-aware layers,
            which saves like any other model; `reference=` and `strip` accept it. This engine does
            not support `preserve`.

    Returns:
        A model to `compile` and `fit` with objects of Keras 3: a `tf_keras.Model`, which also
        accepts objects of tf_keras, or with `engine="keras"` a `keras.Model`. `keras_se.to_tflite`
        converts it to an int8 file without calibration, `keras_se.read_gates` returns its rounded
        gates, `keras_se.verify(model, tflite, x, reference=...)` checks the file against both
        models, and `strip` returns a Keras 3 model.

    Raises:
        InputError: If the model cannot be converted to tf_keras or has a layer without a known int8
            form, if the data do not match the model or leave the bottleneck of a site at zero, or
            if there is nothing to preserve.
        MissingExtraError: If TensorFlow, tf_keras or tensorflow-model-optimization is missing.

    Source: Jacob et al., arXiv 1712.05877, section 3; Krishnamoorthi, arXiv 1806.08342, section 4;
    TensorFlow Model Optimization, "Quantization aware training".

    Example:
        >>> import numpy as np
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 4)), SEBlock(2, name="se")])
        >>> x = np.random.default_rng(0).normal(size=(64, 8, 8, 4)).astype("float32")
        >>> [layer.name for layer in quantize_aware(model, x).layers if "product" in layer.name]
        ['quant_se_product']
    """
    check_plain(model)
    check_graph("quantize_aware", model)
    if engine not in ENGINES:
        raise InputError(f"engine is one of {list(ENGINES)}. Received: engine={engine!r}")
    if preserve not in (None, *SCHEMES):
        raise InputError(f"preserve is one of {list(SCHEMES)}. Received: preserve={preserve!r}")
    if engine == "tfmot":
        return quantize_bridged(model, calibration, preserve)
    if preserve is not None:
        raise InputError(
            f"preserve needs engine='tfmot'. Received: preserve={preserve!r}, engine={engine!r}"
        )
    return quantize_natively(model, calibration)
