"""Half precision: what is computed in float32 all the same."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops


def in_float32(function: Callable[[Any], Any], x: Any) -> Any:
    """Returns function(x) in the dtype of `x`, computed in float32 where that is half precision."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    # A sum or a power can overflow float16 although the result does not.
    if dtype in ("float16", "bfloat16"):
        x = ops.cast(x, "float32")
    return ops.cast(function(x), dtype)
