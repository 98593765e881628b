"""Which weights stay: those of the best trials, and of fresh seeds for `SearchResult.model`."""

import heapq
from collections.abc import Iterable
from pathlib import Path

from keras_se.files import replace_file
from tuning.choice.scores import as_loss
from tuning.trials.records import FRESH, TrialRecord, run_key
from tuning.trials.training import weights_path


class KeptWeights:
    """Deletes the weights of a trial as soon as enough others are better."""

    def __init__(
        self, folder: Path, number: int, direction: str, records: Iterable[TrialRecord]
    ) -> None:
        self._folder, self._number, self._direction = folder, number, direction
        self._best: list[tuple[float, str]] = []  # a heap, the worst first
        for record in records:
            self.add(record)

    def add(self, record: TrialRecord, weights: bytes | None = None) -> None:
        """Takes account of a trial, and of its weights if they are not on the disk yet."""
        key, worse = run_key(record.candidate, record.seed), ""
        if record.score is not None and record.seed < FRESH:
            heapq.heappush(self._best, (-as_loss(record.score, self._direction), key))
            if len(self._best) > self._number:
                worse = heapq.heappop(self._best)[1]
        if weights is not None and key != worse:
            replace_file(weights_path(self._folder, key), weights)
        if worse and (weights is None or key != worse):
            weights_path(self._folder, worse).unlink(missing_ok=True)
