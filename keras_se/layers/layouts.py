"""The layouts in which libraries store the two matrices of an SE block."""

from typing import Any

import numpy as np

from keras_se.errors import InputError

LAYOUTS = ("dense", "torch")


def to_dense(name: str, kernel: Any, shape: tuple[int, int], layout: str | None) -> np.ndarray:
    """A kernel as a matrix (inputs, outputs), from any layout that is stored.

    Args:
        name: What the error calls it.
        kernel: Array of shape (inputs, outputs) or (1, 1, inputs, outputs), layout "dense", or of
            shape (outputs, inputs) or (outputs, inputs, 1, 1), layout "torch".
        shape: (inputs, outputs).
        layout: "dense", "torch", or `None`: inferred where it cannot be mistaken.

    Returns:
        Matrix of that shape.

    Raises:
        InputError: If the kernel has another shape, or the layout cannot be told.

    Source: documentation of `keras.layers.Dense` and `Conv2D`, `torch.nn.Linear` and `Conv2d`.

    Example:
        >>> to_dense("w1", np.zeros((4, 16, 1, 1)), (16, 4), None).shape
        (16, 4)
    """
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
