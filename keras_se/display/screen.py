"""What changes while a call runs: drawn on a terminal or in a notebook, lines elsewhere."""

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from keras_se.display.pace import clock

_PER_SECOND = 4  # drawings
_WHAT, _BAR = 42, 12  # columns; a line has at most 80
_FIRST_LINE, _RARELY = 10.0, 60.0  # seconds up to the first line, and between two at most
_one = threading.Lock()  # two threads must not draw over each other


class Screen:
    """Shows the state of a call from a thread, for the call itself may be in native code.

    `drawn` gives what to draw, `said` the line where nothing can be drawn. `after`: seconds for
    which nothing is shown. With `None` it is shown at once, the last drawing stays, and what others
    print goes above it.
    """

    def __init__(
        self,
        drawn: Callable[[], Any],
        said: Callable[[], str],
        after: float | None,
        console: Console | None = None,
    ) -> None:
        self._drawn, self._said, self._after = drawn, said, after
        self._file, self._owned = _standard_error()
        self.console = console or Console(
            file=self._file, highlight=False, markup=False, emoji=False
        )
        self._live = Live(
            console=self.console,
            get_renderable=drawn,
            refresh_per_second=_PER_SECOND,
            transient=after is not None,
            # Not from a thread, which cannot know what else is redirecting them.
            redirect_stdout=after is None and _is_terminal(sys.stdout),
            redirect_stderr=after is None and _is_terminal(sys.stderr),
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keras_se progress", daemon=True)

    @property
    def is_drawing(self) -> bool:
        """Whether something can be drawn, and lines need not tell it."""
        return self.console.is_interactive or self.console.is_jupyter

    def __enter__(self) -> Self:
        if self._after is None and self.console.is_interactive:
            self._live.start()
        else:
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        if self._thread.ident is not None:
            self._thread.join()
        else:
            self._live.stop()
        if self._owned is not None:
            self._owned.close()

    def _run(self) -> None:
        # What shows progress must not end the work: nobody may read it, or its file be closed.
        with suppress(OSError, ValueError):
            if self.is_drawing:
                if self._after is None or not self._over.wait(self._after):
                    self._draw()
            else:
                self._say()

    def _draw(self) -> None:
        while not _one.acquire(timeout=1 / _PER_SECOND):
            if self._over.is_set():
                return
        try:
            if self.console.is_jupyter:
                self._draw_in_notebook()
            else:
                with self._live:
                    self._over.wait()
        finally:
            _one.release()

    def _draw_in_notebook(self) -> None:
        # `Live` needs ipywidgets there, and catches what the cell prints.
        ipython: Any = importlib.import_module("IPython.display")
        handle = ipython.display(_alone(self._drawn()), display_id=True)
        while not self._over.wait(1 / _PER_SECOND):
            handle.update(_alone(self._drawn()))
        handle.update(_alone(self._drawn() if self._after is None else ""))

    def _say(self) -> None:
        wait = _FIRST_LINE
        while not self._over.wait(wait):
            line = f"{time.strftime('%H:%M:%S')} {self._said()}\n"
            # In one piece, for others write there, too.
            self._file.write(line)
            self._file.flush()
            wait = min(2 * wait, _RARELY)


def bar(what: str, share: float | None, counted: str, seconds: float | None) -> Table:
    """Returns a line with a bar, which pulses where the share of the work is not known."""
    line = Table.grid(padding=(0, 1))
    line.add_column(no_wrap=True, max_width=_WHAT)
    for _ in range(3):
        line.add_column(no_wrap=True)
    drawn = ProgressBar(1.0, share or 0.0, width=_BAR, pulse=share is None)
    line.add_row(what, drawn, counted, "" if seconds is None else f"time left {clock(seconds)}")
    return line


def _alone(drawn: Any) -> Table:
    """Returns what a notebook can show: not all that rich draws tells it how."""
    table = Table.grid()
    table.add_row(drawn)
    return table


def _standard_error() -> tuple[TextIO, TextIO | None]:
    """Returns standard error, and if it is a descriptor of our own, that to be closed."""
    stream = sys.stderr
    if stream is None:  # as without a console
        owned = open(os.devnull, "w")  # noqa: SIM115 (closed with the screen)
        return owned, owned
    try:
        is_plain = stream.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return stream, None
    if not is_plain:
        return stream, None
    # `capture_stderr` points the descriptor elsewhere while native code runs, which takes long.
    owned = os.fdopen(os.dup(2), "w", encoding=stream.encoding, errors="replace")
    return owned, owned


def _is_terminal(stream: Any) -> bool:
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False
