"""The trials that a search has begun, so that it knows which ones its interruptions met."""

import os
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path

from keras_se.errors import warn
from keras_se.files import replace_file
from tuning.trials.records import SearchWarning

MANY = 3  # endings of the search under a trial, after which it is run last


class Begun:
    """A file with a line for each start of a trial; a trial with a record has no line.

    An interruption is no failure: a trial without a record always runs again. One that may have
    brought the search to its end several times runs after all others.
    """

    def __init__(self, path: Path, recorded: Container[str]) -> None:
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        self._met = Counter(key for key in lines if key and key not in recorded)
        self._path = path
        replace_file(path, "".join(f"{key}\n" for key in self._met.elements()).encode())

    def begin(self, key: str) -> None:
        """Notes that a trial starts."""
        with self._path.open("a") as file:
            file.write(f"{key}\n")
            file.flush()
            os.fsync(file.fileno())  # or a trial that takes the machine down leaves no line

    def excuse(self, keys: Iterable[str]) -> None:
        """Forgets the last start of trials that the user has interrupted."""
        started = Counter(self._path.read_text().split()) - Counter(keys)
        replace_file(self._path, "".join(f"{key}\n" for key in started.elements()).encode())

    def is_late(self, key: str, label: str) -> bool:
        """Returns whether a trial runs after all others, and says so."""
        if self._met[key] < MANY:
            return False
        warn(
            "A trial must leave the search alive; with workers=1 one that crashes ends it. "
            f"Received: {label}, {key}, during which the search ended without notice "
            f"{self._met[key]} times: it runs last",
            SearchWarning,
        )
        return True
