"""Records of trials: one file for each candidate and seed, written once."""

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TypeVar

from keras_se.errors import warn
from keras_se.files import free_name, replace_file
from keras_se.untrusted import read_json
from tuning.trials.plain_values import from_plain

COMPLETED, FAILED = "completed", "failed"
# First seeds of the finalists and of the confirmation; `search` takes only seeds below them.
FINAL, FRESH = 1_000_000, 2_000_000
_MAX_RECORD = 2**24  # bytes
_VALUES = (str, int, float)  # of hyperparameters; bool is an int


class SearchWarning(UserWarning):
    """Warns that something in the folder of a search was damaged and has been set aside."""


@dataclass(frozen=True)
class TrialRecord:
    """One candidate, trained from one seed and measured.

    Attributes:
        candidate: ID of the candidate, a hash of its hyperparameters.
        label: Readable name of the candidate.
        values: Its hyperparameters.
        seed: Seed of the training.
        status: `"completed"` or `"failed"`.
        score: The metric at the best epoch, in its units; `None` if the trial failed. `val_loss` is
            without the penalties of regularizers.
        epoch: The epoch with the best score, from 1; its weights are kept.
        metrics: Logs of Keras at that epoch; empty if the trial failed.
        parameters: Number of parameters of the model; 0 if it could not be built.
        complexity: ΣC²/r over its SE blocks.
        flops: Floating-point operations of the model for one sample, as `keras_se.cost` counts
            them; `None` if it could not be built, or not all of its layers can be counted.
        seconds: Wall time.
        cause: Why the trial failed; empty if it did not.
        curve: File in the folder of the search with the metrics of each epoch as a JSON line.
        fingerprint: Hash of the job of the trial.
        test: Result of `Model.evaluate` on the test data, only for the fresh seeds of the winner.
    """

    candidate: str
    label: str
    values: Mapping[str, Any]
    seed: int
    status: str
    score: float | None = None
    epoch: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: int = 0
    complexity: float = 0.0
    seconds: float = 0.0
    cause: str = ""
    curve: str = ""
    fingerprint: str = ""
    test: Mapping[str, float] = field(default_factory=dict)
    flops: int | None = None

    @property
    def key(self) -> str:
        """Base name of its files."""
        return run_key(self.candidate, self.seed)

    @property
    def completed(self) -> bool:
        """Whether there is a score."""
        return self.status == COMPLETED

    @property
    def is_fresh(self) -> bool:
        """Whether it confirms the winner, and had no part in its choice."""
        return self.seed >= FRESH

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON; NaN and infinite metrics become `None`."""
        content = dataclasses.asdict(self)
        for name in ("metrics", "test"):
            content[name] = {k: v if math.isfinite(v) else None for k, v in content[name].items()}
        return content

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "TrialRecord":
        """Returns the record that `to_dict` described; metrics that were `None` are NaN.

        Raises:
            ValueError: If the content is not that of a record.
        """
        # Records from before 0.2.0 have no FLOPs.
        given = {"flops": None, **content} if isinstance(content, Mapping) else content
        record: TrialRecord = whole(cls, given)
        record._check()
        return record

    def _check(self) -> None:
        """Raises for fields of the right types that contradict each other."""
        if self.status not in (COMPLETED, FAILED):
            raise ValueError(f"its status is neither {COMPLETED!r} nor {FAILED!r}")
        costs = (self.parameters, self.complexity, self.seconds, self.flops or 0)
        if not all(math.isfinite(cost) and cost >= 0 for cost in costs):
            raise ValueError("parameters, complexity, seconds or flops is below 0 or not finite")
        # It names files, and a record may come from anywhere.
        if Path(self.candidate).name != self.candidate:
            raise ValueError("its candidate is no name of a file")
        if not all(isinstance(value, _VALUES) for value in self.values.values()):
            raise ValueError("a hyperparameter is neither a number nor text")
        # It is read from the folder of the search, and from no other.
        if self.curve and (Path(self.curve).is_absolute() or ".." in Path(self.curve).parts):
            raise ValueError("its curve is outside of the folder of the search")
        has_score = self.score is not None and math.isfinite(self.score)
        if self.completed != has_score:
            raise ValueError("a completed trial, and no other, has a score")


def whole(kind: type, content: Any) -> Any:
    """Returns the record with some content; raises `ValueError` unless it has all its fields."""
    names = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(content, Mapping) or set(content) != names:
        raise ValueError("it has other fields than a record")
    return from_plain(kind, content)


def run_key(candidate: str, seed: int, file_format: str = "") -> str:
    """Returns the base name of the files of one candidate and seed, or of its file in a format."""
    return f"{candidate}-s{seed}" + (f"-{file_format}" if file_format else "")


class Record(Protocol):
    """What `Records` keeps: a frozen dataclass with a key, whole in JSON."""

    @property
    def key(self) -> str:
        """Base name of its file."""

    @property
    def completed(self) -> bool:
        """Whether it holds a result, and not why there is none."""

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values for JSON."""

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Returns the record; raises `ValueError` if the content is not that of one."""


_Kept = TypeVar("_Kept", bound=Record)


class Records(Generic[_Kept]):
    """Records in the folder of a search. What has a record is never done again."""

    def __init__(self, folder: Path, kind: type[_Kept]) -> None:
        self.folder, self._kind = folder, kind
        folder.mkdir(exist_ok=True)
        self._known: dict[str, _Kept] = {}
        for path in sorted(folder.glob("*.json")):
            self._read(path)

    def __iter__(self) -> Iterator[_Kept]:
        return iter(list(self._known.values()))

    def get(self, candidate: str, seed: int, file_format: str = "") -> _Kept | None:
        """Returns the record of a candidate and seed, or of its file in a format, or `None`."""
        return self._known.get(run_key(candidate, seed, file_format))

    def put(self, record: _Kept) -> None:
        """Writes a record that is not there yet."""
        content = json.dumps(record.to_dict(), indent=2, allow_nan=False)
        replace_file(self.folder / f"{record.key}.json", content.encode())
        self._known[record.key] = record

    def set_failed_aside(self) -> None:
        """Renames the records of failures, which then are tried again."""
        for key, record in list(self._known.items()):
            if not record.completed:
                path = self.folder / f"{key}.json"
                path.rename(free_name(path.with_suffix(".failed")))
                del self._known[key]

    def _read(self, path: Path) -> None:
        try:
            record = read_record(path, self._kind)
        # A full disk can cut a file off; the other records are still good.
        except (ValueError, IsADirectoryError) as error:
            aside = path.rename(free_name(path.with_suffix(".damaged")))
            warn(
                f"A record of a search must be a whole JSON file. Received: {path}: {error}; it is "
                f"now {aside.name}, and is made again",
                SearchWarning,
            )
        else:
            self._known[path.stem] = record


def read_record(path: Path, kind: type[_Kept]) -> _Kept:
    """Returns the record in a file; raises `ValueError` if there is no whole one."""
    record = kind.from_dict(read_json(path, _MAX_RECORD))
    # A renamed copy must not pass for the result of another trial.
    if record.key != path.stem:
        raise ValueError("its name is that of another record")
    return record
