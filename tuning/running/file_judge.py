"""Judges the files of candidates, in a process of their own, while no trial runs."""

from contextlib import ExitStack
from typing import Self

from keras_se.errors import InputError
from tuning.deployed.judging import Judgement
from tuning.deployed.record import DeployedRecord
from tuning.deployed.samples import with_samples
from tuning.folder.search_folder import SearchFolder
from tuning.running.backends import ExecutorBackend, open_slots, unpickled
from tuning.running.runners import MAX_ATTEMPTS, Runner, cause_of_end, check_end
from tuning.running.settings import SearchSettings
from tuning.slots.parcel import pack
from tuning.slots.slot import Ended
from tuning.trials.combination import Combination
from tuning.trials.job import Job
from tuning.trials.perform import Run
from tuning.trials.records import run_key
from tuning.trials.training import weights_path

_NO_GPU = ("-1",)  # files run on the processor, and a GPU may be that of this process


def check_judging(job: Job, settings: SearchSettings) -> None:
    """Raises if files of a job cannot be judged, before anything is trained.

    Raises:
        InputError: If there are too few validation samples, Keras does not run on TensorFlow, or
            the model does not travel to another process.
        MissingExtraError: If LiteRT is not installed.
    """
    if settings.deployed is None:
        return
    given = with_samples(job, settings.seeds[0], settings.deployed)
    try:
        pack(given.portable(), settings.modules)
    except InputError as error:
        raise InputError(
            "deployed judges files in a process of their own, to which the model must travel. "
            f"Received: a model of which it is said: {error}"
        ) from error


class FileJudge:
    """Gives the records of files. What native code does to its process ends one judgement alone."""

    def __init__(
        self, job: Job, settings: SearchSettings, folder: SearchFolder, runner: Runner
    ) -> None:
        self._job, self._settings = job, settings
        self._folder, self._runner = folder, runner
        self._format = settings.deployed or "int8"
        self._stack = ExitStack()
        self._slot: ExecutorBackend | None = None

    def record(self, candidate: Combination, seed: int) -> DeployedRecord:
        """Returns the record of a file, which is made and judged now if there is none."""
        done = self._folder.deployed.get(candidate.id, seed, self._format)
        if done is not None:
            return done
        record = self._judged(candidate, seed)
        self._folder.deployed.put(record)
        return record

    def _judged(self, candidate: Combination, seed: int) -> DeployedRecord:
        path = weights_path(self._folder.path, run_key(candidate.id, seed))
        weights, cause = path.read_bytes() if path.exists() else None, ""
        if weights is None:
            # Where trials run, so that it is the same training.
            again = self._runner.again(Run(candidate, seed))
            weights, cause = again.weights, again.record.cause
        fingerprint = self._folder.fingerprint
        call = Judgement(candidate, seed, self._format, weights or b"", fingerprint)
        if weights is None:
            return call.failed(f"its weights were not kept, and the same training failed: {cause}")
        return self._called(call)

    def _called(self, call: Judgement) -> DeployedRecord:
        slot, deaths = self._opened(call.seed), 0
        while deaths < MAX_ATTEMPTS:
            found = unpickled(slot.result(slot.submit(call)))
            if not isinstance(found, Ended):
                record: DeployedRecord = found
                return record
            check_end(found, f"the file of {call.candidate.label}")
            if found.kind == "raised":  # all that is a fault of the file has a record
                raise InputError(
                    "deployed needs all that it takes to make and to run a file. "
                    f"Received: {found.said}"
                )
            if found.kind != "died":
                break
            deaths += 1
        return call.failed(cause_of_end(found, self._settings.timeout, deaths))

    def _opened(self, seed: int) -> ExecutorBackend:
        """Returns the process, which is started for the first file that has no record."""
        if self._slot is None:
            job = with_samples(self._job, seed, self._format)
            slots = open_slots(job, self._settings, 1, _NO_GPU)
            self._slot = self._stack.enter_context(slots)
        return self._slot

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
