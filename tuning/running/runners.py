"""Runners of trials: in this process, or each trial in its own process."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from tuning.processes.pool import Exit, ProcessPool
from tuning.running.attempts import Attempts
from tuning.trials import training
from tuning.trials.candidate import Candidate
from tuning.trials.job import Job
from tuning.trials.records import FAILED, Records, TrialRecord, run_key


@dataclass(frozen=True)
class Task:
    """A trial to run.

    Attributes:
        candidate: The candidate to train.
        seed: The seed to train from.
        tested: Whether to evaluate it on the test data.
    """

    candidate: Candidate
    seed: int
    tested: bool = False

    @property
    def key(self) -> str:
        """Name of the trial's files."""
        return run_key(self.candidate.id, self.seed)

    def failed(self, cause: str, fingerprint: str) -> TrialRecord:
        """Returns a failed record, for a trial that wrote none itself."""
        candidate = self.candidate
        return TrialRecord(
            candidate.id,
            candidate.label,
            dict(candidate.values),
            self.seed,
            FAILED,
            cause=cause,
            fingerprint=fingerprint,
        )


class Runner(Protocol):
    """Runs trials: call `start` while there is a `free` slot, then `wait`."""

    @property
    def free(self) -> int:
        """Number of free slots."""

    @property
    def busy(self) -> int:
        """Number of trials that have started and whose records `wait` has not returned."""

    def start(self, task: Task) -> None:
        """Starts a trial."""

    def wait(self) -> list[TrialRecord]:
        """Waits for trials to finish and returns their records, already on disk."""

    def __enter__(self) -> Self:
        """Returns the runner itself."""

    def __exit__(self, *exception: object) -> None:
        """Stops all running trials."""


class InlineRunner:
    """Runs trials one after the other in this process; models and data need no name."""

    def __init__(
        self, job: Job, folder: Path, records: Records, fingerprint: str, seconds: float | None
    ) -> None:
        self._job, self._folder, self._records = job, folder, records
        self._fingerprint, self._seconds = fingerprint, seconds
        self._attempts = Attempts(folder / "attempts")
        self._done: list[TrialRecord] = []

    @property
    def free(self) -> int:
        """1, or 0 while a record waits for `wait`."""
        return 1 - len(self._done)

    @property
    def busy(self) -> int:
        """1 while a record waits for `wait`, otherwise 0."""
        return len(self._done)

    def start(self, task: Task) -> None:
        """Runs a trial to its end and writes its record."""
        cause = self._attempts.why_no_more(task.key)
        record = self._run(task) if cause is None else task.failed(cause, self._fingerprint)
        self._records.put(record)
        if record.completed:
            self._attempts.forget(task.key)
        self._done.append(record)

    def _run(self, task: Task) -> TrialRecord:
        # Note the attempt first: a trial that kills this process must not be retried forever.
        self._attempts.begin(task.key)
        try:
            return training.run_trial(
                self._job,
                task.candidate,
                task.seed,
                self._folder,
                fingerprint=self._fingerprint,
                tested=task.tested,
                seconds=self._seconds,
            )
        except KeyboardInterrupt:  # Ctrl-C does not count as a failed attempt
            self._attempts.forget(task.key)
            raise

    def wait(self) -> list[TrialRecord]:
        """Returns the record of the trial that `start` ran."""
        done, self._done = self._done, []
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class ProcessRunner:
    """Runs each trial in its own process, several at a time."""

    def __init__(
        self,
        job: dict[str, Any],
        folder: Path,
        records: Records,
        fingerprint: str,
        seconds: float | None,
        *,
        workers: int,
        threads: int,
        devices: Sequence[str] = (),
        modules: Sequence[str] = (),
    ) -> None:
        # JSON, not pickle: the child imports models, functions and data by name.
        self._payload = {
            "job": job,
            "folder": str(folder.resolve()),
            "fingerprint": fingerprint,
            "modules": list(modules),
        }
        self._records, self._fingerprint = records, fingerprint
        self._attempts = Attempts(folder / "attempts")
        self._seconds = seconds
        self._running: dict[str, Task] = {}
        self._done: list[TrialRecord] = []
        self._pool = ProcessPool(
            workers, "tuning.processes.child:run", threads=threads, timeout=seconds, devices=devices
        )

    @property
    def free(self) -> int:
        """Number of processes that can start now."""
        return self._pool.free

    @property
    def busy(self) -> int:
        """Number of trials that have started and whose records `wait` has not returned."""
        return len(self._running) + len(self._done)

    def start(self, task: Task) -> None:
        """Starts the process of a trial."""
        cause = self._attempts.why_no_more(task.key)
        if cause is not None:
            self._fail(task, cause)
            return
        log = self._attempts.begin(task.key)
        payload = {
            **self._payload,
            "candidate": dataclasses.asdict(task.candidate),
            "seed": task.seed,
            "tested": task.tested,
        }
        self._pool.start(task.key, payload, log)
        self._running[task.key] = task

    def wait(self) -> list[TrialRecord]:
        """Waits until at least one trial ends and returns all new records."""
        while not self._done and self._running:
            for ended in self._pool.wait():
                self._ended(self._running.pop(ended.key), ended)
        done, self._done = self._done, []
        return done

    def _ended(self, task: Task, ended: Exit) -> None:
        # The record decides, not the exit code: a process may die after it has written its record.
        record = self._records.get(task.candidate.id, task.seed)
        if record is not None:
            if record.completed:
                self._attempts.forget(task.key)
            self._done.append(record)
        elif ended.timed_out:
            self._fail(task, f"TimeoutError: not done after {self._seconds:g} s")
        elif self._attempts.why_no_more(task.key) is None:
            # No record, as after the kernel's out-of-memory kill: try once more.
            self.start(task)
        else:
            how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
            self._fail(task, f"{how}, in {len(self._attempts.of(task.key))} attempts: {ended.tail}")

    def _fail(self, task: Task, cause: str) -> None:
        record = task.failed(cause, self._fingerprint)
        self._records.put(record)
        self._done.append(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()
        # Ctrl-C does not count as a failed attempt, a crash of this process does.
        if isinstance(exception[1], KeyboardInterrupt):
            for key in self._running:
                self._attempts.forget(key)
