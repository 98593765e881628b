"""What was begun: a file for each attempt at a trial, so that none is repeated for ever."""

from datetime import UTC, datetime
from pathlib import Path

from tuning.durable import write_durably

MAX_ATTEMPTS = 2
_TAIL = 20


class Attempts:
    """The attempts of a search's folder; a trial's process writes its output into their files.

    Args:
        folder: The folder of the attempts, which is made if it is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def begin(self, key: str) -> Path:
        """Notes an attempt before it begins.

        Args:
            key: Of the trial.

        Returns:
            The file.
        """
        path = self.folder / f"{key}-{len(self.of(key)) + 1}.log"
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        write_durably(path, f"begun {begun}\n".encode(), "attempt")
        return path

    def of(self, key: str) -> list[Path]:
        """The attempts at a trial so far.

        Args:
            key: Of the trial.

        Returns:
            Their files, in order.
        """
        return sorted(self.folder.glob(f"{key}-*.log"))

    def forget(self, key: str) -> None:
        """Removes the attempts at a trial: it is done, or was interrupted on purpose.

        Args:
            key: Of the trial.
        """
        for path in self.of(key):
            path.unlink(missing_ok=True)

    def why_no_more(self, key: str) -> str | None:
        """The cause of failure of a trial that has had all its attempts.

        Args:
            key: Of the trial.

        Returns:
            A sentence; `None` while there are attempts left.
        """
        attempts = self.of(key)
        if len(attempts) < MAX_ATTEMPTS:
            return None
        said = attempts[-1].read_text(errors="replace").splitlines()[1:][-_TAIL:]
        wrote = f"; the last one wrote: {' | '.join(said)}" if said else ""
        return (
            f"{len(attempts)} attempts ended without a record; remove this one and "
            f"attempts/{key}-* to try again{wrote}"
        )
