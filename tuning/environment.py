"""Redirects the output of native libraries to a file."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def native_stderr_to_file() -> Iterator[Path]:
    """Sends what C++ code writes to standard error to a temporary file; yields its path."""
    descriptor, name = tempfile.mkstemp(prefix="keras-se-", suffix=".log")
    # Buffered text of Python must still reach the terminal.
    sys.stderr.flush()
    terminal, python_stderr = os.dup(2), sys.stderr
    # TensorFlow and LiteRT write to descriptor 2 directly; `sys.stderr` keeps the terminal.
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    os.dup2(descriptor, 2)
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)
        sys.stderr.close()
        sys.stderr = python_stderr
        Path(name).unlink(missing_ok=True)


def other_modules() -> list[Path]:
    """Returns the files of other modules named `tuning` on the import path."""
    own = Path(__file__).resolve().parent
    found = (
        path
        for entry in dict.fromkeys(entry or os.curdir for entry in sys.path)
        for path in (Path(entry, "tuning.py"), Path(entry, "tuning", "__init__.py"))
    )
    return [path for path in found if path.is_file() and path.resolve().parent != own]
