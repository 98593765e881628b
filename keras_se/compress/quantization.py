"""Quantization-aware training of SE models, from ranges that were measured."""

from typing import Any

import keras

from keras_se.compress.bridged import SCHEMES, quantize_bridged
from keras_se.compress.native import quantize_natively
from keras_se.compress.origins import check_plain
from keras_se.errors import InputError
from keras_se.replay import check_graph

ENGINES = ("tfmot", "keras")


def quantize_aware(
    model: keras.Model, calibration: Any, *, preserve: str | None = None, engine: str = "tfmot"
) -> Any:
    """A model that computes as its int8 file will, and trains on.

    Kernels are rounded by output channel, activations where the file has a tensor of its own: after
    a convolution with its BatchNormalization and ReLU, after each gate, and after the product that
    recalibrates. The ranges of sigmoid and tanh are those that TFLite prescribes; all others start
    where the calibration data put them and follow the training data: with tfmot they widen at once
    and narrow by 1 % a step, in Keras they move by 1 % a step either way.

    Args:
        model: A built functional or Sequential Keras 3 model, with or without SE, as
            `to_tf_keras` takes it, with inputs of known size. It is not changed.
        calibration: Representative inputs, shape (samples, *input shape), or a list or dictionary
            of them; a hundred samples or more.
        preserve: What of earlier training with compression stays: the `"sparsity"` of a pruned
            model, the `"clusters"` of a clustered one, or `"both"`. Depthwise kernels have neither.
        engine: `"tfmot"`: by way of tf_keras, for everything above. `"keras"`: in Keras itself,
            without another library; the result is a Keras 3 model with layers that round, which is
            saved as any other, and `reference=` and `strip` take it, too. It preserves nothing.

    Returns:
        A model to `compile` and `fit`, with the objects of Keras 3: a `tf_keras.Model`, which takes
        those of tf_keras, too, or with `engine="keras"` a `keras.Model`.
        `keras_se.to_tflite` of it is an int8 file and needs no calibration, `keras_se.read_gates`
        gives its rounded gates, `keras_se.verify(model, tflite, x, reference=...)` judges the file
        against both models, and `strip` makes a Keras 3 model of it.

    Raises:
        InputError: If the model cannot be carried to tf_keras or has a layer that is not known in
            int8, the data do not fit it or leave the bottleneck of a site at zero, or there is
            nothing to preserve.
        MissingExtraError: If TensorFlow, tf_keras or tensorflow-model-optimization is missing.

    Source: Jacob et al., arXiv 1712.05877, section 3; TensorFlow Model Optimization, "Quantization
    aware training".

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
