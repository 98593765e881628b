"""Maps compressed tf_keras models to their Keras 3 models, without importing tf_keras."""

import weakref
from dataclasses import dataclass
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.layers.quantization.fake_quantize import is_quantize_aware

QUANTIZED, PRUNED, CLUSTERED = "quantize_aware", "prune", "cluster"


@dataclass(frozen=True)
class Origin:
    """The source of a compressed model.

    Attributes:
        model: The Keras 3 model.
        technique: The function that compressed it: `"quantize_aware"`, `"prune"` or `"cluster"`.
    """

    model: keras.Model
    technique: str


# Weak keys: this table must not keep a compressed model alive.
_ORIGINS: "weakref.WeakKeyDictionary[Any, Origin]" = weakref.WeakKeyDictionary()


def remember(compressed: Any, origin: Origin) -> None:
    """Store the origin of a compressed model."""
    _ORIGINS[compressed] = origin


def keras_model(model: Any) -> keras.Model:
    """Return the Keras 3 model behind a compressed model, or the model itself."""
    origin = origin_of(model)
    return model if origin is None else origin.model


def origin_of(model: Any) -> Origin | None:
    """Return the origin of a compressed model, or `None` for any other object."""
    try:
        return _ORIGINS.get(model)
    except TypeError:  # no hash, or no weak references
        return None


def check_plain(model: Any) -> None:
    """Raise `InputError` if the model is already compressed."""
    if origin_of(model) is not None or is_quantize_aware(model):
        raise InputError(
            "Compression starts from a plain model: strip a compressed one first. "
            f"Received: model {model.name!r}, which is compressed"
        )
