"""The trials that a search has begun, so that it knows which ones its interruptions met."""

import os
from collections import Counter
from collections.abc import Container, Iterable
from pathlib import Path

from keras_se.errors import InputError, warn
from keras_se.files import replace_file
from keras_se.untrusted import read_file
from tuning.trials.records import SearchWarning

_MAX_LOG = 2**26  # bytes; it has a line for each trial that an interruption met
MANY = 3  # endings of the search under a trial, after which it is run last


class Begun:
    """A file with a line for each start of a trial; a trial with a record has no line.

    An interruption is no failure: a trial without a record always runs again. One that may have
    brought the search to its end several times runs after all others.
    """

    def __init__(self, path: Path, recorded: Container[str]) -> None:
        self._met = Counter(key for key in _lines(path) if key not in recorded)
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
        started = Counter(_lines(self._path)) - Counter(keys)
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


def _lines(path: Path) -> list[str]:
    """Returns the keys in a file; what a full disk left of one only names no trial."""
    try:
        return read_file(path, _MAX_LOG).decode(errors="replace").split()
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise InputError(
            f"The log of a search must be a file that it wrote. Received: {path}: {error}"
        ) from error
