"""Objects that any process can import by a reference, `package.module:name`."""

import importlib
import inspect
import operator
import re
from contextlib import suppress
from typing import Any

from keras_se.errors import InputError, user_code

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_reference(value: Any) -> bool:
    """Returns whether a value has the form `package.module:name`."""
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def import_object(what: str, reference: str) -> Any:
    """Returns the object that a reference names."""
    if not is_reference(reference):
        raise InputError(
            f"{what} must have the form package.module:name. Received: {what}={reference!r}"
        )
    module, _, path = reference.partition(":")
    with user_code(f"{what} given as package.module:name must be importable", reference):
        return operator.attrgetter(path)(importlib.import_module(module))


def qualified_name(value: Any) -> str:
    """Returns the qualified name of a function or class, or else of the object's class."""
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def reference_to(value: Any) -> str | None:
    """Returns the reference of an object, or `None` if other processes cannot import it."""
    if is_reference(value):
        return str(value)
    if not (hasattr(value, "__module__") and hasattr(value, "__qualname__")):
        return None
    reference = f"{value.__module__}:{value.__qualname__}"
    # A script is `__main__` in its own process only. Names of lambdas and inner functions, with
    # `<lambda>` or `<locals>`, are no references.
    if value.__module__ == "__main__" or not is_reference(reference):
        return None
    with suppress(InputError):
        found = import_object("object", reference)
        # A method of a class is bound anew at each access, so it is equal but not identical.
        if found is value or (inspect.ismethod(value) and found == value):
            return reference
    return None
