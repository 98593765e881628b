"""The files that a deployment has made, kept until it is done, so that a killed one goes on."""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from keras_se.files import replace_file
from keras_se.untrusted import read_file, read_json

_LIMIT = 2**31  # bytes of a file
_DIGITS = 24  # of a name


class KeptFiles:
    """Files in a folder beside the output; without one, nothing is kept.

    Args:
        path: The output.
        key: What identifies the job: files of another one are not taken.
    """

    def __init__(self, path: Path | None, key: Iterable[bytes]) -> None:
        self._folder = None if path is None else path.with_name(f".{path.name}.tries")
        digest = hashlib.sha256()
        for part in key:
            digest.update(hashlib.sha256(part).digest())
        self._key = digest.hexdigest()

    def made(
        self, name: str, changed: Iterable[str], make: Callable[[], tuple[bytes, str]]
    ) -> tuple[bytes, str]:
        """Returns a file and its recipe, as they were made before, or else made now."""
        if self._folder is None:
            return make()
        text = json.dumps([self._key, name, *changed])
        base = self._folder / hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]
        known = _read(base)
        if known is None:
            known = make()
            _write(base, *known)
        return known

    def remove(self) -> None:
        """Removes all of them, also of other jobs, and nothing else."""
        if self._folder is None:
            return
        for suffix in (".json", ".tflite"):
            for path in self._folder.glob(f"{'[0-9a-f]' * _DIGITS}{suffix}"):
                path.unlink(missing_ok=True)
        with suppress(OSError):  # it is not there, or holds what is not ours
            self._folder.rmdir()


def _read(base: Path) -> tuple[bytes, str] | None:
    try:
        known = read_json(base.with_suffix(".json"), _LIMIT)
        content = read_file(base.with_suffix(".tflite"), _LIMIT)
    except (OSError, ValueError):
        return None
    is_whole = isinstance(known, dict) and isinstance(known.get("recipe"), str)
    if not is_whole or known.get("sha256") != hashlib.sha256(content).hexdigest():
        return None
    return content, known["recipe"]


def _write(base: Path, content: bytes, recipe: str) -> None:
    base.parent.mkdir(parents=True, exist_ok=True)
    known = {"recipe": recipe, "sha256": hashlib.sha256(content).hexdigest()}
    replace_file(base.with_suffix(".tflite"), content)
    replace_file(base.with_suffix(".json"), json.dumps(known).encode())
