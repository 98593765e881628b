"""The seed that all candidates share, so that they differ only in their SE blocks.

Keras draws missing seeds of initializers and Dropout layers from Python's `random`. An SE block
that drew from it would shift the seeds of all later layers. The seed of a block therefore derives
from the seed of the trial and the name of its site.
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
    """Sets the seed for everything that is built and trained inside the `with` block."""
    # Not `int` alone: NumPy's integers are valid seeds. `bool` is an `int`, but not a seed.
    is_integer = isinstance(seed, numbers.Integral) and not isinstance(seed, bool)
    if not is_integer or not 0 <= seed < 2**32:
        raise InputError(f"seed must be an integer from 0 to 2**32 - 1. Received: seed={seed!r}")
    token = _SEED.set(int(seed))
    try:
        reseed()
        yield
    finally:
        _SEED.reset(token)


def reseed() -> None:
    """Resets all random number generators to the seed of the trial, if there is one."""
    if (seed := _SEED.get()) is not None:
        keras.utils.set_random_seed(seed)


def site_seed(name: str) -> int | None:
    """Returns the seed of the SE block at a site, or `None` outside of `trial_seed`."""
    if (seed := _SEED.get()) is None:
        return None
    # Not `hash`, which differs between processes.
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1  # 31 bits: the block adds 1 for W2


def site_initializer(name: str) -> Any:
    """Returns the kernel initializer of the SE block at a site."""
    # Outside of a trial, draw a random seed as Keras does by default.
    seed = site_seed(name)
    return "glorot_uniform" if seed is None else keras.initializers.GlorotUniform(seed=seed)
