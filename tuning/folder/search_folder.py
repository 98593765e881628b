"""The folder of a search: its lock, its job and its files."""

import errno
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import tomli_w

from keras_se.errors import InputError
from keras_se.files import free_name, refuse_existing, replace_file
from keras_se.untrusted import read_file, read_json
from tuning.deployed.record import DeployedRecord
from tuning.trials.disk import is_full_disk
from tuning.trials.job import MAX_JOB
from tuning.trials.records import Records, TrialRecord

_PARTS = ("records", "curves", "weights")
BEGUN = "begun.log"
_MAX_FINGERPRINT = 2**26  # bytes
_FINGERPRINT, _JOB, _LOCK = "fingerprint.json", "job.toml", ".lock"


class SearchFolder:
    """The folder of one search; use `open_folder` to create it."""

    def __init__(self, path: Path) -> None:
        self.path, self.fingerprint = path, ""
        for name in _PARTS:
            (path / name).mkdir(exist_ok=True)
        # A killed process leaves these. The lock ensures that no other one writes them now.
        for temporary in path.rglob(".*.tmp*"):
            if temporary.is_file():
                temporary.unlink()

    @functools.cached_property
    def records(self) -> Records[TrialRecord]:
        """The records in the folder; damaged ones are set aside now."""
        return Records(self.path / "records", TrialRecord)

    @functools.cached_property
    def deployed(self) -> Records[DeployedRecord]:
        """The records of files that were judged; damaged ones are set aside now."""
        return Records(self.path / "deployed", DeployedRecord)

    def match_job(self, fingerprint: Mapping[str, Any], accept_change: bool) -> str:
        """Raises if the folder belongs to another job; returns the hash of the fingerprint."""
        stored = _stored(self.path)
        changes = [] if stored is None else _differences(stored["fingerprint"], fingerprint)
        accepted = [] if stored is None else stored["accepted"]
        if changes and not accept_change:
            raise InputError(
                "A search must resume with the job that it began with: give a new directory, or "
                "accept_change to keep all records, or overwrite to rename the folder aside. "
                f"Received: {self.path} with {'; '.join(changes)}"
            )
        if changes:
            when = datetime.now(UTC).isoformat(timespec="seconds")
            # Records from before the change stay, so the folder notes what changed.
            accepted = [*accepted, {"when": when, "changes": changes}]
        if stored is None or changes:
            content = json.dumps({"fingerprint": fingerprint, "accepted": accepted}, indent=2)
            replace_file(self.path / _FINGERPRINT, content.encode())
        content = json.dumps(fingerprint, sort_keys=True)
        self.fingerprint = hashlib.sha256(content.encode()).hexdigest()[:12]
        return self.fingerprint

    def write_job(self, content: Mapping[str, Any]) -> None:
        """Writes the job as a file that the command line can run."""
        text = tomli_w.dumps(_without_none(content)).encode()
        path = self.path / _JOB
        if not path.exists() or _content(path) != text:
            replace_file(path, text)


def _content(path: Path) -> bytes | None:
    try:
        return read_file(path, MAX_JOB)
    except ValueError:  # it is no job, so it differs from one
        return None


@contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Turns what the system says of the folder of a search, or of its disk, into a sentence."""
    try:
        yield
    except (OSError, ValueError) as error:
        if isinstance(error, InputError) or not _is_about(error, folder):
            raise
        name = getattr(error, "filename", None) or str(folder)
        raise InputError(
            "The folder of a search must be one that can be read and written, with room on its "
            "disk. Mend that, and the same call goes on with its records; or give another one. "
            f"Received: {name!r}: {getattr(error, 'strerror', None) or error}"
        ) from error


def _is_about(error: Exception, folder: Path) -> bool:
    if "\0" in str(folder):  # for which the system is not even asked
        return True
    if not isinstance(error, OSError):
        return False
    if not isinstance(error.filename, str | os.PathLike):
        # A write knows no name.
        return is_full_disk(error) or error.errno in (errno.EFBIG, errno.EIO)
    path, own = Path(error.filename).absolute(), folder.absolute()
    return path == own or own in path.parents or path in own.parents


@contextmanager
def open_folder(folder: Path, overwrite: bool = False) -> Iterator[SearchFolder]:
    """Opens the folder of a search, for one process at a time."""
    # Refuses the working directory and those above it; the folder itself may exist.
    refuse_existing(folder, overwrite=True)
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"The directory of a search must be a folder. Received: {folder}")
    _check_content(folder)
    if folder.exists() and overwrite:
        with _locked(folder):  # a running search must keep its folder
            pass
        folder.rename(free_name(folder))
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder):
        yield SearchFolder(folder)


def _locked(folder: Path) -> AbstractContextManager[Any]:
    try:
        return filelock.FileLock(folder / _LOCK, blocking=False).acquire()
    except filelock.Timeout as error:
        raise InputError(
            f"One search at a time can use a folder. Received: {folder}, which is in use"
        ) from error


def stored_threads(folder: Path) -> int | None:
    """Returns the number of threads that a search began with; `None` without a search."""
    stored = _stored(folder)
    return None if stored is None else stored["fingerprint"].get("threads")


def _stored(folder: Path) -> dict[str, Any] | None:
    path = folder / _FINGERPRINT
    if not path.exists():
        return None
    try:
        stored = read_json(path, _MAX_FINGERPRINT)
        if not isinstance(stored["fingerprint"], dict) or not isinstance(stored["accepted"], list):
            raise ValueError("it holds something else")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            "The fingerprint of a search must be a complete JSON file. Move it away to use the "
            f"folder for this job. Received: {path}: {error}"
        ) from error
    return stored


def _check_content(folder: Path) -> None:
    if not folder.exists() or (folder / _FINGERPRINT).exists():
        return
    # The fingerprint was damaged, and the user has moved it away, as we say.
    if all((folder / name).is_dir() for name in _PARTS):
        return
    foreign = sorted({path.name for path in folder.iterdir()} - {_JOB, _LOCK, BEGUN, *_PARTS})
    # A process killed before the first fingerprint leaves temporary files.
    foreign = [name for name in foreign if not name.startswith((f".{_JOB}.", f".{_FINGERPRINT}."))]
    if foreign:
        raise InputError(
            "The directory of a search must be new, empty, or the folder of a search. "
            f"Received: {folder}, which holds {', '.join(foreign[:5])}"
        )


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Returns a line for each difference: where it is, the old and the new value."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        names = [*old, *(name for name in new if name not in old)]
        return [
            line
            for name in names
            for line in _differences(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))
        ]
    return [] if old == new else [f"{path}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _without_none(content: Any) -> Any:
    """Drops entries that are `None`, which TOML lacks; in a list they become a string."""
    if isinstance(content, Mapping):
        return {name: _without_none(v) for name, v in content.items() if v is not None}
    if isinstance(content, list):
        return ["none" if value is None else _without_none(value) for value in content]
    return content
