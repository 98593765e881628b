"""The width of an SE bottleneck: what "ratio" means, computed exactly."""

import math
import numbers
from fractions import Fraction

import numpy as np

from keras_se.errors import InputError


def bottleneck_width(
    channels: int, ratio: float = 16, *, width: int | None = None, divisor: int = 1
) -> int:
    """Number of hidden units of an SE block.

    `ratio` is the paper's reduction ratio r, a divisor: the width is floor(C / r), and never below
    one unit. C / r is computed exactly (33 / 1.1 is 30, which binary floating point rounds to
    29.99). With `divisor` above 1, C / r itself is rounded to the nearest multiple of `divisor`,
    at least `divisor` and never below 90 % of C / r: the rule of the MobileNet models.

    Args:
        channels: C, the number of channels of the feature map.
        ratio: r, at least 1; may be fractional.
        width: If given, the width itself; `ratio` and `divisor` are then unused.
        divisor: Widths become multiples of it.

    Returns:
        The number of hidden units, at least 1.

    Raises:
        InputError: If an argument is out of its range.

    Source: Hu et al., "Squeeze-and-Excitation Networks", arXiv 1709.01507v4, section 3.2 (r);
    Sandler et al., "MobileNetV2", arXiv 1801.04381, released code (multiples of a divisor).

    Example:
        >>> bottleneck_width(64, 16), bottleneck_width(3, 1.5), bottleneck_width(8, 16)
        (4, 2, 1)
        >>> bottleneck_width(143, 4, divisor=8)
        40
    """
    validate_width_arguments(ratio, width, divisor)
    if not _is_integer(channels) or channels < 1:
        raise InputError(
            f"channels must be an integer of at least 1. Received: channels={channels!r}"
        )
    if width is not None:
        return int(width)
    exact = Fraction(channels) / Fraction(str(ratio))
    if divisor == 1:
        return max(1, math.floor(exact))
    nearest = max(divisor, math.floor(exact / divisor + Fraction(1, 2)) * divisor)
    return nearest + divisor if nearest < Fraction(9, 10) * exact else nearest


def validate_width_arguments(ratio: float, width: int | None, divisor: int) -> None:
    """Checks `ratio`, `width` and `divisor` before any number of channels is known.

    Args:
        ratio: Must be a finite number of at least 1.
        width: Must be None or an integer of at least 1.
        divisor: Must be an integer of at least 1.

    Raises:
        InputError: Naming the first argument that breaks its rule.

    Example:
        >>> validate_width_arguments(16, None, 8)
    """
    is_number = isinstance(ratio, int | float | np.integer | np.floating)
    if not is_number or isinstance(ratio, bool) or not math.isfinite(ratio):
        raise InputError(f"ratio must be a finite number of at least 1. Received: ratio={ratio!r}")
    if ratio < 1:
        hint = f"; for the fraction {ratio} say ratio={1 / ratio:g}" if ratio > 0 else ""
        raise InputError(
            "ratio is a divisor (width = channels / ratio) and must be at least 1. "
            f"Received: ratio={ratio!r}{hint}"
        )
    if width is not None and (not _is_integer(width) or width < 1):
        raise InputError(
            f"width must be None or an integer of at least 1. Received: width={width!r}"
        )
    if not _is_integer(divisor) or divisor < 1:
        raise InputError(f"divisor must be an integer of at least 1. Received: divisor={divisor!r}")


def standardize_ratio(ratio: float) -> float:
    """A ratio as a Python number that reads the same: what a configuration can hold.

    Args:
        ratio: A valid ratio, of Python or NumPy.

    Returns:
        An `int` or a `float`.

    Example:
        >>> standardize_ratio(np.float32(1.1)), standardize_ratio(np.int64(4))
        (1.1, 4)
    """
    return int(ratio) if _is_integer(ratio) else float(str(ratio))


def _is_integer(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
