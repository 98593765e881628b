"""The errors that are meant for the person at the keyboard.

`InputError` and `MissingExtraError` each hold one sentence: the rule that was expected, what was
received, and the remedy if there is one. The command line prints that sentence and exits with 2;
any other exception is a fault of ours.
"""

import importlib
from types import ModuleType


class InputError(ValueError):
    """An argument, a file or an array that breaks a rule; its message names the rule."""


class MissingExtraError(ImportError):
    """A package that belongs to an extra of `keras-se` is not installed."""


def import_extra(module: str, extra: str) -> ModuleType:
    """Imports `module`, or names the extra that brings it.

    Args:
        module: Dotted name of a module of an optional dependency.
        extra: Name of the extra of `keras-se` that installs it.

    Returns:
        The module.

    Raises:
        MissingExtraError: If the package is not installed.

    Example:
        >>> import_extra("json", "litert").dumps([1])
        '[1]'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"This needs the package `{module.split('.')[0]}`, which is not installed. "
            f"Install it with: pip install 'keras-se[{extra}]'"
        ) from error
