"""Runners of trials: in this process, or each trial in its own process."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from keras_se.files import replace_file
from tuning.processes.pool import Exit, ProcessPool
from tuning.running.folder import SearchFolder
from tuning.running.settings import SearchSettings
from tuning.trials import training
from tuning.trials.combination import Combination
from tuning.trials.job import Job
from tuning.trials.records import FAILED, TrialRecord, run_key

MAX_ATTEMPTS = 2


@dataclass(frozen=True)
class Run:
    """One training of a candidate from one seed.

    Attributes:
        candidate: The candidate to train.
        seed: The seed to train from.
        tested: Whether to evaluate it on the test data.
    """

    candidate: Combination
    seed: int
    tested: bool = False

    @property
    def key(self) -> str:
        """Base name of the files of the run."""
        return run_key(self.candidate.id, self.seed)

    def failed(self, cause: str, fingerprint: str) -> TrialRecord:
        """Returns a failed record, for a run that wrote none itself."""
        return TrialRecord(
            candidate=self.candidate.id,
            label=self.candidate.label,
            values=dict(self.candidate.values),
            seed=self.seed,
            status=FAILED,
            cause=cause,
            fingerprint=fingerprint,
        )


class Attempts:
    """A log file for each attempt at a trial, so that none that crashes is retried forever."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def begin(self, key: str) -> Path:
        """Creates the log file of a new attempt at a trial, and returns its path."""
        # The file exists before the trial starts: it must survive a crash of the whole process.
        path = self.folder / f"{key}-{len(self.of(key)) + 1}.log"
        replace_file(path, f"begun {datetime.now(UTC).isoformat(timespec='seconds')}\n".encode())
        return path

    def of(self, key: str) -> list[Path]:
        """Returns the log files of the attempts at a trial, in order."""
        # The "-" keeps seed 1 ("k-s1") apart from seed 10 ("k-s10").
        return sorted(self.folder.glob(f"{key}-*.log"))

    def forget(self, key: str) -> None:
        """Deletes the log files of a trial that has completed or that the user interrupted."""
        for path in self.of(key):
            path.unlink(missing_ok=True)

    def exhausted(self, key: str) -> str | None:
        """Returns why a trial gets no further attempt, or `None` if attempts are left."""
        attempts = self.of(key)
        if len(attempts) < MAX_ATTEMPTS:
            return None
        # The first line is our own, with the time.
        lines = attempts[-1].read_text(errors="replace").splitlines()[1:][-20:]
        wrote = f"; the last one wrote: {' | '.join(lines)}" if lines else ""
        return (
            f"{len(attempts)} attempts ended without a record; remove this one and "
            f"attempts/{key}-* to try again{wrote}"
        )


class InlineRunner:
    """Runs trials one after the other in this process; models and data need no name.

    Like `ProcessRunner`: call `start` while a slot is `free`, then `wait` for records.
    """

    def __init__(self, job: Job, settings: SearchSettings, folder: SearchFolder) -> None:
        self._job, self._settings, self._folder = job, settings, folder
        self._attempts = Attempts(folder.path / "attempts")
        self._done: list[TrialRecord] = []

    @property
    def free(self) -> int:
        """1, or 0 while a record waits for `wait`."""
        return 1 - len(self._done)

    @property
    def busy(self) -> int:
        """1 while a record waits for `wait`, otherwise 0."""
        return len(self._done)

    def start(self, run: Run) -> None:
        """Runs a trial to its end and writes its record."""
        cause = self._attempts.exhausted(run.key)
        record = run.failed(cause, self._folder.fingerprint) if cause else self._trained(run)
        self._folder.records.put(record)
        if record.completed:
            self._attempts.forget(run.key)
        self._done.append(record)

    def _trained(self, run: Run) -> TrialRecord:
        # Note the attempt first: a trial that kills this process must not be retried forever.
        self._attempts.begin(run.key)
        try:
            return training.run_trial(
                self._job,
                run.candidate,
                run.seed,
                self._folder.path,
                fingerprint=self._folder.fingerprint,
                tested=run.tested,
                seconds=self._settings.timeout,
            )
        except KeyboardInterrupt:  # Ctrl-C does not count as a failed attempt
            self._attempts.forget(run.key)
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
        settings: SearchSettings,
        folder: SearchFolder,
        devices: Sequence[str] = (),
    ) -> None:
        # JSON, not pickle: the child imports models, functions and data by name.
        self._payload = {
            "job": job,
            "folder": str(folder.path.resolve()),
            "fingerprint": folder.fingerprint,
            "modules": list(settings.modules),
        }
        self._settings, self._folder = settings, folder
        self._attempts = Attempts(folder.path / "attempts")
        self._running: dict[str, Run] = {}
        self._done: list[TrialRecord] = []
        self._pool = ProcessPool(
            settings.workers,
            "tuning.processes.child:run",
            threads=settings.threads or 1,
            timeout=settings.timeout,
            devices=devices,
        )

    @property
    def free(self) -> int:
        """Number of processes that can start now."""
        return self._pool.free

    @property
    def busy(self) -> int:
        """Number of trials that have started and whose records `wait` has not returned."""
        return len(self._running) + len(self._done)

    def start(self, run: Run) -> None:
        """Starts the process of a trial."""
        if cause := self._attempts.exhausted(run.key):
            self._fail(run, cause)
            return
        log = self._attempts.begin(run.key)
        self._pool.start(run.key, {**self._payload, **dataclasses.asdict(run)}, log)
        self._running[run.key] = run

    def wait(self) -> list[TrialRecord]:
        """Waits until at least one trial ends and returns all new records."""
        while not self._done and self._running:
            for ended in self._pool.wait():
                self._end(self._running.pop(ended.key), ended)
        done, self._done = self._done, []
        return done

    def _end(self, run: Run, ended: Exit) -> None:
        # The record decides, not the exit code: a process may die after it has written its record.
        record = self._folder.records.get(run.candidate.id, run.seed)
        if record is not None:
            if record.completed:
                self._attempts.forget(run.key)
            self._done.append(record)
        elif ended.timed_out:
            self._fail(run, f"TimeoutError: not done after {self._settings.timeout:g} s")
        elif self._attempts.exhausted(run.key) is None:
            # No record, as after the kernel's out-of-memory kill: try once more.
            self.start(run)
        else:
            how = f"signal {-ended.code}" if ended.code < 0 else f"exit code {ended.code}"
            self._fail(run, f"{how}, in {len(self._attempts.of(run.key))} attempts: {ended.tail}")

    def _fail(self, run: Run, cause: str) -> None:
        record = run.failed(cause, self._folder.fingerprint)
        self._folder.records.put(record)
        self._done.append(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._pool.close()
        # Ctrl-C does not count as a failed attempt, a crash of this process does.
        if isinstance(exception[1], KeyboardInterrupt):
            for key in self._running:
                self._attempts.forget(key)


Runner = InlineRunner | ProcessRunner


def execute(
    runner: Runner, next_run: Callable[[], Run | None], done: Callable[[TrialRecord], Any]
) -> None:
    """Keeps a runner busy until `next_run` returns `None` while nothing runs."""
    while True:
        while runner.free > 0 and (run := next_run()) is not None:
            runner.start(run)
        if not runner.busy:
            return
        for record in runner.wait():
            done(record)
