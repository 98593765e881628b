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

# What Keras and TensorFlow write around what they have to say: the bold type, the call and its
# arguments, the lines of code up to the type of the error, the nodes of a graph.
_AROUND = re.compile(
    r"\x1b\[\d*m|Exception encountered when calling [^\n]+\.call\(\)\.|"
    r"\nArguments received by [^\n]+\.call\(\):.*|"
    r"\A\s*in user code:\n(?:\s*\n|    [^\n]*\n)*?    \w+: |"
    r"\{\{function_node [^}]*\}\} ?|\s*\[\[\{\{node [^}]*\}\}.*|\s*\[Op:[^]]*\](?: name: ?)?",
    re.DOTALL,
)
_INSIDE = "Exception encountered: "  # before what happens inside each object of a file
# Lines of a stack trace, or above it. Its code is indented, and so is nothing that is said.
_TRACE = re.compile(
    r"\s.*|Graph execution error:|Detected at node .*|.*\(most recent call last\):|"
    r"<stack traces unavailable>|\d+ root error\(s\) found\."
)
_LENGTH = 300  # of a reason: TensorFlow lists all labels of a batch


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


def reason(error: BaseException) -> str:
    """Returns the sentence of an exception that explains it, or the name of its type.

    That is the first line, without what Keras and TensorFlow write around it: the call, the bold
    type, stack traces, nodes of a graph, the objects that contain what cannot be loaded.
    """
    text = _AROUND.sub("", str(error)).rpartition(_INSIDE)[2].partition(" Full object config: ")[0]
    lines = text.strip().splitlines()
    if any("(most recent call last):" in line for line in lines):
        lines = [line for line in lines if not _TRACE.fullmatch(line)]
    said = [line.strip() for line in lines if line.strip()]
    if not said:
        return type(error).__name__
    # "The following argument is invalid:" alone explains nothing.
    text = " ".join(said[: 2 if said[0].endswith(":") else 1])
    return text if len(text) <= _LENGTH else f"{text[: _LENGTH - 3]}..."


@contextmanager
def keras_errors(rule: str, received: str) -> Iterator[None]:
    """Turns what Keras or its backend raises, which may be of many types, into an `InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{rule}. Received: {received}, for which Keras raises: {reason(error)}"
        ) from error


@contextmanager
def user_code(rule: str, received: object) -> Iterator[None]:
    """Turns whatever the user's code raises into an `InputError`."""
    try:
        yield
    except (Exception, SystemExit) as error:  # the code may also exit
        raise InputError(
            f"{rule}. Received: {received!r}, which raises {type(error).__name__}: {reason(error)}"
        ) from error
