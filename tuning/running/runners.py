"""Runs trials on a backend; the only writer of their records, curves and weights."""

import dataclasses
import queue
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Self

from keras_se.errors import InputError, warn
from tuning.folder.begun import Begun
from tuning.folder.kept_weights import KeptWeights
from tuning.folder.search_folder import BEGUN, SearchFolder
from tuning.running.backends import Backend, not_loaded, unpickled
from tuning.running.settings import SearchSettings
from tuning.slots.slot import Ended
from tuning.trials.perform import Epochs, Outcome, Run
from tuning.trials.records import FRESH, SearchWarning, TrialRecord, run_key

MAX_ATTEMPTS = 2  # of a trial whose own process dies
_PATIENCE = 5.0  # seconds after which new workers of a cluster are noticed


class Runner:
    """Runs trials: call `start` while a place is `free`, then `wait` for records."""

    def __init__(
        self, backend: Backend, settings: SearchSettings, folder: SearchFolder, direction: str
    ) -> None:
        self._backend, self._settings, self._folder = backend, settings, folder
        self._kept = KeptWeights(folder.path, settings.keep_weights, direction, folder.records)
        known = {run_key(record.candidate, record.seed) for record in folder.records}
        self._begun = Begun(folder.path / BEGUN, known)
        self._running: dict[Any, Run] = {}
        self._begun_now: dict[str, Run] = {}  # also one in this process, before it has a future
        self._ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._deaths: Counter[str] = Counter()
        self._fatal: Counter[str] = Counter()
        self.late: deque[Run] = deque()  # trials to run after all others

    @property
    def free(self) -> int:
        """Number of trials that can start now."""
        return self._backend.capacity - self.busy

    @property
    def busy(self) -> int:
        """Number of trials that have started and whose records `wait` has not returned."""
        return len(self._running)

    def progress(self) -> list[tuple[Run, Epochs]]:
        """Returns the trials that run and how far they are; may be called from any thread."""
        return [(run, self._backend.epochs(run.key)) for run in list(self._begun_now.values())]

    def is_late(self, run: Run) -> bool:
        """Returns whether a trial is to run after all others."""
        return self._begun.is_late(run.key, run.candidate.label)

    def start(self, run: Run) -> None:
        """Starts a trial."""
        self._begun.begin(run.key)
        run = self._prepared(run, run.seed >= FRESH or self._settings.keep_weights > 0)
        try:
            self._submit(run)
        except KeyboardInterrupt:  # in this process
            self._begun.excuse([run.key])
            raise

    def again(self, run: Run) -> Outcome:
        """Runs a trial that has a record, for its weights; nothing of it is kept."""
        run, outcome = self._prepared(run, weights=True), None
        self._deaths.pop(run.key, None)
        while outcome is None:
            outcome = self._outcome(run, unpickled(self._backend.result(self._backend.submit(run))))
        return outcome

    def _prepared(self, run: Run, weights: bool) -> Run:
        fingerprint, timeout = self._folder.fingerprint, self._settings.timeout
        return dataclasses.replace(run, fingerprint=fingerprint, timeout=timeout, weights=weights)

    def _submit(self, run: Run) -> None:
        self._begun_now[run.key] = run
        future = self._backend.submit(run)
        self._running[future] = run
        future.add_done_callback(self._ended.put)

    def wait(self) -> list[TrialRecord]:
        """Waits until a trial has ended or workers may have come; returns the new records."""
        try:
            future = self._ended.get(timeout=_PATIENCE)
        except queue.Empty:
            return []
        run = self._running.pop(future)
        del self._begun_now[run.key]
        record = self._record(run, self._backend.result(future))
        return [] if record is None else [record]

    def _record(self, run: Run, found: Any) -> TrialRecord | None:
        """Writes the record of a trial; `None` if it runs again."""
        found = unpickled(found)
        if isinstance(found, Ended) and found.kind == "fatal":
            self._put_last(run, found.said)
            return None
        outcome = self._outcome(run, found)
        if outcome is None:
            self._submit(run)
            return None
        return self._keep(run, outcome)

    def _outcome(self, run: Run, found: Any) -> Outcome | None:
        """Returns what a trial gives, a failed record if it gave nothing; `None` to run again."""
        if not isinstance(found, Ended):
            outcome: Outcome = found
            return outcome
        check_end(found, f"{run.candidate.label}, seed {run.seed}")
        self._deaths[run.key] += found.kind == "died"
        again = found.kind == "died" and self._deaths[run.key] < MAX_ATTEMPTS
        if again or found.kind == "lost":
            return None
        return Outcome(run.failed(self._cause(run, found)))

    def _put_last(self, run: Run, said: str) -> None:
        named = f"{run.candidate.label}, seed {run.seed}: {said}"
        if self._fatal[run.key]:
            raise InputError(
                "A trial must leave its machine alive. Several machines went away under this one, "
                f"and again when it ran after all others: give it more memory. Received: {named}"
            )
        self._fatal[run.key] += 1
        self.late.append(run)
        message = f"A trial must leave its machine alive; this one now runs last. Received: {named}"
        warn(message, SearchWarning)

    def _cause(self, run: Run, found: Ended) -> str:
        return cause_of_end(found, run.timeout, self._deaths[run.key])

    def _keep(self, run: Run, outcome: Outcome) -> TrialRecord:
        path = self._folder.path
        if outcome.curve:
            (path / "curves" / f"{run.key}.jsonl").write_bytes(outcome.curve)
        self._kept.add(outcome.record, outcome.weights)
        # Last: a trial with a record never runs again.
        self._folder.records.put(outcome.record)
        return outcome.record

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for future in self._running:
            future.cancel()
        if isinstance(exception[1], KeyboardInterrupt) and self._running:
            self._begun.excuse(run.key for run in self._running.values())


def check_end(found: Ended, named: str) -> None:
    """Raises for an end that is no fault of what was `named`."""
    if found.kind == "disk":
        raise InputError(
            "A disk must have room for what a trial writes; with room the same call goes on. "
            f"Received: {named}: {found.said}"
        )
    if found.kind == "setup":
        raise not_loaded(found)


def cause_of_end(found: Ended, timeout: float | None, attempts: int) -> str:
    """Returns why a call gave nothing, for its record."""
    if found.kind == "timeout":
        return f"TimeoutError: not done after {timeout:g} s"
    tried = f", in {attempts} attempts" if found.kind == "died" else ""
    return f"{found.said}{tried}"


def execute(
    runner: Runner, next_run: Callable[[], Run | None], done: Callable[[TrialRecord], Any]
) -> None:
    """Keeps a runner busy until `next_run` returns `None` while nothing runs."""

    def following() -> Run | None:
        while (run := next_run()) is not None and runner.is_late(run):
            runner.late.append(run)
        return run or (runner.late.popleft() if runner.late else None)

    while True:
        while runner.free > 0 and (run := following()) is not None:
            runner.start(run)
        if not runner.busy:
            return
        for record in runner.wait():
            done(record)
