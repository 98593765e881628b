"""Reads SE sites and gate values from a Keras model or a TFLite file."""

import os
from numbers import Integral
from typing import Any

import keras
import numpy as np

from keras_se.compress.stripping import strip
from keras_se.compress.tfmot.gates import quantized_gates
from keras_se.display.progress import with_progress
from keras_se.errors import InputError
from keras_se.graph.compressed import QUANTIZED, compression_of, keras_model
from keras_se.litert.gates import file_gates
from keras_se.litert.graph.flatbuffer import TFLite
from keras_se.litert.graph.sites import file_sites
from keras_se.sites.reading import model_gates, model_sites
from keras_se.sites.site import Site


def find_sites(model_or_tflite: keras.Model | TFLite) -> list[Site]:
    """Returns the SE sites of a Keras model or of a TFLite file, in topological order.

    Args:
        model_or_tflite: A built functional or Sequential Keras model with `SEBlock`s,
            `GraphSEBlock`s or SE of other layers and operations, also inside nested models and
            layers of your own; a result of `keras_se.compress`; or the bytes or the path of a
            TFLite file from any converter.

    Returns:
        One `Site` per gated feature map; empty if there is none. See docs/sites.md for what is one.

    Raises:
        InputError: If the argument is neither, or the file cannot be read.
        MissingExtraError: If a file is given and LiteRT is not installed.

    Warns:
        SiteWarning: If a part of a model may be SE, and is not seen as such, with the reason.

    Example:
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 16)), SEBlock(4)])
        >>> site = find_sites(model)[0]
        >>> site.name, site.channels, site.width, site.gate
        ('se_1', 16, 4, 'sigmoid')
    """
    model = keras_model(model_or_tflite)
    if isinstance(model, keras.Model):
        return model_sites(model)
    return file_sites(_checked(model_or_tflite))


@with_progress
def read_gates(
    model_or_tflite: keras.Model | TFLite, x: Any, batch_size: int = 32, *, progress: bool = True
) -> dict[str, np.ndarray]:
    """Returns the gate values of every SE site for the inputs `x`.

    Args:
        model_or_tflite: As for `find_sites`; a file must have batch size one.
        x: Inputs of the model: arrays of shape (samples, *input shape), or a `tf.data.Dataset` or
            generator of batches. For a file, an array, also in the units of the float model. Arrays
            for a `GraphSEBlock` are one union of graphs, read at once.
        batch_size: Samples per batch of a Keras model.
        progress: Whether to show on standard error what is being done, if it takes long.

    Returns:
        By site name, an array of shape (samples, channels); for a `GraphSEBlock` (graphs,
        channels). Empty if there is no site.

    Raises:
        InputError: If the argument is neither, its weights are not finite, `x` does not fit it, or
            `batch_size` is no whole number of at least 1.
        MissingExtraError: If a file is given and LiteRT is not installed.

    Warns:
        SiteWarning: As for `find_sites`.

    Example:
        >>> from keras_se import SEBlock
        >>> model = keras.Sequential([keras.Input((8, 8, 16)), SEBlock(4)])
        >>> read_gates(model, np.zeros((3, 8, 8, 16), "float32"))["se_1"].shape
        (3, 16)
    """
    _check_batch_size(batch_size)
    compression = compression_of(model_or_tflite)
    # A quantize-aware model has rounded gates; those of the stripped model are in float.
    if compression is not None and compression.technique == QUANTIZED:
        return quantized_gates(model_or_tflite, x, batch_size)
    # Other compressed models are of tf_keras, which only `strip` turns into Keras 3.
    model = model_or_tflite if compression is None else strip(model_or_tflite)
    if isinstance(model, keras.Model):
        return model_gates(model, x, batch_size)
    return file_gates(_checked(model_or_tflite), x)


def _checked(tflite: Any) -> TFLite:
    if not isinstance(tflite, bytes | bytearray | str | os.PathLike):
        raise InputError(
            "The argument must be a Keras model, or the bytes or the path of a TFLite file. "
            f"Received: {type(tflite).__name__}"
        )
    return tflite


def _check_batch_size(batch_size: Any) -> None:
    is_whole = isinstance(batch_size, Integral) and not isinstance(batch_size, bool)
    if not is_whole or batch_size < 1:
        raise InputError(
            f"batch_size must be a whole number of at least 1. Received: batch_size={batch_size!r}"
        )
