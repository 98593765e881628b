"""The bottleneck of an SE block: its width, and the layouts in which libraries store its matrices.

Source: Hu et al., arXiv 1709.01507v4, section 3.2 (r); Sandler et al., "MobileNetV2", arXiv
1801.04381, released code (multiples of a divisor); documentation of `keras.layers.Dense` and
`Conv2D`, `torch.nn.Linear` and `Conv2d` (layouts).
"""

import math
import numbers
from fractions import Fraction
from typing import Any, Literal, get_args

import numpy as np

from keras_se.errors import InputError

Layout = Literal["dense", "torch"]
_MAX_WIDTH = 2**16
LAYOUTS: tuple[Layout, ...] = get_args(Layout)


def bottleneck_width(
    channels: int, ratio: float = 16, *, width: int | None = None, divisor: int = 1
) -> int:
    """Returns the number of hidden units of an SE block, from 1 to 65,536."""
    validate_width_arguments(ratio, width, divisor)
    if not _is_integer(channels) or channels < 1:
        raise InputError(
            f"channels must be an integer of at least 1. Received: channels={channels!r}"
        )
    units = _units(channels, ratio, width, divisor)
    # A typo, or a plan that somebody made up, would fill the memory.
    if units > max(_MAX_WIDTH, channels):
        raise InputError(
            f"The width of an SE block must be at most {_MAX_WIDTH:,}. Received: {units:,} from "
            f"channels={channels!r}, width={width!r}, divisor={divisor!r}"
        )
    return units


def _units(channels: int, ratio: float, width: int | None, divisor: int) -> int:
    if width is not None:
        return int(width)
    # Exact, from the decimal form: 33 / 1.1 is 30, but 29.99 in binary floating point.
    exact = Fraction(channels) / Fraction(str(ratio))
    if divisor == 1:
        return max(1, math.floor(exact))
    # The MobileNet rule: the nearest multiple, at least `divisor` and at least 90 % of C / r.
    nearest = max(divisor, math.floor(exact / divisor + Fraction(1, 2)) * divisor)
    return nearest + divisor if nearest < Fraction(9, 10) * exact else nearest


def validate_width_arguments(ratio: float, width: int | None, divisor: int) -> None:
    """Raises `InputError` if `ratio`, `width` or `divisor` is invalid."""
    is_number = isinstance(ratio, int | float | np.integer | np.floating)
    if not is_number or isinstance(ratio, bool) or not math.isfinite(ratio):
        raise InputError(f"ratio must be a finite number of at least 1. Received: ratio={ratio!r}")
    if ratio < 1:
        # A ratio below 1 is probably the width as a fraction of C, the reciprocal.
        hint = f"; for the fraction {ratio} use ratio={1 / ratio:g}" if ratio > 0 else ""
        raise InputError(
            f"ratio is a divisor (width = channels / ratio) and must be at least 1{hint}. "
            f"Received: ratio={ratio!r}"
        )
    if width is not None and (not _is_integer(width) or width < 1):
        raise InputError(
            f"width must be None or an integer of at least 1. Received: width={width!r}"
        )
    if not _is_integer(divisor) or divisor < 1:
        raise InputError(f"divisor must be an integer of at least 1. Received: divisor={divisor!r}")


def standardize_ratio(ratio: float) -> float:
    """Converts a ratio to a Python number that a configuration can hold."""
    # `float(np.float32(1.1))` is 1.10000002; its decimal form is 1.1.
    return int(ratio) if _is_integer(ratio) else float(str(ratio))


def to_dense(name: str, kernel: Any, shape: tuple[int, int], layout: Layout | None) -> np.ndarray:
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
            f"layout must be 'dense' or 'torch' if {name} is square. "
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


def _is_integer(value: object) -> bool:
    # `bool` is a subclass of `int`.
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
