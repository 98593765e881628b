"""A search whose trials cost nothing: what is left is what the parent does for each of them.

That is the proposal, the log of begun trials, record, curve, weights, keras-tuner's folder and the
choice of weights to keep, with every write synchronized.
"""

import pickle
import random
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any
from unittest import mock

import keras
import keras_tuner
import numpy as np

import tuning
from tuning import searching
from tuning.trials.perform import Epochs, Outcome, Run
from tuning.trials.records import TrialRecord

SEEDS = 3


class Simulated:
    """Workers that end their trials in random order, as soon as another one could start."""

    def __init__(self, workers: int) -> None:
        self.capacity, self._pending, self._lock = workers, [], threading.Lock()
        threading.Thread(target=self._drain, daemon=True).start()

    def submit(self, run: Any) -> Future:
        """Starts a trial, and ends another one if all workers are busy."""
        future: Future = Future()
        if not isinstance(run, Run):  # a rehearsal, which finds nothing to say
            future.set_result(None)
            return future
        with self._lock:
            self._pending.append((future, run))
            self._touched = time.monotonic()
            if len(self._pending) >= self.capacity:
                self._end()
        return future

    def _end(self) -> None:
        number = random.randrange(len(self._pending))
        self._pending[number], self._pending[-1] = self._pending[-1], self._pending[number]
        future, run = self._pending.pop()
        c = run.candidate
        score = float(np.random.default_rng([run.seed, int(c.id, 16)]).normal())
        record = TrialRecord(c.id, c.label, c.values, run.seed, "completed", score, parameters=9)
        future.set_result(pickle.dumps(Outcome(record, b"{}\n", b"weights")))

    def _drain(self) -> None:
        while True:
            time.sleep(0.001)
            with self._lock:
                if self._pending and time.monotonic() - self._touched > 0.02:
                    self._end()

    def result(self, future: Future) -> Any:
        """What a worker sends."""
        return future.result()

    def epochs(self, key: str) -> Epochs:
        """Nothing is known of a trial that runs."""
        return Epochs()


def network(hp: keras_tuner.HyperParameters) -> keras.Model:
    """One layer; a space of ten million."""
    for name in "abcdefg":
        hp.Choice(name, list(range(10)))
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    return model


def processor_seconds(trials: int, workers: int) -> list[float]:
    """The processor time of the parent from the first trial on, at the end of each."""

    @contextmanager
    def simulated(*_: object) -> Iterator[Simulated]:
        yield Simulated(workers)

    part, times = (np.zeros((8, 4)), np.zeros((8, 2))), [time.process_time()]
    oracle = keras_tuner.oracles.RandomSearchOracle("val_loss", trials // SEEDS, seed=1)
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(searching, "open_backend", simulated),
    ):
        tuning.search(
            network,
            part,
            part,
            objective=tuning.Cheapest(1e9, max_seeds=SEEDS),
            epochs=1,
            seeds=SEEDS,
            fresh_seeds=0,
            workers=2,
            oracle=oracle,
            directory=f"{folder}/run",
            on_trial=lambda record: times.append(time.process_time()),
            progress=False,
        )
    return (np.array(times[1:]) - times[0]).tolist()
