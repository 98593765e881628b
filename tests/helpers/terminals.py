"""Standard error as a terminal, or as what nobody looks at."""

import io
import os
import re
import select
import sys
import threading
from contextlib import contextmanager

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """A pseudo-terminal; `text` is what was written to it, without its codes."""

    def __init__(self):
        self._end, self._start = os.openpty()
        self.file = os.fdopen(self._start, "w", buffering=1)
        self._read = bytearray()
        self._thread = threading.Thread(target=self._drain)
        self._thread.start()

    def _drain(self):
        # Not until the other end is closed: a process that was started meanwhile may hold it.
        while select.select([self._end], [], [], 0.1)[0] or not self.file.closed:
            if select.select([self._end], [], [], 0)[0]:
                try:
                    self._read += os.read(self._end, 1 << 16)
                except OSError:  # nobody holds it
                    break
        os.close(self._end)

    def close(self):
        self.file.close()
        self._thread.join()

    @property
    def raw(self):
        return self._read.decode()

    @property
    def lines(self):
        """What was drawn, one after the other, without repetitions."""
        drawn = [line.rstrip() for line in re.split(r"[\r\n]+", CODES.sub("", self.raw))]
        return list(dict.fromkeys(filter(None, drawn)))


@contextmanager
def terminal(monkeypatch, width=80):
    """Makes standard error a terminal; what it shows can be read after the end."""
    shown = Terminal()
    with monkeypatch.context() as patch:
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "NO_COLOR"):
            patch.delenv(name, raising=False)
        patch.setenv("TERM", "xterm")
        patch.setenv("COLUMNS", str(width))
        patch.setattr(sys, "stderr", shown.file)
        try:
            yield shown
        finally:
            shown.close()


@contextmanager
def pipe(monkeypatch):
    """Makes standard error a stream that is no terminal."""
    stream = io.StringIO()
    with monkeypatch.context() as patch:
        for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            patch.delenv(name, raising=False)
        patch.setattr(sys, "stderr", stream)
        yield stream
