"""What each SE site does for the outputs of a network."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.graph.compressed import compression_of
from keras_se.litert.graph.flatbuffer import TFLite
from keras_se.verification.file_reference import FileReference
from keras_se.verification.keras_reference import KerasReference
from keras_se.verification.reference import Reference, Remembered
from keras_se.verification.work import ConstantGates


def worth(
    model_or_float_tflite: keras.Model | TFLite, x: Any, input_shape: Sequence[int] | None = None
) -> dict[str, float]:
    """Measures what each SE site does for the outputs: what is lost if its gates are constant.

    The outputs of the network are compared with those for gates that are fixed at their means over
    the samples, in one site and in all: classes as logits, each output over its spread.

    Args:
        model_or_float_tflite: A built Keras model, or a float TFLite file from any converter.
        x: Inputs of shape (samples, *input shape), or a list or dictionary of them.
        input_shape: Shape of one sample, for a model that leaves sizes open.

    Returns:
        By site, the mean square change of the outputs over that by constant gates at all sites.
        The shares need not sum to 1. Empty if constant gates at all sites change the outputs by
        less than 1 % of their spread: SE does nothing for these samples. A few dozen samples
        tell; the network is run once for each site.

    Raises:
        InputError: If there is no SE site, or `x` does not fit.
        MissingExtraError: If LiteRT is not installed.

    Example:
        >>> import numpy as np
        >>> from keras_se import SEBlock
        >>> inputs = keras.Input((8, 8, 4))
        >>> model = keras.Model(inputs, SEBlock(2)(inputs))
        >>> worth(model, np.random.default_rng(0).random((32, 8, 8, 4)))
        {}
    """
    reference = reference_of(model_or_float_tflite, "worth", input_shape)
    return ConstantGates(reference, reference.samples(x, "x")).worth()


def reference_of(source: Any, purpose: str, input_shape: Sequence[int] | None = None) -> Reference:
    """Returns a Keras model or a float file as what gates are compared with."""
    if isinstance(source, Remembered):
        return source
    is_model = isinstance(source, keras.Model) or compression_of(source) is not None
    found: Reference
    found = KerasReference(source, purpose, input_shape) if is_model else FileReference(source)
    if not found.sites:
        raise InputError(
            f"{purpose} needs a reference with SE sites; add them to a model with insert. "
            f"Received: {found.name} with none"
        )
    return found
