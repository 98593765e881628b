"""Standard error, kept quiet while native code runs."""

import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# The descriptor belongs to the whole process: two threads must not restore it crosswise.
_LOCK = threading.RLock()
_SHOWN = 20  # lines


@contextmanager
def capture_stderr() -> Iterator[None]:
    """Hides what native code writes to standard error; an exception carries the end as a note."""
    if sys.stderr is None:  # as without a console
        yield
        return
    with _LOCK, tempfile.TemporaryFile() as log:
        sys.stderr.flush()
        # TensorFlow and LiteRT write to the descriptor directly. `sys.stderr` stays what it is, for
        # whoever logs for the first time in here will keep it.
        terminal = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception as error:
            log.seek(0)
            lines = log.read().decode(errors="replace").splitlines()
            if lines:
                error.add_note("\n".join(["On standard error:", *lines[-_SHOWN:]]))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            os.close(terminal)
