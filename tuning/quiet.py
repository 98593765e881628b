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
