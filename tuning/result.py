"""The result of a search: its records, the choice among them, and the winner."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from keras_se.display.page import Paged
from keras_se.display.text import Part
from keras_se.errors import InputError
from keras_se.files import write_files
from keras_se.untrusted import parse_json, read_file
from tuning.choice.ratio_fit import RatioFit
from tuning.choice.scores import Decision, Direction, as_loss
from tuning.data.trial_data import TrialData
from tuning.deployed.record import DeployedRecord
from tuning.oracles.hyperband import EPOCHS
from tuning.report.page import search_page
from tuning.report.partial import UNFINISHED, so_far
from tuning.report.tensorboard import write_tensorboard
from tuning.report.text import csv_text, result_parts, rows
from tuning.seeding import trial_seed
from tuning.trials.combination import Combination
from tuning.trials.job import Job
from tuning.trials.plain_values import from_plain
from tuning.trials.records import TrialRecord, run_key
from tuning.trials.trained import trained_model
from tuning.trials.training import fit_candidate, weights_path

_MAX_RESULT = 2**26  # bytes


@dataclass(frozen=True)
class Confirmation:
    """Scores of the winner on seeds that had no part in its choice.

    Attributes:
        seeds: The fresh seeds, without those that failed.
        mean: Mean score.
        deviation: Standard deviation of the scores over seeds; `None` with one seed.
        chosen_mean: Mean score on the seeds that decided the choice: the best of many, so too good.
        test: Mean of each metric on the test data, which the search never saw, by name.
    """

    seeds: tuple[int, ...]
    mean: float
    deviation: float | None
    chosen_mean: float
    test: Mapping[str, float]


@dataclass(frozen=True)
class SearchResult(Paged):
    """The outcome of `tuning.search`.

    Attributes:
        objective: Name of the rule of choice, as `search` takes it.
        metric: Name of the log that is the score.
        direction: `"min"` or `"max"`.
        epochs: Epochs per trial.
        seeds: Seeds of the first round, which every candidate was trained from.
        records: Every `TrialRecord`, in the order of candidates and seeds.
        chosen: Readable name of the winner.
        values: Its hyperparameters.
        plan: Its settings per site, for `keras_se.insert`; empty for the network without SE; `None`
            if the model places its blocks itself.
        placement: Placement of its blocks in residual units, for `insert`; `None` without blocks.
        decision: The `Decision` of the rule; `None` for a screening, with fewer than three seeds.
        sentence: The decision as a sentence.
        confirmation: The winner on fresh seeds; `None` if there were none, or if all failed.
        ratio_fit: Fit of the optimal ratio, for `StructuralRisk`; `None` where it does not apply.
        deployed: The `DeployedRecord`s of the files that were judged, if the search was to.
    """

    objective: str
    metric: str
    direction: Direction
    epochs: int
    seeds: tuple[int, ...]
    records: tuple[TrialRecord, ...]
    chosen: str
    values: Mapping[str, Any]
    plan: Mapping[str, Mapping[str, Any]] | None
    placement: str | None
    decision: Decision | None
    sentence: str
    confirmation: Confirmation | None = None
    ratio_fit: RatioFit | None = None
    deployed: tuple[DeployedRecord, ...] = ()
    job: Job | None = field(default=None, repr=False, compare=False)
    folder: Path | None = field(default=None, repr=False, compare=False)

    @property
    def tied(self) -> tuple[str, ...]:
        """Candidates that cannot be told from the best; in a screening, all that finished."""
        if self.decision is not None:
            return self.decision.tied
        return tuple(dict.fromkeys(r.label for r in self.records if r.completed))

    @property
    def finished(self) -> bool:
        """Whether the search has ended; if not, `chosen` is the best so far."""
        return not self.sentence.startswith(UNFINISHED)

    @property
    def passed(self) -> bool:
        """Whether the file of a candidate passes; true as well if none was to be judged."""
        return not self.deployed or any(record.passed for record in self.deployed)

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the winner if all its sites share them; empty without SE.

        Raises:
            InputError: If the sites differ, or if the model places its blocks itself.
        """
        plans = list((self.plan or {}).values())
        if self.plan is None or any(plan != plans[0] for plan in plans):
            raise InputError(
                "settings needs a plan that is the same for all sites; else use plan or values. "
                f"Received: the candidate {self.chosen!r}"
            )
        return plans[0] if plans else {}

    def model(self) -> keras.Model:
        """Returns the trained winner.

        It is that of the first fresh seed, an unbiased sample, or, without fresh seeds, of the best
        seed. It is trained again if its weights were not kept.

        Returns:
            A compiled model with the weights of its best epoch.

        Raises:
            InputError: If the result was read from JSON.
        """
        job, candidate = self._origin()
        folder = self.folder or Path()
        seeds = [record.seed for record in self._of_winner()]
        kept = [s for s in seeds if weights_path(folder, run_key(candidate.id, s)).exists()]
        return trained_model(job, candidate, [*kept, *seeds][0], folder)

    def retrain(
        self,
        seed: int = 0,
        *,
        train: Any = None,
        validation: Any = None,
        epochs: int | None = None,
        callbacks: Sequence[Any] = (),
    ) -> keras.Model:
        """Trains the winner again.

        Args:
            seed: The seed, as in the search.
            train: Training data that replace those of the search, such as all data.
            validation: Validation data, if `train` is given.
            epochs: Number of epochs, if it differs from the search.
            callbacks: Further callbacks.

        Returns:
            A compiled model after its last epoch.

        Raises:
            InputError: If the result was read from JSON.
        """
        job, candidate = self._origin()
        if train is not None:
            job = dataclasses.replace(job, data=_Given(train, validation))
        if epochs is not None:
            job = dataclasses.replace(job, epochs=epochs)
            # Hyperband stores the epochs of a trial in its values, which override the job's.
            own = {name: v for name, v in candidate.values.items() if name != EPOCHS}
            candidate = dataclasses.replace(candidate, values=own)
        with trial_seed(seed):
            return fit_candidate(job, candidate, seed, callbacks)[0]

    def parts(self) -> Iterator[Part]:
        """Yields the conclusion, then sentences, the candidates and the files."""
        yield from result_parts(self)

    def table(self) -> list[dict[str, Any]]:
        """Returns one row for each training, with its values, scores and metrics as columns."""
        return rows(self)

    def to_csv(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes the rows of `table` as a CSV file.

        Args:
            path: Where to write it.
            overwrite: Whether to replace an existing file; the old one is renamed.

        Raises:
            InputError: If the file exists or cannot be written.
        """
        write_files({path: csv_text(self).encode()}, overwrite)

    def to_tensorboard(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Writes a folder for TensorBoard: curves and hyperparameters, a run for each training.

        Its HParams page has a row for each candidate, with the mean over its seeds of the score at
        the best epoch, parameters, FLOPs, and metric, latency and size of files that were judged.

        Args:
            path: Where to write it; `tensorboard --logdir PATH` shows it.
            overwrite: Whether to replace an existing folder; the old one is renamed.

        Raises:
            InputError: If the folder exists.
            MissingExtraError: If TensorBoard is not installed.

        Source: `tensorboard.plugins.hparams`.

        Example: see `docs/search.md`.
        """
        write_tensorboard(self, path, overwrite)

    def page(self) -> str:
        """Returns the report as one page of HTML, with plots, that needs no network."""
        return search_page(self)

    def to_dict(self) -> dict[str, Any]:
        """Returns the result as plain values for JSON, without its schema."""
        records = [record.to_dict() for record in self.records]
        content: dict[str, Any] = _jsonable({**super().to_dict(), "records": records})
        return content

    @classmethod
    def from_folder(cls, directory: str | os.PathLike[str]) -> "SearchResult":
        """Returns the result in the folder of a search, or what it shows so far.

        Args:
            directory: The folder. It is only read.

        Returns:
            The result, which cannot train models. Of a search that has not finished, `sentence`
            says so.

        Raises:
            InputError: If the folder is not that of a search, or no trial has completed.

        Example: see `docs/search.md`.
        """
        folder = Path(directory)
        path = folder / "result.json"
        if not path.is_file():
            return cls(**so_far(folder), folder=folder)
        try:
            return dataclasses.replace(_read(read_file(path, _MAX_RESULT)), folder=folder)
        except (OSError, ValueError) as error:
            raise InputError(
                "A report needs the result.json that a search wrote. "
                f"Received: {str(path)!r}: {error}"
            ) from error

    @classmethod
    def from_json(cls, text: str) -> "SearchResult":
        """Returns the result that `to_json` wrote.

        Args:
            text: The text that `to_json` returned.

        Returns:
            The result, which cannot train models.

        Raises:
            InputError: If the text is not such a result.
        """
        try:
            return _read(text)
        except ValueError as error:
            raise InputError(
                f"from_json needs JSON text that to_json wrote. Received: {error}"
            ) from error

    def _origin(self) -> tuple[Job, Combination]:
        if self.job is None:
            raise InputError(
                "Only the result that a search returns has models. Run the same search again: it "
                "reuses its records. Received: a result that was read from JSON"
            )
        winner = self._of_winner()[0]
        return self.job, Combination(winner.candidate, winner.label, winner.values)

    def _of_winner(self) -> list[TrialRecord]:
        fresh = () if self.confirmation is None else self.confirmation.seeds
        found = [r for r in self.records if r.completed and r.values == self.values]

        def order(record: TrialRecord) -> tuple[bool, float]:
            if record.seed in fresh:
                return False, record.seed
            return True, as_loss(float(record.score or 0.0), self.direction)

        # Fresh seeds first: they had no part in the choice, and the best score is too good.
        return sorted(found, key=order)


class _Given(TrialData):
    def __init__(self, train: Any, validation: Any) -> None:
        # `TrialData` without validation expects `train` to be a source of all parts.
        super().__init__(train, train if validation is None else validation)
        self._validates = validation is not None

    def load(self, seed: int) -> tuple[Any, Any, Any]:
        train, validation, test = super().load(seed)
        return train, validation if self._validates else None, test


def _jsonable(value: Any) -> Any:
    """Replaces numbers that JSON lacks: NaN by `None`, infinity by an object."""
    if isinstance(value, Mapping):
        return {name: _jsonable(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(v) for v in value]
    # An infinite ratio has a meaning of its own, so it must not become null as well.
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else {"float": str(value)}
    return value


def _read(text: str | bytes) -> SearchResult:
    """Returns the result in JSON text; raises `ValueError` if there is none."""
    content = parse_json(text, object_hook=_infinity)
    if not isinstance(content, dict) or content.pop("schema", None) != SearchResult.schema:
        raise ValueError(f"its schema is not {SearchResult.schema}")
    # A result that was read has no job, and a folder only from its place.
    kept: dict[str, Any] = {"records": TrialRecord, "deployed": DeployedRecord}
    read = {name: content.pop(name, None) for name in kept}
    if not all(isinstance(v, list) for v in read.values()) or {"job", "folder"} & set(content):
        raise ValueError("it has other fields than a result")
    result: SearchResult = from_plain(SearchResult, {**content, "records": ()})
    found: Any = {name: tuple(map(kind.from_dict, read[name])) for name, kind in kept.items()}
    return dataclasses.replace(result, **found)


def _infinity(content: dict[str, Any]) -> Any:
    """Undoes what `_jsonable` makes of infinite numbers."""
    is_infinite = set(content) == {"float"} and content["float"] in ("inf", "-inf")
    return float(content["float"]) if is_infinite else content
