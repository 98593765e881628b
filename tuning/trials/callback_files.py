"""Callbacks that write files: each trial writes into a folder of its own."""

from pathlib import Path
from typing import Any

PLACEHOLDER = "{trial}"
# Attributes that hold the path, by the class of Keras. Others have it where they name `{trial}`.
_PATHS = {
    "BackupAndRestore": "backup_dir",
    "CSVLogger": "filename",
    "ModelCheckpoint": "filepath",
    "TensorBoard": "log_dir",
}


def move_files(callback: Any, trial: str) -> None:
    """Puts the name of a trial into the paths of a callback, which is already a copy.

    It stands where the path has `{trial}`; else a callback of Keras gets a folder of that name: in
    the folder of the logs or backups, or beside the file.
    """
    attributes = {k: v for k, v in vars(callback).items() if isinstance(v, str | Path)}
    for name, value in attributes.items():
        if PLACEHOLDER in str(value):
            _set(callback, name, type(value)(str(value).replace(PLACEHOLDER, trial)))
    for kind in type(callback).__mro__:
        name = _PATHS.get(kind.__name__) if kind.__module__.startswith("keras.") else None
        old = attributes.get(name or "")
        if name is None or old is None or PLACEHOLDER in str(old):
            continue
        is_folder = name.endswith("_dir")
        new = Path(old, trial) if is_folder else Path(old).parent / trial / Path(old).name
        # Others derive from it, such as the file inside of a folder of backups.
        for other, value in attributes.items():
            if str(value).startswith(str(old)):
                _set(callback, other, type(value)(f"{new}{str(value)[len(str(old)) :]}"))


def _set(callback: Any, name: str, path: str | Path) -> None:
    setattr(callback, name, path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
