"""What a model of tf_keras was made from, without importing tf_keras."""

import weakref
from dataclasses import dataclass
from typing import Any

import keras

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
