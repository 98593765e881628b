"""Compressed tf_keras models, and the Keras 3 models they were made from, without tf_keras."""

import weakref
from dataclasses import dataclass
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.layers.quantization.fake_quantize import is_quantize_aware

FEW_ZEROS = 0.1  # a kernel with a smaller share of zeros counts as not pruned
QUANTIZED, PRUNED, CLUSTERED = "quantize_aware", "prune", "cluster"
RECORD = "compression"  # key in the configuration of a compressed model


@dataclass(frozen=True)
class Compression:
    """What a compressed model was made from, and how.

    Attributes:
        model: The Keras 3 model.
        technique: The function that compressed it: `"quantize_aware"`, `"prune"` or `"cluster"`.
        constants: Indices of the weights of the model that the compressed model does not hold as
            weights, such as the statistics of a Normalization. Of a compressed model from a file,
            only these weights of `model` have their values.
    """

    model: keras.Model
    technique: str
    constants: tuple[int, ...] = ()


# Weak keys: this table must not keep a compressed model alive.
_COMPRESSIONS: "weakref.WeakKeyDictionary[Any, Compression]" = weakref.WeakKeyDictionary()


def record_compression(compressed: Any, compression: Compression) -> None:
    """Record what a compressed model was made from."""
    _COMPRESSIONS[compressed] = compression


def compression_of(model: Any) -> Compression | None:
    """Return what a compressed tf_keras model was made from, or `None` for any other object."""
    try:
        return _COMPRESSIONS.get(model)
    except TypeError:  # no hash, or no weak references
        return None


def keras_model(model: Any) -> keras.Model:
    """Return the Keras 3 model behind a compressed model, or the model itself."""
    compression = compression_of(model)
    return model if compression is None else compression.model


def is_compressed(model: Any) -> bool:
    """Whether a model comes from `prune`, `cluster` or either engine of `quantize_aware`."""
    return compression_of(model) is not None or is_quantize_aware(model)


def check_plain(model: Any, purpose: str = "Compression") -> None:
    """Raise `InputError` if the model is already compressed."""
    if is_compressed(model):
        raise InputError(
            f"{purpose} needs a plain model: strip a compressed one first. "
            f"Received: model {model.name!r}, which is compressed"
        )


def is_pruned(layer: Any) -> bool:
    """Whether a layer has a kernel of which a part is zero."""
    kernels = [v.numpy() for v in getattr(layer, "trainable_weights", ()) if len(v.shape) > 1]
    # A kernel of zeros alone is one that starts there.
    return any(FEW_ZEROS < float((kernel == 0).mean()) < 1.0 for kernel in kernels)
