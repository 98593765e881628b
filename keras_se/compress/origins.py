"""What a model of tf_keras was made from, without importing tf_keras."""

import weakref
from dataclasses import dataclass
from typing import Any

import keras

from keras_se.errors import InputError
from keras_se.layers.fake_quantize import is_quantize_aware

QUANTIZED, PRUNED, CLUSTERED = "quantize_aware", "prune", "cluster"


@dataclass(frozen=True)
class Origin:
    """Where a compressed model comes from.

    Attributes:
        model: The Keras 3 model.
        technique: The function that compressed it: `"quantize_aware"`, `"prune"` or `"cluster"`.
    """

    model: keras.Model
    technique: str


_ORIGINS: "weakref.WeakKeyDictionary[Any, Origin]" = weakref.WeakKeyDictionary()


def remember(compressed: Any, origin: Origin) -> None:
    """Keeps the origin of a model as long as there is the model.

    Args:
        compressed: A model of tf_keras.
        origin: Its origin.
    """
    _ORIGINS[compressed] = origin


def keras_model(model: Any) -> keras.Model:
    """The Keras 3 model that has the structure of a model.

    Args:
        model: A Keras 3 model, or one that `keras_se.compress` made.

    Returns:
        Itself, or what it was made from.
    """
    origin = origin_of(model)
    return model if origin is None else origin.model


def origin_of(model: Any) -> Origin | None:
    """The origin of a model that `keras_se.compress` made.

    Args:
        model: Anything.

    Returns:
        Its `Origin`; `None` for anything else.

    Example:
        >>> origin_of("a path")
    """
    try:
        return _ORIGINS.get(model)
    except TypeError:  # what has no hash or no weak references
        return None


def check_plain(model: Any) -> None:
    """Refuses a model that is compressed already.

    Args:
        model: Anything.

    Raises:
        InputError: If `keras_se.compress` made it.
    """
    if origin_of(model) is not None or is_quantize_aware(model):
        raise InputError(
            "Compression starts from a plain model: strip a compressed one first. "
            f"Received: model {model.name!r}, which is compressed"
        )
