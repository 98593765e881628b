"""Where trials run: in this process, or each in a process of its own."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from tuning import trial
from tuning.attempts import Attempts
from tuning.candidate import Candidate
from tuning.job import Job
from tuning.pool import Exit, ProcessPool
from tuning.records import FAILED, Records, TrialRecord, run_key


@dataclass(frozen=True)
class Task:
    """A trial to be run.

    Attributes:
        candidate: What is trained.
        seed: From which seed.
        tested: Whether it is evaluated on the test data.
    """

    candidate: Candidate
    seed: int
    tested: bool = False

    @property
    def key(self) -> str:
        """What its files are called."""
        return run_key(self.candidate.id, self.seed)

    def failed(self, cause: str, fingerprint: str) -> TrialRecord:
        """The record of a trial that left none.

        Args:
            cause: Why.
            fingerprint: Hash of the job.

        Returns:
            The record.
        """
        candidate = self.candidate
        return TrialRecord(
            candidate.id, candidate.label, dict(candidate.values), self.seed, FAILED,
            cause=cause, fingerprint=fingerprint,
        )  # fmt: skip


class Runner(Protocol):
    """Runs trials: `start` while there is a `free` slot, then `wait` for those that are done."""

    @property
    def free(self) -> int:
        """Number of slots without a trial."""

    @property
    def busy(self) -> int:
        """Number of trials that were started and not yet returned."""

    def start(self, task: Task) -> None:
        """Begins a trial."""

    def wait(self) -> list[TrialRecord]:
        """The records of trials that are done, written already."""

    def __enter__(self) -> Self:
        """The runner itself."""

    def __exit__(self, *exception: object) -> None:
        """Ends what still runs."""


class InlineRunner:
    """Runs trials one after the other in this process, so that anything can be searched.

    Args:
        job: What is trained.
        folder: That of the search.
        records: Where the records go.
        fingerprint: Hash of the job.
        seconds: Time that a trial may take.
    """

    def __init__(
        self, job: Job, folder: Path, records: Records, fingerprint: str, seconds: float | None
    ) -> None:
        self._job, self._folder, self._records = job, folder, records
        self._fingerprint, self._seconds = fingerprint, seconds
        self._attempts = Attempts(folder / "attempts")
        self._done: list[TrialRecord] = []

    @property
    def free(self) -> int:
        """1 unless a record waits to be taken."""
        return 1 - len(self._done)

    @property
    def busy(self) -> int:
        """1 if a record waits to be taken."""
        return len(self._done)

    def start(self, task: Task) -> None:
        """Runs a trial and writes its record.

        Args:
            task: The trial.
        """
        cause = self._attempts.why_no_more(task.key)
        record = self._run(task) if cause is None else task.failed(cause, self._fingerprint)
        self._records.put(record)
        if record.completed:
            self._attempts.forget(task.key)
        self._done.append(record)

    def _run(self, task: Task) -> TrialRecord:
        self._attempts.begin(task.key)
        try:
            return trial.run_trial(
                self._job, task.candidate, task.seed, self._folder,
                fingerprint=self._fingerprint, tested=task.tested, seconds=self._seconds,
            )  # fmt: skip
        except KeyboardInterrupt:
            self._attempts.forget(task.key)
            raise

    def wait(self) -> list[TrialRecord]:
        """The record of the trial that was started."""
        done, self._done = self._done, []
        return done

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class ProcessRunner:
    """Runs each trial in a process of its own, several at a time.

    What a trial needs is found there by name; nothing is pickled. A process that leaves no record,
    killed for its memory, say, gets a second attempt.

    Args:
        job: What is trained, as `Job.named` describes it.
        folder: That of the search.
        records: Where the records go.
        fingerprint: Hash of the job.
        seconds: Time that a trial may take.
        workers: Number of processes at a time.
        threads: Number of threads of each.
        devices: Names of the GPUs, one for each process at a time; empty on the CPU.
        modules: Modules that each process imports first.
    """

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
            workers, "tuning.child:run", threads=threads, timeout=seconds, devices=devices
        )

    @property
    def free(self) -> int:
        """Number of processes that could be started."""
        return self._pool.free

    @property
    def busy(self) -> int:
        """Number of trials that have begun and were not returned."""
        return len(self._running) + len(self._done)

    def start(self, task: Task) -> None:
        """Starts the process of a trial.

        Args:
            task: The trial.
        """
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
        """Waits until a trial is done.

        Returns:
            Its record, and those of others that are done.
        """
        while not self._done and self._running:
            for ended in self._pool.wait():
                self._ended(self._running.pop(ended.key), ended)
        done, self._done = self._done, []
        return done

    def _ended(self, task: Task, ended: Exit) -> None:
        record = self._records.get(task.candidate.id, task.seed)
        if record is not None:
            if record.completed:
                self._attempts.forget(task.key)
            self._done.append(record)
        elif ended.timed_out:
            self._fail(task, f"TimeoutError: not done after {self._seconds:g} s")
        elif self._attempts.why_no_more(task.key) is None:
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
        if isinstance(exception[1], KeyboardInterrupt):
            for key in self._running:
                self._attempts.forget(key)
