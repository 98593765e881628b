"""The seed that all candidates share, so that they differ in their SE blocks and in nothing else.

Keras draws the seed of each initializer and of each Dropout that has none from Python's `random`.
A block that drew from it too would shift what the layers after it get. So blocks take theirs from
the seed of the trial and from the name of their site, and the stream stays with the base network.
"""

import hashlib
import numbers
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import keras

from keras_se.errors import InputError

_SEED: ContextVar[int | None] = ContextVar("trial_seed", default=None)


@contextmanager
def trial_seed(seed: int) -> Iterator[None]:
    """Within it, what is built and trained starts from this seed.

    Args:
        seed: An integer from 0 to 2³² − 1; 0 is a seed like any other.

    Yields:
        Nothing. Python's, NumPy's and the backend's random numbers begin anew on entry.

    Raises:
        InputError: If the seed is none.

    Example:
        >>> with trial_seed(0):
        ...     current_seed()
        0
    """
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not is_integer or not 0 <= seed < 2**32:
        raise InputError(f"seed must be an integer from 0 to 2**32 - 1. Received: seed={seed!r}")
    token = _SEED.set(int(seed))
    try:
        reseed()
        yield
    finally:
        _SEED.reset(token)


def current_seed() -> int | None:
    """The seed of the trial; `None` outside of `trial_seed`.

    Returns:
        The seed.

    Example:
        >>> current_seed() is None
        True
    """
    return _SEED.get()


def reseed() -> None:
    """Begins the random numbers of the trial anew; outside of `trial_seed` does nothing.

    Example:
        >>> import random
        >>> with trial_seed(0):
        ...     first = random.random()
        ...     reseed()
        ...     first == random.random()
        True
    """
    seed = current_seed()
    if seed is not None:
        keras.utils.set_random_seed(seed)


def site_seed(name: str) -> int | None:
    """The seed of the SE block at a site, whatever other sites there are.

    Args:
        name: Name of the site.

    Returns:
        An integer from 0 to 2³¹ − 1, the same in every process; `None` outside of `trial_seed`.

    Example:
        >>> with trial_seed(0):
        ...     site_seed("se_1") == site_seed("se_1"), site_seed("se_1") == site_seed("se_2")
        (True, False)
    """
    seed = current_seed()
    if seed is None:
        return None
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # room for the block, which adds 1 for W2


def site_initializer(name: str) -> Any:
    """The initializer of the kernels of the SE block at a site.

    Args:
        name: Name of the site.

    Returns:
        Glorot's uniform one with the seed of the site; outside of `trial_seed` without a seed.

    Source: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010, equation 16.

    Example:
        >>> site_initializer("se_1")
        'glorot_uniform'
    """
    seed = site_seed(name)
    return "glorot_uniform" if seed is None else keras.initializers.GlorotUniform(seed=seed)
