"""What another process can import: objects by `package.module:name`."""

import importlib
import inspect
import re
from typing import Any

from keras_se.errors import InputError

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_reference(value: Any) -> bool:
    """Whether a value has the form `package.module:name`.

    Args:
        value: Anything.

    Returns:
        The answer.

    Example:
        >>> is_reference("json:dumps"), is_reference("a.npz"), is_reference(3)
        (True, False, False)
    """
    return isinstance(value, str) and _REFERENCE.fullmatch(value) is not None


def resolve(what: str, reference: str) -> Any:
    """Imports the object that a reference names.

    Args:
        what: What it serves as, for the message.
        reference: `package.module:name`.

    Returns:
        The object.

    Raises:
        InputError: If it has another form, or cannot be imported.

    Example:
        >>> resolve("loss", "math:sqrt")(4.0)
        2.0
    """
    if not is_reference(reference):
        raise InputError(f"{what} is named as package.module:name. Received: {what}={reference!r}")
    module, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (Exception, SystemExit) as error:  # the user's own code
        raise InputError(
            f"{what} given as package.module:name must be importable. "
            f"Received: {reference!r}, which raises {type(error).__name__}: {error}"
        ) from error
    return found


def qualified_name(value: Any) -> str:
    """The name of a function or class where it is defined; of another object that of its class.

    Args:
        value: Anything.

    Returns:
        The name.

    Example:
        >>> qualified_name(str.upper), qualified_name(3)
        ('str.upper', 'int')
    """
    name: str = value.__qualname__ if hasattr(value, "__qualname__") else type(value).__qualname__
    return name


def reference_to(value: Any) -> str | None:
    """The reference under which another process finds an object.

    Args:
        value: A function, a class, or a reference, which is returned as it is.

    Returns:
        `package.module:name`, or `None` where there is none: for lambdas, for functions inside of
        functions, and for what is defined in a script or a notebook.

    Example:
        >>> import json
        >>> reference_to(json.dumps), reference_to(lambda: 1)
        ('json:dumps', None)
    """
    if is_reference(value):
        return str(value)
    if not (hasattr(value, "__module__") and hasattr(value, "__qualname__")):
        return None
    module, name = value.__module__, value.__qualname__
    if module == "__main__" or not is_reference(f"{module}:{name}"):
        return None
    try:
        found = resolve("object", f"{module}:{name}")
    except InputError:
        return None
    is_method = inspect.ismethod(value) and found == value  # bound to a class, anew at each access
    return f"{module}:{name}" if found is value or is_method else None
