"""The errors and warnings of the library that address the user.

The command line prints their message and exits with 2. Any other exception is a bug.
"""

import importlib
import inspect
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

_AROUND = re.compile(
    r"\A\s*in user code:\n(?:\s*\n|    .*\n)*?    \w+: |"
    r"Exception encountered when calling .+\.call\(\)\.\s*|\x1b\[\d*m"
)
_INSIDE = "Exception encountered: "  # before what happens inside each object of a file


class InputError(ValueError):
    """An argument, a file or an array breaks a rule; the message names the rule."""


class MissingExtraError(ImportError):
    """A package of an optional extra of `keras-se` is not installed."""


class PrecisionWarning(UserWarning):
    """A model computes in half precision, and its float32 twin is taken."""


class SiteWarning(UserWarning):
    """A part of a model may be Squeeze-and-Excitation, and is not treated as such."""


def warn(message: str, category: type[Warning]) -> None:
    """Warns at the line of the user's code that called this library."""
    level, frame = 1, inspect.currentframe()
    while frame is not None and _is_own(frame.f_globals.get("__name__")):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _is_own(module: object) -> bool:
    return str(module).partition(".")[0] in ("keras_se", "tuning")


def import_extra(module: str, extra: str) -> ModuleType:
    """Imports a module of an optional dependency, or raises `MissingExtraError`."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # An installed package that lacks a dependency of its own is not a missing extra.
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"This needs the package `{module.split('.')[0]}`, which is not installed. "
            f"Install it with: pip install 'keras-se[{extra}]'"
        ) from error


def first_line(error: BaseException) -> str:
    """Returns the first line of what an exception says, or the name of its type.

    Without what Keras and TensorFlow write around it: the call, the lines of code, the bold type,
    the objects that contain what cannot be loaded, and its configuration.
    """
    said = _AROUND.sub("", str(error)).rpartition(_INSIDE)[2].strip()
    lines = said.partition(" Full object config: ")[0].splitlines()
    return next(iter(lines), type(error).__name__)


@contextmanager
def keras_errors(rule: str, received: str) -> Iterator[None]:
    """Turns what Keras or its backend raises, which may be of many types, into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{rule}. Received: {received}, for which Keras raises: {first_line(error)}"
        ) from error


@contextmanager
def user_code(rule: str, received: object) -> Iterator[None]:
    """Turns whatever the user's code raises into an `InputError`."""
    try:
        yield
    except (Exception, SystemExit) as error:  # the code may also exit
        raise InputError(
            f"{rule}. Received: {received!r}, which raises {type(error).__name__}: {error}"
        ) from error
