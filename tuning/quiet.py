"""Keeps the chatter of native libraries off the screen, and at hand for when something breaks."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def native_stderr_to_file() -> Iterator[Path]:
    """Sends what C++ code writes to standard error into a temporary file.

    TensorFlow and LiteRT write there directly, past Python. Python's own `sys.stderr` goes on to
    reach the terminal.

    Yields:
        The path of the file. It is removed at the end of the block.
    """
    descriptor, name = tempfile.mkstemp(prefix="keras-se-", suffix=".log")
    sys.stderr.flush()
    terminal, python_stderr = os.dup(2), sys.stderr
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
