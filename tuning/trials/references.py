"""References `package.module:name`, by which another process can import an object."""

import importlib
import inspect
import re
from typing import Any

from keras_se.errors import InputError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_reference(value: Any) -> bool:
    """Returns whether a value has the form `package.module:name`."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def resolve(what: str, reference: str) -> Any:
    """Imports the object that a reference names."""
    if not is_reference(reference):
        raise InputError(f"{what} is named as package.module:name. Received: {what}={reference!r}")
    module, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (Exception, SystemExit) as error:  # the import runs the user's code
        raise InputError(
            f"{what} given as package.module:name must be importable. "
            f"Received: {reference!r}, which raises {type(error).__name__}: {error}"
        ) from error
    return found


def qualified_name(value: Any) -> str:
    """Returns the qualified name of a function or class, or else of the object's class."""
    name: str = value.__qualname__ if hasattr(value, "__qualname__") else type(value).__qualname__
    return name


def reference_to(value: Any) -> str | None:
    """Returns the reference of an object, or `None` if other processes cannot import it."""
    if is_reference(value):
        return str(value)
    if not (hasattr(value, "__module__") and hasattr(value, "__qualname__")):
        return None
    module, name = value.__module__, value.__qualname__
    # A script is `__main__` in its own process only. Names of lambdas and inner functions,
    # with `<lambda>` or `<locals>`, are no references.
    if module == "__main__" or not is_reference(f"{module}:{name}"):
        return None
    try:
        found = resolve("object", f"{module}:{name}")
    except InputError:
        return None
    # A method of a class is bound anew at each access, so it is equal but not identical.
    is_method = inspect.ismethod(value) and found == value
    return f"{module}:{name}" if found is value or is_method else None
