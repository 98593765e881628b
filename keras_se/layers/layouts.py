"""Layouts in which libraries store the two matrices of an SE block.

Source: documentation of `keras.layers.Dense` and `Conv2D`, `torch.nn.Linear` and `Conv2d`.
"""

from typing import Any

import numpy as np

from keras_se.errors import InputError

LAYOUTS = ("dense", "torch")


def to_dense(name: str, kernel: Any, shape: tuple[int, int], layout: str | None) -> np.ndarray:
    """Converts a kernel in any stored layout to a matrix of shape (inputs, outputs)."""
    if layout not in (None, *LAYOUTS):
        raise InputError(f"layout must be None, 'dense' or 'torch'. Received: layout={layout!r}")
    array = np.asarray(kernel)
    shapes = _stored_shapes(shape)
    fitting = [known for known in LAYOUTS if array.shape in shapes[known]]
    if layout is not None:
        fitting = [known for known in fitting if known == layout]
    if not fitting:
        allowed = [s for known in LAYOUTS if layout in (None, known) for s in shapes[known]]
        raise InputError(f"{name} must have one of the shapes {allowed}. Received: {array.shape}")
    # A square kernel fits both layouts, and a wrong guess would transpose it silently. A single
    # number is the same in both.
    if len(fitting) > 1 and array.size > 1:
        raise InputError(
            f"layout='dense' or layout='torch' must be given where {name} is square. "
            f"Received: layout=None and shape {array.shape}"
        )
    if fitting[0] == "dense":
        return array.reshape(shape)
    return array.reshape(shape[::-1]).T


def _stored_shapes(shape: tuple[int, int]) -> dict[str, list[tuple[int, ...]]]:
    inputs, outputs = shape
    return {
        "dense": [(inputs, outputs), (1, 1, inputs, outputs)],
        "torch": [(outputs, inputs), (outputs, inputs, 1, 1)],
    }
