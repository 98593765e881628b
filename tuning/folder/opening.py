"""How the folder of a search is opened: as a new one, or to go on in it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuning.folder.search_folder import SearchFolder, folder_errors, open_folder, stored_threads


@dataclass(frozen=True)
class Opening:
    """The folder of a search, and what may be done to what is in it, as `search` takes it.

    Attributes:
        path: The folder.
        accept_change: Whether a changed job may use it.
        retry_failed: Whether records of failures are set aside.
        overwrite: Whether an existing search is renamed.
    """

    path: Path
    accept_change: bool
    retry_failed: bool
    overwrite: bool

    @property
    def threads(self) -> int | None:
        """The number of threads that the search began with; `None` for a new one."""
        with folder_errors(self.path):
            return None if self.overwrite else stored_threads(self.path)

    @property
    def is_new(self) -> bool:
        """Whether it has no records: with records the job has passed all checks before."""
        return self.overwrite or not any((self.path / "records").glob("*.json"))

    @contextmanager
    def opened(
        self, fingerprint: Mapping[str, Any], description: Mapping[str, Any]
    ) -> Iterator[SearchFolder]:
        """Yields the folder, if it is of a job with this fingerprint, with the job written."""
        with folder_errors(self.path), open_folder(self.path, self.overwrite) as folder:
            folder.match_job(fingerprint, self.accept_change)
            folder.write_job(description)
            if self.retry_failed:
                folder.records.set_failed_aside()
                if description.get("deployed") is not None:
                    folder.deployed.set_failed_aside()
            yield folder
