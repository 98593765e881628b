"""An equal model that a function can work on: of a fixed size, and in float32."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_se.errors import PrecisionWarning, warn
from keras_se.graph.inputs import checked_shape, computable
from keras_se.graph.precision import in_float32, other_precisions
from keras_se.graph.rebuilding import Rebuilding
from keras_se.graph.trace import trace


def fitted(model: Any, purpose: str, input_shape: Sequence[int] | None = None) -> Any:
    """The model itself, or its float32 twin with the shape of one sample, with weights of its own.

    A `PrecisionWarning` says that a twin computes in float32. What is no model with known inputs is
    returned as it is: whoever needs these refuses it.
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return model
    shape = None if input_shape is None else checked_shape(model, input_shape)
    others = other_precisions(model)
    if not others and shape in (None, tuple(model.inputs[0].shape[1:])):
        return model
    with computable(model, shape):
        graph = trace(model, purpose, None if shape is None else [shape])
    if others:
        warn(
            f"{purpose} takes the float32 twin of model {model.name!r}, which computes in "
            f"{', '.join(others)}.",
            PrecisionWarning,
        )
    return Rebuilding(graph, precision=in_float32).model()
