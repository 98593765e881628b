"""A log file for each attempt at a trial, so that a trial that crashes is not retried forever."""

from datetime import UTC, datetime
from pathlib import Path

from tuning.trials.durable import write_durably

MAX_ATTEMPTS = 2
_TAIL = 20  # lines of the last log in the message


class Attempts:
    """The log files of all attempts at the trials of a search."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def begin(self, key: str) -> Path:
        """Creates the log file of a new attempt at a trial, and returns its path."""
        # The file exists before the trial starts: it must survive a crash of the whole process.
        path = self.folder / f"{key}-{len(self.of(key)) + 1}.log"
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        write_durably(path, f"begun {begun}\n".encode(), "attempt")
        return path

    def of(self, key: str) -> list[Path]:
        """Returns the log files of the attempts at a trial, in order."""
        # The "-" keeps seed 1 ("k-s1") apart from seed 10 ("k-s10").
        return sorted(self.folder.glob(f"{key}-*.log"))

    def forget(self, key: str) -> None:
        """Deletes the log files of a trial that has completed or that the user interrupted."""
        for path in self.of(key):
            path.unlink(missing_ok=True)

    def why_no_more(self, key: str) -> str | None:
        """Returns why a trial is not attempted again, or `None` if attempts are left."""
        attempts = self.of(key)
        if len(attempts) < MAX_ATTEMPTS:
            return None
        # The first line is our own, with the time.
        said = attempts[-1].read_text(errors="replace").splitlines()[1:][-_TAIL:]
        wrote = f"; the last one wrote: {' | '.join(said)}" if said else ""
        return (
            f"{len(attempts)} attempts ended without a record; remove this one and "
            f"attempts/{key}-* to try again{wrote}"
        )
